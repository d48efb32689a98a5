/* SPDX-License-Identifier: MIT */
/* What apt says, understood. */
#include "image-test.h"

#include "image/apt.h"

static void print_uris_give_file_names(void **state)
{
	_cleanup_strv_ char **names = apt_parse_print_uris(
		"Reading package lists...\n"
		"'http://m/debian/pool/main/d/debconf/debconf_1.5.91_all.deb' "
		"debconf_1.5.91_all.deb 121088 MD5Sum:19f4\n"
		"'http://m/pool/z/zlib1g_1.3_amd64.deb' zlib1g_1%3a1.3_amd64.deb 88720 \n"
		"'broken\n");

	assert_int_equal(strv_len(names), 2);
	assert_string_equal(names[0], "debconf_1.5.91_all.deb");
	assert_string_equal(names[1], "zlib1g_1%3a1.3_amd64.deb");
	assert_null(apt_parse_print_uris(""));
}

static void check_unknown(const char *output, const char *wanted)
{
	_cleanup_free_ char *got = apt_unknown_package(output);

	if (wanted)
		assert_string_equal(got, wanted);
	else
		assert_null(got);
}

static void unknown_packages_are_named(void **state)
{
	check_unknown("Reading package lists...\nE: Unable to locate package nginxx\n", "nginxx");
	check_unknown("E: Package 'mysql-server' has no installation candidate\n", "mysql-server");
	check_unknown("E: Couldn't find any package by glob 'lib*foo'\n", "lib*foo");
	check_unknown("E: Package 'x' is broken\n", NULL);
	check_unknown("E: Unable to correct problems, you have held broken packages.\n", NULL);
}

static void check_reason(const char *output, const char *wanted)
{
	_cleanup_free_ char *got = build_failure_reason(output);

	assert_string_equal(got, wanted);
}

static void the_telling_line_is_found(void **state)
{
	check_reason("Get:1 x\nE: Sub-process returned an error\nW: bye\n",
		     "E: Sub-process returned an error");
	check_reason("ok\ndpkg: error processing package x\nmore\n",
		     "dpkg: error processing package x");
	check_reason("first\n  last words \n\n", "last words ");
	check_reason("", "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(print_uris_give_file_names),
		cmocka_unit_test(unknown_packages_are_named),
		cmocka_unit_test(the_telling_line_is_found),
	};

	return cmocka_run_group_tests_name("image-apt", tests, NULL, NULL);
}
