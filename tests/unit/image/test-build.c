/* SPDX-License-Identifier: MIT */
/* A build's life: what it leaves when it ends well, badly, or not at all. */
#include "image-test.h"

#include <dirent.h>

#include "../loop/fiber-test.h"
#include "image/build.h"
#include "loop/fiber.h"

static size_t count_entries(const char *path)
{
	DIR *dir = opendir(path);
	size_t n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n - 2;
}

static int run_sh(struct build *b, const char *text, struct error *err)
{
	char *const argv[] = {(char *)"sh", (char *)"-c", (char *)text, NULL};

	return build_run(b, BUILD_AS_SELF, argv, 0, err);
}

/* Runs one shell command as a whole build. */
static int build_sh(const char *text, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_build_ struct build b = {};
	int r;

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	r = build_begin(&b, &s, "x", NULL, 0, err);
	return r < 0 ? r : run_sh(&b, text, err);
}

static void check_nothing_left(void)
{
	_cleanup_free_ char *images = path_join(test_dir, "images");

	check(count_entries(images) == 0);
}

FIBER_TEST(a_failure_tells_the_reason_and_keeps_the_log)
{
	_cleanup_free_ char *log = path_join(test_dir, "logs/x.log");
	_cleanup_buf_ struct buf text = {};
	struct error err = {};

	check(build_sh("touch a; echo noise; echo 'E: no such thing' >&2; echo more; exit 3",
		       &err) == -EIO);
	check(err.kind == ERROR_INFRA);
	check_str(err.message, "sh exited with status 3: E: no such thing");
	check(strstr(err.hint, "logs/x.log") != NULL);
	check(file_read(log, MIB, &text, NULL) == 0);
	check(strstr(buf_str(&text), "noise") != NULL);
	check_nothing_left();
}

FIBER_TEST(a_full_disk_is_told_as_such)
{
	struct error err = {};

	check(build_sh("echo 'tar: ./usr/x: Cannot write: No space left on device' >&2; exit 2",
		       &err) == -ENOSPC);
	check(err.kind == ERROR_INFRA);
	check(strstr(err.message, "the disk became full while the image was built in '") != NULL);
	check(strstr(err.message, test_dir) != NULL);
	check(strstr(err.hint, "assay cache prune") != NULL);
	check(strstr(err.hint, "ASSAY_CACHE=") != NULL);
	check_nothing_left();
}

FIBER_TEST(too_little_space_is_seen_beforehand)
{
	_cleanup_store_ struct store s = {};
	_cleanup_build_ struct build b = {};
	struct error err = {};

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	check(build_begin(&b, &s, "x", NULL, UINT64_MAX / 2, &err) == -ENOSPC);
	check(strstr(err.message, "not enough space in '") != NULL);
	check(strstr(err.message, "building the image needs about") != NULL);
	check_nothing_left();
}

static int endless(void *userdata)
{
	/* The grandchild writes on: the tree must not be removed under it. */
	return build_sh("(while :; do date > \"f$$\"; mkdir -p d/e; done) & mkdir d; sleep 1000",
			userdata);
}

FIBER_TEST(a_cancelled_build_leaves_nothing)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	struct error err = {};

	fiber_start("build", endless, &err, &f);
	check(fiber_join(f, 100 * NS_PER_MS, NULL) == -ETIMEDOUT);
	fiber_stop(f);
	check(fiber_result(f) == -ECANCELED);
	check(err.kind == ERROR_CANCELLED);
	check_nothing_left();
}

FIBER_TEST(missing_programs_are_named_with_their_packages)
{
	static const char *const TOOLS[] = {"sh", "no-such-tool", NULL};
	struct error err = {};

	check(build_check_tools(TOOLS, &err) == -ENOENT);
	check_str(err.message, "building an image needs programs that are not here: no-such-tool");
	check_str(err.hint, "apt-get install no-such-tool");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failure_tells_the_reason_and_keeps_the_log),
		cmocka_unit_test(a_full_disk_is_told_as_such),
		cmocka_unit_test(too_little_space_is_seen_beforehand),
		cmocka_unit_test(a_cancelled_build_leaves_nothing),
		cmocka_unit_test(missing_programs_are_named_with_their_packages),
	};

	return cmocka_run_group_tests_name("image-build", tests, make_store, remove_store);
}
