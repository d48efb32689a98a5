/* SPDX-License-Identifier: MIT */
/* The growing buffer. */
#include "base/buf.h"

#include <fcntl.h>

#include "unit-test.h"

static void grows_and_stays_terminated(void **state)
{
	_cleanup_buf_ struct buf b = {};

	assert_string_equal(buf_str(&b), "");
	for (int i = 0; i < 10000; i++) {
		buf_putc(&b, (char)('a' + i % 26));
		assert_int_equal(b.data[b.len], '\0');
	}
	assert_int_equal(b.len, 10000);
	assert_int_equal(b.data[9999], 'a' + 9999 % 26);
	buf_truncate(&b, 3);
	assert_string_equal(buf_str(&b), "abc");
	buf_append(&b, "d\0e", 3);
	assert_int_equal(b.len, 6);
	buf_consume(&b, 4);
	assert_memory_equal(b.data, "\0e", 3);
	buf_consume(&b, 2);
	assert_int_equal(b.len, 0);
}

static void prints_across_its_capacity(void **state)
{
	_cleanup_buf_ struct buf b = {};
	char filler[500];

	memset(filler, 'x', sizeof(filler));
	for (int n = 0; n < 500; n++) {
		buf_truncate(&b, 0);
		buf_printf(&b, "%.*s", n, filler);
		buf_printf(&b, "<%d>", n);
		assert_int_equal(b.len, strlen(b.data));
		assert_int_equal(b.data[b.len - 1], '>');
	}
}

static void steals(void **state)
{
	struct buf b = {};
	size_t len = 99;

	assert_taken_string(buf_steal(&b, &len), "");
	assert_int_equal(len, 0);
	buf_puts(&b, "text");
	assert_taken_string(buf_steal(&b, &len), "text");
	assert_int_equal(len, 4);
	assert_null(b.data);
	buf_done(&b);
}

static void reads_up_to_a_limit(void **state)
{
	_cleanup_buf_ struct buf b = {};
	int fds[2];

	for (size_t size = 4999; size <= 5001; size++) {
		char block[5001] = {1};

		assert_int_equal(pipe(fds), 0);
		assert_int_equal(write(fds[1], block, size), size);
		close(fds[1]);
		buf_truncate(&b, 0);
		buf_puts(&b, "before");
		if (size <= 5000) {
			assert_int_equal(buf_read_fd(&b, fds[0], 5000), 0);
			assert_int_equal(b.len, 6 + size);
		} else {
			assert_int_equal(buf_read_fd(&b, fds[0], 5000), -EFBIG);
			assert_string_equal(buf_str(&b), "before");
		}
		close(fds[0]);
	}
	buf_truncate(&b, 0);
	/* Says that it is empty, and is not. */
	if (access("/proc/self/status", R_OK) == 0) {
		assert_int_equal(buf_read_file(&b, "/proc/self/status", SIZE_MAX), 0);
		assert_non_null(strstr(buf_str(&b), "\nPid:"));
	}
	assert_int_equal(buf_read_file(&b, "/no/such/file", 10), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_and_stays_terminated),
		cmocka_unit_test(prints_across_its_capacity),
		cmocka_unit_test(steals),
		cmocka_unit_test(reads_up_to_a_limit),
	};

	return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
