/* SPDX-License-Identifier: MIT */
/* Digests of files and folders: what changes them, what does not. */
#include <fcntl.h>
#include <sys/stat.h>

#include "base/file.h"
#include "unit-test.h"

static char dir[] = "/tmp/assay-tree-digest-XXXXXX";

static char *in_dir(const char *name)
{
	return path_join(dir, name);
}

static void put(const char *name, const char *text)
{
	_cleanup_free_ char *path = in_dir(name);

	assert_int_equal(file_write_atomic(path, text, strlen(text), 0644, NULL), 0);
}

static void take(const char *name, char digest[DIGEST_HEX_MAX], char stamp[DIGEST_HEX_MAX])
{
	_cleanup_free_ char *path = in_dir(name);

	assert_int_equal(path_digest(path, digest, NULL), 0);
	assert_int_equal(path_stamp(path, stamp, NULL), 0);
}

static void contents_and_names_count(void **state)
{
	char d1[DIGEST_HEX_MAX], s1[DIGEST_HEX_MAX], d2[DIGEST_HEX_MAX], s2[DIGEST_HEX_MAX];
	_cleanup_free_ char *folder = in_dir("f"), *file = in_dir("f/a"), *link = in_dir("l");
	const struct timespec old[2] = {{.tv_sec = 1}, {.tv_sec = 1}};

	assert_int_equal(mkdir(folder, 0755), 0);
	put("f/a", "one");
	take("f", d1, s1);
	take("f", d2, s2);
	assert_string_equal(d1, d2);
	assert_string_equal(s1, s2);
	/* A time is nothing to the digest; the stamp asks for a closer look. */
	assert_int_equal(utimensat(AT_FDCWD, file, old, 0), 0);
	take("f", d2, s2);
	assert_string_equal(d1, d2);
	assert_string_not_equal(s1, s2);
	put("f/a", "two");
	take("f", d2, s2);
	assert_string_not_equal(d1, d2);
	assert_string_not_equal(s1, s2);
	put("f/a", "one");
	put("f/b", "");
	take("f", d2, s2);
	assert_string_not_equal(d1, d2);
	/* A link stands for what it points to. */
	assert_int_equal(symlink("f", link), 0);
	take("f", d1, s1);
	take("l", d2, s2);
	assert_string_equal(d1, d2);
	assert_int_equal(chmod(file, 0600), 0);
	take("f", d2, s2);
	assert_string_not_equal(d1, d2);
}

static void what_is_no_file(void **state)
{
	_cleanup_free_ char *pipe = in_dir("pipe"), *none = in_dir("none");
	char digest[DIGEST_HEX_MAX];
	struct error err = {};
	struct sha256 sum;

	assert_int_equal(mkfifo(pipe, 0600), 0);
	/* A folder with a pipe in it has a digest, but nothing can be made of the pipe. */
	assert_int_equal(path_digest(pipe, digest, &err), 0);
	sha256_init(&sum);
	assert_int_equal(sha256_update_tree(&sum, pipe, &err), -EINVAL);
	assert_non_null(strstr(err.message, "neither a file nor a folder"));
	assert_int_equal(path_stamp(none, digest, NULL), -ENOENT);
}

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	return path_remove_tree(dir, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(contents_and_names_count),
		cmocka_unit_test(what_is_no_file),
	};

	return cmocka_run_group_tests_name("tree-digest", tests, make_dir, remove_dir);
}
