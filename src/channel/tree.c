/* SPDX-License-Identifier: MIT */
/* Copies file trees between the host and the guest. */
#include "base/tree.h"

#include <fcntl.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "channel/agent.h"
#include "channel/call.h"
#include "proto/tree-wire.h"

/*
 * In: the host's tree is taken apart and its stream sent as credit allows; an error of the guest
 * (a full disk, a directory in the way) ends the call, and its reply has the reason.
 *
 * Out: what comes is the work of a guest that may be hostile. The decoder checks every record; the
 * writer uses each name as one component below a descriptor, follows no link, makes no device, and
 * drops set-user-ID and set-group-ID bits (the test may run as root on the host).
 *
 * Not carried over: owners (in: root; out: the user who runs Assay), extended attributes, ACLs,
 * sockets; out also: fifos and devices. A directory that exists is added to.
 */

#define SEND_BYTES (128 * KIB)

/* --- in ------------------------------------------------------------------------------------ */

/* Appends more of the stream to out, about SEND_BYTES. 1 when the tree is at its end. */
static int encode_more(struct tree_reader *r, bool *in_file, uint64_t *entries, struct buf *out,
		       struct error *err)
{
	while (out->len < SEND_BYTES) {
		struct tree_entry e;
		uint64_t offset;
		ssize_t n;

		if (!*in_file) {
			n = tree_reader_next(r, &e, err);
			if (n < 0)
				return n;
			if (n == 0) {
				tree_encode_finish(out, *entries);
				return 1;
			}
			tree_encode_entry(out, &e);
			*entries += e.type != TREE_UP;
			*in_file = e.type == TREE_FILE;
			continue;
		}
		buf_reserve(out, TREE_WIRE_DATA_HEAD + SEND_BYTES);
		n = tree_reader_data(r, out->data + out->len + TREE_WIRE_DATA_HEAD, SEND_BYTES,
				     &offset, err);
		if (n < 0)
			return n;
		if (n == 0) {
			tree_encode_end_file(out, offset);
			*in_file = false;
		} else {
			tree_encode_data_head((uint8_t *)out->data + out->len, offset, n);
			out->len += TREE_WIRE_DATA_HEAD + n;
		}
	}
	return 0;
}

/* 0 also when the guest has ended the call: its reply, which the caller waits for, tells why. */
static int send_tree(struct agent_call *c, struct tree_reader *r, uint64_t deadline,
		     uint64_t timeout_ns, struct error *err)
{
	_cleanup_buf_ struct buf out = {};
	bool in_file = false;
	uint64_t entries = 0;
	int end, rc;

	tree_encode_start(&out);
	do {
		struct error failed = {};

		end = encode_more(r, &in_file, &entries, &out, err);
		if (end < 0)
			return end;
		rc = agent_call_write(c, WIRE_STREAM_IN, out.data, out.len, end, deadline,
				      timeout_ns, &failed);
		/* It is over, or late: agent_call_wait() tells why and how far it came. */
		if (rc < 0 && rc != -EPIPE && failed.kind != ERROR_TIMEOUT)
			return error_propagate(err, &failed);
		buf_truncate(&out, 0);
	} while (!end && rc >= 0);
	return 0;
}

/* Follows a link that is given by name; those inside the tree are copied as links. */
static int open_source(const char *path, struct error *err)
{
	struct stat st;
	int fd;

	if (stat(path, &st) < 0)
		return error_set_errno(err, ERROR_USAGE, errno, "cannot copy '%s'", path);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return error_set(err, ERROR_USAGE, EINVAL,
				 "cannot copy '%s': it is neither a file nor a directory", path);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? error_set_errno(err, ERROR_USAGE, errno, "cannot copy '%s'", path) : fd;
}

/* The last part of a path, as a directory would list it. */
static char *name_of(const char *path)
{
	_cleanup_free_ char *full = path_absolute(path);

	return xstrdup(path_basename(full));
}

int agent_copy_in(struct agent *a, const char *host_src, const char *guest_dst, uint64_t timeout_ns,
		  struct error *err)
{
	_cleanup_free_ char *what = xasprintf("the copy of '%s' to '%s'", host_src, guest_dst);
	_cleanup_free_ char *name = name_of(host_src);
	_cleanup_(cleanup_tree_reader) struct tree_reader *r = NULL;
	_cleanup_agent_call_ struct agent_call *c = NULL;
	uint64_t deadline = deadline_in(timeout_ns);
	_cleanup_buf_ struct buf body = {};
	struct wire_fields reply;
	int fd, rc;

	fd = open_source(host_src, err);
	if (fd < 0)
		return fd;
	r = tree_reader_new(fd, host_src, ERROR_USAGE);
	wire_put_str(&body, TAG_PATH, guest_dst);
	/* Of "/" there is no name; it is a directory and needs none. */
	wire_put_str(&body, TREE_TAG_SOURCE_NAME, *name ? name : "root");
	rc = agent_call_start(a, WIRE_OP_COPY_IN, &body, what, deadline, &c, err);
	if (rc < 0)
		return rc;
	rc = send_tree(c, r, deadline, timeout_ns, err);
	if (rc < 0)
		return rc;
	return agent_call_wait(c, deadline, timeout_ns, &reply, err);
}

/* --- out ----------------------------------------------------------------------------------- */

struct receiver {
	const char *guest_src;
	char *path; /* where it goes */
	int parent;
	struct tree_decoder decoder;
	struct tree_writer *writer;
};

static void receiver_done(struct receiver *v)
{
	tree_writer_free(v->writer);
	cleanup_close(&v->parent);
	free(v->path);
}

/* Opens where the top goes: a directory that exists is merged into, a file goes into one. */
static int begin_tree(struct receiver *v, bool is_dir, struct error *err)
{
	struct tree_writer_opts opts = {
		.kind = ERROR_INFRA,
		.mode_mask = 01777, /* see above */
		.skip_special = true,
	};
	_cleanup_free_ char *name = NULL, *dir = NULL, *full = NULL;
	bool exists = path_is_dir(v->path);
	int rc;

	if (exists && !is_dir) {
		_cleanup_free_ char *base = name_of(v->guest_src);

		full = path_join(v->path, *base ? base : "root");
	}
	if (full) {
		free(v->path);
		v->path = TAKE_PTR(full);
	}
	full = path_absolute(v->path);
	dir = exists && is_dir ? xstrdup(full) : path_dirname(full);
	name = xstrdup(exists && is_dir ? "." : path_basename(full));
	rc = path_make_dirs(dir, 0777, err);
	if (rc < 0)
		return rc;
	v->parent = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (v->parent < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot open '%s'", dir);
	opts.path = v->path;
	v->writer = tree_writer_new(v->parent, name, &opts);
	return 0;
}

static int take_item(struct receiver *v, const struct tree_item *item, struct error *err)
{
	int rc;

	switch (item->record) {
	case TREE_RECORD_ENTRY:
		if (!v->writer) {
			rc = begin_tree(v, item->entry.type == TREE_DIR, err);
			if (rc < 0)
				return rc;
		}
		return tree_writer_entry(v->writer, &item->entry, err);
	case TREE_RECORD_DATA:
		return tree_writer_data(v->writer, item->offset, item->data, item->len, err);
	case TREE_RECORD_END_FILE:
		return tree_writer_end_file(v->writer, item->size, err);
	default:
		return 0;
	}
}

/* Everything that can be decoded of these bytes; the decoder keeps what is cut. */
static int take_bytes(struct receiver *v, const uint8_t *data, size_t len, struct error *err)
{
	for (;;) {
		struct tree_item item;
		int rc, n = tree_decode(&v->decoder, &data, &len, &item);

		if (n == 0)
			return 0;
		if (n < 0)
			return error_set(err, ERROR_INFRA, EBADMSG,
					 "the agent sent a damaged tree for '%s'", v->guest_src);
		rc = take_item(v, &item, err);
		if (rc < 0)
			return rc;
	}
}

int agent_copy_out(struct agent *a, const char *guest_src, const char *host_dst,
		   uint64_t timeout_ns, struct error *err)
{
	_cleanup_free_ char *what = xasprintf("the copy of '%s' from the machine", guest_src);
	_cleanup_(receiver_done) struct receiver v = {
		.guest_src = guest_src,
		.path = xstrdup(host_dst),
		.parent = -EBADF,
	};
	_cleanup_agent_call_ struct agent_call *c = NULL;
	uint64_t deadline = deadline_in(timeout_ns);
	_cleanup_buf_ struct buf body = {};
	struct wire_fields reply;
	const uint8_t *data;
	ssize_t n;
	int rc;

	wire_put_str(&body, TAG_PATH, guest_src);
	rc = agent_call_start(a, WIRE_OP_COPY_OUT, &body, what, deadline, &c, err);
	if (rc < 0)
		return rc;
	for (;;) {
		struct error late = {};

		n = agent_call_peek(c, WIRE_STREAM_OUT, &data, deadline, timeout_ns, &late);
		if (n < 0 && late.kind != ERROR_TIMEOUT)
			return error_propagate(err, &late);
		if (n <= 0)
			break;
		rc = take_bytes(&v, data, n, err);
		if (rc < 0)
			return rc;
		agent_call_consume(c, WIRE_STREAM_OUT, n);
	}
	rc = agent_call_wait(c, deadline, timeout_ns, &reply, err);
	if (rc < 0)
		return rc;
	if (!v.decoder.finished)
		return error_set(err, ERROR_INFRA, EBADMSG, "the tree of '%s' ended before its end",
				 guest_src);
	return 0;
}
