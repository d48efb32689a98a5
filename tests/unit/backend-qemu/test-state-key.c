/* SPDX-License-Identifier: MIT */
/* What saved states depend on: what must make another key, what must not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/qemu/qemu-internal.h"
#include "base/file.h"
#include "base/str.h"
#include "fiber-test.h"

static char dir[] = "/tmp/assay-test-XXXXXX";

static int make_files(void **state)
{
	_cleanup_free_ char *file = NULL;
	char data[4096] = "x";

	if (!mkdtemp(dir))
		return -1;
	file = path_join(dir, "file");
	return file_write_atomic(file, data, sizeof(data), 0644, NULL);
}

static int remove_files(void **state)
{
	return path_remove_tree(dir, NULL);
}

static char *key_of(const struct machine_spec *spec, const char *base_dir, struct error *err)
{
	_cleanup_free_ char *file = path_join(dir, "file");
	_cleanup_image_ struct image *image = NULL;
	struct machine_env env = {.base_dir = base_dir, .accel = "tcg"};
	struct vm_init init = {.spec = spec, .env = &env};
	struct buf key = {};

	check(image_open_kernel(file, NULL, &image, err) == 0);
	if (qemu_state_key(&init, image, &key, err) < 0) {
		buf_done(&key);
		return NULL;
	}
	return buf_steal(&key, NULL);
}

static bool same_key(const struct machine_spec *a, const struct machine_spec *b)
{
	_cleanup_free_ char *ka = key_of(a, dir, NULL);
	_cleanup_free_ char *kb = key_of(b, dir, NULL);

	check(ka && kb);
	return str_eq(ka, kb);
}

FIBER_TEST(everything_that_matters_is_in_it)
{
	struct machine_spec spec = {.name = "m", .memory_bytes = 256 * MIB, .cpus = 1};
	_cleanup_free_ char *key = key_of(&spec, dir, NULL);
	static const char *const wanted[] = {
		"state 1\n",
		"qemu ",
		"rom qboot.rom ",
		"rom pvh.bin ",
		"host model name",
		"arg -cpu\narg max",
		"arg memory-backend-file,id=ram,size=256M,",
		"share=on\n",
		"arg image:kernel\n",
		/* What is said under TCG alone; of the frequency only that it is said. */
		"arg tsc_early_khz=1 no_timer_check ",
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if (!strstr(key, wanted[i])) {
			fprintf(stderr, "no '%s' in:\n%s", wanted[i], key);
			abort();
		}
	check(!strstr(key, dir)); /* where things lie does not matter */
}

FIBER_TEST(what_makes_another_key)
{
	static char *args[] = {"-device", "virtio-rng-pci", NULL};
	struct disk_spec disk = {.name = "data", .path = "file"};
	struct machine_spec spec = {.name = "m", .memory_bytes = 256 * MIB, .cpus = 1};
	struct machine_spec other = spec;

	check(same_key(&spec, &other));
	other.memory_bytes *= 2;
	check(!same_key(&spec, &other));
	other = spec;
	other.machine_type = "microvm";
	check(!same_key(&spec, &other));
	other = spec;
	other.qemu_args = args;
	check(!same_key(&spec, &other));
	other = spec;
	other.disks = &disk;
	other.n_disks = 1;
	check(!same_key(&spec, &other));
}

/* A disk of the user's is known by what it is, not by its path. */
FIBER_TEST(a_file_that_changed_makes_another_key)
{
	struct disk_spec disk = {.name = "data", .path = "disk"};
	struct machine_spec spec = {
		.name = "m", .memory_bytes = 256 * MIB, .disks = &disk, .n_disks = 1};
	_cleanup_free_ char *path = path_join(dir, "disk");
	_cleanup_free_ char *before = NULL;
	_cleanup_free_ char *same = NULL;
	_cleanup_free_ char *after = NULL;
	char data[4096] = "y";

	check(file_write_atomic(path, data, sizeof(data), 0644, NULL) == 0);
	before = key_of(&spec, dir, NULL);
	same = key_of(&spec, dir, NULL);
	check_str(same, before);
	check(file_write_atomic(path, data, sizeof(data), 0644, NULL) == 0);
	after = key_of(&spec, dir, NULL);
	check(!str_eq(before, after));
}

FIBER_TEST(a_disk_that_is_written_through_cannot_be_saved)
{
	struct disk_spec disk = {.name = "data", .path = "file", .write_through = true};
	struct machine_spec spec = {
		.name = "m", .memory_bytes = 256 * MIB, .disks = &disk, .n_disks = 1};
	struct error err = {};

	check(!key_of(&spec, dir, &err));
	check(err.kind == ERROR_UNSUPPORTED);
	check_str(err.message, "its disk 'data' is written through to 'file'");
}

FIBER_TEST(arguments_by_which_forks_would_not_be_on_their_own)
{
	static char *balloon[] = {"-device", "virtio-balloon-pci,free-page-reporting=on", NULL};
	static char *drive[] = {"-s", "--drive", "file=x", NULL};
	struct machine_spec spec = {.name = "m", .memory_bytes = 256 * MIB, .qemu_args = balloon};
	struct error err = {};

	check(!key_of(&spec, dir, &err));
	check(err.kind == ERROR_UNSUPPORTED);
	check_str(err.message, "it has 'virtio-balloon-pci,free-page-reporting=on' in its "
			       "qemu_args: it would take pages of the template's memory");
	error_clear(&err);
	spec.qemu_args = drive;
	check(!key_of(&spec, dir, &err));
	check_str(err.message, "it has '--drive' in its qemu_args: such a disk is not saved with "
			       "the machine");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_that_matters_is_in_it),
		cmocka_unit_test(what_makes_another_key),
		cmocka_unit_test(a_file_that_changed_makes_another_key),
		cmocka_unit_test(a_disk_that_is_written_through_cannot_be_saved),
		cmocka_unit_test(arguments_by_which_forks_would_not_be_on_their_own),
	};

	return cmocka_run_group_tests(tests, make_files, remove_files);
}
