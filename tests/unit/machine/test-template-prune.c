/* SPDX-License-Identifier: MIT */
/* Templates: listed, bounded, their memory placed and cleaned up; on file systems that are full. */
#include "template-test.h"

#include <sys/mman.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "base/host.h"
#include "machine/backend.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

/* Instead of the real host's. */
static uint64_t host_bytes = 64 * GIB, available_bytes = 32 * GIB;

uint64_t host_memory_bytes(void)
{
	return host_bytes;
}

uint64_t host_memory_available_bytes(void)
{
	return available_bytes;
}

static const char *const keys[] = {KEY_A, KEY_B, KEY_C};

/* A is used last, then C, then B. */
static void make_three(void)
{
	static const time_t used[] = {3000, 1000, 2000};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const struct timespec times[2] = {{.tv_sec = used[i]}, {.tv_sec = used[i]}};
		_cleanup_free_ char *path = NULL, *title = xasprintf("web%zu", i);

		commit_new(keys[i], title);
		path = xasprintf("%s/templates/%.12s/used", cache_dir, keys[i]);
		check(utimensat(AT_FDCWD, path, times, 0) == 0);
	}
}

static bool exists(const char *key)
{
	_cleanup_free_ char *path = xasprintf("%s/templates/%.12s", cache_dir, key);

	return path_exists(path);
}

static void they_are_listed_the_last_used_first(void **state)
{
	struct template_info *infos;
	struct template *t;
	uint64_t usage;
	size_t n;

	make_three();
	assert_int_equal(template_list(&infos, &n, NULL), 0);
	assert_int_equal(n, 3);
	assert_string_equal(infos[0].key, KEY_A);
	assert_string_equal(infos[0].title, "web0");
	assert_string_equal(infos[1].key, KEY_C);
	assert_string_equal(infos[2].key, KEY_B);
	assert_int_equal(infos[0].used_ns, 3000 * NS_PER_SEC);
	assert_true(infos[0].created > 1700000000);
	assert_true(infos[0].memory_bytes > 0 && infos[0].memory_bytes < MEMORY_BYTES / 2);
	assert_true(infos[0].bytes > infos[0].memory_bytes);
	assert_false(infos[0].in_use);
	assert_int_equal(template_store_usage(&usage, NULL), 0);
	assert_true(usage >= infos[0].bytes + infos[1].bytes + infos[2].bytes);
	template_infos_free(infos, n);
	/* Being opened is being used. */
	assert_int_equal(template_open(KEY_B, &t, NULL), 1);
	assert_int_equal(template_list(&infos, &n, NULL), 0);
	assert_string_equal(infos[0].key, KEY_B);
	assert_true(infos[0].in_use);
	assert_false(infos[1].in_use);
	template_infos_free(infos, n);
	template_free(t);
}

static void the_least_recently_used_goes_first(void **state)
{
	struct template_info *infos;
	uint64_t each, freed = 0;
	struct template *t;
	size_t n;

	make_three();
	assert_int_equal(template_list(&infos, &n, NULL), 0);
	each = infos[0].bytes;
	template_infos_free(infos, n);
	assert_int_equal(template_prune(3 * each, &freed, NULL), 0);
	assert_int_equal(freed, 0);
	assert_int_equal(template_prune(3 * each - 1, &freed, NULL), 0);
	assert_true(freed >= each);
	assert_true(exists(KEY_A) && exists(KEY_C) && !exists(KEY_B));
	/* What is in use stays, whatever its age. */
	assert_int_equal(template_open(KEY_C, &t, NULL), 1);
	assert_int_equal(template_prune(0, NULL, NULL), 0);
	assert_true(!exists(KEY_A) && exists(KEY_C));
	check_text(t->machines[0].saved->memory_fd, "memory");
	template_free(t);
	assert_int_equal(template_prune(0, NULL, NULL), 0);
	assert_int_equal(count_templates(), 0);
	assert_int_equal(count_below(tmpfs_dir), 3);
}

static void what_counts_no_more_goes_always(void **state)
{
	_cleanup_free_ char *other = xasprintf(
		"sed -i 's/\"boot\": \"/\"boot\": \"x/' '%s/templates/%.12s/manifest.json'",
		cache_dir, KEY_A);
	_cleanup_free_ char *bad =
		xasprintf("echo > '%s/templates/%.12s/manifest.json'", cache_dir, KEY_B);
	struct template_info *infos;
	size_t n;

	make_three();
	assert_int_equal(system(other), 0);
	assert_int_equal(system(bad), 0);
	assert_int_equal(template_list(&infos, &n, NULL), 0);
	assert_int_equal(n, 1);
	template_infos_free(infos, n);
	assert_int_equal(template_prune(UINT64_MAX, NULL, NULL), 0);
	assert_true(!exists(KEY_A) && !exists(KEY_B) && exists(KEY_C));
}

static void a_new_one_makes_room_for_itself(void **state)
{
	_cleanup_free_ char *memory_dir = NULL, *work_dir = NULL;
	struct error err = {};

	setenv("ASSAY_CACHE_MAX", "4K", 1);
	commit_new(KEY_A, "first");
	assert_true(exists(KEY_A));
	commit_new(KEY_B, "second");
	assert_true(!exists(KEY_A) && exists(KEY_B));
	setenv("ASSAY_CACHE_MAX", "1G", 1);
	commit_new(KEY_A, "third");
	assert_true(exists(KEY_A) && exists(KEY_B));
	setenv("ASSAY_CACHE_MAX", "much", 1);
	assert_int_equal(template_work_dirs(1, &memory_dir, &work_dir, &err), -EINVAL);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_string_equal(err.message, "ASSAY_CACHE_MAX is 'much', which is no size such as 8G");
}

/* ---- where memory goes ------------------------------------------------------------------ */

/* The directory and, if it is not on the tmpfs, why. */
static char *place(uint64_t bytes, struct error *why)
{
	uint64_t room;
	char *dir = NULL;

	error_clear(why);
	assert_int_equal(template_memory_place(bytes, &dir, &room, why, NULL), 0);
	assert_true(room > 0);
	return dir;
}

static void memory_goes_to_the_tmpfs_if_it_fits(void **state)
{
	_cleanup_free_ char *small = NULL, *large = NULL, *none = NULL, *disk = NULL;
	_cleanup_free_ char *templates = path_join(cache_dir, "templates"), *memory = NULL;
	_cleanup_free_ char *work = NULL;
	struct error why = {}, err = {};

	small = place(MIB, &why);
	assert_false(error_is_set(&why));
	assert_true(str_starts(small, tmpfs_dir));
	/* More than the host has. */
	large = place(1024 * 1024 * GIB, &why);
	assert_string_equal(large, templates);
	assert_int_equal(why.code, ENOSPC);
	assert_int_equal(template_work_dirs(1024 * 1024 * GIB, &memory, &work, &err), -ENOSPC);
	assert_int_equal(err.kind, ERROR_INFRA);
	assert_true(str_starts(err.message, "no room for "));
	assert_true(strstr(err.message, " of guest memory: '") != NULL);
	assert_true(strstr(err.hint, "ASSAY_CACHE=") != NULL);
	setenv("ASSAY_TMPFS", "/proc", 1);
	disk = place(MIB, &why);
	assert_string_equal(disk, templates);
	assert_string_equal(why.message, "'/proc' is not a tmpfs");
	setenv("ASSAY_TMPFS", "", 1);
	none = place(MIB, &why);
	assert_string_equal(none, templates);
	assert_int_equal(template_work_dirs(MIB, &memory, &work, NULL), 0);
	assert_string_equal(memory, templates);
	assert_string_equal(work, templates);
}

/* Whatever the size of the tmpfs: what lies there, the tests have less. */
static void a_quarter_of_the_free_memory_stays_free(void **state)
{
	_cleanup_free_ char *less = NULL, *more = NULL, *templates = NULL;
	struct error why = {};

	templates = path_join(cache_dir, "templates");
	available_bytes = 4 * MIB;
	less = place(3 * MIB, &why);
	assert_true(str_starts(less, tmpfs_dir));
	more = place(3 * MIB + 1, &why);
	available_bytes = 32 * GIB;
	assert_string_equal(more, templates);
	assert_string_equal(why.message, "3 MiB of memory would be more than three quarters of "
					 "what is free (4 MiB)");
}

/* The oldest of those that lie on the tmpfs, and not one that does not. */
static void the_tmpfs_holds_a_quarter_of_the_memory_at_most(void **state)
{
	uint64_t each;
	struct template_info *infos;
	size_t n;

	setenv("ASSAY_TMPFS", "", 1);
	commit_new(KEY_C, "on disk");
	setenv("ASSAY_TMPFS", tmpfs_dir, 1);
	commit_new(KEY_A, "older");
	commit_new(KEY_B, "newer");
	assert_int_equal(template_list(&infos, &n, NULL), 0);
	assert_int_equal(n, 3);
	each = infos[0].memory_bytes;
	template_infos_free(infos, n);
	host_bytes = 4 * 2 * each;
	assert_int_equal(template_prune(UINT64_MAX, NULL, NULL), 0);
	assert_true(exists(KEY_A) && exists(KEY_B) && exists(KEY_C));
	host_bytes = 4 * 2 * each - 4;
	assert_int_equal(template_prune(UINT64_MAX, NULL, NULL), 0);
	host_bytes = 64 * GIB;
	assert_true(!exists(KEY_A) && exists(KEY_B) && exists(KEY_C));
}

static void memory_in_the_cache_is_as_good(void **state)
{
	struct template_info *infos;
	struct template *t;
	struct stat st;
	size_t n;

	setenv("ASSAY_TMPFS", "", 1);
	commit_new(KEY_A, "web");
	assert_int_equal(count_below(tmpfs_dir), 0);
	assert_int_equal(template_open(KEY_A, &t, NULL), 1);
	check_text(t->machines[0].saved->memory_fd, "memory");
	assert_int_equal(fstat(t->machines[0].saved->memory_fd, &st), 0);
	assert_int_equal(st.st_size, MEMORY_BYTES);
	template_free(t);
	assert_int_equal(template_list(&infos, &n, NULL), 0);
	assert_int_equal(infos[0].memory_bytes, 0);
	template_infos_free(infos, n);
}

static void somebody_elses_directory_is_not_used(void **state)
{
	_cleanup_free_ char *user = xasprintf("%s/assay-%u", tmpfs_dir, (unsigned)geteuid());
	_cleanup_free_ char *dir = NULL, *other = NULL, *templates = NULL;
	struct error why = {};

	templates = path_join(cache_dir, "templates");
	assert_int_equal(symlink("/tmp", user), 0);
	dir = place(MIB, &why);
	assert_string_equal(dir, templates);
	assert_true(str_ends(why.message, "is not a directory"));
	if (geteuid() != 0)
		return;
	assert_int_equal(unlink(user), 0);
	assert_int_equal(mkdir(user, 0777), 0);
	assert_int_equal(chown(user, 12345, 12345), 0);
	other = place(MIB, &why);
	assert_string_equal(other, templates);
	assert_true(strstr(why.message, "belongs to user 12345") != NULL);
}

static void memory_that_is_nobodys_is_removed(void **state)
{
	_cleanup_free_ char *memory_dir = NULL, *work_dir = NULL, *live = NULL, *dead = NULL;
	_cleanup_close_ int fd = -EBADF;

	commit_new(KEY_A, "web");
	assert_int_equal(template_work_dirs(1, &memory_dir, &work_dir, NULL), 0);
	dead = path_join(memory_dir, "00000000deadbeef");
	live = path_join(memory_dir, "0000000011112222");
	assert_int_equal(mkdir(dead, 0700), 0);
	assert_int_equal(mkdir(live, 0700), 0);
	/* As a commit that is under way. */
	fd = open(live, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(template_prune(UINT64_MAX, NULL, NULL), 0);
	assert_false(path_exists(dead));
	assert_true(path_exists(live));
	assert_true(is_there(KEY_A));
}

static void that_of_a_cache_that_is_gone_too(void **state)
{
	char other[] = "/tmp/assay-template-XXXXXX";

	assert_non_null(mkdtemp(other));
	setenv("ASSAY_CACHE", other, 1);
	commit_new(KEY_A, "web");
	setenv("ASSAY_CACHE", cache_dir, 1);
	commit_new(KEY_A, "web");
	assert_int_equal(count_below(tmpfs_dir), 9);
	assert_int_equal(path_remove_tree(other, NULL), 0);
	/* It may be another container's, who calls it by the same path. */
	assert_int_equal(template_prune(UINT64_MAX, NULL, NULL), 0);
	assert_int_equal(count_below(tmpfs_dir), 9);
	make_memory_idle();
	assert_int_equal(template_prune(UINT64_MAX, NULL, NULL), 0);
	assert_int_equal(count_below(tmpfs_dir), 5);
	assert_true(is_there(KEY_A));
}

/* A cache of the same path that is another directory: in another root, or made anew. */
static void that_of_another_cache_of_this_path_stays(void **state)
{
	_cleanup_free_ char *away = xasprintf("%s.away", cache_dir);

	commit_new(KEY_A, "web");
	assert_int_equal(rename(cache_dir, away), 0);
	commit_new(KEY_B, "other");
	assert_int_equal(template_prune(UINT64_MAX, NULL, NULL), 0);
	assert_int_equal(path_remove_tree(cache_dir, NULL), 0);
	assert_int_equal(rename(away, cache_dir), 0);
	assert_true(is_there(KEY_A));
}

/* ---- small file systems ----------------------------------------------------------------- */

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Mounts of our own, that go with this process. False where that is not allowed. */
static bool enter_namespace(void)
{
	_cleanup_free_ char *uids = xasprintf("%u %u 1", geteuid(), geteuid());
	_cleanup_free_ char *gids = xasprintf("%u %u 1", getegid(), getegid());
	bool is_root = geteuid() == 0;

	if (unshare(CLONE_NEWNS | (is_root ? 0 : CLONE_NEWUSER)) < 0)
		return false;
	if (!is_root &&
	    (!write_text("/proc/self/setgroups", "deny") ||
	     !write_text("/proc/self/gid_map", gids) || !write_text("/proc/self/uid_map", uids)))
		return false;
	return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* Runs body in a process with a tmpfs of one MiB at dir. */
static void on_a_small_tmpfs(const char *dir, void (*body)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (!enter_namespace() ||
		    mount("tmpfs", dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=1M,mode=0700") < 0)
			_exit(77);
		body();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

/* Overlays and state lie where they fit; that the store is full shows when they are linked. */
static void commit_more_than_fits(void)
{
	struct template *t = new_template(KEY_A, "web"), *small = new_template(KEY_B, "small");
	struct saved *s = t->machines[0].saved;
	struct error err = {};
	char block[4096];

	memset(block, 'x', sizeof(block));
	close(s->memory_fd);
	s->memory_fd = memfd_create("memory", MFD_CLOEXEC);
	for (size_t i = 0; i < 2 * MIB / sizeof(block); i++)
		check(write(s->memory_fd, block, sizeof(block)) == sizeof(block));
	check(template_commit(t, &err) == -ENOSPC);
	check(err.kind == ERROR_INFRA);
	check(str_starts(err.message, "template 'web' cannot be kept: the disk of '"));
	check(strstr(err.message, "/templates' is full (") != NULL);
	check(strstr(err.hint, "assay cache prune") != NULL);
	check(count_templates() == 0);
	check(count_below(tmpfs_dir) == 3);
	/* And the next one that fits is kept. */
	check(template_commit(small, NULL) == 0);
	check(is_there(KEY_B));
}

static void a_full_disk_is_an_error_and_leaves_nothing(void **state)
{
	on_a_small_tmpfs(cache_dir, commit_more_than_fits);
}

static void memory_larger_than_the_tmpfs(void)
{
	_cleanup_free_ char *templates = path_join(cache_dir, "templates"), *dir, *small;
	struct error why = {};

	dir = place(2 * MIB, &why);
	check_str(dir, templates);
	check(str_starts(why.message, "'/dev/shm/assay-template-"));
	check(str_ends(why.message, " free (2 MiB wanted)"));
	small = place(512 * KIB, &why);
	check(str_starts(small, tmpfs_dir));
	commit_new(KEY_A, "web");
	check(is_there(KEY_A));
}

static void a_small_tmpfs_is_passed_over(void **state)
{
	on_a_small_tmpfs(tmpfs_dir, memory_larger_than_the_tmpfs);
}

int main(void)
{
#define CLEAN(t) cmocka_unit_test_setup_teardown(t, make_dirs, remove_dirs)
	const struct CMUnitTest tests[] = {
		CLEAN(they_are_listed_the_last_used_first),
		CLEAN(the_least_recently_used_goes_first),
		CLEAN(what_counts_no_more_goes_always),
		CLEAN(a_new_one_makes_room_for_itself),
		CLEAN(memory_goes_to_the_tmpfs_if_it_fits),
		CLEAN(a_quarter_of_the_free_memory_stays_free),
		CLEAN(the_tmpfs_holds_a_quarter_of_the_memory_at_most),
		CLEAN(memory_in_the_cache_is_as_good),
		CLEAN(somebody_elses_directory_is_not_used),
		CLEAN(memory_that_is_nobodys_is_removed),
		CLEAN(that_of_a_cache_that_is_gone_too),
		CLEAN(that_of_another_cache_of_this_path_stays),
		CLEAN(a_full_disk_is_an_error_and_leaves_nothing),
		CLEAN(a_small_tmpfs_is_passed_over),
	};

	return cmocka_run_group_tests_name("template-prune", tests, NULL, NULL);
}
