/* SPDX-License-Identifier: MIT */
/* Vectors of strings. */
#include "base/str.h"
#include "unit-test.h"

static void grows(void **state)
{
	_cleanup_strv_ char **v = NULL;

	assert_int_equal(strv_len(NULL), 0);
	for (int i = 0; i < 1000; i++) {
		strv_pushf(&v, "%d", i);
		assert_int_equal(strv_len(v), i + 1);
	}
	for (int i = 0; i < 1000; i++) {
		char wanted[8];

		(void)snprintf(wanted, sizeof(wanted), "%d", i);
		assert_string_equal(v[i], wanted);
	}
	assert_true(strv_contains(v, "999") && !strv_contains(v, "1000"));
}

static void copies(void **state)
{
	_cleanup_strv_ char **v = NULL;
	_cleanup_strv_ char **w = NULL;

	assert_null(strv_copy(NULL));
	for (int i = 0; i < 9; i++)
		strv_push(&v, "x");
	w = strv_copy(v);
	/* A copy grows like the original. */
	for (int i = 0; i < 100; i++)
		strv_push(&w, "y");
	assert_int_equal(strv_len(v), 9);
	assert_int_equal(strv_len(w), 109);
	assert_false(strv_contains(NULL, "x"));
}

static void splits_and_joins(void **state)
{
	_cleanup_strv_ char **v = strv_split(",a,,b c,", ",");
	_cleanup_strv_ char **w = strv_split(" \t", " \t");

	assert_taken_string(strv_join(v, "|"), "a|b c");
	assert_null(w);
	assert_taken_string(strv_join(w, "|"), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows),
		cmocka_unit_test(copies),
		cmocka_unit_test(splits_and_joins),
	};

	return cmocka_run_group_tests_name("strv", tests, NULL, NULL);
}
