/* SPDX-License-Identifier: MIT */
/* The stores on disk: directories, locks, what is complete and what is rubbish. */
#include "image/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/log.h"
#include "base/str.h"
#include "image/build.h"
#include "loop/process.h"

static const struct {
	const char *thing, *dir;
	const char *waiting; /* for the lock of whoever makes one */
	bool synced;	     /* must last beyond a crash of the host */
	bool other_owners;   /* holds files of an ordinary user's mapped ids */
} KINDS[] = {
	[STORE_IMAGES] = {"image", "images", "another build of the same image", true, true},
	[STORE_TEMPLATES] = {"template", "templates", "another run that makes the same template",
			     false, false},
};

int store_open(enum store_kind kind, struct store *ret, struct error *err)
{
	_cleanup_store_ struct store s = {.kind = kind};
	const char *const SUBDIRS[] = {KINDS[kind].dir, "apt", "locks", "logs"};
	int r = path_cache_dir(&s.dir, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(SUBDIRS); i++) {
		_cleanup_free_ char *dir = path_join(s.dir, SUBDIRS[i]);

		r = path_make_dirs(dir, 0755, err);
		if (r < 0)
			return r;
	}
	s.entries = path_join(s.dir, KINDS[kind].dir);
	*ret = s;
	s = (struct store){};
	return 0;
}

void store_done(struct store *s)
{
	free(s->dir);
	free(s->entries);
	*s = (struct store){};
}

/* ---- locks ------------------------------------------------------------------------------ */

/* Blocks in a child, in flock(1) on our own open file description: when it has the lock, so do
 * we. If we are cancelled the child dies, and with our descriptor the lock. */
static int wait_for_lock(int fd, const char *what, struct error *err)
{
	_cleanup_process_ struct process *p = NULL;
	char *const argv[] = {"flock", "--exclusive", "9", NULL};
	const struct spawn_fd fds[] = {{.fd = fd, .child = 9}};
	const struct spawn_opts opts = {.fds = fds, .n_fds = 1};
	int status = 0, r;

	log_debug("waiting for %s", what);
	r = process_spawn(argv, &opts, &p, err);
	if (r >= 0)
		r = process_wait(p, NS_FOREVER, &status, err);
	if (r < 0) {
		error_prefix(err, "waiting for %s", what);
		return r;
	}
	if (status != 0) {
		_cleanup_free_ char *how = process_describe_status(status);

		return error_set(err, ERROR_INFRA, EIO, "waiting for %s: flock %s", what, how);
	}
	return 0;
}

/* Whether this is still the file of that name. */
static bool is_still(int fd, const char *path)
{
	struct stat by_fd, by_name;

	return fstat(fd, &by_fd) == 0 && stat(path, &by_name) == 0 &&
	       by_fd.st_ino == by_name.st_ino && by_fd.st_dev == by_name.st_dev;
}

int store_lock_file(const char *path, const char *what, int *ret_fd, struct error *err)
{
	for (;;) {
		_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
		int r = 0;

		if (fd < 0)
			return error_set_errno(err, ERROR_INFRA, errno, "cannot open '%s'", path);
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			r = errno == EWOULDBLOCK ? wait_for_lock(fd, what, err)
						 : error_set_errno(err, ERROR_INFRA, errno,
								   "cannot lock '%s'", path);
		if (r < 0)
			return r;
		/* Else it was cleaned away between open and lock, and is nobody's lock now. */
		if (is_still(fd, path)) {
			*ret_fd = TAKE_FD(fd);
			return 0;
		}
	}
}

int store_lock_key(const struct store *s, const char *digest, int *ret_fd, struct error *err)
{
	_cleanup_free_ char *path = xasprintf("%s/locks/%.12s", s->dir, digest);

	return store_lock_file(path, KINDS[s->kind].waiting, ret_fd, err);
}

/* Held only for a few system calls, never across a wait, so blocking is harmless. */
static int lock_store(const struct store *s, int *ret_fd)
{
	_cleanup_free_ char *path = xasprintf("%s/locks/store", s->dir);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int open_dir(const char *dir)
{
	return open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int store_lock_shared(const struct store *s, const char *dir, int *ret_fd)
{
	_cleanup_close_ int fd = open_dir(dir), lock = -EBADF;

	if (fd < 0)
		return -errno;
	/* Somebody looks whether it is in use, or is about to remove it, and holds the store's
	 * lock until he knows. A store that we may only read has no such people. */
	if (flock(fd, LOCK_SH | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK || lock_store(s, &lock) < 0)
			return -errno;
		if (flock(fd, LOCK_SH | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -ENOENT : -errno;
	}
	/* Renamed away between open and lock: then it is rubbish already. */
	if (!is_still(fd, dir))
		return -ENOENT;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

bool store_in_use(const struct store *s, const char *dir)
{
	_cleanup_close_ int lock = -EBADF, fd = open_dir(dir);

	return fd >= 0 && lock_store(s, &lock) >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0;
}

/* ---- temporary directories -------------------------------------------------------------- */

static char *random_tmp_name(const struct store *s)
{
	uint64_t number;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		abort();
	return xasprintf("%s/tmp.%d-%012llx", s->entries, (int)getpid(),
			 (unsigned long long)(number & 0xffffffffffffULL));
}

int store_tmp_new(const struct store *s, char **ret_dir, int *ret_fd, struct error *err)
{
	_cleanup_free_ char *dir = random_tmp_name(s);
	_cleanup_close_ int lock = -EBADF, fd = -EBADF;
	int r = lock_store(s, &lock);

	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot lock the store '%s'", s->dir);
	if (mkdir(dir, 0755) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make '%s'", dir);
	fd = open_dir(dir);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) {
		r = error_set_errno(err, ERROR_INFRA, errno, "cannot lock '%s'", dir);
		rmdir(dir);
		return r;
	}
	*ret_dir = TAKE_PTR(dir);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* The first stale directory, locked by us; NULL if there is none. */
static char *take_stale(const struct store *s, char *const *failed, int *ret_fd)
{
	_cleanup_close_ int lock = -EBADF;
	char *found = NULL;
	struct dirent *d;
	DIR *dir;

	if (lock_store(s, &lock) < 0)
		return NULL;
	dir = opendir(s->entries);
	while (dir && !found && (d = readdir(dir))) {
		_cleanup_free_ char *path = path_join(s->entries, d->d_name);
		_cleanup_close_ int fd = -EBADF;

		if (!str_starts(d->d_name, "tmp.") || strv_contains(failed, path))
			continue;
		fd = open_dir(path);
		if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
			continue;
		found = TAKE_PTR(path);
		*ret_fd = TAKE_FD(fd);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* The files that keys are locked by, as far as nobody does: there is a new key for each change of
 * a recipe or a test's setup. */
static void clean_locks(const struct store *s)
{
	_cleanup_free_ char *locks = path_join(s->dir, "locks");
	DIR *dir = opendir(locks);
	struct dirent *d;

	while (dir && (d = readdir(dir))) {
		_cleanup_free_ char *path = path_join(locks, d->d_name);
		_cleanup_close_ int fd = -EBADF;

		if (d->d_name[0] == '.' || str_eq(d->d_name, "store"))
			continue;
		fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && is_still(fd, path))
			(void)unlink(path);
	}
	if (dir)
		closedir(dir);
}

static int remove_tree(const struct store *s, const char *path, struct error *err)
{
	return KINDS[s->kind].other_owners ? store_remove_tree(path, err)
					   : path_remove_tree(path, err);
}

void store_clean_stale(const struct store *s)
{
	_cleanup_strv_ char **failed = NULL;

	clean_locks(s);

	for (;;) {
		_cleanup_close_ int fd = -EBADF;
		_cleanup_free_ char *path = take_stale(s, failed, &fd);
		struct error err = {};

		if (!path)
			return;
		log_debug("removing what an interrupted build left: %s", path);
		if (remove_tree(s, path, &err) < 0) {
			log_debug("%s", err.message);
			strv_push(&failed, path);
		}
	}
}

int store_remove_tree(const char *path, struct error *err)
{
	char *const argv[] = {"rm", "-rf", "--", (char *)path, NULL};

	if (path_remove_tree(path, NULL) >= 0)
		return 0;
	/* As root of a namespace that maps the ids which the tree's files belong to. */
	return build_run_as_root(argv, err);
}

/* ---- complete entries ------------------------------------------------------------------- */

static int sync_dir(int dir_fd, const char *path, struct error *err)
{
	int r = 0, copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
	struct dirent *d;

	if (!dir)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot read '%s'", path);
	while (r >= 0 && (d = readdir(dir))) {
		_cleanup_close_ int fd = -EBADF;

		if (d->d_name[0] == '.')
			continue;
		fd = openat(dir_fd, d->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || fsync(fd) < 0)
			r = error_set_errno(err, ERROR_INFRA, errno, "cannot sync '%s/%s'", path,
					    d->d_name);
	}
	closedir(dir);
	if (r >= 0 && fsync(dir_fd) < 0)
		r = error_set_errno(err, ERROR_INFRA, errno, "cannot sync '%s'", path);
	return r;
}

/* Moves a complete entry out of the way, if there is one. */
static int move_away(const struct store *s, const char *dir, char **ret_old, struct error *err)
{
	_cleanup_free_ char *old = random_tmp_name(s);

	if (rename(dir, old) < 0)
		return errno == ENOENT
			       ? 0
			       : error_set_errno(err, ERROR_INFRA, errno, "cannot move '%s'", dir);
	*ret_old = TAKE_PTR(old);
	return 0;
}

int store_commit(const struct store *s, const char *tmp, int fd, const char *name,
		 const char *digest, char **ret_dir, char **ret_old, struct error *err)
{
	_cleanup_free_ char *dir =
		xasprintf("%s/%s%s%.12s", s->entries, name ?: "", name ? "-" : "", digest);
	_cleanup_close_ int lock = -EBADF, entries = open_dir(s->entries);
	int r = KINDS[s->kind].synced ? sync_dir(fd, tmp, err) : 0;

	*ret_old = NULL;
	if (r < 0)
		return r;
	r = lock_store(s, &lock);
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot lock the store '%s'", s->dir);
	r = move_away(s, dir, ret_old, err);
	if (r < 0)
		return r;
	if (rename(tmp, dir) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot rename '%s' to '%s'", tmp,
				       dir);
	if (KINDS[s->kind].synced && entries >= 0)
		fsync(entries);
	/* From now on it is an entry in use. Converting cannot block: we are the only holder. */
	flock(fd, LOCK_SH);
	*ret_dir = TAKE_PTR(dir);
	return 0;
}

int store_remove(const struct store *s, const char *dir, bool even_in_use, struct error *err)
{
	_cleanup_close_ int fd = open_dir(dir), lock = -EBADF;
	_cleanup_free_ char *gone = NULL;
	int r;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot open '%s'", dir);
	r = lock_store(s, &lock);
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot lock the store '%s'", s->dir);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0 && !even_in_use)
		return error_set(err, ERROR_USAGE, EBUSY, "%s '%s' is in use by a machine",
				 KINDS[s->kind].thing, path_basename(dir));
	if (!is_still(fd, dir))
		return 0;
	r = move_away(s, dir, &gone, err);
	cleanup_close(&lock);
	lock = -EBADF;
	return r < 0 || !gone ? r : remove_tree(s, gone, err);
}

static int is_entry(const struct dirent *d)
{
	return d->d_name[0] != '.' && !str_starts(d->d_name, "tmp.");
}

char **store_dirs(const struct store *s)
{
	struct dirent **names = NULL;
	char **ret = NULL;
	int n = scandir(s->entries, &names, is_entry, alphasort);

	for (int i = 0; i < n; i++) {
		strv_push_take(&ret, path_join(s->entries, names[i]->d_name));
		free(names[i]);
	}
	free(names);
	return ret;
}

char *store_find_digest(const struct store *s, const char *digest)
{
	_cleanup_strv_ char **dirs = store_dirs(s);
	_cleanup_free_ char *suffix = xasprintf("-%.12s", digest);

	for (char **dir = dirs; dir && *dir; dir++)
		if (str_ends(*dir, suffix) || str_eq(path_basename(*dir), suffix + 1))
			return xstrdup(*dir);
	return NULL;
}

uint64_t store_disk_usage(const char *path)
{
	uint64_t bytes = 0;
	struct dirent *d;
	struct stat st;
	DIR *dir;

	if (lstat(path, &st) < 0)
		return 0;
	bytes = (uint64_t)st.st_blocks * 512;
	if (!S_ISDIR(st.st_mode))
		return bytes;
	dir = opendir(path);
	while (dir && (d = readdir(dir))) {
		_cleanup_free_ char *child = NULL;

		if (str_eq(d->d_name, ".") || str_eq(d->d_name, ".."))
			continue;
		child = path_join(path, d->d_name);
		bytes += store_disk_usage(child);
	}
	if (dir)
		closedir(dir);
	return bytes;
}

uint64_t store_free_bytes(const char *path)
{
	struct statvfs st;

	return statvfs(path, &st) < 0 ? 0 : (uint64_t)st.f_bavail * st.f_frsize;
}
