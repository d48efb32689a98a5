/* SPDX-License-Identifier: MIT */
/* Errors: filling, prefixing, bounds. */
#include "base/error.h"

#include "unit-test.h"

static void sets_kind_code_and_message(void **state)
{
	struct error err = {};

	assert_false(error_is_set(&err));
	assert_int_equal(error_set(&err, ERROR_EXPECT, ENOENT, "unit '%s' does not exist", "a"),
			 -ENOENT);
	assert_true(error_is_set(&err));
	assert_int_equal(err.kind, ERROR_EXPECT);
	assert_int_equal(err.code, ENOENT);
	assert_string_equal(err.message, "unit 'a' does not exist");
	assert_string_equal(err.hint, "");
}

static void appends_the_meaning_of_errno(void **state)
{
	struct error err = {};

	assert_int_equal(error_set_errno(&err, ERROR_INFRA, EACCES, "cannot open '%s'", "/x"),
			 -EACCES);
	assert_string_equal(err.message, "cannot open '/x': Permission denied");
}

static void null_is_fine_everywhere(void **state)
{
	assert_int_equal(error_set(NULL, ERROR_BUG, EIO, "x"), -EIO);
	assert_int_equal(error_set_errno(NULL, ERROR_BUG, EPERM, "x"), -EPERM);
	error_hint(NULL, "x");
	error_prefix(NULL, "x");
	error_clear(NULL);
	assert_false(error_is_set(NULL));
}

static void a_result_is_never_success(void **state)
{
	struct error err = {};

	assert_int_equal(error_set(&err, ERROR_INFRA, 0, "x"), -EIO);
	assert_int_equal(error_set(&err, ERROR_INFRA, -EPERM, "x"), -EPERM);
	assert_int_equal(err.code, EPERM);
}

static void prefixes_and_hints(void **state)
{
	struct error err = {};

	error_prefix(&err, "nothing to prefix");
	assert_false(error_is_set(&err));
	error_set(&err, ERROR_CRASH, EIO, "it died");
	error_hint(&err, "look at '%s'", "log");
	error_prefix(&err, "machine '%s'", "server");
	assert_string_equal(err.message, "machine 'server': it died");
	assert_string_equal(err.hint, "look at 'log'");
	error_clear(&err);
	assert_false(error_is_set(&err));
	assert_string_equal(err.message, "");
}

static void long_messages_are_cut_visibly(void **state)
{
	struct error err = {};
	char text[3 * ERROR_MESSAGE_MAX];
	size_t n;

	/* Two-byte characters: the cut must not halve one, at either parity. */
	for (size_t start = 0; start < 2; start++) {
		memset(text, 'a', start);
		for (size_t i = start; i + 1 < sizeof(text); i += 2)
			memcpy(text + i, "ä", 2);
		text[sizeof(text) - 2] = '\0';
		error_set(&err, ERROR_BUG, EIO, "%s", text);
		n = strlen(err.message);
		assert_true(n < ERROR_MESSAGE_MAX && n > ERROR_MESSAGE_MAX - 8);
		assert_string_equal(err.message + n - 3, "…");
		assert_memory_equal(err.message + n - 5, "ä", 2);
	}
	error_prefix(&err, "%s", "p");
	assert_true(strlen(err.message) < ERROR_MESSAGE_MAX);
	assert_memory_equal(err.message, "p: a", 4);
}

static void propagates(void **state)
{
	struct error src = {}, dst = {};

	error_set(&src, ERROR_TIMEOUT, ETIMEDOUT, "late");
	assert_int_equal(error_propagate(&dst, &src), -ETIMEDOUT);
	assert_string_equal(dst.message, "late");
	assert_int_equal(error_propagate(NULL, &src), -ETIMEDOUT);
}

static void kinds_have_names(void **state)
{
	for (int k = ERROR_USAGE; k <= ERROR_SKIP; k++)
		assert_int_equal(error_kind_from_name(error_kind_name(k)), k);
	assert_string_equal(error_kind_name(ERROR_DEADLINE), "deadline");
	assert_non_null(error_kind_name(999));
	assert_int_equal(error_kind_from_name("nonsense"), ERROR_NONE);
	assert_int_equal(error_kind_from_name(NULL), ERROR_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_kind_code_and_message),
		cmocka_unit_test(appends_the_meaning_of_errno),
		cmocka_unit_test(null_is_fine_everywhere),
		cmocka_unit_test(a_result_is_never_success),
		cmocka_unit_test(prefixes_and_hints),
		cmocka_unit_test(long_messages_are_cut_visibly),
		cmocka_unit_test(propagates),
		cmocka_unit_test(kinds_have_names),
	};

	return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
