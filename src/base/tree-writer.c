/* SPDX-License-Identifier: MIT */
/* Puts a file tree together from entries; never leaves the directory that it was given. */
#include "base/tree.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/sysmacros.h>

#include "base/buf.h"
#include "base/str.h"

/*
 * Every name is one component, used relative to the descriptor of its directory and with
 * O_NOFOLLOW; the entries may come from a hostile guest. Links are made as they are told, and never
 * followed, unless the owner gave open_linked_dir (the agent does: copying a tree that has lib/
 * over a root whose /lib is a link must not break that root).
 */

struct level {
	int fd; /* -EBADF while it is not among the innermost TREE_OPEN_LEVELS */
	dev_t dev;
	ino_t ino;
	bool pinned; /* reached through a link: ".." would not lead back, so what is above stays
			open */
	bool made;   /* by us: mode and time are set when it is left */
	struct tree_entry meta; /* only modes and times are valid */
	size_t path_len;
};

struct tree_writer {
	struct tree_writer_opts opts;
	int parent; /* where the top goes */
	char *name;
	struct buf path; /* opts.path and the names below it */
	struct level *levels;
	size_t n_levels, cap_levels;
	bool have_top;

	int file;		       /* while a file is open */
	char final[TREE_NAME_MAX + 1]; /* its name */
	char interim[64];	       /* what it is called until it is complete; "" if final */
	struct tree_entry meta;	       /* of the file */
	uint64_t written_end;	       /* behind the last byte written */

	/* Paths below the top of files with further links to come, by number - 1. */
	char **links;
	size_t n_links;
	unsigned counter; /* for interim names */
};

struct tree_writer *tree_writer_new(int parent, const char *name,
				    const struct tree_writer_opts *opts)
{
	struct tree_writer *w = xcalloc(1, sizeof(*w));

	assert(tree_name_is_valid(name, strlen(name)) || str_eq(name, "."));
	w->opts = *opts;
	w->parent = parent;
	w->name = xstrdup(name);
	w->file = -EBADF;
	buf_puts(&w->path, opts->path);
	w->opts.path = NULL;
	return w;
}

/* The directory that entries go into now. */
static int current_dir(const struct tree_writer *w)
{
	return w->n_levels > 0 ? w->levels[w->n_levels - 1].fd : w->parent;
}

void tree_writer_free(struct tree_writer *w)
{
	if (!w)
		return;
	if (w->file >= 0) {
		close(w->file);
		unlinkat(current_dir(w), *w->interim ? w->interim : w->final, 0);
	}
	for (size_t i = 0; i < w->n_levels; i++)
		cleanup_close(&w->levels[i].fd);
	for (size_t i = 0; i < w->n_links; i++)
		free(w->links[i]);
	free(w->links);
	free(w->levels);
	free(w->name);
	buf_done(&w->path);
	free(w);
}

void cleanup_tree_writer(struct tree_writer **w)
{
	tree_writer_free(*w);
}

static int fail(struct tree_writer *w, int code, const char *verb, struct error *err)
{
	return error_set_errno(err, w->opts.kind, code, "cannot %s '%s'", verb, buf_str(&w->path));
}

static int malformed(struct tree_writer *w, const char *what, struct error *err)
{
	return error_set(err, ERROR_INFRA, EBADMSG, "the tree for '%.300s' is malformed: %s",
			 buf_str(&w->path), what);
}

static void enter_name(struct tree_writer *w, const char *name)
{
	if (w->path.len == 0 || w->path.data[w->path.len - 1] != '/')
		buf_putc(&w->path, '/');
	buf_puts(&w->path, name);
}

/* --- directories --------------------------------------------------------------------------- */

/* Enters a directory; takes fd, also when it fails. `made`: it is new, so it gets e's mode and
 * time. */
static int push_level(struct tree_writer *w, int fd, bool made, bool pinned,
		      const struct tree_entry *e, struct error *err)
{
	struct level *l;
	struct stat st;

	if (w->n_levels >= TREE_DEPTH_MAX) {
		close(fd);
		return malformed(w, "it is nested too deep", err);
	}
	if (fstat(fd, &st) < 0) {
		int rc = fail(w, errno, "look at", err);

		close(fd);
		return rc;
	}
	if (w->n_levels == w->cap_levels) {
		w->cap_levels = MAX(w->cap_levels * 2, (size_t)16);
		w->levels = xrealloc(w->levels, w->cap_levels * sizeof(*w->levels));
	}
	l = &w->levels[w->n_levels++];
	*l = (struct level){
		.fd = fd,
		.dev = st.st_dev,
		.ino = st.st_ino,
		.pinned = pinned,
		.made = made,
		.meta = *e,
		.path_len = w->path.len,
	};
	if (w->n_levels > TREE_OPEN_LEVELS + 1) {
		struct level *far = &w->levels[w->n_levels - 1 - TREE_OPEN_LEVELS];

		/* The level above a link cannot be found again by ".."; the top serves hard links.
		 */
		if (!far[1].pinned) {
			cleanup_close(&far->fd);
			far->fd = -EBADF;
		}
	}
	return 0;
}

/* A name that is taken when a directory has to go there: *ret_linked if a link led to it. */
static int open_existing_dir(struct tree_writer *w, int dir, const char *name, bool *ret_linked,
			     struct error *err)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd >= 0)
		return fd;
	if (errno != ENOTDIR && errno != ELOOP)
		return fail(w, errno, "open", err);
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(w, errno, "look at", err);
	if (!S_ISLNK(st.st_mode))
		return error_set(err, w->opts.kind, ENOTDIR,
				 "cannot make the directory '%s': a file of that name exists",
				 buf_str(&w->path));
	if (!w->opts.open_linked_dir)
		return error_set(err, w->opts.kind, ELOOP,
				 "cannot write into '%s': it is a symbolic link",
				 buf_str(&w->path));
	*ret_linked = true;
	fd = w->opts.open_linked_dir(buf_str(&w->path), w->opts.userdata);
	return fd < 0 ? fail(w, -fd, "open", err) : fd;
}

static int begin_dir(struct tree_writer *w, int dir, const char *name, const struct tree_entry *e,
		     struct error *err)
{
	bool made = false, linked = false;
	int fd;

	/* Writable for ourselves until it is complete; the mode comes when it is left. */
	if (mkdirat(dir, name, 0700) == 0)
		made = true;
	else if (errno != EEXIST)
		return fail(w, errno, "make the directory", err);
	fd = open_existing_dir(w, dir, name, &linked, err);
	if (fd < 0)
		return fd;
	return push_level(w, fd, made, linked, e, err);
}

/* Access times are left alone. */
static void entry_times(const struct tree_entry *e, struct timespec ts[2])
{
	ts[0] = (struct timespec){.tv_nsec = UTIME_OMIT};
	ts[1] = (struct timespec){.tv_sec = e->mtime_sec, .tv_nsec = e->mtime_nsec};
}

/* On the descriptor, after the last write: the time would change with it, and a mode without the
 * owner's write bit would have been in the way. */
static int set_meta(struct tree_writer *w, int fd, const struct tree_entry *e, struct error *err)
{
	struct timespec ts[2];

	if (fchmod(fd, e->mode & w->opts.mode_mask) < 0)
		return fail(w, errno, "set the mode of", err);
	entry_times(e, ts);
	if (futimens(fd, ts) < 0)
		return fail(w, errno, "set the time of", err);
	return 0;
}

/* TREE_UP. A directory's time is set last, when nothing more is made in it. */
static int leave_dir(struct tree_writer *w, struct error *err)
{
	struct level *l, *up;
	struct stat st;
	int rc = 0;

	if (w->n_levels == 0)
		return malformed(w, "it leaves more directories than it enters", err);
	l = &w->levels[w->n_levels - 1];
	buf_truncate(&w->path, l->path_len);
	up = l - 1;
	if (w->n_levels > 1 && up->fd < 0) {
		up->fd = openat(l->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (up->fd < 0 || fstat(up->fd, &st) < 0)
			return fail(w, errno, "return from", err);
		if (st.st_dev != up->dev || st.st_ino != up->ino)
			return error_set(err, w->opts.kind, ESTALE,
					 "'%s' was moved while it was written", buf_str(&w->path));
	}
	if (l->made)
		rc = set_meta(w, l->fd, &l->meta, err);
	cleanup_close(&l->fd);
	w->n_levels--;
	return rc;
}

/* --- files --------------------------------------------------------------------------------- */

/* Something of that name is there: the new file is written beside it and takes its place at its
 * end. */
static int create_beside(struct tree_writer *w, int dir, const char *name, struct error *err)
{
	struct stat st;
	int fd;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(w, errno, "look at", err);
	if (S_ISDIR(st.st_mode))
		return error_set(err, w->opts.kind, EISDIR,
				 "cannot write the file '%s': a directory of that name exists",
				 buf_str(&w->path));
	for (;;) {
		snprintf(w->interim, sizeof(w->interim), ".assay-copy-%ld-%u", (long)getpid(),
			 w->counter++);
		fd = openat(dir, w->interim, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			    0600);
		if (fd >= 0)
			return fd;
		if (errno != EEXIST)
			return fail(w, errno, "create", err);
	}
}

/* Numbers come in order from 1; the path is what a later TREE_HARDLINK refers to. */
static int remember_link(struct tree_writer *w, uint32_t number, struct error *err)
{
	const char *below;

	if (number != w->n_links + 1 || number > TREE_LINKS_MAX)
		return malformed(w, "a link's number is out of order", err);
	if (w->n_levels == 0)
		return malformed(w, "a single file cannot have links", err);
	below = buf_str(&w->path) + w->levels[0].path_len;
	while (*below == '/')
		below++;
	/* Grows by doubling; a power of two is the moment. */
	if ((w->n_links & (w->n_links - 1)) == 0)
		w->links = xrealloc(w->links, MAX(w->n_links * 2, (size_t)1) * sizeof(*w->links));
	w->links[w->n_links++] = xstrdup(below);
	return 0;
}

/* TREE_FILE. 0600 until it is complete: nobody reads what is not yet to be read by them. */
static int begin_file(struct tree_writer *w, int dir, const char *name, const struct tree_entry *e,
		      struct error *err)
{
	int fd, rc;

	if (e->link > 0) {
		rc = remember_link(w, e->link, err);
		if (rc < 0)
			return rc;
	}
	*w->interim = 0;
	fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EEXIST) {
		fd = create_beside(w, dir, name, err);
		if (fd < 0)
			return fd;
	} else if (fd < 0) {
		return fail(w, errno, "create", err);
	}
	w->file = fd;
	w->meta = *e;
	w->written_end = 0;
	snprintf(w->final, sizeof(w->final), "%s", name);
	return 0;
}

int tree_writer_data(struct tree_writer *w, uint64_t offset, const void *data, size_t len,
		     struct error *err)
{
	const char *p = data;

	if (w->file < 0)
		return malformed(w, "data without a file", err);
	while (len > 0) {
		ssize_t n = pwrite(w->file, p, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(w, errno, "write", err);
		p += n;
		offset += n;
		len -= n;
	}
	w->written_end = MAX(w->written_end, offset);
	return 0;
}

/* A bind-mounted file (/etc/hosts in containers) can neither be replaced nor removed: its contents
 * are written anew, from the complete file beside it. */
static int overwrite(struct tree_writer *w, int dir, struct error *err)
{
	_cleanup_close_ int fd =
		openat(dir, w->final, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	off_t at = 0;
	ssize_t n;

	if (fd < 0)
		return fail(w, errno, "write", err);
	/* Holes become zeros here; a mounted file is small. */
	do
		n = sendfile(fd, w->file, &at, 16 * MIB);
	while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0 || unlinkat(dir, w->interim, 0) < 0)
		return fail(w, errno, "write", err);
	return 0;
}

int tree_writer_end_file(struct tree_writer *w, uint64_t size, struct error *err)
{
	int dir = current_dir(w), rc;

	if (w->file < 0)
		return malformed(w, "the end of a file that was not begun", err);
	/* A hole at its end, or a file that became shorter while it was read. */
	if (size != w->written_end && ftruncate(w->file, size) < 0)
		return fail(w, errno, "write", err);
	rc = set_meta(w, w->file, &w->meta, err);
	if (rc < 0)
		return rc;
	if (*w->interim && renameat(dir, w->interim, dir, w->final) < 0) {
		rc = errno == EBUSY ? overwrite(w, dir, err) : fail(w, errno, "replace", err);
		if (rc < 0)
			return rc;
	}
	/* Network file systems report a full disk here. */
	rc = close(TAKE_FD(w->file)) < 0 ? fail(w, errno, "write", err) : 0;
	return rc;
}

/* --- the rest ------------------------------------------------------------------------------ */

/* Runs make; if the name is taken by something that is not a directory, removes that and runs it
 * again. */
static int replace_with(struct tree_writer *w, int dir, const char *name,
			int (*make)(int dir, const char *name, const struct tree_entry *e),
			const struct tree_entry *e, struct error *err)
{
	if (make(dir, name, e) == 0)
		return 0;
	if (errno != EEXIST)
		return fail(w, errno, "create", err);
	if (unlinkat(dir, name, 0) < 0)
		return fail(w, errno, "replace", err);
	return make(dir, name, e) == 0 ? 0 : fail(w, errno, "create", err);
}

static int make_symlink(int dir, const char *name, const struct tree_entry *e)
{
	return symlinkat(e->target, dir, name);
}

static int make_node(int dir, const char *name, const struct tree_entry *e)
{
	mode_t type = e->type == TREE_FIFO ? S_IFIFO : e->type == TREE_CHAR ? S_IFCHR : S_IFBLK;

	return mknodat(dir, name, type | 0600, makedev(e->major, e->minor));
}

static int write_symlink(struct tree_writer *w, int dir, const char *name,
			 const struct tree_entry *e, struct error *err)
{
	struct timespec ts[2];
	int rc = replace_with(w, dir, name, make_symlink, e, err);

	if (rc < 0)
		return rc;
	entry_times(e, ts);
	utimensat(dir, name, ts, AT_SYMLINK_NOFOLLOW); /* not every file system can */
	return 0;
}

/* A fifo or a device. Devices need root; the error says so. */
static int write_node(struct tree_writer *w, int dir, const char *name, const struct tree_entry *e,
		      struct error *err)
{
	struct timespec ts[2];
	int rc;

	if (w->opts.skip_special)
		return 0;
	rc = replace_with(w, dir, name, make_node, e, err);
	if (rc < 0)
		return rc;
	/* It is ours and new, so it is no link; fchmodat without AT_SYMLINK_NOFOLLOW is what musl
	 * and old kernels have. */
	if (fchmodat(dir, name, e->mode & w->opts.mode_mask, 0) < 0)
		return fail(w, errno, "set the mode of", err);
	entry_times(e, ts);
	if (utimensat(dir, name, ts, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(w, errno, "set the time of", err);
	return 0;
}

/* Opens the directory of a path below the top, one component at a time. */
static int open_link_parent(struct tree_writer *w, const char *below, const char **ret_name)
{
	_cleanup_close_ int dir = fcntl(w->levels[0].fd, F_DUPFD_CLOEXEC, 3);
	_cleanup_buf_ struct buf full = {};
	const char *slash;

	buf_append(&full, w->path.data, w->levels[0].path_len);
	while (dir >= 0 && (slash = strchr(below, '/'))) {
		char name[TREE_NAME_MAX + 1];
		int next;

		snprintf(name, sizeof(name), "%.*s", (int)(slash - below), below);
		buf_printf(&full, "/%s", name);
		next = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0 && w->opts.open_linked_dir && (errno == ENOTDIR || errno == ELOOP))
			next = w->opts.open_linked_dir(buf_str(&full), w->opts.userdata);
		else if (next < 0)
			next = -errno;
		if (next < 0)
			return next;
		close(dir);
		dir = next;
		below = slash + 1;
	}
	*ret_name = below;
	return dir < 0 ? -errno : TAKE_FD(dir);
}

static int write_hardlink(struct tree_writer *w, int dir, const char *name,
			  const struct tree_entry *e, struct error *err)
{
	_cleanup_close_ int from = -EBADF;
	const char *target;

	if (e->link == 0 || e->link > w->n_links || w->n_levels == 0)
		return malformed(w, "a link to a file that was not there", err);
	from = open_link_parent(w, w->links[e->link - 1], &target);
	if (from < 0)
		return fail(w, -from, "make the link", err);
	/* Flags 0: should the first name have become a symbolic link, the link itself is linked. */
	if (linkat(from, target, dir, name, 0) == 0)
		return 0;
	if (errno == EEXIST && unlinkat(dir, name, 0) == 0 &&
	    linkat(from, target, dir, name, 0) == 0)
		return 0;
	return fail(w, errno, "make the link", err);
}

int tree_writer_entry(struct tree_writer *w, const struct tree_entry *e, struct error *err)
{
	const char *name = e->name;
	int dir = current_dir(w);

	if (w->file >= 0)
		return malformed(w, "an entry within a file's data", err);
	if (e->type == TREE_UP)
		return leave_dir(w, err);
	if (w->n_levels == 0) {
		if (w->have_top)
			return malformed(w, "more than one top", err);
		w->have_top = true;
		name = w->name;
	} else {
		/* The decoder has looked as well; this is where it would hurt. */
		if (!tree_name_is_valid(name, strlen(name)))
			return malformed(w, "a name that is none", err);
		buf_truncate(&w->path, w->levels[w->n_levels - 1].path_len);
		enter_name(w, name);
	}
	switch (e->type) {
	case TREE_DIR:
		return begin_dir(w, dir, name, e, err);
	case TREE_FILE:
		return begin_file(w, dir, name, e, err);
	case TREE_SYMLINK:
		return write_symlink(w, dir, name, e, err);
	case TREE_HARDLINK:
		return write_hardlink(w, dir, name, e, err);
	case TREE_FIFO:
	case TREE_CHAR:
	case TREE_BLOCK:
		return write_node(w, dir, name, e, err);
	default:
		return malformed(w, "an entry of unknown type", err);
	}
}
