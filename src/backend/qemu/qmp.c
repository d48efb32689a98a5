/* SPDX-License-Identifier: MIT */
/* The QMP client: two fibers for the bytes, a list of calls that wait for their replies. */
#include "backend/qemu/qmp.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/str.h"
#include "loop/loop.h"
#include "proto/json-stream.h"

/*
 * Protocol: QEMU's docs/interop/qmp-spec. The server greets with {"QMP": …}, accepts only
 * qmp_capabilities until that was sent, and answers each command with its "id". Events come at
 * any time after that; none before, so a client that wants all of them starts QEMU with -S.
 *
 * A call is a struct on its caller's stack, linked into `calls` while it waits. One that gave up
 * (time-out, cancelled) has unlinked itself; the reply that comes later finds nobody and is
 * dropped. Outgoing bytes are appended to `out`, from where the writer takes them; a descriptor
 * that goes with them waits in `out_fd`, and where in `out` it belongs in `out_fd_at`.
 */

#define READ_CHUNK_BYTES 16384

struct qmp_pending {
	uint64_t id;
	json_t *reply; /* owned */
	struct waiters waiters;
	struct qmp_pending *next;
};

struct qmp {
	struct io *io;
	const struct qmp_callbacks *cb;
	void *userdata;
	struct fiber *reader, *writer;

	struct json_stream stream;
	json_t *greeting;
	bool ended;	      /* the reader has seen the end of the stream */
	struct error failed;  /* why no call can succeed any more */
	struct waiters state; /* greeting, ended, failed changed */

	uint64_t last_id;
	struct qmp_pending *calls;
	unsigned n_users; /* fibers inside of a function that waits */

	struct buf out;
	int out_fd; /* < 0: none */
	size_t out_fd_at;
	bool fd_busy; /* a call with a descriptor is under way */
	struct waiters fd_waiters;
	bool closing;
	struct waiters out_changed;
};

/* --- Coming in ------------------------------------------------------------------------------ */

static void take_event(struct qmp *q, const char *name, json_t *message)
{
	log_debug("QMP event %s", name);
	q->cb->on_event(name, json_object_get(message, "data"), now_ns(), q->userdata);
}

static void take_reply(struct qmp *q, json_t *message)
{
	json_t *id = json_object_get(message, "id");

	for (struct qmp_pending *c = q->calls; c; c = c->next) {
		if (json_integer_value(id) != (json_int_t)c->id || c->reply)
			continue;
		c->reply = json_incref(message);
		waiters_wake_all(&c->waiters);
		return;
	}
	log_debug("QMP: a reply nobody waits for any more");
}

static int take_message(struct qmp *q, const struct buf *text, struct error *err)
{
	json_error_t jerr;
	json_t *message = json_loadb(text->data, text->len, JSON_REJECT_DUPLICATES, &jerr);
	const char *event;
	int r = 0;

	if (!message)
		return error_set(err, ERROR_INFRA, EBADMSG, "QMP sent invalid JSON: %s", jerr.text);
	event = json_string_value(json_object_get(message, "event"));
	if (event) {
		take_event(q, event, message);
	} else if (json_object_get(message, "return") || json_object_get(message, "error")) {
		take_reply(q, message);
	} else if (json_is_object(json_object_get(message, "QMP")) && !q->greeting) {
		q->greeting = json_incref(message);
		waiters_wake_all(&q->state);
	} else {
		r = error_set(err, ERROR_INFRA, EBADMSG,
			      "QMP sent something that is neither event nor reply: %.200s",
			      text->data);
	}
	json_decref(message);
	return r;
}

static int take_bytes(struct qmp *q, const char *data, size_t len, struct error *err)
{
	while (len > 0) {
		size_t used;
		int r = json_stream_feed(&q->stream, data, len, &used);

		if (r == -EMSGSIZE)
			return error_set(err, ERROR_INFRA, EMSGSIZE,
					 "QMP sent a message larger than %llu MiB",
					 QMP_MESSAGE_MAX_BYTES / MIB);
		if (r < 0)
			return error_set(err, ERROR_INFRA, -r,
					 "QMP sent something that is no JSON");
		data += used;
		len -= used;
		if (r == 1) {
			r = take_message(q, &q->stream.text, err);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int read_all(struct qmp *q, struct error *err)
{
	_cleanup_free_ char *chunk = xmalloc(READ_CHUNK_BYTES);

	for (;;) {
		ssize_t n = io_read(q->io, chunk, READ_CHUNK_BYTES, NS_FOREVER, err);
		int r;

		if (n < 0)
			return (int)n;
		if (n == 0)
			return error_set(err, ERROR_CRASH, ECONNRESET,
					 "the VMM closed its QMP connection");
		r = take_bytes(q, chunk, (size_t)n, err);
		if (r < 0)
			return r;
	}
}

/*
 * Both fibers are started under deadlines that are not theirs (those of the call that starts the
 * machine), so each runs in a shield; they end when the io is closed under them.
 */
static int reader_main(void *userdata)
{
	struct qmp *q = userdata;
	struct fiber_shield shield;
	struct error err = {};

	fiber_shield_enter(&shield, NS_FOREVER);
	if (!q->closing) /* else the io is gone already */
		(void)read_all(q, &err);
	q->ended = true;
	waiters_wake_all(&q->state);
	if (!q->closing)
		q->cb->on_closed(&err, q->userdata);
	fiber_shield_leave(&shield);
	return 0;
}

/* --- Going out ------------------------------------------------------------------------------ */

/* All that is to be sent now. A broken pipe is not reported: the reader sees the end as well. */
static int write_out(struct qmp *q)
{
	_cleanup_buf_ struct buf out = q->out;
	_cleanup_close_ int fd = q->out_fd;
	size_t at = q->out_fd_at;
	int r;

	q->out = (struct buf){};
	q->out_fd = -EBADF;
	waiters_wake_all(&q->out_changed);
	if (fd < 0)
		return io_write_all(q->io, out.data, out.len, NS_FOREVER, NULL);
	r = io_write_all(q->io, out.data, at, NS_FOREVER, NULL);
	return r < 0 ? r : io_write_fd(q->io, out.data + at, out.len - at, fd, NS_FOREVER, NULL);
}

static int writer_main(void *userdata)
{
	struct qmp *q = userdata;
	struct fiber_shield shield;
	int r = 0;

	fiber_shield_enter(&shield, NS_FOREVER);
	while (!q->closing && r >= 0) {
		if (q->out.len > 0)
			r = write_out(q);
		else
			r = fiber_wait(&q->out_changed, NS_FOREVER, "QMP commands to send", NULL);
	}
	fiber_shield_leave(&shield);
	return 0;
}

/* Takes the descriptor (< 0: none). */
static void send_command(struct qmp *q, const char *command, json_t *args, int fd, uint64_t id)
{
	_cleanup_free_ char *text = NULL;
	json_t *message = json_object();

	json_object_set_new(message, "execute", json_string(command));
	if (args)
		json_object_set(message, "arguments", args);
	json_object_set_new(message, "id", json_integer((json_int_t)id));
	text = json_dumps(message, JSON_COMPACT);
	json_decref(message);
	assert(text);
	log_debug("QMP command %.300s", text);
	if (fd >= 0) {
		assert(q->out_fd < 0);
		q->out_fd = fd;
		q->out_fd_at = q->out.len;
	}
	buf_puts(&q->out, text);
	buf_puts(&q->out, "\r\n");
	waiters_wake_all(&q->out_changed);
}

/* A client is freed only when the last of those whom qmp_free() failed has left. */
static void qmp_leave(struct qmp **q)
{
	(*q)->n_users--;
}

#define QMP_USE(obj)                                                                               \
	_cleanup_(qmp_leave) struct qmp *qmp_user_ = (obj);                                        \
	qmp_user_->n_users++

/* --- Calls ---------------------------------------------------------------------------------- */

static void unlink_call(struct qmp *q, struct qmp_pending *call)
{
	struct qmp_pending **c = &q->calls;

	while (*c != call)
		c = &(*c)->next;
	*c = call->next;
}

static int reply_to_result(const char *command, json_t *reply, json_t **ret, struct error *err)
{
	json_t *error = json_object_get(reply, "error");
	const char *desc, *class;

	if (!error) {
		if (ret)
			*ret = json_incref(json_object_get(reply, "return"));
		return 0;
	}
	desc = json_string_value(json_object_get(error, "desc"));
	class = json_string_value(json_object_get(error, "class"));
	return error_set(err, ERROR_EXPECT, EREMOTEIO, "QMP '%s' failed: %s (%s)", command,
			 desc ? desc : "no reason given", class ? class : "no class");
}

/* Takes the descriptor (< 0: none). */
static int call(struct qmp *q, const char *command, json_t *args, int fd, uint64_t deadline,
		uint64_t timeout_ns, json_t **ret, struct error *err)
{
	struct qmp_pending call = {.id = ++q->last_id};
	char what[128];
	int r = 0;

	call.next = q->calls;
	q->calls = &call;
	send_command(q, command, args, fd, call.id);
	(void)snprintf(what, sizeof(what), "the reply to QMP '%s'", command);
	while (!call.reply && r >= 0) {
		if (error_is_set(&q->failed))
			r = error_propagate(err, &q->failed);
		else
			r = fiber_wait_until(&call.waiters, deadline, timeout_ns, what, err);
	}
	unlink_call(q, &call);
	if (call.reply)
		r = reply_to_result(command, call.reply, ret, err);
	json_decref(call.reply);
	return r;
}

int qmp_call(struct qmp *q, const char *command, json_t *args, uint64_t timeout_ns, json_t **ret,
	     struct error *err)
{
	QMP_USE(q);
	if (error_is_set(&q->failed))
		return error_propagate(err, &q->failed);
	return call(q, command, args, -EBADF, deadline_in(timeout_ns), timeout_ns, ret, err);
}

int qmp_call_fd(struct qmp *q, const char *command, json_t *args, int fd, uint64_t timeout_ns,
		json_t **ret, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	int copy, r;

	QMP_USE(q);
	/* One that was given up may not even have been sent. */
	while (!error_is_set(&q->failed) && (q->fd_busy || q->out_fd >= 0)) {
		r = fiber_wait_until(q->fd_busy ? &q->fd_waiters : &q->out_changed, deadline,
				     timeout_ns, "another QMP command with a descriptor", err);
		if (r < 0)
			return r;
	}
	if (error_is_set(&q->failed))
		return error_propagate(err, &q->failed);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot pass a descriptor to QEMU");
	q->fd_busy = true;
	r = call(q, command, args, copy, deadline, timeout_ns, ret, err);
	q->fd_busy = false;
	waiters_wake_all(&q->fd_waiters);
	return r;
}

void qmp_fail(struct qmp *q, const struct error *err)
{
	if (error_is_set(&q->failed))
		return;
	assert(error_is_set(err));
	q->failed = *err;
	waiters_wake_all(&q->state);
	for (struct qmp_pending *c = q->calls; c; c = c->next)
		waiters_wake_all(&c->waiters);
	waiters_wake_all(&q->fd_waiters);
	waiters_wake_all(&q->out_changed);
}

int qmp_greet(struct qmp *q, uint64_t timeout_ns, struct qmp_version *ret, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	int r;

	QMP_USE(q);
	while (!q->greeting) {
		if (error_is_set(&q->failed))
			return error_propagate(err, &q->failed);
		if (q->ended)
			return error_set(err, ERROR_CRASH, ECONNRESET,
					 "the VMM ended before it answered");
		r = fiber_wait_until(&q->state, deadline, timeout_ns, "the VMM's QMP greeting",
				     err);
		if (r < 0)
			return r;
	}
	if (ret &&
	    json_unpack(q->greeting, "{s:{s:{s:{s:i,s:i,s:i}}}}", "QMP", "version", "qemu", "major",
			&ret->major, "minor", &ret->minor, "micro", &ret->micro) < 0)
		return error_set(err, ERROR_INFRA, EBADMSG, "the QMP greeting has no version");
	return qmp_call(q, "qmp_capabilities", NULL, timeout_left(deadline), NULL, err);
}

int qmp_drain(struct qmp *q, uint64_t timeout_ns, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	int r;

	QMP_USE(q);
	while (!q->ended) {
		r = fiber_wait_until(&q->state, deadline, timeout_ns, "the end of the QMP stream",
				     err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- Life ----------------------------------------------------------------------------------- */

struct qmp *qmp_new(struct io *io, const struct qmp_callbacks *cb, void *userdata)
{
	struct qmp *q = xcalloc(1, sizeof(*q));

	q->io = io;
	q->cb = cb;
	q->userdata = userdata;
	q->out_fd = -EBADF;
	json_stream_init(&q->stream, QMP_MESSAGE_MAX_BYTES);
	fiber_start("qmp-reader", reader_main, q, &q->reader);
	fiber_start("qmp-writer", writer_main, q, &q->writer);
	return q;
}

static void wait_until_done(struct fiber *f)
{
	struct fiber_shield shield;

	fiber_shield_enter(&shield, NS_FOREVER);
	(void)fiber_join(f, NS_FOREVER, NULL);
	fiber_shield_leave(&shield);
	fiber_unref(f);
}

void qmp_free(struct qmp *q)
{
	struct error err = {};

	if (!q)
		return;
	(void)error_set(&err, ERROR_CANCELLED, ECANCELED, "the QMP connection was closed");
	qmp_fail(q, &err);
	q->closing = true;
	waiters_wake_all(&q->out_changed);
	/* Ends both; the reader may be in the middle of a read. */
	io_free(q->io);
	q->io = NULL;
	wait_until_done(q->reader);
	wait_until_done(q->writer);
	/* A caller that was just failed must have left before the memory goes. */
	while (q->n_users > 0)
		fiber_yield();
	json_decref(q->greeting);
	json_stream_done(&q->stream);
	buf_done(&q->out);
	cleanup_close(&q->out_fd);
	free(q);
}
