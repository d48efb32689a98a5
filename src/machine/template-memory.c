/* SPDX-License-Identifier: MIT */
/* Where the memory of saved machines lies. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "base/host.h"
#include "base/log.h"
#include "base/str.h"
#include "machine/template-internal.h"

/*
 * Guest memory that is saved goes to a tmpfs if it fits there, as nothing then has to be written
 * to a disk; else to the cache.
 *
 *	/dev/shm/assay-<uid>/<cache12>/	one for each cache; cache12 is of its path and inode's
 *digest owner -> /home/…/.cache/assay
 *	  <random16>/			the memory of one template, flock'ed until that is complete
 *
 * What counts is the template: its link `memory` leads here. What no template (and no temporary
 * directory of the store) leads to, and nobody holds the lock of, is rubbish: what a killed process
 * left, or the memory of a template that was removed. The lock of the cache's directory is held
 * for the moment in which a new one is made and locked, so that none is seen in between.
 *
 * Containers and chroots often share /dev/shm and nothing else: what looks as if its cache were
 *gone may be another's who calls it by the same path. So such memory is rubbish only when nobody
 *has saved anything there for a while; then at worst a template is made again.
 */

#define FOREIGN_IDLE_SECONDS (60 * 60)

/* Of the free memory, what one machine may take: the rest is for the tests. */
#define SHARE_OF_AVAILABLE(bytes) ((bytes) / 4 * 3)

static const char *tmpfs_root(void)
{
	return getenv("ASSAY_TMPFS") ?: "/dev/shm";
}

static char *user_dir(void)
{
	return xasprintf("%s/assay-%u", tmpfs_root(), (unsigned)geteuid());
}

static int open_dir(const char *dir)
{
	return open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* The name of a cache's directory; false if there is no such cache (any more). */
static bool cache_name(const char *cache, char ret[13])
{
	char hex[DIGEST_HEX_MAX], identity[64];
	struct sha256 sum;
	struct stat st;

	if (stat(cache, &st) < 0)
		return false;
	snprintf(identity, sizeof(identity), "%llx:%llx", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	sha256_init(&sum);
	sha256_update_str(&sum, cache);
	sha256_update_str(&sum, identity);
	sha256_hex(&sum, hex);
	snprintf(ret, 13, "%.12s", hex);
	return true;
}

/* Where this cache's directory is, if it is there. */
static char *cache_dir(const struct store *s)
{
	_cleanup_free_ char *user = user_dir();
	char name[13];

	return cache_name(s->dir, name) ? path_join(user, name) : xasprintf("%s/none", user);
}

uint64_t template_usage(const struct store *s)
{
	_cleanup_free_ char *memory = cache_dir(s);

	return store_disk_usage(s->entries) + store_disk_usage(memory);
}

int template_memory_dir(const struct store *s, char **ret, struct error *err)
{
	_cleanup_free_ char *user = user_dir(), *dir = cache_dir(s);
	_cleanup_free_ char *owner = path_join(dir, "owner");
	const char *root = tmpfs_root();
	struct statfs st;
	int r;

	if (!root[0])
		return error_set(err, ERROR_UNSUPPORTED, ENOENT, "ASSAY_TMPFS is empty");
	if (statfs(root, &st) < 0)
		return error_set_errno(err, ERROR_UNSUPPORTED, errno, "no tmpfs '%s'", root);
	if (st.f_type != TMPFS_MAGIC)
		return error_set(err, ERROR_UNSUPPORTED, ENOTSUP, "'%s' is not a tmpfs", root);
	r = path_make_private_dir(user, err);
	if (r >= 0)
		r = path_make_private_dir(dir, err);
	if (r < 0)
		return r;
	if (symlink(s->dir, owner) < 0 && errno != EEXIST)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make '%s'", owner);
	(void)utimensat(AT_FDCWD, dir, NULL, 0);
	*ret = TAKE_PTR(dir);
	return 0;
}

int template_memory_new(const char *memory_dir, char **ret_dir, int *ret_fd, struct error *err)
{
	_cleanup_close_ int lock = open_dir(memory_dir), fd = -EBADF;
	_cleanup_free_ char *dir = NULL;
	uint64_t number;
	int r;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		abort();
	dir = xasprintf("%s/%016llx", memory_dir, (unsigned long long)number);
	if (lock < 0 || flock(lock, LOCK_EX) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot lock '%s'", memory_dir);
	if (mkdir(dir, 0700) < 0)
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

/* ---- cleaning --------------------------------------------------------------------------- */

/* Malloc'd; NULL if it is no link. */
static char *read_link(const char *dir, const char *name)
{
	_cleanup_free_ char *path = path_join(dir, name);
	char target[4096];
	ssize_t n = readlink(path, target, sizeof(target));

	return n <= 0 || n == sizeof(target) ? NULL : xstrndup(target, (size_t)n);
}

/* Does a template of that cache, complete or not, lead to a directory of this name? What cannot be
 * read may do so. */
static bool is_referenced(const char *cache, const char *name)
{
	_cleanup_free_ char *templates = path_join(cache, "templates");
	DIR *dir = opendir(templates);
	struct dirent *d;
	bool found = false;

	if (!dir)
		return errno != ENOENT;
	while (!found && (d = readdir(dir))) {
		_cleanup_free_ char *entry = path_join(templates, d->d_name);
		_cleanup_free_ char *target = read_link(entry, "memory");

		found = target && str_eq(path_basename(target), name);
	}
	closedir(dir);
	return found;
}

static bool take_unlocked(const char *memory_dir, const char *dir, int *ret_fd)
{
	_cleanup_close_ int lock = open_dir(memory_dir), fd = -EBADF;

	if (lock < 0 || flock(lock, LOCK_EX) < 0)
		return false;
	fd = open_dir(dir);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return false;
	*ret_fd = TAKE_FD(fd);
	return true;
}

static bool is_idle(const char *memory_dir)
{
	struct stat st;

	return stat(memory_dir, &st) == 0 && time(NULL) - st.st_mtime > FOREIGN_IDLE_SECONDS;
}

static void clean_cache(const char *memory_dir)
{
	_cleanup_free_ char *cache = read_link(memory_dir, "owner");
	_cleanup_free_ char *link = path_join(memory_dir, "owner");
	struct dirent *d;
	char name[13];
	bool is_gone;
	DIR *dir;

	if (!cache)
		return;
	is_gone = !cache_name(cache, name) || !str_eq(name, path_basename(memory_dir));
	if (is_gone && !is_idle(memory_dir))
		return;
	dir = opendir(memory_dir);

	while (dir && (d = readdir(dir))) {
		_cleanup_free_ char *path = path_join(memory_dir, d->d_name);
		_cleanup_close_ int fd = -EBADF;
		struct error err = {};

		if (d->d_name[0] == '.' || str_eq(d->d_name, "owner") ||
		    !take_unlocked(memory_dir, path, &fd) ||
		    (!is_gone && is_referenced(cache, d->d_name)))
			continue;
		log_debug("removing memory that no template refers to: %s", path);
		if (path_remove_tree(path, &err) < 0)
			log_debug("%s", err.message);
	}
	if (dir)
		closedir(dir);
	/* Its last one, if it is empty now. */
	if (is_gone && unlink(link) == 0)
		(void)rmdir(memory_dir);
}

void template_memory_clean(void)
{
	_cleanup_free_ char *user = user_dir();
	struct dirent *d;
	struct stat st;
	DIR *dir;

	if (lstat(user, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
		return;
	dir = opendir(user);
	while (dir && (d = readdir(dir))) {
		_cleanup_free_ char *path = path_join(user, d->d_name);

		if (d->d_name[0] != '.')
			clean_cache(path);
	}
	if (dir)
		closedir(dir);
}

/* ---- choosing --------------------------------------------------------------------------- */

static int check_room(const char *dir, uint64_t bytes, struct error *err)
{
	char free_text[FORMAT_MAX], need_text[FORMAT_MAX];
	uint64_t room = store_free_bytes(dir), available = host_memory_available_bytes();

	format_size(bytes, need_text);
	if (room < bytes)
		return error_set(err, ERROR_INFRA, ENOSPC, "'%s' has %s free (%s wanted)",
				 tmpfs_root(), format_size(room, free_text), need_text);
	if (SHARE_OF_AVAILABLE(available) < bytes)
		return error_set(err, ERROR_INFRA, ENOSPC,
				 "%s of memory would be more than three quarters of what is free "
				 "(%s)",
				 need_text, format_size(available, free_text));
	return 0;
}

static int choose(const struct store *s, uint64_t memory_bytes, char **ret, struct error *why)
{
	_cleanup_free_ char *dir = NULL;
	int r = template_memory_dir(s, &dir, why);

	if (r >= 0)
		r = check_room(dir, memory_bytes, why);
	*ret = r < 0 ? xstrdup(s->entries) : TAKE_PTR(dir);
	return r;
}

int template_memory_place(uint64_t memory_bytes, char **ret_dir, uint64_t *ret_free_bytes,
			  struct error *ret_why, struct error *err)
{
	_cleanup_store_ struct store s = {};
	int r = store_open(STORE_TEMPLATES, &s, err);

	if (r < 0)
		return r;
	(void)choose(&s, memory_bytes, ret_dir, ret_why);
	*ret_free_bytes = store_free_bytes(*ret_dir);
	return 0;
}

int template_work_dirs(uint64_t memory_bytes, char **ret_memory_dir, char **ret_work_dir,
		       struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL;
	char free_text[FORMAT_MAX], need_text[FORMAT_MAX];
	struct error why = {};
	uint64_t limit, room;
	int r = store_open(STORE_TEMPLATES, &s, err);

	if (r >= 0)
		r = template_limit(&s, &limit, err);
	if (r < 0)
		return r;
	store_clean_stale(&s);
	template_memory_clean();
	r = choose(&s, memory_bytes, &dir, &why);
	room = store_free_bytes(dir);
	if (r < 0)
		log_debug("memory of templates goes to '%s': %s", dir, why.message);
	if (r < 0 && room < memory_bytes) {
		r = error_set(err, ERROR_INFRA, ENOSPC,
			      "no room for %s of guest memory: '%s' has %s free, and %s",
			      format_size(memory_bytes, need_text), dir,
			      format_size(room, free_text), why.message);
		error_hint(err, "'assay cache prune' frees what was not used lately; "
				"ASSAY_CACHE=DIR moves the store to another disk");
		return r;
	}
	*ret_memory_dir = TAKE_PTR(dir);
	*ret_work_dir = xstrdup(s.entries);
	return 0;
}
