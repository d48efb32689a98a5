/* SPDX-License-Identifier: MIT */
/* The store's directories and locks, also between processes. */
#include "image-test.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "../loop/fiber-test.h"
#include "image/store.h"
#include "loop/fiber.h"

#define DIGEST "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999"

static size_t count_images(const struct store *s, const char *prefix)
{
	DIR *dir = opendir(s->entries);
	struct dirent *d;
	size_t n = 0;

	while ((d = readdir(dir)))
		n += d->d_name[0] != '.' && str_starts(d->d_name, prefix);
	closedir(dir);
	return n;
}

static void unfinished_directories_count_for_nothing(void **state)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *tmp = NULL, *dir = NULL, *old = NULL, *found = NULL;
	_cleanup_strv_ char **dirs = NULL;
	_cleanup_close_ int fd = -EBADF;

	assert_int_equal(store_open(STORE_IMAGES, &s, NULL), 0);
	assert_int_equal(store_tmp_new(&s, &tmp, &fd, NULL), 0);
	assert_null(store_dirs(&s));
	assert_null(store_find_digest(&s, DIGEST));
	assert_int_equal(store_commit(&s, tmp, fd, "web", DIGEST, &dir, &old, NULL), 0);
	assert_null(old);
	dirs = store_dirs(&s);
	assert_int_equal(strv_len(dirs), 1);
	assert_string_equal(path_basename(dirs[0]), "web-aaaabbbbcccc");
	found = store_find_digest(&s, DIGEST);
	assert_string_equal(found, dir);
}

static void a_rebuild_moves_the_old_one_away(void **state)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *tmp = NULL, *dir = NULL, *old = NULL;
	_cleanup_close_ int fd = -EBADF;

	assert_int_equal(store_open(STORE_IMAGES, &s, NULL), 0);
	assert_int_equal(store_tmp_new(&s, &tmp, &fd, NULL), 0);
	assert_int_equal(store_commit(&s, tmp, fd, "web", DIGEST, &dir, &old, NULL), 0);
	assert_non_null(old);
	assert_true(path_exists(old));
	assert_int_equal(path_remove_tree(old, NULL), 0);
}

/* Cleaning may run an external rm, so it wants a loop. */
FIBER_TEST(stale_directories_are_removed_and_live_ones_kept)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *live = NULL, *stale = NULL;
	_cleanup_close_ int live_fd = -EBADF;
	int stale_fd = -EBADF;

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	check(store_tmp_new(&s, &live, &live_fd, NULL) == 0);
	check(store_tmp_new(&s, &stale, &stale_fd, NULL) == 0);
	close(stale_fd); /* as its process's death does */
	store_clean_stale(&s);
	check(path_exists(live));
	check(!path_exists(stale));
	check(count_images(&s, "tmp.") == 1);
	check(path_remove_tree(live, NULL) == 0);
}

/* A builder that is killed: its directory is nobody's, its lock free. */
FIBER_TEST(a_killed_builder_leaves_nothing)
{
	_cleanup_store_ struct store s = {};
	_cleanup_close_ int lock = -EBADF;
	int pipe_fds[2];
	char c;
	pid_t pid;

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	check(pipe(pipe_fds) == 0);
	pid = fork();
	if (pid == 0) {
		char *tmp;
		int fd, key;

		if (store_lock_key(&s, DIGEST, &key, NULL) < 0 ||
		    store_tmp_new(&s, &tmp, &fd, NULL) < 0 || write(pipe_fds[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	check(read(pipe_fds[0], &c, 1) == 1);
	check(count_images(&s, "tmp.") == 1);
	store_clean_stale(&s);
	check(count_images(&s, "tmp.") == 1);
	kill(pid, SIGKILL);
	check(waitpid(pid, NULL, 0) == pid);
	store_clean_stale(&s);
	check(count_images(&s, "tmp.") == 0);
	check(store_lock_key(&s, DIGEST, &lock, NULL) == 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

struct second {
	const struct store *store;
	bool has_lock;
};

static int second_builder(void *userdata)
{
	struct second *second = userdata;
	_cleanup_close_ int fd = -EBADF;
	int r = store_lock_key(second->store, DIGEST, &fd, NULL);

	second->has_lock = r >= 0;
	return r;
}

/* Another process holds the lock: the fiber waits while others run, then has it. */
FIBER_TEST(the_second_builder_waits_for_the_first)
{
	_cleanup_store_ struct store s = {};
	_cleanup_fiber_ struct fiber *f = NULL;
	struct second second = {.store = &s};
	int ready[2], go[2], status;
	char c;
	pid_t pid;

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	check(pipe2(ready, O_CLOEXEC) == 0 && pipe2(go, O_CLOEXEC) == 0);
	pid = fork();
	if (pid == 0) {
		int key;

		close(go[1]);
		if (store_lock_key(&s, DIGEST, &key, NULL) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		_exit(read(go[0], &c, 1) == 1 ? 0 : 1);
	}
	check(read(ready[0], &c, 1) == 1);
	fiber_start("second", second_builder, &second, &f);
	check(fiber_join(f, 50 * NS_PER_MS, NULL) == -ETIMEDOUT);
	check(!second.has_lock);
	check(write(go[1], "x", 1) == 1);
	check(fiber_join(f, 5 * NS_PER_SEC, NULL) == 0);
	check(second.has_lock);
	check(waitpid(pid, &status, 0) == pid && status == 0);
	close(ready[0]);
	close(ready[1]);
	close(go[0]);
	close(go[1]);
}

/* A cancelled wait takes no lock with it. */
FIBER_TEST(a_cancelled_wait_lets_go)
{
	_cleanup_store_ struct store s = {};
	_cleanup_fiber_ struct fiber *f = NULL;
	struct second second = {.store = &s};
	int held = -EBADF, again = -EBADF;

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	check(store_lock_key(&s, DIGEST, &held, NULL) == 0);
	fiber_start("second", second_builder, &second, &f);
	check(fiber_join(f, 20 * NS_PER_MS, NULL) == -ETIMEDOUT);
	fiber_stop(f);
	check(fiber_result(f) == -ECANCELED);
	check(!second.has_lock);
	close(held);
	check(store_lock_key(&s, DIGEST, &again, NULL) == 0);
	close(again);
}

static void images_in_use_are_locked(void **state)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL;
	int shared = -EBADF, other = -EBADF;
	int exclusive;

	assert_int_equal(store_open(STORE_IMAGES, &s, NULL), 0);
	dir = store_find_digest(&s, DIGEST);
	assert_non_null(dir);
	assert_int_equal(store_lock_shared(&s, dir, &shared), 0);
	assert_int_equal(store_lock_shared(&s, dir, &other), 0);
	exclusive = open(dir, O_RDONLY | O_CLOEXEC);
	assert_int_equal(flock(exclusive, LOCK_EX | LOCK_NB), -1);
	close(shared);
	close(other);
	assert_int_equal(flock(exclusive, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(store_lock_shared(&s, dir, &shared), -ENOENT);
	close(exclusive);
}

FIBER_TEST(only_what_nobody_uses_is_removed)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL;
	struct error err = {};
	int shared = -EBADF;

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	dir = store_find_digest(&s, DIGEST);
	check(!store_in_use(&s, dir));
	check(store_lock_shared(&s, dir, &shared) == 0);
	check(store_in_use(&s, dir));
	check(store_remove(&s, dir, false, &err) == -EBUSY);
	check(err.kind == ERROR_USAGE);
	check_str(err.message, "image 'web-aaaabbbbcccc' is in use by a machine");
	close(shared);
	check(store_remove(&s, dir, false, NULL) == 0);
	check(store_remove(&s, dir, false, NULL) == 0);
	check(count_images(&s, "") == 0);
}

/* They share locks and the way things are made, not their entries. */
FIBER_TEST(images_and_templates_are_apart)
{
	_cleanup_store_ struct store images = {}, templates = {};
	_cleanup_free_ char *tmp = NULL, *dir = NULL, *old = NULL, *found = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct error err = {};

	check(store_open(STORE_TEMPLATES, &templates, NULL) == 0);
	check(store_open(STORE_IMAGES, &images, NULL) == 0);
	check(store_tmp_new(&templates, &tmp, &fd, NULL) == 0);
	check(store_commit(&templates, tmp, fd, NULL, DIGEST, &dir, &old, NULL) == 0);
	check_str(path_basename(dir), "aaaabbbbcccc");
	found = store_find_digest(&templates, DIGEST);
	check_str(found, dir);
	check(!store_find_digest(&images, DIGEST));
	check(store_remove(&templates, dir, false, &err) == -EBUSY);
	check_str(err.message, "template 'aaaabbbbcccc' is in use by a machine");
	check(store_remove(&templates, dir, true, NULL) == 0);
	check(!path_exists(dir));
}

/* A key's lock that is cleaned away under somebody who is about to take it. */
FIBER_TEST(locks_that_nobody_holds_are_removed)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *path = NULL;
	int held = -EBADF, again = -EBADF;

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	path = xasprintf("%s/locks/%.12s", s.dir, DIGEST);
	check(store_lock_key(&s, DIGEST, &held, NULL) == 0);
	store_clean_stale(&s);
	check(path_exists(path));
	close(held);
	store_clean_stale(&s);
	check(!path_exists(path));
	check(store_lock_key(&s, DIGEST, &again, NULL) == 0);
	check(path_exists(path));
	close(again);
}

/* … and by somebody who waits for it: he has a lock only if others meet him at it. */
FIBER_TEST(a_lock_that_went_away_is_taken_anew)
{
	_cleanup_store_ struct store s = {};
	_cleanup_fiber_ struct fiber *f = NULL;
	_cleanup_free_ char *path = NULL;
	struct second second = {.store = &s};
	int held = -EBADF;

	check(store_open(STORE_IMAGES, &s, NULL) == 0);
	path = xasprintf("%s/locks/%.12s", s.dir, DIGEST);
	check(store_lock_key(&s, DIGEST, &held, NULL) == 0);
	fiber_start("second", second_builder, &second, &f);
	check(fiber_join(f, 20 * NS_PER_MS, NULL) == -ETIMEDOUT);
	check(unlink(path) == 0);
	close(held);
	check(fiber_join(f, 5 * NS_PER_SEC, NULL) == 0);
	check(second.has_lock);
	check(path_exists(path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unfinished_directories_count_for_nothing),
		cmocka_unit_test(a_rebuild_moves_the_old_one_away),
		cmocka_unit_test(images_in_use_are_locked),
		cmocka_unit_test(stale_directories_are_removed_and_live_ones_kept),
		cmocka_unit_test(a_killed_builder_leaves_nothing),
		cmocka_unit_test(the_second_builder_waits_for_the_first),
		cmocka_unit_test(a_cancelled_wait_lets_go),
		cmocka_unit_test(only_what_nobody_uses_is_removed),
		cmocka_unit_test(images_and_templates_are_apart),
		cmocka_unit_test(locks_that_nobody_holds_are_removed),
		cmocka_unit_test(a_lock_that_went_away_is_taken_anew),
	};

	return cmocka_run_group_tests_name("image-store", tests, make_store, remove_store);
}
