/* SPDX-License-Identifier: MIT */
/* Calls over a session: body, reply, streams with credit, giving up. */
#include "channel/call.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "channel/session.h"
#include "loop/loop.h"

/*
 * Theory of operation
 *
 * A call is on its agent's list from its start until it is freed. `done` is set by the REPLY, or by
 * the session's end; it is the last thing that happens to it. Whatever happens wakes its waiters,
 * who look at the conditions that they wait for.
 *
 * Memory: the guest may send WIRE_WINDOW bytes for each stream beyond what was consumed. One that
 * sends more is not our agent: the stream is broken.
 */

/* How long the guest may take to answer CANCEL: a command's SIGTERM, 2 s, SIGKILL, and a slow
 * machine; anything else answers at once. */
#define WIND_UP_EXEC_NS (6 * NS_PER_SEC)
#define WIND_UP_NS	(2 * NS_PER_SEC)

/* --- frames ----------------------------------------------------------------------------------- */

static struct agent_call *call_find(struct agent *a, uint32_t id)
{
	struct agent_call *c = a->calls;

	while (c && c->id != id)
		c = c->next;
	return c;
}

static void call_finish(struct agent_call *c)
{
	c->done = true;
	for (size_t i = 0; i < WIRE_STREAMS; i++)
		c->streams[i].fin = true;
	waiters_wake_all(&c->waiters);
}

static void grant(struct agent_call *c, unsigned stream, size_t n)
{
	struct call_stream *s = &c->streams[stream];
	_cleanup_buf_ struct buf b = {};

	s->grant += n;
	if (s->grant < WIRE_WINDOW / 4 || c->done || s->fin)
		return;
	wire_put_u32(&b, TAG_CREDIT, (uint32_t)s->grant);
	s->allowed += s->grant;
	s->grant = 0;
	agent_send(c->agent, WIRE_CREDIT, 0, (uint16_t)stream, c->id, b.data, b.len);
}

static void on_data(struct agent_call *c, const struct wire_header *h, const uint8_t *payload)
{
	struct call_stream *s;

	/* Frames from a guest are input like any other. */
	if (h->arg >= WIRE_STREAMS || h->len > c->streams[h->arg].allowed ||
	    c->streams[h->arg].fin) {
		struct error err = {};

		error_set(&err, ERROR_CRASH, EPROTO,
			  "the guest agent sent more than it was allowed to (stream %u, %u bytes)",
			  h->arg, h->len);
		agent_break(c->agent, &err);
		return;
	}
	s = &c->streams[h->arg];
	s->allowed -= h->len;
	if (c->discard)
		grant(c, h->arg, h->len);
	else
		buf_append(&s->incoming, payload, h->len);
	if (h->flags & WIRE_FIN)
		s->fin = true;
	waiters_wake_all(&c->waiters);
}

static void on_reply(struct agent_call *c, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_fields f = {.data = payload, .len = h->len};

	if (!wire_fields_valid(payload, h->len)) {
		struct error err = {};

		error_set(&err, ERROR_CRASH, EBADMSG, "the guest agent's reply is malformed");
		agent_break(c->agent, &err);
		return;
	}
	if (!wire_get_error(&f, &c->error))
		buf_append(&c->reply, payload, h->len);
	call_finish(c);
}

void calls_on_frame(struct agent *a, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_fields f = {.data = payload, .len = h->len};
	struct agent_call *c = call_find(a, h->call);
	uint32_t n;

	if (!c || c->done)
		return; /* freed in the meantime */
	switch (h->type) {
	case WIRE_DATA:
		on_data(c, h, payload);
		break;
	case WIRE_CREDIT:
		if (wire_get_u32(&f, TAG_CREDIT, &n) &&
		    n <= WIRE_WINDOW - MIN(c->credit, WIRE_WINDOW))
			c->credit += n;
		waiters_wake_all(&c->waiters);
		break;
	case WIRE_MESSAGE:
		if (wire_get_u32(&f, TAG_PID, &n))
			c->pid = (int)n;
		waiters_wake_all(&c->waiters);
		break;
	case WIRE_REPLY:
		on_reply(c, h, payload);
		break;
	}
}

void calls_fail_all(struct agent *a, const struct error *err)
{
	for (struct agent_call *c = a->calls; c; c = c->next) {
		if (c->done)
			continue;
		c->error = *err;
		call_finish(c);
	}
}

void calls_wake_for_room(struct agent *a)
{
	if (!agent_has_room(a))
		return;
	for (struct agent_call *c = a->calls; c; c = c->next) {
		if (!c->wants_room)
			continue;
		c->wants_room = false;
		waiters_wake_all(&c->waiters);
	}
}

/* --- start and end ---------------------------------------------------------------------------- */

static struct agent_call *call_new(struct agent *a, uint16_t op, const char *what)
{
	struct agent_call *c = xcalloc(1, sizeof(*c));

	c->agent = agent_ref(a);
	c->op = op;
	(void)snprintf(c->what, sizeof(c->what), "%s", what);
	do
		c->id = ++a->next_id;
	while (c->id == 0 || call_find(a, c->id));
	for (size_t i = 0; i < WIRE_STREAMS; i++)
		c->streams[i].allowed = WIRE_WINDOW;
	c->credit = WIRE_WINDOW;
	c->next = a->calls;
	a->calls = c;
	a->n_calls++;
	return c;
}

void agent_call_free(struct agent_call *c)
{
	if (!c)
		return;
	if (!c->done)
		call_cancel(c, WIRE_CANCEL_GONE);
	for (struct agent_call **p = &c->agent->calls; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			break;
		}
	}
	c->agent->n_calls--;
	for (size_t i = 0; i < WIRE_STREAMS; i++) {
		buf_done(&c->streams[i].incoming);
		buf_done(&c->streams[i].reading);
	}
	buf_done(&c->reply);
	agent_unref(c->agent);
	free(c);
}

void cleanup_agent_call(struct agent_call **c)
{
	agent_call_free(*c);
}

/* Waits for room in the out buffer, or the call's end. */
static int wait_for_room(struct agent_call *c, uint64_t deadline_ns, struct error *err)
{
	int r = 0;

	while (!c->done && !agent_has_room(c->agent) && r >= 0) {
		c->wants_room = true;
		r = fiber_wait_until(&c->waiters, deadline_ns, timeout_left(deadline_ns),
				     "the guest agent to take a command", err);
	}
	return r;
}

int agent_call_start(struct agent *a, uint16_t op, const struct buf *body, const char *what,
		     uint64_t deadline_ns, struct agent_call **ret, struct error *err)
{
	_cleanup_agent_call_ struct agent_call *c = NULL;
	size_t len = body ? body->len : 0, done = 0;
	int r;

	r = agent_wait_hello(a, NULL, timeout_left(deadline_ns), err);
	if (r < 0)
		return r;
	if (len > WIRE_CALL_MAX)
		return error_set(err, ERROR_USAGE, E2BIG,
				 "the command with its arguments is longer than %llu MiB",
				 WIRE_CALL_MAX / MIB);
	if (a->n_calls >= WIRE_CALLS_MAX)
		return error_set(err, ERROR_USAGE, EBUSY,
				 "%d calls are under way on this machine already", WIRE_CALLS_MAX);
	c = call_new(a, op, what);
	do {
		size_t part = MIN(len - done, WIRE_PAYLOAD_MAX);

		r = wait_for_room(c, deadline_ns, err);
		if (r < 0)
			return r;
		if (c->done) {
			/* Refused after its beginning: the rest, which the guest expects to be able
			 * to skip it, will not come. */
			if (done > 0)
				agent_send(a, WIRE_CANCEL, 0, WIRE_CANCEL_GONE, c->id, NULL, 0);
			return error_propagate(err, &c->error);
		}
		agent_send(a, WIRE_CALL, done + part < len ? WIRE_MORE : 0, op, c->id,
			   len ? body->data + done : NULL, part);
		done += part;
	} while (done < len);
	*ret = TAKE_PTR(c);
	return 0;
}

bool agent_call_is_done(const struct agent_call *c)
{
	return c->done;
}

int agent_call_message(struct agent_call *c, const struct buf *body, struct error *err)
{
	if (c->done && error_is_set(&c->error))
		return error_propagate(err, &c->error);
	if (!c->done)
		agent_send(c->agent, WIRE_MESSAGE, 0, 0, c->id, body->data, body->len);
	return 0;
}

/* --- giving up -------------------------------------------------------------------------------- */

void call_cancel(struct agent_call *c, enum wire_cancel reason)
{
	if (c->done || c->cancelled)
		return;
	c->cancelled = true;
	agent_send(c->agent, WIRE_CANCEL, 0, (uint16_t)reason, c->id, NULL, 0);
}

static void discard_all(struct agent_call *c)
{
	c->discard = true;
	for (unsigned i = 0; i < WIRE_STREAMS; i++) {
		struct call_stream *s = &c->streams[i];
		size_t n = s->incoming.len + s->reading.len - s->start;

		buf_truncate(&s->incoming, 0);
		buf_truncate(&s->reading, 0);
		s->start = 0;
		if (n > 0)
			grant(c, i, n);
	}
}

void call_wind_up(struct agent_call *c, void (*on_progress)(void *userdata), void *userdata)
{
	uint64_t timeout = c->op == WIRE_OP_EXEC ? WIND_UP_EXEC_NS : WIND_UP_NS;
	uint64_t deadline = deadline_in(timeout);
	struct fiber_shield shield;
	int r = 0;

	call_cancel(c, WIRE_CANCEL_TIMEOUT);
	if (!on_progress)
		discard_all(c);
	fiber_shield_enter(&shield, timeout);
	while (!c->done && r >= 0) {
		r = fiber_wait_until(&c->waiters, deadline, timeout, "the guest to give up", NULL);
		if (on_progress)
			on_progress(userdata);
	}
	fiber_shield_leave(&shield);
}

void call_explain_timeout(struct agent_call *c, struct error *err)
{
	if (!err)
		return;
	if (!c->done) {
		error_hint(err, "the guest does not answer any more; see its console");
		return;
	}
	/* What the guest saw instead. Success at the last moment is no news: it was too late. */
	if (error_is_set(&c->error) && c->error.message[0]) {
		size_t len = strlen(err->message);

		(void)snprintf(err->message + len, sizeof(err->message) - len, ": %s",
			       c->error.message);
		if (c->error.hint[0])
			error_hint(err, "%s", c->error.hint);
	}
}

int agent_call_wait(struct agent_call *c, uint64_t deadline_ns, uint64_t timeout_ns,
		    struct wire_fields *ret, struct error *err)
{
	struct error local = {};
	int r = 0;

	while (!c->done && r >= 0)
		r = fiber_wait_until(&c->waiters, deadline_ns, timeout_ns, c->what, &local);
	if (r < 0) {
		if (local.kind == ERROR_TIMEOUT || local.kind == ERROR_DEADLINE) {
			call_wind_up(c, NULL, NULL);
			call_explain_timeout(c, &local);
		}
		return error_propagate(err, &local);
	}
	if (error_is_set(&c->error))
		return error_propagate(err, &c->error);
	if (ret)
		*ret = (struct wire_fields){
			.data = (const uint8_t *)c->reply.data,
			.len = c->reply.len,
		};
	return 0;
}

int agent_call_simple(struct agent *a, uint16_t op, const struct buf *body, const char *what,
		      uint64_t timeout_ns, struct buf *ret_reply, struct error *err)
{
	_cleanup_agent_call_ struct agent_call *c = NULL;
	uint64_t deadline = deadline_in(timeout_ns);
	struct wire_fields f = {};
	int r;

	r = agent_call_start(a, op, body, what, deadline, &c, err);
	if (r < 0)
		return r;
	assert(c);
	r = agent_call_wait(c, deadline, timeout_ns, &f, err);
	if (r >= 0 && ret_reply)
		buf_append(ret_reply, f.data, f.len);
	return r;
}

/* --- streams ---------------------------------------------------------------------------------- */

size_t call_peek_now(struct agent_call *c, unsigned stream, const uint8_t **ret)
{
	struct call_stream *s = &c->streams[stream];

	if (s->start == s->reading.len) {
		struct buf empty = s->reading;

		buf_truncate(&empty, 0);
		s->reading = s->incoming;
		s->incoming = empty;
		s->start = 0;
	}
	*ret = (const uint8_t *)buf_str(&s->reading) + s->start;
	return s->reading.len - s->start;
}

ssize_t agent_call_peek(struct agent_call *c, unsigned stream, const uint8_t **ret_data,
			uint64_t deadline_ns, uint64_t timeout_ns, struct error *err)
{
	size_t n;

	while ((n = call_peek_now(c, stream, ret_data)) == 0) {
		int r;

		/* The session's end is an error, the reply's own error is for agent_call_wait(). */
		if (c->streams[stream].fin) {
			if (c->done && agent_error(c->agent) && error_is_set(&c->error))
				return error_propagate(err, &c->error);
			return 0;
		}
		r = fiber_wait_until(&c->waiters, deadline_ns, timeout_ns, c->what, err);
		if (r < 0)
			return r;
	}
	return (ssize_t)n;
}

void agent_call_consume(struct agent_call *c, unsigned stream, size_t n)
{
	struct call_stream *s = &c->streams[stream];

	assert(n <= s->reading.len - s->start);
	s->start += n;
	if (n > 0)
		grant(c, stream, n);
}

ssize_t agent_call_read(struct agent_call *c, unsigned stream, struct buf *ret, size_t max,
			uint64_t deadline_ns, uint64_t timeout_ns, struct error *err)
{
	const uint8_t *data;
	ssize_t n = agent_call_peek(c, stream, &data, deadline_ns, timeout_ns, err);

	if (n <= 0)
		return n;
	n = (ssize_t)MIN((size_t)n, max);
	buf_append(ret, data, (size_t)n);
	agent_call_consume(c, stream, (size_t)n);
	return n;
}

size_t call_send_some(struct agent_call *c, const void *data, size_t len, bool fin,
		      bool *ret_fin_sent)
{
	size_t done = 0;

	*ret_fin_sent = false;
	if (c->done)
		return 0;
	while (done < len || (fin && !*ret_fin_sent)) {
		size_t part = MIN(MIN(len - done, WIRE_DATA_CHUNK), c->credit);

		if ((part == 0 && done < len) || !agent_has_room(c->agent)) {
			c->wants_room = true;
			break;
		}
		*ret_fin_sent = fin && done + part == len;
		agent_send(c->agent, WIRE_DATA,
			   *ret_fin_sent       ? WIRE_FIN
			   : done + part < len ? WIRE_MORE
					       : 0,
			   WIRE_STREAM_IN, c->id, len ? (const uint8_t *)data + done : NULL, part);
		c->credit -= part;
		done += part;
	}
	return done;
}

int agent_call_write(struct agent_call *c, unsigned stream, const void *data, size_t len, bool fin,
		     uint64_t deadline_ns, uint64_t timeout_ns, struct error *err)
{
	bool fin_sent = false;

	assert(stream == WIRE_STREAM_IN);
	while (len > 0 || (fin && !fin_sent)) {
		size_t n;
		int r;

		if (c->done && error_is_set(&c->error))
			return error_propagate(err, &c->error);
		if (c->done)
			return error_set(err, ERROR_EXPECT, EPIPE,
					 "cannot send to the guest: the other side has ended");
		n = call_send_some(c, data, len, fin, &fin_sent);
		if (n > 0)
			data = (const uint8_t *)data + n;
		len -= n;
		if (len == 0 && fin_sent == fin)
			break;
		r = fiber_wait_until(&c->waiters, deadline_ns, timeout_ns, c->what, err);
		if (r < 0)
			return r;
	}
	return 0;
}
