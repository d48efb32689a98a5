/* SPDX-License-Identifier: MIT */
/* Whole files, trees, descriptors. */
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/str.h"
#include "unit-test.h"

static char dir[64];

static int make_dir(void **state)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/assay-file-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	return path_remove_tree(dir, NULL);
}

static size_t count_entries(const char *path)
{
	DIR *d = opendir(path);
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void writes_and_reads(void **state)
{
	_cleanup_free_ char *path = path_join(dir, "file");
	_cleanup_buf_ struct buf b = {};
	struct error err = {};
	struct stat st;

	umask(022);
	assert_int_equal(file_write_atomic(path, "one\0two", 7, 0640, &err), 0);
	assert_int_equal(file_read(path, 7, &b, &err), 0);
	assert_int_equal(b.len, 7);
	assert_memory_equal(b.data, "one\0two", 8);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(file_write_atomic(path, "x", 1, 0600, &err), 0);
	assert_int_equal(file_append(path, "yz", 2, &err), 0);
	buf_truncate(&b, 0);
	assert_int_equal(file_read(path, 100, &b, &err), 0);
	assert_string_equal(buf_str(&b), "xyz");
	assert_int_equal(file_read(path, 2, &b, &err), -EFBIG);
	assert_non_null(strstr(err.message, "is larger than 2 B"));
	assert_int_equal(count_entries(dir), 1); /* no temporary file is left */
}

static void a_failed_write_leaves_nothing(void **state)
{
	_cleanup_free_ char *path = path_join(dir, "a-directory");
	struct error err = {};

	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(file_write_atomic(path, "x", 1, 0600, &err), -EISDIR);
	assert_int_equal(err.kind, ERROR_INFRA);
	assert_non_null(strstr(err.message, path));
	assert_int_equal(count_entries(dir), 1);
	error_clear(&err);
	assert_int_equal(file_write_atomic("/no/dir/x", "x", 1, 0600, &err), -ENOENT);
}

static void makes_directories(void **state)
{
	_cleanup_free_ char *deep = xasprintf("%s/a//b/c/", dir);
	_cleanup_free_ char *file = xasprintf("%s/f", dir);
	_cleanup_free_ char *below = xasprintf("%s/f/g", dir);
	struct error err = {};

	assert_int_equal(path_make_dirs(deep, 0755, &err), 0);
	assert_int_equal(path_make_dirs(deep, 0755, &err), 0);
	assert_true(path_is_dir(deep));
	assert_int_equal(file_append(file, "", 0, NULL), 0);
	assert_true(path_exists(file) && !path_is_dir(file));
	assert_int_equal(path_make_dirs(below, 0755, &err), -ENOTDIR);
	assert_int_equal(path_make_dirs(file, 0755, &err), -ENOTDIR);
	assert_int_equal(path_make_dirs("/", 0755, &err), 0);
}

static void removes_trees_but_nothing_behind_links(void **state)
{
	_cleanup_free_ char *tree = xasprintf("%s/tree", dir);
	_cleanup_free_ char *deep = xasprintf("%s/tree/b/c", dir);
	_cleanup_free_ char *locked = xasprintf("%s/tree/b/c/file", dir);
	_cleanup_free_ char *other = xasprintf("%s/other", dir);
	_cleanup_free_ char *kept = xasprintf("%s/other/kept", dir);
	_cleanup_free_ char *link = xasprintf("%s/tree/link", dir);

	assert_int_equal(path_make_dirs(deep, 0755, NULL), 0);
	assert_int_equal(path_make_dirs(other, 0755, NULL), 0);
	assert_int_equal(file_append(kept, "x", 1, NULL), 0);
	assert_int_equal(file_append(locked, "x", 1, NULL), 0);
	assert_int_equal(symlink(other, link), 0);
	assert_int_equal(chmod(deep, 0), 0);
	assert_int_equal(path_remove_tree(tree, NULL), 0);
	assert_false(path_exists(tree));
	assert_true(path_exists(kept));
	assert_int_equal(path_remove_tree(tree, NULL), 0);
	assert_int_equal(path_remove_tree(kept, NULL), 0); /* a file is a tree as well */
	assert_false(path_exists(kept));
	/* The link itself goes, its target stays. */
	assert_int_equal(symlink(other, link) == 0 || symlink(other, kept) == 0, 1);
	assert_int_equal(path_remove_tree(kept, NULL), 0);
	assert_true(path_is_dir(other));
}

static void links_are_written_through(void **state)
{
	_cleanup_free_ char *file = path_join(dir, "target"), *link = path_join(dir, "link");
	_cleanup_buf_ struct buf text = {};
	struct stat st;

	assert_int_equal(file_write_atomic(file, "old", 3, 0644, NULL), 0);
	assert_int_equal(symlink(file, link), 0);
	assert_int_equal(file_write_atomic(link, "new", 3, 0644, NULL), 0);
	assert_int_equal(lstat(link, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(file_read(file, 100, &text, NULL), 0);
	assert_string_equal(buf_str(&text), "new");
}

static void stops_at_mounts(void **state)
{
	struct error err = {};

	/* Is always mounted, and would be a sad loss. */
	assert_int_equal(path_remove_tree("/proc", &err), -EBUSY);
	assert_string_equal(err.message, "cannot remove '/proc': Device or resource busy");
}

static void memory_files_are_sealed(void **state)
{
	_cleanup_close_ int fd = memfd_from_data("name", "data", 4, NULL);
	char text[8] = "";

	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	assert_string_equal(text, "data");
	assert_int_equal(write(fd, "x", 1), -1);
	assert_int_equal(errno, EPERM);
}

static void temporary_files_have_no_name(void **state)
{
	_cleanup_close_ int fd = tmpfile_open(dir, NULL);
	struct error err = {};

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(count_entries(dir), 0);
	assert_int_equal(tmpfile_open("/no/dir", &err), -ENOENT);
	assert_non_null(strstr(err.message, "/no/dir"));
}

static void sets_flags(void **state)
{
	int fds[2];
	char c;

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(fd_set_nonblock(fds[0], true), 0);
	assert_int_equal(read(fds[0], &c, 1), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(fd_set_nonblock(fds[0], false), 0);
	assert_int_equal(fcntl(fds[0], F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fd_set_cloexec(fds[0], true), 0);
	assert_int_equal(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
	assert_int_equal(fd_write_all(fds[1], "ab", 2), 0);
	assert_int_equal(fd_write_all(-1, "ab", 2), -EBADF);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
#define IN_DIR(t) cmocka_unit_test_setup_teardown(t, make_dir, remove_dir)
	const struct CMUnitTest tests[] = {
		IN_DIR(writes_and_reads),
		IN_DIR(a_failed_write_leaves_nothing),
		IN_DIR(makes_directories),
		IN_DIR(removes_trees_but_nothing_behind_links),
		IN_DIR(links_are_written_through),
		cmocka_unit_test(stops_at_mounts),
		cmocka_unit_test(memory_files_are_sealed),
		IN_DIR(temporary_files_have_no_name),
		cmocka_unit_test(sets_flags),
	};

	return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
