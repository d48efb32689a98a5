/* SPDX-License-Identifier: MIT */
/* Names of files and our own directories. */
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "unit-test.h"

static void joins_and_takes_apart(void **state)
{
	assert_taken_string(path_join("a", "b"), "a/b");
	assert_taken_string(path_join("a/", "b"), "a/b");
	assert_taken_string(path_join("a", "/b"), "/b");
	assert_taken_string(path_join("", "b"), "b");
	assert_taken_string(path_join("a", ""), "a");
	assert_taken_string(path_dirname("/a/b"), "/a");
	assert_taken_string(path_dirname("/a//b/"), "/a");
	assert_taken_string(path_dirname("/a"), "/");
	assert_taken_string(path_dirname("/"), "/");
	assert_taken_string(path_dirname("a"), ".");
	assert_taken_string(path_dirname(""), ".");
	assert_string_equal(path_basename("/a/b"), "b");
	assert_string_equal(path_basename("b"), "b");
}

static void makes_absolute(void **state)
{
	_cleanup_free_ char *cwd = getcwd(NULL, 0);
	_cleanup_free_ char *wanted = xasprintf("%s/x", cwd);

	assert_taken_string(path_absolute("/a/./b/../c//d/"), "/a/c/d");
	assert_taken_string(path_absolute("/../.."), "/");
	assert_taken_string(path_absolute("/a/b/c/../../../../d/e"), "/d/e");
	assert_taken_string(path_absolute("y/../x"), wanted);
}

static void cache_follows_the_environment(void **state)
{
	char dir[] = "/tmp/assay-path-XXXXXX";
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL;
	_cleanup_free_ char *want_a = NULL, *want_b = NULL, *want_c = NULL;
	struct error err = {};
	char *none = NULL;

	assert_non_null(mkdtemp(dir));
	want_a = xasprintf("%s/own", dir);
	want_b = xasprintf("%s/xdg/assay", dir);
	want_c = xasprintf("%s/.cache/assay", dir);
	setenv("ASSAY_CACHE", want_a, 1);
	assert_int_equal(path_cache_dir(&a, &err), 0);
	assert_string_equal(a, want_a);
	unsetenv("ASSAY_CACHE");
	char *xdg = xasprintf("%s/xdg", dir);
	setenv("XDG_CACHE_HOME", xdg, 1);
	free(xdg);
	assert_int_equal(path_cache_dir(&b, &err), 0);
	assert_string_equal(b, want_b);
	setenv("XDG_CACHE_HOME", "relative", 1); /* to be ignored */
	setenv("HOME", dir, 1);
	assert_int_equal(path_cache_dir(&c, &err), 0);
	assert_string_equal(c, want_c);
	assert_true(path_is_dir(a) && path_is_dir(b) && path_is_dir(c));
	setenv("ASSAY_CACHE", "/dev/null/assay", 1);
	assert_int_equal(path_cache_dir(&none, &err), -ENOTDIR);
	assert_true(str_starts(err.message, "cache directory: cannot make directory '/dev/null"));
	assert_null(none);
	assert_int_equal(path_remove_tree(dir, NULL), 0);
}

static void runtime_is_private(void **state)
{
	char dir[] = "/tmp/assay-path-XXXXXX";
	_cleanup_free_ char *a = NULL, *b = NULL, *wanted = NULL;
	struct error err = {};
	struct stat st;

	assert_non_null(mkdtemp(dir));
	wanted = xasprintf("%s/assay", dir);
	setenv("XDG_RUNTIME_DIR", dir, 1);
	assert_int_equal(mkdir(wanted, 0777), 0);
	assert_int_equal(path_runtime_dir(&a, &err), 0);
	assert_string_equal(a, wanted);
	assert_int_equal(stat(a, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	/* Somebody put a link there. */
	assert_int_equal(rmdir(wanted), 0);
	assert_int_equal(symlink("/tmp", wanted), 0);
	assert_int_equal(path_runtime_dir(&b, &err), -ENOTDIR);
	assert_null(b);
	assert_int_equal(path_remove_tree(dir, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(joins_and_takes_apart),
		cmocka_unit_test(makes_absolute),
		cmocka_unit_test(cache_follows_the_environment),
		cmocka_unit_test(runtime_is_private),
	};

	return cmocka_run_group_tests_name("path", tests, NULL, NULL);
}
