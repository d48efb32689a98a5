/* SPDX-License-Identifier: MIT */
/* File trees taken apart into entries and put together again, by descriptors, never by long paths.
 */
#pragma once

#include <sys/stat.h>

#include "base/error.h"
#include "base/util.h"

/*
 * Theory of operation
 *
 * A tree is a sequence of entries in depth-first order: TREE_DIR enters a directory, TREE_UP leaves
 * it again (the first one, too); TREE_FILE is followed by its data. The first entry is the top and
 * has an empty name; a tree may be a single file. Reader and writer hold a stack of levels, of
 * which only the innermost TREE_OPEN_LEVELS keep a descriptor: going up further opens ".." and
 * compares device and inode with what was seen on the way down. So the depth of a tree is bounded
 * by TREE_DEPTH_MAX, not by PATH_MAX or by the number of descriptors.
 *
 * Kept: types, names (any bytes), permission bits, modification times in nanoseconds, hard links
 * within the tree, holes, the targets of symbolic links as they are. Not kept: owners (what is
 * written belongs to the writer), extended attributes and ACLs, access times, sockets.
 *
 * Both ends use this code: the agent with the guest's root, the host with its own.
 */

#define TREE_DEPTH_MAX	 100000
#define TREE_OPEN_LEVELS 32
#define TREE_NAME_MAX	 255
#define TREE_TARGET_MAX	 4095
#define TREE_LINKS_MAX	 4000000

enum tree_type {
	TREE_DIR = 1,
	TREE_UP,
	TREE_FILE,
	TREE_SYMLINK,
	TREE_HARDLINK,
	TREE_FIFO,
	TREE_CHAR,
	TREE_BLOCK,
};

struct tree_entry {
	enum tree_type type;
	uint16_t mode; /* permission bits, 07777 */
	int64_t mtime_sec;
	uint32_t mtime_nsec;
	uint64_t size; /* TREE_FILE: when it was opened; the end of its data counts */
	uint32_t link; /* TREE_FILE: its number for later links, 0: none. TREE_HARDLINK: of which */
	uint32_t major, minor;
	const char *name;   /* one component; "" at the top */
	const char *target; /* TREE_SYMLINK */
};

/* One component that may stand in a tree: not empty, ".", "..", without "/". */
bool tree_name_is_valid(const char *name, size_t len);

/* --- taking apart -------------------------------------------------------------------------- */

struct tree_reader;

/*
 * Reads the tree at top: a descriptor (taken) that was opened for reading if it is a directory or a
 * file; of a link, O_PATH. `path` is how messages call it, `kind` the kind of their errors.
 * Never blocks on fifos or devices: they are described, not opened.
 */
struct tree_reader *tree_reader_new(int top, const char *path, enum error_kind kind);
void tree_reader_free(struct tree_reader *r);
void cleanup_tree_reader(struct tree_reader **r);
/*
 * The next entry: 1, 0 at the end of the tree. What vanishes between listing and opening is left
 * out, as if it had gone earlier. ret's strings live until the next call.
 */
int tree_reader_next(struct tree_reader *r, struct tree_entry *ret, struct error *err);
/*
 * After a TREE_FILE: reads the next piece of data, not more than len bytes, skipping holes.
 * Returns its length with its offset in *ret_offset; 0 at the end, with the file's size there. A
 * file that shrinks or grows meanwhile ends where it ends then.
 */
ssize_t tree_reader_data(struct tree_reader *r, void *data, size_t len, uint64_t *ret_offset,
			 struct error *err);

/* --- putting together ---------------------------------------------------------------------- */

struct tree_writer;

struct tree_writer_opts {
	const char *path;     /* the tree's top as messages call it */
	enum error_kind kind; /* of their errors */
	uint16_t mode_mask;   /* which permission bits are kept: 07777, or 01777 … */
	bool skip_special;    /* fifos and devices are left out */
	/*
	 * A directory's name is taken by a symbolic link: opens the directory that it leads to, by
	 * its full path (opts.path with the names below it). NULL: that is an error, so nothing is
	 * ever written outside of the top, whatever the tree says and whatever lies there.
	 */
	int (*open_linked_dir)(const char *path, void *userdata);
	void *userdata;
};

/*
 * Writes a tree as `name` in the directory parent (a descriptor, borrowed). A directory that is
 * there already is added to and keeps its mode and time; anything else in the way is replaced, a
 * file only when the new one is complete. A directory is never replaced by something else.
 */
struct tree_writer *tree_writer_new(int parent, const char *name,
				    const struct tree_writer_opts *opts);
/* Removes a file that was begun and not ended. */
void tree_writer_free(struct tree_writer *w);
void cleanup_tree_writer(struct tree_writer **w);
int tree_writer_entry(struct tree_writer *w, const struct tree_entry *e, struct error *err);
int tree_writer_data(struct tree_writer *w, uint64_t offset, const void *data, size_t len,
		     struct error *err);
/* The end of a TREE_FILE's data. */
int tree_writer_end_file(struct tree_writer *w, uint64_t size, struct error *err);
