/* SPDX-License-Identifier: MIT */
/* Copies file trees into the guest and out of it. */
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "agent/agent.h"
#include "base/file.h"
#include "base/str.h"
#include "base/tree.h"
#include "proto/tree-wire.h"

/*
 * Both directions run inside the agent's loop, a chunk at a time: reading and writing files does
 * not wait for others (unlike a pipe to a child, it costs no copy either). Names of the guest's are
 * resolved in the guest's root; what is below a tree's top, by descriptors.
 */

/* --- out ----------------------------------------------------------------------------------- */

struct copy_out {
	struct agent_call *call;
	char *path;
	struct tree_reader *reader;
	struct buf pending; /* encoded, and not sent */
	bool in_file, finished;
	uint64_t entries;
};

/* Less room than this is not worth a record of data in place. */
#define DATA_WORTH 1024

static int open_source(const char *path)
{
	_cleanup_close_ int fd = agent_openat_root(path, O_PATH | O_CLOEXEC, 0);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	/* Opening a device or a fifo for reading might have an effect. */
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return TAKE_FD(fd);
	return agent_openat_root(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
}

/* Encodes the next entry, or the end of the tree, into o->pending. */
static int next_entry(struct copy_out *o, struct error *err)
{
	struct tree_entry e;
	int n = tree_reader_next(o->reader, &e, err);

	if (n < 0)
		return n;
	if (n == 0) {
		tree_encode_finish(&o->pending, o->entries);
		o->finished = true;
		return 0;
	}
	tree_encode_entry(&o->pending, &e);
	o->entries += e.type != TREE_UP;
	o->in_file = e.type == TREE_FILE;
	return 0;
}

/* Puts data of the open file at place; the bytes used, 0 at its end. */
static ssize_t put_data(struct copy_out *o, uint8_t *place, size_t room, struct error *err)
{
	uint64_t offset;
	ssize_t n =
		tree_reader_data(o->reader, place + TREE_WIRE_DATA_HEAD,
				 MIN(room - TREE_WIRE_DATA_HEAD, TREE_WIRE_DATA_MAX), &offset, err);

	if (n < 0)
		return n;
	if (n == 0) {
		tree_encode_end_file(&o->pending, offset);
		o->in_file = false;
		return 0;
	}
	tree_encode_data_head(place, offset, n);
	return n + TREE_WIRE_DATA_HEAD;
}

/* Fills place with the stream's next bytes; how many, or an error. */
static ssize_t fill(struct copy_out *o, uint8_t *place, size_t room, struct error *err)
{
	size_t used = 0;

	for (;;) {
		if (o->pending.len > 0) {
			size_t n = MIN(room - used, o->pending.len);

			memcpy(place + used, o->pending.data, n);
			buf_consume(&o->pending, n);
			used += n;
		}
		if (o->finished || o->pending.len > 0)
			return used;
		if (o->in_file) {
			uint8_t small[TREE_WIRE_DATA_HEAD + DATA_WORTH];
			bool direct = room - used >= sizeof(small);
			ssize_t n;

			if (!direct && used > 0)
				return used;
			n = direct ? put_data(o, place + used, room - used, err)
				   : put_data(o, small, sizeof(small), err);
			if (n < 0)
				return n;
			if (direct)
				used += n;
			else
				buf_append(&o->pending, small, n);
		} else {
			int rc = next_entry(o, err);

			if (rc < 0)
				return rc;
		}
	}
}

static void out_writable(struct agent_call *c, unsigned stream)
{
	struct copy_out *o = call_state(c);
	struct error err = {};
	size_t max;
	uint8_t *place = call_data_begin(c, stream, &max);
	ssize_t n;

	if (!place)
		return;
	n = fill(o, place, max, &err);
	if (n < 0) {
		call_data_commit(c, stream, 0, false);
		call_reply_err(c, &err);
		return;
	}
	call_data_commit(c, stream, n, false);
	if (!o->finished || o->pending.len > 0)
		return;
	call_data_fin(c, stream);
	call_reply(c, NULL);
}

static void out_start(struct agent_call *c, const struct wire_fields *in)
{
	struct copy_out *o = call_state(c);
	int fd;

	o->call = c;
	o->path = wire_dup_str(in, TAG_PATH, PATH_MAX);
	if (!o->path || !*o->path) {
		call_reply_error(c, ERROR_USAGE, EINVAL, "no path to copy from");
		return;
	}
	fd = open_source(o->path);
	if (fd < 0) {
		call_reply_error(c, ERROR_EXPECT, -fd,
				 fd == -ENOENT ? "'%s' does not exist in the machine"
					       : "cannot open '%s' in the machine: %s",
				 o->path, strerror(-fd));
		return;
	}
	o->reader = tree_reader_new(fd, o->path, ERROR_EXPECT);
	tree_encode_start(&o->pending);
	call_want_write(c, WIRE_STREAM_OUT, true);
}

static void out_cancel(struct agent_call *c, enum wire_cancel reason)
{
	struct copy_out *o = call_state(c);

	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "%llu entries were copied until then",
			 (unsigned long long)o->entries);
}

static void out_end(struct agent_call *c)
{
	struct copy_out *o = call_state(c);

	tree_reader_free(o->reader);
	buf_done(&o->pending);
	free(o->path);
}

const struct agent_op agent_op_copy_out = {
	.op = WIRE_OP_COPY_OUT,
	.name = "copy-out",
	.size = sizeof(struct copy_out),
	.start = out_start,
	.on_writable = out_writable,
	.on_cancel = out_cancel,
	.end = out_end,
};

/* --- in ------------------------------------------------------------------------------------ */

struct copy_in {
	struct agent_call *call;
	char *path;   /* where it goes */
	char *source; /* what the source is called, for a file that goes into a directory */
	struct tree_decoder decoder;
	struct tree_writer *writer;
	int parent;
	uint64_t entries;
};

/* A directory in the guest's root, made with those above it if it is missing; O_PATH. */
static int make_dirs(const char *path, struct error *err)
{
	_cleanup_free_ char *part = xstrdup(path);
	_cleanup_close_ int fd = agent_root_open();
	char *end = part;

	while (fd >= 0) {
		char saved;
		int next;

		end += strspn(end, "/");
		if (!*end)
			return TAKE_FD(fd);
		end += strcspn(end, "/");
		saved = *end;
		*end = 0;
		next = agent_openat_root(part, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
		if (next == -ENOENT) {
			if (mkdirat(fd, strrchr(part, '/') ? strrchr(part, '/') + 1 : part, 0755) <
				    0 &&
			    errno != EEXIST)
				return error_set_errno(err, ERROR_EXPECT, errno,
						       "cannot make the directory '%s'", part);
			next = agent_openat_root(part, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
		}
		if (next < 0)
			return error_set_errno(err, ERROR_EXPECT, -next,
					       "cannot enter the directory '%s'", part);
		*end = saved;
		close(fd);
		fd = next;
	}
	return error_set_errno(err, ERROR_INFRA, -fd, "cannot enter the machine's root");
}

/* A directory link that lies in the way (/lib of a merged /usr) is followed, inside the guest's
 * root. */
static int open_linked_dir(const char *path, void *userdata)
{
	return agent_openat_root(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
}

/* Where the tree's top goes: *ret_name in i->parent. */
static int open_destination(struct copy_in *i, bool is_dir, char **ret_name, struct error *err)
{
	size_t len = strlen(i->path);
	bool slash = len > 0 && i->path[len - 1] == '/';
	_cleanup_free_ char *dir = NULL;
	char *last;

	/* A directory that exists is merged with; this also finds those that a link leads to, and
	 * "/". */
	i->parent = agent_openat_root(i->path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (i->parent >= 0 && is_dir) {
		*ret_name = xstrdup(".");
		return 0;
	}
	/* A file goes into a directory, as with cp(1). */
	if (i->parent >= 0 || (slash && !is_dir)) {
		char *full = xasprintf("%s%s%s", i->path, slash ? "" : "/", i->source);

		free(i->path);
		i->path = full;
		cleanup_close(&i->parent);
		i->parent = -EBADF;
	}
	while (len > 1 && i->path[strlen(i->path) - 1] == '/')
		i->path[strlen(i->path) - 1] = 0;
	last = strrchr(i->path, '/');
	*ret_name = xstrdup(last ? last + 1 : i->path);
	dir = xstrndup(i->path, last ? last - i->path : 0);
	if (!tree_name_is_valid(*ret_name, strlen(*ret_name)))
		return error_set(err, ERROR_USAGE, EINVAL, "'%s' is no name to copy to", i->path);
	i->parent = make_dirs(dir, err);
	return i->parent < 0 ? i->parent : 0;
}

/* The first entry is there, so it is known whether a file or a directory comes. */
static int begin_tree(struct copy_in *i, bool is_dir, struct error *err)
{
	_cleanup_free_ char *name = NULL;
	struct tree_writer_opts opts = {
		.kind = ERROR_EXPECT,
		.mode_mask = 07777,
		.open_linked_dir = open_linked_dir,
	};
	int rc = open_destination(i, is_dir, &name, err);

	if (rc < 0)
		return rc;
	opts.path = i->path;
	i->writer = tree_writer_new(i->parent, name, &opts);
	return 0;
}

static int take_item(struct copy_in *i, const struct tree_item *item, struct error *err)
{
	int rc;

	switch (item->record) {
	case TREE_RECORD_ENTRY:
		if (!i->writer) {
			rc = begin_tree(i, item->entry.type == TREE_DIR, err);
			if (rc < 0)
				return rc;
		}
		i->entries += item->entry.type != TREE_UP;
		return tree_writer_entry(i->writer, &item->entry, err);
	case TREE_RECORD_DATA:
		return tree_writer_data(i->writer, item->offset, item->data, item->len, err);
	case TREE_RECORD_END_FILE:
		return tree_writer_end_file(i->writer, item->size, err);
	default:
		return 0;
	}
}

/* Credit is given back only for what is written, so the host never runs ahead of the disk. */
static void in_data(struct agent_call *c, unsigned stream, const uint8_t *data, size_t len,
		    bool fin)
{
	struct copy_in *i = call_state(c);
	struct error err = {};
	size_t granted = len;
	int n, rc = 0;

	do {
		struct tree_item item;

		n = tree_decode(&i->decoder, &data, &len, &item);
		if (n > 0)
			rc = take_item(i, &item, &err);
	} while (n > 0 && rc >= 0);
	if (n < 0 || (rc >= 0 && fin && !i->decoder.finished))
		rc = error_set(&err, ERROR_INFRA, EBADMSG, "the tree that came for '%s' is damaged",
			       i->path);
	if (rc < 0)
		call_reply_err(c, &err);
	else if (fin)
		call_reply(c, NULL);
	else
		call_grant(c, stream, granted);
}

static void in_start(struct agent_call *c, const struct wire_fields *in)
{
	struct copy_in *i = call_state(c);

	i->call = c;
	i->parent = -EBADF;
	i->path = wire_dup_str(in, TAG_PATH, PATH_MAX);
	i->source = wire_dup_str(in, TREE_TAG_SOURCE_NAME, TREE_NAME_MAX);
	if (!i->path || !*i->path || !i->source ||
	    !tree_name_is_valid(i->source, strlen(i->source)))
		call_reply_error(c, ERROR_USAGE, EINVAL, "no path to copy to");
}

static void in_cancel(struct agent_call *c, enum wire_cancel reason)
{
	struct copy_in *i = call_state(c);

	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "%llu entries were copied until then",
			 (unsigned long long)i->entries);
}

static void in_end(struct agent_call *c)
{
	struct copy_in *i = call_state(c);

	tree_writer_free(i->writer);
	cleanup_close(&i->parent);
	free(i->path);
	free(i->source);
}

const struct agent_op agent_op_copy_in = {
	.op = WIRE_OP_COPY_IN,
	.name = "copy-in",
	.size = sizeof(struct copy_in),
	.start = in_start,
	.on_data = in_data,
	.on_cancel = in_cancel,
	.end = in_end,
};
