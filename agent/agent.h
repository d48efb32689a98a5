/* SPDX-License-Identifier: MIT */
/* The guest agent's inside: its poll loop, its calls, and how an operation is written. */
#pragma once

#include <stdio.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/error.h"
#include "proto/agent-wire.h"

/*
 * Theory of operation
 *
 * One process, one thread, one poll(2). An operation is a `const struct agent_op`, listed in
 * registry.c. When its CALL has arrived in full, the core makes a `struct agent_call` and runs
 * op->start, which answers at once (call_reply) or registers descriptors, timers and children and
 * answers later from their callbacks. No callback may block: what must block (name look-ups, a
 * FUSE mount) goes into a child (agent_fork). Each call gets exactly one reply, after which the
 * core runs op->end and frees the call; the operation must not touch it after call_reply().
 *
 * The agent keeps no descriptor, no working directory and no root in the guest's file system:
 * at each operation it enters the root that PID 1 has at that moment, by agent_root_open() (and
 * agent_openat_root()) or in a child made by agent_fork().
 *
 * Memory is bounded: outgoing bytes go into one buffer of fixed size; who has more to send waits
 * for on_writable. Incoming data of a stream is bounded by the window that the operation opens with
 * call_grant().
 */

struct agent_call;

struct agent_op {
	uint16_t op;
	const char *name; /* for messages */
	size_t size;	  /* of the operation's own state, zeroed: call_state() */
	/* When the guest is a copy of a saved one, the host that began the call is another's: the
	 * call goes on to its end with nobody to hear it (what it sends by call_data_read() and
	 * call_reply() is dropped). Without this it is ended. */
	bool lives_on;
	/* The body has been checked to be valid fields; it lives until start returns. */
	void (*start)(struct agent_call *c, const struct wire_fields *in);
	/* Bytes from the host, len 0 only with fin. Never more than was granted; grant what has
	 * been consumed. NULL: DATA is a protocol error. */
	void (*on_data)(struct agent_call *c, unsigned stream, const uint8_t *data, size_t len,
			bool fin);
	/* A MESSAGE of the host. May be NULL. */
	void (*on_message)(struct agent_call *c, const struct wire_fields *in);
	/* There is room to send on a stream for which call_want_write() is on. */
	void (*on_writable)(struct agent_call *c, unsigned stream);
	/* CANCEL: must reply, now or soon. After WIRE_CANCEL_TIMEOUT the reply is
	 * call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "<what was seen instead>"). NULL: the core
	 * replies ECANCELED. */
	void (*on_cancel)(struct agent_call *c, enum wire_cancel reason);
	/* Releases what start and later made; also called when the host went away without a reply.
	 */
	void (*end)(struct agent_call *c);
};

extern const struct agent_op *const agent_ops[]; /* registry.c; NULL-terminated */

/* --- calls ------------------------------------------------------------------------------------ */

void *call_state(struct agent_call *c);
/* Success; fields may be NULL. Frees the call (runs op->end). */
void call_reply(struct agent_call *c, const struct buf *fields);
void call_reply_error(struct agent_call *c, enum error_kind kind, int code, const char *fmt, ...)
	_printf_(4, 5);
void call_reply_err(struct agent_call *c, const struct error *err);
/* A MESSAGE within the call. Small (it may exceed the out buffer's limit a little). */
void call_message(struct agent_call *c, const struct buf *fields);
/* How many bytes may be sent on the stream now: min of credit, room and WIRE_DATA_CHUNK. */
size_t call_writable(const struct agent_call *c, unsigned stream);
/* Calls op->on_writable when call_writable() > 0, again and again while it is on. */
void call_want_write(struct agent_call *c, unsigned stream, bool on);
/*
 * Sends DATA without a copy: begin gives a place for up to *ret_max bytes (NULL when there is no
 * room or credit), commit sends len of them. Nothing else may be sent between the two. A commit of
 * 0 bytes without fin sends nothing.
 */
void *call_data_begin(struct agent_call *c, unsigned stream, size_t *ret_max);
void call_data_commit(struct agent_call *c, unsigned stream, size_t len, bool fin);
/* Reads from fd straight into frames: many at once, up to max bytes, as credit and room allow. What
 * read(2) returns, or -errno; -EBUSY: no credit or room, see call_want_write(). */
ssize_t call_data_read(struct agent_call *c, unsigned stream, int fd, size_t max);
/* The end of a stream; needs no room. */
void call_data_fin(struct agent_call *c, unsigned stream);
/* In on_data: the host has more of this stream at hand, so it is on its way. Passing bytes on in
 * large pieces saves switches between processes, which under emulation cost more than the bytes. */
bool call_more_follows(const struct agent_call *c);
/* The host may send n more bytes. Batched by the core. */
void call_grant(struct agent_call *c, unsigned stream, size_t n);

/* --- the loop --------------------------------------------------------------------------------- */

/* Embed these; add and remove as you like, also from their own callbacks. */
struct agent_source {
	int fd;
	short events; /* POLLIN, POLLOUT, POLLPRI; may be changed at any time. 0: not polled at all
		       */
	void (*fn)(struct agent_source *s, short revents);
	struct agent_source *next;
	bool active;
};
void agent_source_add(struct agent_source *s);
void agent_source_remove(struct agent_source *s); /* harmless when not added; closes nothing */

struct agent_timer {
	uint64_t at_ns;			   /* CLOCK_MONOTONIC */
	void (*fn)(struct agent_timer *t); /* it has been removed when this is called */
	struct agent_timer *next;
	bool active;
};
void agent_timer_set(struct agent_timer *t, uint64_t at_ns);
void agent_timer_remove(struct agent_timer *t);
uint64_t agent_now_ns(void); /* CLOCK_MONOTONIC */

struct agent_child {
	pid_t pid;
	void (*fn)(struct agent_child *c, int status); /* reaped, removed */
	struct agent_child *next;
	bool active;
};
/* Watches a child that was forked with agent_fork(). */
void agent_child_add(struct agent_child *c);
void agent_child_remove(struct agent_child *c); /* it is reaped all the same, later */

/* --- the guest's root --------------------------------------------------------------------------
 */

/* O_PATH descriptor of the root that PID 1 has now (our own "/" with --stdio). -errno. */
int agent_root_open(void);
/* Opens a path there, ".." and absolute links resolved inside it (openat2, RESOLVE_IN_ROOT).
 * For /proc paths of the guest use agent_proc_fd(). -errno. */
int agent_openat_root(const char *path, int flags, mode_t mode);
/* A descriptor of a procfs of our own; openat(agent_proc_fd(), "1/stat", …). */
int agent_proc_fd(void);

#define AGENT_FORK_KEEP_FDS 8
/*
 * Forks a child that is in the guest's root and its "/", with default signals, oom_score_adj 0, a
 * session of its own, stdin, stdout, stderr from fds[0..2] (-1: /dev/null) and only those of the
 * agent's descriptors that are listed in `keep` (closed-on-exec there). Runs fn there and _exits
 * with what it returns. The child may allocate and block. Returns its pid, or -errno.
 */
struct agent_fork_opts {
	int fds[3];
	int keep[AGENT_FORK_KEEP_FDS];
	size_t n_keep;
	int cgroup_fd; /* -1: the agent's own cgroup */
	int error_fd;  /* 0: none; gets a line that says why fn was not reached; kept, too */
};
pid_t agent_fork(const struct agent_fork_opts *opts, int (*fn)(void *userdata), void *userdata);

/* True if the guest's PID 1 is systemd (its root has /run/systemd/system). */
bool agent_is_systemd(void);
/* A line for the console ("assay-agent: …"), and stderr with --stdio. */
void agent_log(const char *fmt, ...) _printf_(1, 2);
