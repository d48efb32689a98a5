/* SPDX-License-Identifier: MIT */
/* The stores on disk: directories, locks, what is complete and what is rubbish. */
#pragma once

#include "base/error.h"
#include "base/file.h"
#include "base/util.h"

/*
 *	$ASSAY_CACHE/
 *	  images/<name>-<digest12>/	complete images, read-only from their first moment
 *	  images/tmp.<pid>-<random>/	being built, or removed; flock'ed as long as its owner lives
 *	  templates/<key12>/		saved machines, see machine/template.h
 *	  templates/tmp.…/		as above
 *	  apt/<suite>/			package lists and archives, see apt.h
 *	  locks/<digest12>		held by whoever makes that image or template
 *	  locks/store			held for a moment, never across a wait
 *	  logs/<name>.log		of the last build of that name that failed
 *
 * An entry (an image, a template) counts as made when its directory has its final name, which it
 * gets by rename(2) when everything in it is complete. Locks are flock(2) on descriptors: they go
 * with their process, so nothing needs to be believed about process ids, and a directory tmp.*
 * whose lock is free is rubbish. Whoever uses an entry holds a shared lock on its directory;
 * whoever removes it needs an exclusive one and renames it to tmp.* first, holding locks/store.
 */
enum store_kind { STORE_IMAGES, STORE_TEMPLATES };

struct store {
	enum store_kind kind;
	char *dir;     /* of the whole cache */
	char *entries; /* $ASSAY_CACHE/images, …/templates */
};

/* Opens the user's store, making its directories. */
int store_open(enum store_kind kind, struct store *ret, struct error *err);
void store_done(struct store *s);
#define _cleanup_store_ _cleanup_(store_done)

/* An exclusive lock on a file, made if missing. Waits for it on a fiber, by a child that blocks in
 * flock(2) on the same open file description: no polling. `what` completes "waiting for …". */
int store_lock_file(const char *path, const char *what, int *ret_fd, struct error *err);
/* The lock of whoever makes the entry of this digest. */
int store_lock_key(const struct store *s, const char *digest, int *ret_fd, struct error *err);

/* A new locked temporary directory. The lock goes with *ret_fd (of the directory itself). */
int store_tmp_new(const struct store *s, char **ret_dir, int *ret_fd, struct error *err);
/* Gives a complete directory its final name, name-digest12 or (name NULL) digest12. Images are
 * synced to disk before; templates count in the boot of this host that made them only. The lock on
 * fd turns into a shared one. If a directory of that name exists (a rebuild), it is moved away: its
 * path, now tmp.*, goes to *ret_old (else NULL). */
int store_commit(const struct store *s, const char *tmp, int fd, const char *name,
		 const char *digest, char **ret_dir, char **ret_old, struct error *err);
/* Removes a tree, also what belongs to an ordinary user's mapped ids. Fiber only. */
int store_remove_tree(const char *path, struct error *err);
/* Removes every tmp.* whose owner is gone, and locks that nobody holds. Never an error: what stays
 * is tried again next time. Images: fiber only. */
void store_clean_stale(const struct store *s);

/* The complete entry of a digest, whatever its name; NULL if there is none. malloc'd. */
char *store_find_digest(const struct store *s, const char *digest);
/* The directory's shared lock; -ENOENT if it is not there or being removed. */
int store_lock_shared(const struct store *s, const char *dir, int *ret_fd);
/* Does anybody hold it? */
bool store_in_use(const struct store *s, const char *dir);
/* Removes a complete entry: first out of sight under a name that counts as rubbish, then gone;
 * killed in between, the next cleaning finishes the work. 0 if it is not there. -EBUSY/USAGE
 * if somebody uses it, unless even_in_use: for those who have open all that they need. Images:
 * fiber only. */
int store_remove(const struct store *s, const char *dir, bool even_in_use, struct error *err);
/* All complete entries' directories, sorted. */
char **store_dirs(const struct store *s);
/* Blocks in use below path, in bytes; files with several links count once for each directory. */
uint64_t store_disk_usage(const char *path);
/* Free bytes for us on the file system of path. */
uint64_t store_free_bytes(const char *path);
