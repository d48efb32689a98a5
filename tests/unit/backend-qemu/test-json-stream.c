/* SPDX-License-Identifier: MIT */
/* The splitter of JSON streams: boundaries, strings, limits, any division into pieces. */
#include "proto/json-stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"

/* Feeds data in pieces of `step` bytes; the texts joined by '|'. Returns the last result. */
static int split(const char *data, size_t step, size_t max, struct buf *ret)
{
	struct json_stream s;
	size_t len = strlen(data);
	int r = 0;

	json_stream_init(&s, max);
	for (size_t pos = 0; pos < len && r >= 0;) {
		size_t used, n = MIN(step, len - pos);

		r = json_stream_feed(&s, data + pos, n, &used);
		if (r < 0)
			break;
		pos += used;
		if (r == 1) {
			if (ret->len)
				buf_putc(ret, '|');
			buf_append(ret, s.text.data, s.text.len);
		} else {
			assert_int_equal(used, n);
		}
	}
	if (r >= 0)
		r = json_stream_is_idle(&s);
	json_stream_done(&s);
	return r;
}

static void check_split(const char *data, const char *want, int want_r)
{
	for (size_t step = 1; step <= strlen(data) + 1; step++) {
		_cleanup_buf_ struct buf got = {};

		assert_int_equal(split(data, step, 1000, &got), want_r);
		assert_string_equal(buf_str(&got), want);
	}
}

static void test_boundaries(void **state)
{
	check_split("{}", "{}", 1);
	check_split("  {\"a\":1}\r\n{\"b\":[{}]}\r\n", "{\"a\":1}|{\"b\":[{}]}", 1);
	check_split("{}{}[]", "{}|{}|[]", 1);
	check_split("{\"a\": [1, {", "", 0);
	check_split("\r\n \t", "", 1);
}

static void test_strings_hide_brackets(void **state)
{
	check_split("{\"a\":\"}\"}", "{\"a\":\"}\"}", 1);
	check_split("{\"a\":\"\\\"}\"} ", "{\"a\":\"\\\"}\"}", 1);
	check_split("{\"a\":\"\\\\\"}{}", "{\"a\":\"\\\\\"}|{}", 1);
}

static void test_garbage_is_an_error(void **state)
{
	check_split("x", "", -EBADMSG);
	check_split("{} }", "{}", -EBADMSG);
	check_split("{}\"a\"", "{}", -EBADMSG);
}

static void test_an_error_is_final(void **state)
{
	struct json_stream s;
	size_t used;

	json_stream_init(&s, 100);
	assert_int_equal(json_stream_feed(&s, "x", 1, &used), -EBADMSG);
	assert_int_equal(json_stream_feed(&s, "{}", 2, &used), -EBADMSG);
	assert_int_equal(used, 0);
	json_stream_done(&s);
}

static void test_limits(void **state)
{
	_cleanup_buf_ struct buf got = {};
	_cleanup_buf_ struct buf deep = {};

	for (size_t step = 1; step < 12; step++) {
		buf_truncate(&got, 0);
		assert_int_equal(split("{\"a\":10}", step, 8, &got), 1);
		assert_int_equal(split("{\"a\":100}", step, 8, &got), -EMSGSIZE);
	}
	for (int i = 0; i < JSON_STREAM_MAX_DEPTH; i++)
		buf_putc(&deep, '[');
	assert_int_equal(split(buf_str(&deep), 7, 10000, &got), 0);
	buf_putc(&deep, '{');
	assert_int_equal(split(buf_str(&deep), 7, 10000, &got), -EMSGSIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_boundaries),
		cmocka_unit_test(test_strings_hide_brackets),
		cmocka_unit_test(test_garbage_is_an_error),
		cmocka_unit_test(test_an_error_is_final),
		cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
