/* SPDX-License-Identifier: MIT */
/* Sparse copies. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "unit-test.h"

#define FILE_BYTES (64 * MIB)

static int new_file(const char *dir)
{
	int fd = tmpfile_open(dir, NULL);

	assert_true(fd >= 0);
	return fd;
}

/* Three islands of data, one of them over the border of a chunk and not of whole pages. */
static const struct island {
	uint64_t at;
	size_t len;
	char fill;
} islands[] = {
	{4 * KIB, 4 * KIB, 'a'},
	{10 * MIB - 5, 3 * MIB + 77, 'b'},
	{FILE_BYTES - 1, 1, 'c'},
};

static void fill(int fd)
{
	assert_int_equal(ftruncate(fd, FILE_BYTES), 0);
	for (size_t i = 0; i < ARRAY_SIZE(islands); i++) {
		_cleanup_free_ char *data = xmalloc(islands[i].len);

		memset(data, islands[i].fill, islands[i].len);
		assert_int_equal(pwrite(fd, data, islands[i].len, (off_t)islands[i].at),
				 islands[i].len);
	}
}

static void check_copy(int fd)
{
	_cleanup_free_ char *got = xmalloc(FILE_BYTES), *wanted = xcalloc(1, FILE_BYTES);
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(islands); i++)
		memset(wanted + islands[i].at, islands[i].fill, islands[i].len);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, FILE_BYTES);
	assert_true(st.st_blocks * 512 < (blkcnt_t)(4 * MIB));
	assert_int_equal(pread(fd, got, FILE_BYTES, 0), FILE_BYTES);
	assert_memory_equal(got, wanted, FILE_BYTES);
}

static void copy_between(const char *from_dir, const char *to_dir)
{
	_cleanup_close_ int from = new_file(from_dir), to = new_file(to_dir);

	fill(from);
	/* What it was before is of no account. */
	assert_int_equal(ftruncate(to, FILE_BYTES + 1), 0);
	assert_int_equal(pwrite(to, "old", 3, 0), 3);
	assert_int_equal(file_copy_sparse(from, to, NULL), 0);
	check_copy(to);
}

static void holes_stay_holes(void **state)
{
	copy_between("/tmp", "/tmp");
	copy_between("/dev/shm", "/dev/shm");
}

static void between_file_systems_too(void **state)
{
	copy_between("/dev/shm", "/tmp");
	copy_between("/tmp", "/dev/shm");
}

static void only_holes_and_nothing_at_all(void **state)
{
	_cleanup_close_ int from = new_file("/tmp"), to = new_file("/tmp");
	struct stat st;

	assert_int_equal(pwrite(to, "old", 3, 0), 3);
	assert_int_equal(file_copy_sparse(from, to, NULL), 0);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, 0);
	assert_int_equal(ftruncate(from, GIB), 0);
	assert_int_equal(file_copy_sparse(from, to, NULL), 0);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, GIB);
	assert_int_equal(st.st_blocks, 0);
}

static void what_does_not_fit_is_an_error(void **state)
{
	_cleanup_close_ int from = new_file("/dev/shm"), to = new_file("/tmp");
	struct rlimit old, limit;
	struct error err = {};

	fill(from);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = (struct rlimit){MIB, old.rlim_max};
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(file_copy_sparse(from, to, &err), -EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(err.kind, ERROR_INFRA);
	assert_true(str_starts(err.message, "cannot copy a file of 3"));
	assert_true(str_ends(err.message, " MiB: File too large"));
	assert_int_equal(file_copy_sparse(-1, to, NULL), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_stay_holes),
		cmocka_unit_test(between_file_systems_too),
		cmocka_unit_test(only_holes_and_nothing_at_all),
		cmocka_unit_test(what_does_not_fit_is_an_error),
	};

	return cmocka_run_group_tests_name("copy", tests, NULL, NULL);
}
