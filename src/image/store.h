/* SPDX-License-Identifier: MIT */
/* The image store on disk: directories, locks, what is complete and what is rubbish. */
#pragma once

#include "base/error.h"
#include "base/file.h"
#include "base/util.h"

/*
 *	$ASSAY_CACHE/
 *	  images/<name>-<digest12>/	complete images, read-only from their first moment
 *	  images/tmp.<pid>-<random>/	being built, or removed; flock'ed as long as its owner lives
 *	  apt/<suite>/			package lists and archives, see apt.h
 *	  locks/<digest12>		held by whoever builds that image
 *	  locks/store			held for a moment around making and cleaning tmp.*
 *	  logs/<name>.log		of the last build of that name that failed
 *
 * An image counts as built when its directory has its final name, which it gets by rename(2) after
 * everything in it is on disk. Locks are flock(2) on descriptors: they go with their process, so
 * nothing needs to be believed about process ids, and a directory tmp.* whose lock is free is
 * rubbish. Whoever uses an image holds a shared lock on its directory; whoever removes it needs an
 * exclusive one and renames it to tmp.* first.
 */
struct store {
	char *dir;
	char *images;
};

/* Opens the user's store, making its directories. */
int store_open(struct store *ret, struct error *err);
void store_done(struct store *s);
#define _cleanup_store_ _cleanup_(store_done)

/* An exclusive lock on a file, made if missing. Waits for it on a fiber, by a child that blocks in
 * flock(2) on the same open file description: no polling. `what` completes "waiting for …". */
int store_lock_file(const char *path, const char *what, int *ret_fd, struct error *err);
int store_lock_key(const struct store *s, const char *digest, int *ret_fd, struct error *err);

/* A new locked temporary directory. The lock goes with *ret_fd (of the directory itself). */
int store_tmp_new(const struct store *s, char **ret_dir, int *ret_fd, struct error *err);
/* Gives a complete directory its final name; syncs before and after. The lock on fd turns into a
 * shared one. If a directory of that name exists (a rebuild), it is moved away: its path, now
 * tmp.*, goes to *ret_old (else NULL). */
int store_commit(const struct store *s, const char *tmp, int fd, const char *name,
		 const char *digest, char **ret_dir, char **ret_old, struct error *err);
/* Removes a tree, also what belongs to an ordinary user's mapped ids. Fiber only. */
int store_remove_tree(const char *path, struct error *err);
/* Removes every tmp.* whose owner is gone. Never an error: what stays is tried again next time. */
void store_clean_stale(const struct store *s);

/* The complete image of a digest, whatever its name; NULL if there is none. malloc'd. */
char *store_find_digest(const struct store *s, const char *digest);
/* The directory's shared lock; -EWOULDBLOCK if it is being removed, -ENOENT. */
int store_lock_shared(const char *dir, int *ret_fd);
/* All complete images' directories, sorted. */
char **store_dirs(const struct store *s);
/* Blocks in use below path, in bytes; files with several links count once for each directory. */
uint64_t store_disk_usage(const char *path);
/* Free bytes for us on the file system of path. */
uint64_t store_free_bytes(const char *path);
