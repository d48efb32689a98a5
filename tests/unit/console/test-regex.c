/* SPDX-License-Identifier: MIT */
/* Regular expressions: captures, limits, broken text. */
#include "console/console.h"

#include <string.h>

#include "base/str.h"
#include "fiber-test.h"

static int match(const char *pattern, const char *text, size_t len, size_t start, json_t **captures,
		 size_t *end, struct error *err)
{
	struct regex *re = NULL;
	int r = regex_compile(pattern, &re, err);

	if (r >= 0)
		r = regex_match(re, text, len, start, NULL, end, captures, err);
	regex_free(re);
	return r;
}

static const char *text_of(json_t *captures, const char *key)
{
	return json_string_value(json_object_get(captures, key));
}

static void captures_by_number_and_name(void **state)
{
	const char *text = "nginx: 12 of 30 workers";
	json_t *c = NULL;
	size_t end = 0;

	assert_int_equal(
		match("(?<have>\\d+) of (\\d+)(x)?", text, strlen(text), 0, &c, &end, NULL), 1);
	assert_string_equal(text_of(c, "0"), "12 of 30");
	assert_string_equal(text_of(c, "1"), "12");
	assert_string_equal(text_of(c, "have"), "12");
	assert_string_equal(text_of(c, "2"), "30");
	assert_null(json_object_get(c, "3")); /* took no part */
	assert_int_equal(end, strlen("nginx: 12 of 30"));
	json_decref(c);
}

static void multi_line_is_on(void **state)
{
	const char *text = "one\ntwo\nthree";

	assert_int_equal(match("^two$", text, strlen(text), 0, NULL, NULL, NULL), 1);
	assert_int_equal(match("^two$", text, strlen(text), 5, NULL, NULL, NULL), 0);
	assert_int_equal(match("(?<=one\n)two", text, strlen(text), 4, NULL, NULL, NULL), 1);
}

static void a_wrong_pattern_is_a_usage_error(void **state)
{
	struct error err = {};

	assert_int_equal(match("(ab", "x", 1, 0, NULL, NULL, &err), -EINVAL);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_string_equal(err.message,
			    "regular expression '(ab' is wrong at character 4: missing "
			    "closing parenthesis");
}

static void broken_utf8_is_no_obstacle(void **state)
{
	const char text[] = "\xff\xfe caf\xc3\xa9 \xc3 done";
	json_t *c = NULL;

	assert_int_equal(match("caf(.) ", text, sizeof(text) - 1, 0, &c, NULL, NULL), 1);
	assert_string_equal(text_of(c, "1"), "\xc3\xa9");
	json_decref(c);
	assert_int_equal(match("done$", text, sizeof(text) - 1, 0, NULL, NULL, NULL), 1);
}

static void nuls_are_bytes(void **state)
{
	json_t *c = NULL;

	assert_int_equal(match("a.b", "xa\0b", 4, 0, &c, NULL, NULL), 1);
	assert_int_equal(json_string_length(json_object_get(c, "0")), 3);
	json_decref(c);
}

static void nested_repetition_hits_the_limit(void **state)
{
	char text[64];
	struct error err = {};

	memset(text, 'a', sizeof(text));
	assert_int_equal(match("(a+)+[bc]", text, sizeof(text), 0, NULL, NULL, &err), -ELOOP);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_non_null(strstr(err.message, "too many steps"));
	assert_non_null(strstr(err.hint, "(a+)+"));
}

/* A literal in a long text is found at memchr's speed, in spite of the slices. */
static void a_long_text_is_searched_quickly(void **state)
{
	size_t len = 32 * MIB;
	char *text = xmalloc(len);
	uint64_t before = now_ns();

	memset(text, 'x', len);
	memcpy(text + len - 6, "needle", 6);
	assert_int_equal(match("need(le)", text, len, 0, NULL, NULL, NULL), 1);
	assert_true(now_ns() - before < NS_PER_SEC);
	assert_int_equal(match("needles", text, len, 0, NULL, NULL, NULL), 0);
	free(text);
}

static void a_start_behind_the_end_is_no_match(void **state)
{
	assert_int_equal(match("x*", "xx", 2, 3, NULL, NULL, NULL), 0);
	assert_int_equal(match("x*", "xx", 2, 2, NULL, NULL, NULL), 1); /* the empty one */
}

/* A growing text, as it is cut in `parts` (ended by NULL): how often it was looked at until the
 * match was found, 0: never. */
static unsigned parts_needed(const char *pattern, const char *const *parts, size_t *ret_start)
{
	struct regex *re = NULL;
	struct buf text = {};
	size_t start = 0, end;
	unsigned n = 0;
	int r = 0;

	assert_int_equal(regex_compile(pattern, &re, NULL), 0);
	for (; *parts && r == 0; parts++, n++) {
		buf_puts(&text, *parts);
		r = regex_match_growing(re, text.data, text.len, &start, &end, NULL, NULL);
		assert_true(r >= 0);
	}
	if (ret_start)
		*ret_start = start;
	regex_free(re);
	buf_done(&text);
	return r == 1 ? n : 0;
}

static void a_growing_text_is_searched_once(void **state)
{
	const char *lines[] = {"\xff first\n", "caf\xc3", "\xa9\n", "last", NULL};
	size_t start;

	assert_int_equal(parts_needed("first", lines, NULL), 1);
	/* Over the cuts: between lines, in a line, in a character; and behind a broken one. */
	assert_int_equal(parts_needed("first\ncaf", lines, NULL), 2);
	assert_int_equal(parts_needed("caf\xc3\xa9", lines, NULL), 3);
	assert_int_equal(parts_needed("\xc3\xa9", lines, NULL), 3);
	assert_int_equal(parts_needed("^last", lines, NULL), 4);
	assert_int_equal(parts_needed("(?<=\n)last", lines, NULL), 4);
	assert_int_equal(parts_needed("first[\\s\\S]*last", lines, NULL), 4);
	/* Only where something could still begin is looked at again. */
	assert_int_equal(parts_needed("never", lines, &start), 0);
	assert_int_equal(start, strlen("? first\ncaf??\nlast"));
	assert_int_equal(parts_needed("lasting", lines, &start), 0);
	assert_int_equal(start, strlen("? first\ncaf??\n"));
	assert_int_equal(parts_needed("fir[^x]*x", lines, &start), 0);
	assert_int_equal(start, strlen("? "));
	assert_int_equal(parts_needed("\\Alast", lines, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(captures_by_number_and_name),
		cmocka_unit_test(multi_line_is_on),
		cmocka_unit_test(a_wrong_pattern_is_a_usage_error),
		cmocka_unit_test(broken_utf8_is_no_obstacle),
		cmocka_unit_test(nuls_are_bytes),
		cmocka_unit_test(nested_repetition_hits_the_limit),
		cmocka_unit_test(a_long_text_is_searched_quickly),
		cmocka_unit_test(a_start_behind_the_end_is_no_match),
		cmocka_unit_test(a_growing_text_is_searched_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
