/* SPDX-License-Identifier: MIT */
/* The initramfs that QEMU gets. */
#include "image-test.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "image/cpio.h"
#include "image/internal.h"

static void holds_the_agent_then_the_modules(void **state)
{
	_cleanup_free_ char *path = path_join(test_dir, "modules.cpio");
	struct image image = {.kind = IMAGE_LAYERED, .name = "x", .modules = path};
	_cleanup_cpio_ struct cpio modules = {};
	_cleanup_buf_ struct buf got = {};
	_cleanup_close_ int fd = -EBADF;
	const char *init;

	cpio_add_file(&modules, "assay/modules.list", 0644, "/a\n", 3);
	cpio_finish(&modules);
	assert_int_equal(file_write_atomic(path, modules.buf.data, modules.buf.len, 0644, NULL), 0);
	assert_int_equal(image_initrd_memfd(&image, "AGENT", 5, &fd, NULL), 0);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
	assert_true(fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE);
	assert_int_equal(buf_read_fd(&got, fd, MIB), 0);
	/* The end is the image's archive, the start ours. */
	assert_true(got.len > modules.buf.len);
	assert_memory_equal(got.data + got.len - modules.buf.len, modules.buf.data,
			    modules.buf.len);
	assert_int_equal((got.len - modules.buf.len) % 512, 0);
	init = memmem(got.data, got.len, "init\0\0AGENT", 11);
	assert_non_null(init);
	assert_non_null(memmem(got.data, got.len, "dev/console", 12));
	assert_non_null(memmem(got.data, got.len, "newroot", 8));
}

static void disks_have_none(void **state)
{
	struct image image = {.kind = IMAGE_DISK, .name = "x"};
	struct error err = {};
	int fd;

	assert_int_equal(image_initrd_memfd(&image, "", 0, &fd, &err), -EINVAL);
	assert_int_equal(err.kind, ERROR_BUG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holds_the_agent_then_the_modules),
		cmocka_unit_test(disks_have_none),
	};

	return cmocka_run_group_tests_name("image-initrd", tests, make_store, remove_store);
}
