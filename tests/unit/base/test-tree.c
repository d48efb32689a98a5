/* SPDX-License-Identifier: MIT */
/* Trees: taken apart and put together they are the same; the writer stays where it was put. */
#include "unit-test.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/str.h"
#include "base/tree.h"

/* --- helpers ------------------------------------------------------------------------------- */

static char dir[] = "/tmp/test-tree-XXXXXX";

static int make_dir(void **state)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	/* path_remove_tree() recurses; some trees here are too deep for it. */
	_cleanup_free_ char *command = xasprintf("chmod -R u+rwx %s; rm -rf %s", dir, dir);

	return system(command);
}

static void sh(const char *script)
{
	_cleanup_free_ char *command = xasprintf("set -e; cd %s; %s", dir, script);

	assert_int_equal(system(command), 0);
}

static char *in_dir(const char *name)
{
	return xasprintf("%s/%s", dir, name);
}

static struct tree_reader *open_reader(const char *name)
{
	_cleanup_free_ char *path = in_dir(name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return tree_reader_new(fd, path, ERROR_EXPECT);
}

static struct tree_writer *open_writer(const char *name, uint16_t mask, int *ret_parent)
{
	_cleanup_free_ char *path = in_dir(name);
	struct tree_writer_opts opts = {.path = path, .kind = ERROR_EXPECT, .mode_mask = mask};

	*ret_parent = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(*ret_parent >= 0);
	return tree_writer_new(*ret_parent, name, &opts);
}

static int copy(const char *from, const char *to, struct error *err)
{
	_cleanup_(cleanup_tree_reader) struct tree_reader *r = open_reader(from);
	_cleanup_close_ int parent = -EBADF;
	_cleanup_(cleanup_tree_writer) struct tree_writer *w = open_writer(to, 07777, &parent);
	static char data[70000];
	struct tree_entry e;
	int rc;

	while ((rc = tree_reader_next(r, &e, err)) > 0) {
		uint64_t offset;
		ssize_t n;

		rc = tree_writer_entry(w, &e, err);
		if (rc < 0)
			return rc;
		if (e.type != TREE_FILE)
			continue;
		while ((n = tree_reader_data(r, data, sizeof(data), &offset, err)) > 0) {
			rc = tree_writer_data(w, offset, data, n, err);
			if (rc < 0)
				return rc;
		}
		rc = n < 0 ? (int)n : tree_writer_end_file(w, offset, err);
		if (rc < 0)
			return rc;
	}
	return rc;
}

static void assert_copies(const char *from, const char *to)
{
	struct error err = {};
	int rc = copy(from, to, &err);

	if (rc < 0)
		fail_msg("%s", err.message);
}

/* What another program sees there: type, mode, time in ns, link count, size, name, target. */
static const char listing[] = "(cd %s && find . -printf '%%y %%m %%T@ %%n %%s %%p %%l\\n' | "
			      "sed 's/^d \\([0-9]* [^ ]*\\) [0-9]* [0-9]*/d \\1/' | LC_ALL=C sort)";

static char *list(const char *name)
{
	_cleanup_free_ char *path = in_dir(name), *command = xasprintf(listing, path);
	_cleanup_buf_ struct buf b = {};
	FILE *f = popen(command, "r");

	assert_non_null(f);
	assert_int_equal(buf_read_fd(&b, fileno(f), 64 * MIB), 0);
	assert_int_equal(pclose(f), 0);
	return buf_steal(&b, NULL);
}

static void assert_same(const char *a, const char *b)
{
	_cleanup_free_ char *x = list(a), *y = list(b),
			    *diff = xasprintf("diff -r --no-dereference %s %s", a, b);

	assert_string_equal(x, y);
	/* Fifos are compared by their entries above; diff -r would say they are "only" fifos. */
	sh(diff);
}

static struct stat stat_of(const char *name)
{
	_cleanup_free_ char *path = in_dir(name);
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	return st;
}

/* --- the same again ------------------------------------------------------------------------ */

static void test_all_kinds(void **state)
{
	sh("mkdir -p a/sub/deeper a/empty; echo text >a/file; : >a/nothing; head -c 300000 "
	   "/dev/urandom >a/sub/random; ln a/file a/sub/hard; ln a/file a/sub/deeper/hard2; ln -s "
	   "../nowhere a/dangling; ln -s /etc/passwd a/absolute; printf x >\"$(printf "
	   "'a/new\\nline')\"; printf y >\"$(printf 'a/not\\377utf8')\"; printf z >'a/ blank *?'; "
	   "chmod 4711 a/file; chmod 1777 a/empty; chmod 0555 a/sub/deeper; chmod 400 a/nothing; "
	   "touch -d '1971-02-03 04:05:06.123456789' a/file a/sub; touch -h -d '2001-01-01 "
	   "00:00:00.5' a/dangling; touch -d '1999-09-09' a");
	assert_copies("a", "b");
	assert_same("a", "b");
}

static void test_special_files(void **state)
{
	sh("mkdir a; mkfifo a/fifo; chmod 0640 a/fifo; touch -d '1999-09-09' a/fifo a");
	assert_copies("a", "b");
	assert_true(S_ISFIFO(stat_of("b/fifo").st_mode));
	assert_int_equal(stat_of("b/fifo").st_mode & 07777, 0640);
	if (geteuid() == 0) {
		sh("mknod a/null c 1 3");
		assert_copies("a", "c");
		assert_true(S_ISCHR(stat_of("c/null").st_mode));
		assert_int_equal(stat_of("c/null").st_rdev, stat_of("a/null").st_rdev);
	}
}

static void test_single_file(void **state)
{
	sh("echo hello >a; chmod 0751 a; touch -d '1999-09-09' a; ln a hard");
	assert_copies("a", "b");
	assert_int_equal(stat_of("b").st_mode, S_IFREG | 0751);
	assert_int_equal(stat_of("b").st_mtim.tv_sec, stat_of("a").st_mtim.tv_sec);
	sh("cmp a b");
}

static void test_sparse_stays_sparse(void **state)
{
	sh("mkdir a; truncate -s 300M a/hole; truncate -s 200M a/both; echo middle | dd "
	   "of=a/both bs=1M seek=100 conv=notrunc status=none; echo end >>a/both");
	assert_true(stat_of("a/both").st_blocks < 1000);
	assert_copies("a", "b");
	assert_int_equal(stat_of("b/hole").st_size, 300 * MIB);
	assert_true(stat_of("b/hole").st_blocks <= stat_of("a/hole").st_blocks);
	assert_true(stat_of("b/both").st_blocks <= stat_of("a/both").st_blocks);
	assert_int_equal(stat_of("b/both").st_size, stat_of("a/both").st_size);
	sh("cmp -n 1100000 -i 104000000 a/both b/both; test \"$(tail -c 4 b/both)\" = end");
}

/* No size and nothing to seek, but contents. */
static void test_proc_file(void **state)
{
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	char data[4096] = {};
	struct tree_reader *r;
	struct tree_entry e;
	uint64_t offset;

	if (fd < 0)
		skip(); /* a /proc that is hidden from users */
	r = tree_reader_new(fd, "x", ERROR_EXPECT);
	assert_int_equal(tree_reader_next(r, &e, NULL), 1);
	assert_true(tree_reader_data(r, data, sizeof(data) - 1, &offset, NULL) > 100);
	assert_non_null(strstr(data, "Name:"));
	tree_reader_free(r);
}

/* More levels than descriptors, and a path far beyond PATH_MAX. */
static void test_deep(void **state)
{
	struct rlimit limit = {100, 100}, saved;
	_cleanup_close_ int at = -EBADF;
	const int levels = 1200;
	int depth = 0;

	sh("mkdir a");
	at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (const char *name = "a"; depth <= levels; depth++, name = "level") {
		int next;

		if (depth > 0)
			assert_int_equal(mkdirat(at, name, 0755), 0);
		next = openat(at, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(at);
		at = next;
	}
	close(openat(at, "bottom", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	getrlimit(RLIMIT_NOFILE, &saved);
	limit.rlim_max = saved.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	assert_copies("a", "b");
	setrlimit(RLIMIT_NOFILE, &saved);
	close(at);
	at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (const char *name = "b"; depth > 0; depth--, name = "level") {
		int next = openat(at, name, O_PATH | O_DIRECTORY | O_CLOEXEC);

		assert_true(next >= 0);
		close(at);
		at = next;
	}
	assert_int_equal(faccessat(at, "bottom", F_OK, 0), 0);
}

/* --- what is there already ----------------------------------------------------------------- */

static void test_merges_and_replaces(void **state)
{
	sh("mkdir -p a/d; echo new >a/file; echo new >a/d/x; ln -s new a/link; mkdir -p b/d; echo "
	   "old >b/file; ln b/file b/other-name; echo kept >b/d/kept; ln -s old b/link; chmod 0700 "
	   "b/d; ln -s /etc/hostname b/d/x");
	assert_copies("a", "b");
	sh("test \"$(cat b/file)\" = new; test \"$(cat b/other-name)\" = old; test \"$(cat "
	   "b/d/kept)\" = kept; test \"$(cat b/d/x)\" = new; test ! -L b/d/x; test \"$(readlink "
	   "b/link)\" = new; test -z \"$(ls -A b b/d | grep assay)\"");
	assert_int_equal(stat_of("b/d").st_mode & 07777, 0700);
}

static void test_types_in_the_way(void **state)
{
	struct error err = {};

	sh("mkdir a b; echo x >a/n; mkdir b/n");
	assert_int_equal(copy("a", "b", &err), -EISDIR);
	assert_non_null(strstr(err.message, "b/n': a directory of that name exists"));
	sh("rm -r a b; mkdir -p a/n b; echo x >b/n");
	err = (struct error){};
	assert_int_equal(copy("a", "b", &err), -ENOTDIR);
	assert_non_null(strstr(err.message, "b/n': a file of that name exists"));
}

/* A file that is a mount point keeps its place, and gets the contents. */
static void test_mounted_file(void **state)
{
	_cleanup_free_ char *a = NULL, *b = NULL;

	if (unshare(CLONE_NEWNS) < 0)
		skip();
	sh("mkdir a b; echo longer text >a/f; echo old >b/f; echo mounted >m");
	a = in_dir("m");
	b = in_dir("b/f");
	assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	assert_int_equal(mount(a, b, NULL, MS_BIND, NULL), 0);
	assert_copies("a", "b");
	sh("cmp a/f m; test \"$(ls -A b)\" = f");
	assert_int_equal(umount(b), 0);
	sh("test \"$(cat b/f)\" = old");
}

static void test_unfinished_file_is_removed(void **state)
{
	int parent;
	struct tree_writer *w;

	sh("mkdir b; echo old >b/file");
	w = open_writer("b", 07777, &parent);
	tree_writer_entry(w, &(struct tree_entry){.type = TREE_DIR, .name = ""}, NULL);
	tree_writer_entry(w, &(struct tree_entry){.type = TREE_FILE, .name = "file"}, NULL);
	assert_int_equal(tree_writer_data(w, 0, "half", 4, NULL), 0);
	tree_writer_free(w);
	w = open_writer("b", 07777, &parent);
	tree_writer_entry(w, &(struct tree_entry){.type = TREE_DIR, .name = ""}, NULL);
	tree_writer_entry(w, &(struct tree_entry){.type = TREE_FILE, .name = "fresh"}, NULL);
	tree_writer_free(w);
	close(parent);
	sh("test \"$(cat b/file)\" = old; test \"$(ls -A b)\" = file");
}

/* --- hostile trees ------------------------------------------------------------------------- */

static int write_one(struct tree_writer *w, enum tree_type type, const char *name,
		     const char *target, struct error *err)
{
	return tree_writer_entry(
		w,
		&(struct tree_entry){.type = type, .mode = 06755, .name = name, .target = target},
		err);
}

/* The classic: a link that leads out, then an entry through it. */
static void test_never_through_a_link(void **state)
{
	struct error err = {};
	int parent;
	struct tree_writer *w;

	sh("mkdir outside b");
	w = open_writer("b", 01777, &parent);
	assert_int_equal(write_one(w, TREE_DIR, "", NULL, &err), 0);
	assert_int_equal(write_one(w, TREE_SYMLINK, "out", "../outside", &err), 0);
	assert_int_equal(write_one(w, TREE_DIR, "out", NULL, &err), -ELOOP);
	assert_non_null(strstr(err.message, "symbolic link"));
	/* A file of that name takes the link's place. */
	assert_int_equal(write_one(w, TREE_SYMLINK, "f", "../outside/f", NULL), 0);
	assert_int_equal(write_one(w, TREE_FILE, "f", NULL, NULL), 0);
	assert_int_equal(tree_writer_data(w, 0, "x", 1, NULL), 0);
	assert_int_equal(tree_writer_end_file(w, 1, NULL), 0);
	tree_writer_free(w);
	close(parent);
	sh("test -z \"$(ls -A outside)\"; test ! -L b/f");
	/* Neither is it set-user-ID, with this mask. */
	assert_int_equal(stat_of("b/f").st_mode & 07777, 0755);
}

static void test_bad_names_are_refused(void **state)
{
	static const char *const names[] = {"..", ".", "", "a/b", "/etc/x", "../x"};
	int parent;
	struct tree_writer *w = open_writer("b", 07777, &parent);

	assert_int_equal(write_one(w, TREE_DIR, "", NULL, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		for (enum tree_type t = TREE_DIR; t <= TREE_BLOCK; t++)
			if (t != TREE_UP)
				assert_int_equal(write_one(w, t, names[i], "x", NULL), -EBADMSG);
	assert_int_equal(write_one(w, TREE_HARDLINK, "h", NULL, NULL), -EBADMSG);
	assert_int_equal(tree_writer_data(w, 0, "x", 1, NULL), -EBADMSG);
	assert_int_equal(write_one(w, TREE_UP, "", NULL, NULL), 0);
	assert_int_equal(write_one(w, TREE_UP, "", NULL, NULL), -EBADMSG);
	assert_int_equal(write_one(w, TREE_FILE, "second", NULL, NULL), -EBADMSG);
	tree_writer_free(w);
	close(parent);
	sh("test -z \"$(ls -A b)\"");
}

/* A hard link whose first name's directory became a link meanwhile. */
static void test_hard_link_not_through_a_link(void **state)
{
	int parent;
	struct tree_writer *w;

	sh("mkdir outside; echo secret >outside/f");
	w = open_writer("b", 07777, &parent);
	write_one(w, TREE_DIR, "", NULL, NULL);
	write_one(w, TREE_DIR, "d", NULL, NULL);
	tree_writer_entry(w, &(struct tree_entry){.type = TREE_FILE, .link = 1, .name = "f"}, NULL);
	assert_int_equal(tree_writer_end_file(w, 0, NULL), 0);
	write_one(w, TREE_UP, "", NULL, NULL);
	sh("rm -r b/d; ln -s ../outside b/d");
	assert_true(tree_writer_entry(
			    w, &(struct tree_entry){.type = TREE_HARDLINK, .link = 1, .name = "h"},
			    NULL) < 0);
	tree_writer_free(w);
	close(parent);
	sh("test ! -e b/h");
}

/* Files come and go, grow and shrink while they are read: an error or a copy, never a hang. */
static void test_changing_tree(void **state)
{
	pid_t pid;

	sh("mkdir a; for i in $(seq 50); do echo $i >a/$i; done");
	pid = fork();
	if (pid == 0) {
		setsid();
		execl("/bin/sh", "sh", "-c",
		      "cd \"$0\"/a; while :; do for i in 1 2 3 4 5 6 7; do rm -f $i; mkdir -p x$i; "
		      "head -c 100000 /dev/zero >$i; : >$i; rmdir x$i; done; done",
		      dir, NULL);
		_exit(127);
	}
	for (int i = 0; i < 8; i++) {
		struct error err = {};
		char name[16];

		snprintf(name, sizeof(name), "b%d", i);
		if (copy("a", name, &err) < 0)
			fail_msg("%s", err.message);
	}
	kill(-pid, SIGKILL);
	waitpid(pid, NULL, 0);
	sh("for i in $(seq 10 50); do cmp a/$i b7/$i; done");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
	const struct CMUnitTest tests[] = {
		TEST(test_all_kinds),
		TEST(test_special_files),
		TEST(test_single_file),
		TEST(test_sparse_stays_sparse),
		TEST(test_proc_file),
		TEST(test_deep),
		TEST(test_merges_and_replaces),
		TEST(test_types_in_the_way),
		TEST(test_mounted_file),
		TEST(test_unfinished_file_is_removed),
		TEST(test_never_through_a_link),
		TEST(test_bad_names_are_refused),
		TEST(test_hard_link_not_through_a_link),
		TEST(test_changing_tree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
