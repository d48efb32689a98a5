/* SPDX-License-Identifier: MIT */
/* Digests of host files and folders: of what is in them, or of what stat() says of them. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"

typedef int (*feed_fn)(struct sha256 *s, const char *path, const struct stat *st,
		       struct error *err);

static int feed_contents(struct sha256 *s, const char *path, const struct stat *st,
			 struct error *err)
{
	char text[DIGEST_HEX_MAX];
	int r;

	if (!S_ISREG(st->st_mode))
		return error_set(err, ERROR_USAGE, EINVAL,
				 "'%s' is neither a file nor a folder nor a link", path);
	r = sha256_file(path, text, err);

	if (r >= 0)
		sha256_update_str(s, text);
	return r;
}

/* Of sockets and the like there is nothing to read; their type is in the digest. */
static int feed_readable(struct sha256 *s, const char *path, const struct stat *st,
			 struct error *err)
{
	return S_ISREG(st->st_mode) ? feed_contents(s, path, st, err) : 0;
}

/* What changes with any write: none of these alone would do (a copy with times kept, two writes
 * within the clock's tick). */
static int feed_stat(struct sha256 *s, const char *path, const struct stat *st, struct error *err)
{
	const uint64_t numbers[] = {
		st->st_dev,
		st->st_ino,
		(uint64_t)st->st_size,
		(uint64_t)st->st_mtim.tv_sec,
		(uint64_t)st->st_mtim.tv_nsec,
		(uint64_t)st->st_ctim.tv_sec,
		(uint64_t)st->st_ctim.tv_nsec,
	};

	sha256_update(s, numbers, sizeof(numbers));
	return 0;
}

static int feed_tree(struct sha256 *s, const char *path, feed_fn feed_file, struct error *err);

static int feed_folder(struct sha256 *s, const char *path, feed_fn feed_file, struct error *err)
{
	struct dirent **names = NULL;
	int n = scandir(path, &names, NULL, alphasort), r = 0;

	if (n < 0)
		return error_set_errno(err, ERROR_USAGE, errno, "cannot read '%s'", path);
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *child = path_join(path, names[i]->d_name);

		if (r >= 0 && !str_eq(names[i]->d_name, ".") && !str_eq(names[i]->d_name, "..")) {
			sha256_update_str(s, names[i]->d_name);
			r = feed_tree(s, child, feed_file, err);
		}
		free(names[i]);
	}
	free(names);
	sha256_update_str(s, "/");
	return r;
}

static int feed_tree(struct sha256 *s, const char *path, feed_fn feed_file, struct error *err)
{
	char text[32], target[4096] = {};
	struct stat st;

	if (lstat(path, &st) < 0)
		return error_set_errno(err, ERROR_USAGE, errno, "cannot read '%s'", path);
	snprintf(text, sizeof(text), "%o", st.st_mode);
	sha256_update_str(s, text);
	if (S_ISDIR(st.st_mode))
		return feed_folder(s, path, feed_file, err);
	if (!S_ISLNK(st.st_mode))
		return feed_file(s, path, &st, err);
	if (readlink(path, target, sizeof(target) - 1) < 0)
		return error_set_errno(err, ERROR_USAGE, errno, "cannot read '%s'", path);
	sha256_update_str(s, target);
	return 0;
}

int sha256_update_tree(struct sha256 *s, const char *path, struct error *err)
{
	return feed_tree(s, path, feed_contents, err);
}

/* A link given as the source stands for what it points to. */
static int digest_path(const char *path, feed_fn feed_file, char ret[DIGEST_HEX_MAX],
		       struct error *err)
{
	_cleanup_free_ char *real = realpath(path, NULL);
	struct sha256 s;
	int r;

	sha256_init(&s);
	r = feed_tree(&s, real ? real : path, feed_file, err);
	sha256_hex(&s, ret);
	return r;
}

int path_digest(const char *path, char ret[DIGEST_HEX_MAX], struct error *err)
{
	return digest_path(path, feed_readable, ret, err);
}

int path_stamp(const char *path, char ret[DIGEST_HEX_MAX], struct error *err)
{
	return digest_path(path, feed_stat, ret, err);
}
