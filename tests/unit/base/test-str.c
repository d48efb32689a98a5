/* SPDX-License-Identifier: MIT */
/* Strings: quoting, names. */
#include "base/str.h"

#include "unit-test.h"

static void copies_and_compares(void **state)
{
	assert_taken_string(xstrndup("abc", 2), "ab");
	assert_taken_string(xstrndup("abc", 9), "abc");
	assert_taken_string(xasprintf("%d-%s", 7, "x"), "7-x");
	assert_true(str_eq(NULL, NULL));
	assert_false(str_eq("a", NULL));
	assert_true(str_starts("nginx.service", "nginx") && !str_starts("ng", "nginx"));
	assert_true(str_ends("nginx.service", ".service") && !str_ends("ice", "service"));
	assert_true(str_starts("x", "") && str_ends("x", ""));
}

static void quotes_for_the_shell(void **state)
{
	char *const argv[] = {(char *)"ls", (char *)"-l", (char *)"a b", (char *)"", NULL};

	assert_taken_string(shell_quote("plain-/.,:=@%+_9"), "plain-/.,:=@%+_9");
	assert_taken_string(shell_quote(""), "''");
	assert_taken_string(shell_quote("it's"), "'it'\\''s'");
	assert_taken_string(shell_quote("~$x\n"), "'~$x\n'");
	assert_taken_string(shell_quote("ä"), "'ä'");
	assert_taken_string(shell_quote_argv(argv), "ls -l 'a b' ''");
	assert_taken_string(shell_quote_argv(NULL), "");
}

static void the_shell_agrees(void **state)
{
	static const char *const words[] = {"it's",  "a\"b", "$HOME `x` \\", "*", "-n",
					    "\t\n|", "#"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		_cleanup_free_ char *quoted = shell_quote(words[i]);
		_cleanup_free_ char *cmd = xasprintf("printf %%s %s", quoted);
		char got[64];
		FILE *f = popen(cmd, "r");

		assert_non_null(f);
		got[fread(got, 1, sizeof(got) - 1, f)] = '\0';
		pclose(f);
		assert_string_equal(got, words[i]);
	}
}

static void finds_typing_errors(void **state)
{
	static const char *const names[] = {"memory", "cpus",	       "image", "networks",
					    "up",     "wait_for_unit", NULL};

	assert_string_equal(nearest_name("memmory", names), "memory");
	assert_string_equal(nearest_name("mmeory", names), "memory");
	assert_string_equal(nearest_name("cpu", names), "cpus");
	assert_string_equal(nearest_name("Image", names), "image");
	assert_string_equal(nearest_name("imgae", names), "image");
	assert_string_equal(nearest_name("wait_unit", names) ? "x" : "none", "none");
	assert_string_equal(nearest_name("wait_for_units", names), "wait_for_unit");
	assert_null(nearest_name("disk", names));
	assert_null(nearest_name("xy", names)); /* two of two letters are no typing error */
	assert_null(nearest_name("keep", (const char *const[]){"seed", NULL})); /* half of it */
	assert_string_equal(nearest_name("tets", (const char *const[]){"test", NULL}), "test");
	assert_null(nearest_name("wait_for", names));
	assert_null(nearest_name("", names));
	assert_null(nearest_name("memory", NULL));
	/* An exact one wins over a near one. */
	assert_string_equal(nearest_name("networks", names), "networks");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_and_compares),
		cmocka_unit_test(quotes_for_the_shell),
		cmocka_unit_test(the_shell_agrees),
		cmocka_unit_test(finds_typing_errors),
	};

	return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
