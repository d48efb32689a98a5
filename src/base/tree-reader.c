/* SPDX-License-Identifier: MIT */
/* Takes a file tree apart into entries. */
#include "base/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/buf.h"
#include "base/str.h"

/*
 * The reader walks depth first with a stack of its own instead of recursion, because a tree may be
 * deeper than a fiber's stack. At each directory all names are read at once: the walk may take
 * long, the directory may change meanwhile, and its descriptor may have to be closed while we are
 * below it.
 *
 * Names, never paths, are used with openat(2) and friends, always with O_NOFOLLOW: between the
 * listing and the opening an entry may have become something else. What is no longer what it was is
 * treated as gone; a copy of a living tree is no snapshot, and an error would make copying one a
 * game of luck.
 *
 * Only a file's data are read later than its entry, by tree_reader_data(), so at most one file is
 * open.
 */

struct level {
	int fd; /* -EBADF while it is not among the innermost TREE_OPEN_LEVELS */
	dev_t dev;
	ino_t ino;
	struct buf names; /* NUL-terminated, one behind the other */
	size_t next;	  /* in names */
	size_t path_len;  /* of the reader's path, up to this directory */
};

/* Files with more than one name: where they were seen first. Open addressing, a power of two. */
struct seen {
	dev_t dev;
	ino_t ino;
	uint32_t number; /* 0: free */
};

struct tree_reader {
	enum error_kind kind;
	int top;	 /* until the first entry was made of it */
	struct buf path; /* of the entry that is handled, for messages */
	struct level *levels;
	size_t n_levels, cap_levels;
	int file;	   /* open after a TREE_FILE, until its end */
	uint64_t offset;   /* where its data go on */
	uint64_t data_end; /* of the stretch of data that offset is in */
	bool plain;	   /* no SEEK_DATA there: read from the start to the end */
	struct seen *seen;
	size_t n_seen, cap_seen;
	char target[TREE_TARGET_MAX + 1];
};

bool tree_name_is_valid(const char *name, size_t len)
{
	if (len == 0 || len > TREE_NAME_MAX || memchr(name, '/', len) || memchr(name, 0, len))
		return false;
	return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

struct tree_reader *tree_reader_new(int top, const char *path, enum error_kind kind)
{
	struct tree_reader *r = xcalloc(1, sizeof(*r));

	r->kind = kind;
	r->top = top;
	r->file = -EBADF;
	buf_puts(&r->path, path);
	return r;
}

static void level_done(struct level *l)
{
	cleanup_close(&l->fd);
	buf_done(&l->names);
}

void tree_reader_free(struct tree_reader *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->n_levels; i++)
		level_done(&r->levels[i]);
	cleanup_close(&r->top);
	cleanup_close(&r->file);
	buf_done(&r->path);
	free(r->levels);
	free(r->seen);
	free(r);
}

void cleanup_tree_reader(struct tree_reader **r)
{
	tree_reader_free(*r);
}

static int fail(struct tree_reader *r, int code, const char *verb, struct error *err)
{
	return error_set_errno(err, r->kind, code, "cannot %s '%s'", verb, buf_str(&r->path));
}

/* --- hard links ---------------------------------------------------------------------------- */

/* Where (dev, ino) is in the table, or the free slot for it. The table is never more than half
 * full. */
static struct seen *seen_slot(struct seen *table, size_t cap, dev_t dev, ino_t ino)
{
	size_t i = (ino * 0x9E3779B97F4A7C15ULL ^ dev) & (cap - 1);

	while (table[i].number != 0 && (table[i].dev != dev || table[i].ino != ino))
		i = (i + 1) & (cap - 1);
	return &table[i];
}

static void seen_grow(struct tree_reader *r)
{
	size_t cap = MAX(r->cap_seen * 2, (size_t)64);
	struct seen *table = xcalloc(cap, sizeof(*table));

	for (size_t i = 0; i < r->cap_seen; i++)
		if (r->seen[i].number != 0)
			*seen_slot(table, cap, r->seen[i].dev, r->seen[i].ino) = r->seen[i];
	free(r->seen);
	r->seen = table;
	r->cap_seen = cap;
}

/* The file's number; *ret_again if it was met before. Numbers start at 1. */
static uint32_t link_number(struct tree_reader *r, const struct stat *st, bool *ret_again)
{
	struct seen *s;

	if (r->n_seen * 2 >= r->cap_seen)
		seen_grow(r);
	s = seen_slot(r->seen, r->cap_seen, st->st_dev, st->st_ino);
	*ret_again = s->number != 0;
	if (!*ret_again)
		*s = (struct seen){st->st_dev, st->st_ino, ++r->n_seen};
	return s->number;
}

/* --- directories --------------------------------------------------------------------------- */

/* All names at once: the directory's own descriptor may have to be closed while we are below it. */
static int read_names(struct tree_reader *r, struct level *l, struct error *err)
{
	DIR *dir;
	int copy = openat(l->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), code = 0;

	if (copy < 0)
		return fail(r, errno, "open", err);
	dir = fdopendir(copy);
	if (!dir) {
		code = errno;
		close(copy);
		return fail(r, code, "read", err);
	}
	for (;;) {
		struct dirent *de;
		size_t len;

		errno = 0;
		de = readdir(dir);
		if (!de) {
			code = errno;
			break;
		}
		len = strlen(de->d_name);
		if (tree_name_is_valid(de->d_name, len))
			buf_append(&l->names, de->d_name, len + 1);
	}
	closedir(dir);
	return code ? fail(r, code, "read", err) : 0;
}

/* Enters a directory; takes fd, also when it fails. */
static int push_level(struct tree_reader *r, int fd, const struct stat *st, struct error *err)
{
	struct level *l;

	if (r->n_levels >= TREE_DEPTH_MAX) {
		close(fd);
		return error_set(err, r->kind, ELOOP, "'%.200s…' is nested more than %d deep",
				 buf_str(&r->path), TREE_DEPTH_MAX);
	}
	if (r->n_levels == r->cap_levels) {
		r->cap_levels = MAX(r->cap_levels * 2, (size_t)16);
		r->levels = xrealloc(r->levels, r->cap_levels * sizeof(*r->levels));
	}
	l = &r->levels[r->n_levels++];
	*l = (struct level){
		.fd = fd,
		.dev = st->st_dev,
		.ino = st->st_ino,
		.path_len = r->path.len,
	};
	if (r->n_levels > TREE_OPEN_LEVELS) {
		struct level *far = &r->levels[r->n_levels - 1 - TREE_OPEN_LEVELS];

		close(far->fd);
		far->fd = -EBADF;
	}
	return read_names(r, l, err);
}

/* Back in the directory above, which has to be the one that we came from. */
static int pop_level(struct tree_reader *r, struct error *err)
{
	struct level *l = &r->levels[r->n_levels - 1], *up = l - 1;
	int rc = 0;

	if (r->n_levels > 1 && up->fd < 0) {
		struct stat st;

		buf_truncate(&r->path, up->path_len);
		up->fd = openat(l->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (up->fd < 0 || fstat(up->fd, &st) < 0)
			rc = fail(r, errno, "return to", err);
		else if (st.st_dev != up->dev || st.st_ino != up->ino)
			rc = error_set(err, r->kind, ESTALE, "'%s' was moved while it was copied",
				       buf_str(&r->path));
	}
	level_done(l);
	r->n_levels--;
	return rc;
}

/* --- entries ------------------------------------------------------------------------------- */

static void describe(const struct stat *st, const char *name, struct tree_entry *ret)
{
	*ret = (struct tree_entry){
		.mode = st->st_mode & 07777,
		.mtime_sec = st->st_mtim.tv_sec,
		.mtime_nsec = st->st_mtim.tv_nsec,
		.major = major(st->st_rdev),
		.minor = minor(st->st_rdev),
		.name = name,
	};
}

/* Opens an entry for reading; the top is open already. */
static int open_entry(struct tree_reader *r, int dir, const char *name, int flags)
{
	if (dir >= 0)
		return openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC);
	return fcntl(r->top, F_DUPFD_CLOEXEC, 3);
}

/* What vanished or changed its type since it was listed is not there for us. */
static bool is_gone(int code)
{
	return code == ENOENT || code == ELOOP || code == ENOTDIR || code == ENXIO;
}

static int begin_dir(struct tree_reader *r, int dir, const char *name, struct tree_entry *ret,
		     struct error *err)
{
	int fd = open_entry(r, dir, name, O_RDONLY | O_DIRECTORY);
	struct stat st;
	int rc;

	if (fd < 0)
		return dir >= 0 && is_gone(errno) ? 0 : fail(r, errno, "open", err);
	if (fstat(fd, &st) < 0) {
		rc = fail(r, errno, "read", err);
		close(fd);
		return rc;
	}
	/* As it is now that it is open; the name may have led elsewhere when it was listed. */
	describe(&st, name, ret);
	ret->type = TREE_DIR;
	rc = push_level(r, fd, &st, err);
	return rc < 0 ? rc : 1;
}

static int begin_file(struct tree_reader *r, int dir, const char *name, struct tree_entry *ret,
		      struct error *err)
{
	_cleanup_close_ int fd = open_entry(r, dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return dir >= 0 && is_gone(errno) ? 0 : fail(r, errno, "open", err);
	if (fstat(fd, &st) < 0)
		return fail(r, errno, "read", err);
	/* O_NONBLOCK has kept us from waiting, should it have become a fifo. */
	if (!S_ISREG(st.st_mode))
		return 0;
	describe(&st, name, ret);
	ret->type = TREE_FILE;
	ret->size = st.st_size;
	/* Other names of it may be outside of the tree; then its number is simply never used again.
	 */
	if (st.st_nlink > 1 && dir >= 0 && r->n_seen < TREE_LINKS_MAX) {
		bool again;

		ret->link = link_number(r, &st, &again);
		if (again) {
			ret->type = TREE_HARDLINK;
			return 1;
		}
	}
	r->file = TAKE_FD(fd);
	r->offset = r->data_end = 0;
	/* Files of /proc and /sys have contents, but no size and nothing to seek. */
	r->plain = st.st_size == 0;
	return 1;
}

/* The target into r->target. 0: the link is gone. */
static int read_link(struct tree_reader *r, int dir, const char *name, struct error *err)
{
	ssize_t n = readlinkat(dir, name, r->target, sizeof(r->target));

	if (n < 0)
		return is_gone(errno) || errno == EINVAL ? 0 : fail(r, errno, "read", err);
	if (n >= (ssize_t)sizeof(r->target))
		return fail(r, ENAMETOOLONG, "read", err);
	r->target[n] = 0;
	return n > 0;
}

/* One entry; 0 if there is nothing to tell of it. dir < 0: it is the top. */
static int begin_entry(struct tree_reader *r, int dir, const char *name, struct tree_entry *ret,
		       struct error *err)
{
	struct stat st;
	int n;

	if (dir >= 0 ? fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 : fstat(r->top, &st) < 0)
		return dir >= 0 && is_gone(errno) ? 0 : fail(r, errno, "look at", err);
	switch (st.st_mode & S_IFMT) {
	case S_IFDIR:
		return begin_dir(r, dir, name, ret, err);
	case S_IFREG:
		return begin_file(r, dir, name, ret, err);
	case S_IFLNK:
		/* A top that is a link has been followed by whoever opened it, or dangles. */
		n = dir < 0 ? fail(r, ELOOP, "follow", err) : read_link(r, dir, name, err);
		describe(&st, name, ret);
		ret->type = TREE_SYMLINK;
		ret->target = r->target;
		return n;
	case S_IFIFO:
		describe(&st, name, ret);
		ret->type = TREE_FIFO;
		return 1;
	case S_IFCHR:
	case S_IFBLK:
		describe(&st, name, ret);
		ret->type = S_ISCHR(st.st_mode) ? TREE_CHAR : TREE_BLOCK;
		return 1;
	default:
		/* A socket is nothing without the process behind it. */
		if (dir < 0)
			return error_set(err, r->kind, EINVAL,
					 "'%s' is a socket; it cannot be copied",
					 buf_str(&r->path));
		return 0;
	}
}

/* For messages only; the path may be far longer than PATH_MAX. */
static void enter_name(struct tree_reader *r, const char *name)
{
	if (r->path.len == 0 || r->path.data[r->path.len - 1] != '/')
		buf_putc(&r->path, '/');
	buf_puts(&r->path, name);
}

int tree_reader_next(struct tree_reader *r, struct tree_entry *ret, struct error *err)
{
	int n;

	cleanup_close(&r->file);
	r->file = -EBADF;
	if (r->top >= 0) {
		n = begin_entry(r, -EBADF, "", ret, err);
		cleanup_close(&r->top);
		r->top = -EBADF;
		return n;
	}
	while (r->n_levels > 0) {
		struct level *l = &r->levels[r->n_levels - 1];
		const char *name;

		buf_truncate(&r->path, l->path_len);
		if (l->next >= l->names.len) {
			*ret = (struct tree_entry){.type = TREE_UP, .name = ""};
			n = pop_level(r, err);
			return n < 0 ? n : 1;
		}
		name = l->names.data + l->next;
		l->next += strlen(name) + 1;
		enter_name(r, name);
		n = begin_entry(r, l->fd, name, ret, err);
		if (n != 0)
			return n;
	}
	return 0;
}

/* --- data ---------------------------------------------------------------------------------- */

/* Moves offset to the next data and data_end behind them. 0 at the end of the file. */
static int find_data(struct tree_reader *r, struct error *err)
{
	off_t data = lseek(r->file, r->offset, SEEK_DATA), hole;
	struct stat st;

	if (data < 0 && errno == ENXIO) {
		/* A hole up to the end. */
		if (fstat(r->file, &st) < 0)
			return fail(r, errno, "read", err);
		r->offset = MAX(r->offset, (uint64_t)st.st_size);
		return 0;
	}
	if (data < 0) {
		/* This file system cannot tell holes. */
		r->plain = true;
		return 1;
	}
	hole = lseek(r->file, data, SEEK_HOLE);
	r->offset = data;
	r->data_end = hole > data ? (uint64_t)hole : UINT64_MAX;
	return 1;
}

ssize_t tree_reader_data(struct tree_reader *r, void *data, size_t len, uint64_t *ret_offset,
			 struct error *err)
{
	for (;;) {
		uint64_t end;
		ssize_t n;

		if (!r->plain && r->offset >= r->data_end) {
			int found = find_data(r, err);

			if (found < 0)
				return found;
			if (found == 0) {
				*ret_offset = r->offset;
				return 0;
			}
		}
		end = r->plain ? UINT64_MAX : r->data_end;
		n = pread(r->file, data, MIN((uint64_t)len, end - r->offset), r->offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(r, errno, "read", err);
		*ret_offset = r->offset;
		if (n == 0 && !r->plain) {
			/* It has become shorter; look again where its end is now. */
			struct stat st;

			if (fstat(r->file, &st) < 0)
				return fail(r, errno, "read", err);
			*ret_offset = r->offset = MIN(r->offset, (uint64_t)st.st_size);
			return 0;
		}
		r->offset += n;
		return n;
	}
}
