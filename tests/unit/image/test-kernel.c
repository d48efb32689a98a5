/* SPDX-License-Identifier: MIT */
/* Which modules an initramfs loads, in which order. */
#include "image-test.h"

#include "image/kernel.h"

static const char DEP[] =
	"kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz\n"
	"kernel/lib/libcrc32c.ko.xz:\n"
	"kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz "
	"kernel/net/core/failover.ko.xz\n"
	"kernel/drivers/char/hw_random/virtio-rng.ko.xz:\n"
	"kernel/fs/other/not_erofs.ko.xz:\n"
	"kernel/fs/x.ko.zst: kernel/lib/libcrc32c.ko.xz\n";

static const char BUILTIN[] = "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n";

static void dependencies_come_first(void **state)
{
	static const char *const WANTED[] = {"virtio_net", "erofs", "x", NULL};
	_cleanup_strv_ char **paths = NULL, **missing = NULL;
	_cleanup_free_ char *all = NULL;

	kernel_module_order(DEP, BUILTIN, WANTED, &paths, &missing);
	all = strv_join(paths, " ");
	assert_string_equal(all, "kernel/net/core/failover.ko.xz "
				 "kernel/drivers/net/net_failover.ko.xz "
				 "kernel/drivers/net/virtio_net.ko.xz kernel/lib/libcrc32c.ko.xz "
				 "kernel/fs/erofs/erofs.ko.xz kernel/fs/x.ko.zst");
	assert_null(missing);
}

static void builtin_ones_are_left_out(void **state)
{
	static const char *const WANTED[] = {"ext4", "virtio_pci", "virtio_rng", "nope", NULL};
	_cleanup_strv_ char **paths = NULL, **missing = NULL;

	kernel_module_order(DEP, BUILTIN, WANTED, &paths, &missing);
	assert_int_equal(strv_len(paths), 1);
	assert_string_equal(paths[0], "kernel/drivers/char/hw_random/virtio-rng.ko.xz");
	assert_int_equal(strv_len(missing), 1);
	assert_string_equal(missing[0], "nope");
}

static void empty_lists_are_fine(void **state)
{
	static const char *const WANTED[] = {"ext4", NULL};
	_cleanup_strv_ char **paths = NULL, **missing = NULL;

	kernel_module_order("", "", WANTED, &paths, &missing);
	assert_null(paths);
	assert_int_equal(strv_len(missing), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dependencies_come_first),
		cmocka_unit_test(builtin_ones_are_left_out),
		cmocka_unit_test(empty_lists_are_fine),
	};

	return cmocka_run_group_tests_name("image-kernel", tests, NULL, NULL);
}
