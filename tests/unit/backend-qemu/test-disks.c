/* SPDX-License-Identifier: MIT */
/* Disks: what is made of a definition, and what is refused. */
#include "backend/qemu/disks.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/str.h"

static char dir[] = "/tmp/assay-test-XXXXXX";
static struct image *no_disk; /* an image that is a kernel only */

static void put_file(const char *name, const void *data, size_t len)
{
	_cleanup_free_ char *path = path_join(dir, name);

	assert_int_equal(file_write_atomic(path, data, len, 0644, NULL), 0);
}

static int make_files(void **state)
{
	_cleanup_free_ char *qcow2 = NULL;
	_cleanup_free_ char *kernel = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct error err = {};
	char raw[8192] = "boot";

	if (!mkdtemp(dir))
		return -1;
	qcow2 = path_join(dir, "a.qcow2");
	kernel = path_join(dir, "kernel");
	put_file("a.raw", raw, sizeof(raw));
	put_file("a.vmdk", "KDMV\1\0\0\0", 8);
	put_file("kernel", raw, sizeof(raw));
	put_file("a.qcow2", "", 0);
	fd = open(qcow2, O_RDWR);
	if (fd < 0 || qcow2_write_empty(fd, 3 * GIB, &err) < 0)
		return -1;
	return image_open_kernel(kernel, NULL, &no_disk, &err);
}

static int remove_files(void **state)
{
	image_unref(no_disk);
	return path_remove_tree(dir, NULL);
}

static int fork_of(struct qemu_disks *d, struct disk_spec *disks, size_t n,
		   const struct saved *from, struct error *err)
{
	struct machine_spec spec = {.name = "m", .disks = disks, .n_disks = n};
	struct machine_env env = {.work_dir = dir, .base_dir = dir};

	return qemu_disks_prepare(d, &spec, &env, no_disk, 15, from, err);
}

static int prepare(struct qemu_disks *d, struct disk_spec *disks, size_t n, struct error *err)
{
	return fork_of(d, disks, n, NULL, err);
}

static uint64_t overlay_size(const struct qemu_disks *d, size_t i)
{
	uint64_t size = 0;

	assert_int_equal(qcow2_virtual_size(d->stacks[i].overlay.fd, &size, NULL), 0);
	return size;
}

static void test_each_kind(void **state)
{
	struct disk_spec specs[] = {
		{.name = "empty", .size_bytes = 2 * GIB},
		{.name = "raw", .path = "a.raw"},
		{.name = "qcow2", .path = "a.qcow2"},
		{.name = "readonly", .path = "a.raw", .readonly = true},
		{.name = "through", .path = "a.qcow2", .write_through = true},
		{.name = "cd", .path = "a.raw", .cdrom = true},
	};
	_cleanup_(qemu_disks_done) struct qemu_disks d = {};
	struct spawn_fd fds[6];
	struct error err = {};
	struct stat st;

	assert_int_equal(prepare(&d, specs, ARRAY_SIZE(specs), &err), 0);
	assert_int_equal(d.n, 6);
	assert_int_equal(qemu_disks_n_fds(&d), 6);
	qemu_disks_fill_fds(&d, fds);
	for (int i = 0; i < 6; i++) {
		assert_int_equal(d.list[i / 2].overlay_fd, 15 + i / 2 * 2);
		assert_int_equal(fds[i].child, 15 + i);
		assert_int_equal(fcntl(fds[i].fd, F_GETFL) & O_ACCMODE, i % 2 ? O_RDONLY : O_RDWR);
		assert_int_equal(fstat(fds[i].fd, &st), 0);
		assert_int_equal(st.st_nlink, 0);
	}
	assert_null(d.list[0].path);
	assert_int_equal(overlay_size(&d, 0), 2 * GIB);
	assert_string_equal(d.list[1].format, "raw");
	assert_int_equal(overlay_size(&d, 1), 8192);
	assert_string_equal(d.list[2].format, "qcow2");
	assert_int_equal(overlay_size(&d, 2), 3 * GIB);
	assert_true(d.list[3].readonly && d.list[3].overlay_fd < 0);
	assert_true(!d.list[4].readonly && d.list[4].overlay_fd < 0);
	assert_true(d.list[5].cdrom && d.list[5].overlay_fd < 0);
	assert_int_equal(d.list[5].path[0], '/');
}

static ino_t inode_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

/* Saved while it goes on, saved again as it ends, taken up by another. */
static void test_layers(void **state)
{
	struct disk_spec specs[] = {
		{.name = "one", .size_bytes = 2 * GIB},
		{.name = "cd", .path = "a.raw", .cdrom = true},
		{.name = "two", .path = "a.raw"},
	};
	_cleanup_(qemu_disks_done) struct qemu_disks d = {}, fork = {};
	struct machine_env env = {.work_dir = dir};
	_cleanup_saved_ struct saved *s = saved_new();
	struct qemu_overlay fresh;
	struct spawn_fd fds[7];
	struct error err = {};
	ino_t first;

	assert_int_equal(prepare(&d, specs, 3, &err), 0);
	first = inode_of(d.stacks[0].overlay.fd);
	assert_int_equal(qemu_overlay_new(2 * GIB, &env, &fresh, &err), 0);
	qemu_disks_push(&d, 0, &fresh);
	assert_true(fresh.fd < 0);
	assert_int_equal(inode_of(d.stacks[0].layers[0]), first);
	assert_int_not_equal(inode_of(d.stacks[0].overlay.fd), first);
	assert_int_equal(d.list[0].n_layers, 1);
	assert_int_equal(d.list[2].overlay_fd, 15 + 3);

	assert_int_equal(qemu_disks_save(&d, true, s, &err), 0);
	assert_int_equal(s->n_disks, 2);
	assert_int_equal(saved_find_disk(s, "one")->n_layers, 2);
	assert_int_equal(inode_of(saved_find_disk(s, "one")->layers[0]), first);
	assert_int_equal(saved_find_disk(s, "two")->n_layers, 1);
	assert_null(saved_find_disk(s, "cd"));

	assert_int_equal(fork_of(&fork, specs, 3, s, &err), 0);
	assert_int_equal(overlay_size(&fork, 0), 2 * GIB);
	assert_int_equal(overlay_size(&fork, 2), 8192);
	assert_int_equal(fork.list[0].n_layers, 2);
	assert_int_equal(qemu_disks_n_fds(&fork), 7);
	qemu_disks_fill_fds(&fork, fds);
	for (int i = 0; i < 7; i++)
		assert_int_equal(fds[i].child, 15 + i);
	assert_int_equal(inode_of(fds[2].fd), first);
	/* A fork writes to nothing that it shares. */
	assert_int_equal(fcntl(fds[2].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fcntl(fds[3].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
}

static void test_layers_missing(void **state)
{
	struct disk_spec spec = {.name = "one", .size_bytes = GIB};
	_cleanup_(qemu_disks_done) struct qemu_disks d = {};
	_cleanup_saved_ struct saved *s = saved_new();
	struct error err = {};

	assert_int_equal(fork_of(&d, &spec, 1, s, &err), -ENOENT);
	assert_string_equal(err.message, "disk 'one': the saved state has no disk 'one'");
	assert_null(d.list);
}

static void check_refused(struct disk_spec *spec, enum error_kind kind, const char *fmt)
{
	_cleanup_(qemu_disks_done) struct qemu_disks d = {};
	_cleanup_free_ char *want = xasprintf(fmt, dir);
	struct error err = {};

	assert_true(prepare(&d, spec, 1, &err) < 0);
	assert_string_equal(err.message, want);
	assert_int_equal(err.kind, kind);
}

static void test_refused(void **state)
{
	struct disk_spec missing = {.name = "data", .path = "nowhere.img"};
	struct disk_spec vmdk = {.name = "data", .path = "a.vmdk"};

	check_refused(&missing, ERROR_USAGE,
		      "disk 'data': cannot open '%s/nowhere.img': No such file or directory");
	check_refused(&vmdk, ERROR_USAGE,
		      "disk 'data': '%s/a.vmdk' is a vmdk file, and disks are qcow2 or raw");
}

static void test_boot_order(void **state)
{
	struct disk_spec specs[] = {
		{.name = "one", .size_bytes = MIB, .boot_order = 2},
		{.name = "two", .size_bytes = MIB},
	};
	struct machine_spec spec = {.name = "m", .disks = specs, .n_disks = 2};
	_cleanup_(qemu_disks_done) struct qemu_disks d = {};
	struct error err = {};

	assert_int_equal(prepare(&d, specs, 2, &err), 0);
	assert_int_equal(qemu_disks_set_boot(&d, &spec, "two", &err), 0);
	assert_int_equal(d.list[0].bootindex, 2);
	assert_int_equal(d.list[1].bootindex, 0);
	assert_int_equal(qemu_disks_set_boot(&d, &spec, NULL, &err), 0);
	assert_int_equal(d.list[1].bootindex, -1);
	assert_int_equal(qemu_disks_set_boot(&d, &spec, "three", &err), -ENOENT);
	assert_string_equal(err.message, "there is no disk 'three' to boot from");
	assert_string_equal(err.hint, "its disks are: one, two");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_kind),      cmocka_unit_test(test_layers),
		cmocka_unit_test(test_layers_missing), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_boot_order),
	};

	return cmocka_run_group_tests(tests, make_files, remove_files);
}
