/* SPDX-License-Identifier: MIT */
/* The fake agent's end of the wire: greeting, calls on fibers, credit. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "backend/fake/fake.h"
#include "base/str.h"
#include "loop/loop.h"

/*
 * Theory of operation
 *
 * This is the agent's side of proto/agent-wire.h, as agent/session.c has it in a guest, but on
 * fibers: one reads frames, each call runs on its own and looks blocking. Whoever puts a frame into
 * the out buffer and finds nobody writing writes for all; the others' frames go with it.
 *
 * A call has one of three ends: it replies; the host gave up (`cancelled`), whereupon it replies
 * with what it has seen; or the guest is gone (`gone`), whereupon it ends without a word. It learns
 * of the latter two at its next wait, and every wait of a call is fake_call_wait().
 */

/* Data stop while more than that waits to be written. */
#define OUT_SOFT (256 * KIB)

/* --- sending --- */

/* Whoever finds nobody writing writes for all. */
static void flush(struct fake *f)
{
	unsigned start = f->starts;

	if (f->flushing)
		return;
	f->flushing = true;
	while (f->agent && f->out.len > 0 && f->starts == start) {
		_cleanup_buf_ struct buf part = f->out;

		f->out = (struct buf){};
		if (io_write_all(f->agent, part.data, part.len, NS_FOREVER, NULL) < 0)
			break;
		waiters_wake_all(&f->changed);
	}
	f->flushing = false;
}

static void send_frame(struct fake *f, struct wire_header h, const void *payload)
{
	struct buf *out = f->frozen ? &f->kept : &f->out;
	uint8_t *p;

	if (!f->agent)
		return;
	h.nonce = f->nonce;
	buf_reserve(out, WIRE_OVERHEAD + h.len);
	p = (uint8_t *)out->data + out->len;
	if (payload)
		memcpy(p + WIRE_HEADER, payload, h.len);
	else
		memset(p + WIRE_HEADER, 0, h.len);
	wire_seal(&h, p, p + WIRE_HEADER + h.len);
	out->len += WIRE_OVERHEAD + h.len;
	flush(f);
}

static void put_hello(struct fake *f, struct buf *b)
{
	json_t *version = json_object_get(f->script, "version");
	const char *why = fake_text(f->script, "boot_fails");

	wire_put_u32(b, TAG_VERSION,
		     version ? (uint32_t)json_integer_value(version) : (uint32_t)WIRE_VERSION);
	wire_put_str(b, TAG_BUILD, agent_binary_build());
	wire_put_u64(b, TAG_HOST_ID, f->host_id);
	wire_put_str(b, TAG_BOOT_ID, f->boot_id);
	wire_put_str(b, TAG_PHASE, f->phase);
	wire_put_u64(b, TAG_UPTIME_NS, now_ns() - f->boot_ns);
	if (why)
		wire_put_str(b, TAG_MESSAGE, why);
}

static void send_hello(struct fake *f)
{
	_cleanup_buf_ struct buf b = {};

	put_hello(f, &b);
	send_frame(f, (struct wire_header){.type = WIRE_HELLO, .len = (uint32_t)b.len}, b.data);
}

void fake_session_hello(struct fake *f, const char *phase)
{
	snprintf(f->phase, sizeof(f->phase), "%s", phase);
	send_hello(f);
}

void fake_call_message(struct fake_call *c, const struct buf *fields)
{
	if (!c->gone)
		send_frame(c->f,
			   (struct wire_header){.type = WIRE_MESSAGE,
						.call = c->id,
						.len = (uint32_t)fields->len},
			   fields->data);
}

static void unlink_call(struct fake_call *c)
{
	for (struct fake_call **p = &c->f->calls; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			return;
		}
	}
}

void fake_call_reply(struct fake_call *c, const struct buf *fields)
{
	if (c->gone)
		return;
	send_frame(c->f,
		   (struct wire_header){.type = WIRE_REPLY,
					.call = c->id,
					.len = fields ? (uint32_t)fields->len : 0},
		   fields ? fields->data : NULL);
	unlink_call(c);
	c->gone = true;
}

void fake_call_error(struct fake_call *c, enum error_kind kind, int code, const char *fmt, ...)
{
	_cleanup_buf_ struct buf b = {};
	struct error err = {};
	va_list ap;

	va_start(ap, fmt);
	error_setv(&err, kind, code, fmt, ap);
	va_end(ap);
	wire_put_error(&b, &err);
	fake_call_reply(c, &b);
}

bool fake_call_wait(struct fake_call *c, uint64_t until_ns)
{
	int r;

	if (c->gone || c->cancelled)
		return false;
	r = fiber_wait(&c->f->changed, timeout_left(until_ns), "the fake guest", NULL);
	if (r == -ECANCELED && !c->gone) { /* the program ends */
		unlink_call(c);
		c->gone = true;
	}
	return (r >= 0 || r == -ETIMEDOUT) && !c->gone && !c->cancelled;
}

bool fake_call_write(struct fake_call *c, unsigned stream, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		size_t part = MIN(MIN(len, c->credit[stream]), (size_t)WIRE_DATA_CHUNK);

		if (c->gone || c->cancelled)
			return false;
		if (part == 0 || c->f->out.len > OUT_SOFT || c->f->hung || c->f->frozen) {
			if (!fake_call_wait(c, NS_FOREVER))
				return false;
			continue;
		}
		c->credit[stream] -= part;
		send_frame(c->f,
			   (struct wire_header){.type = WIRE_DATA,
						.arg = (uint16_t)stream,
						.call = c->id,
						.len = (uint32_t)part},
			   p);
		p += part;
		len -= part;
	}
	return !c->gone && !c->cancelled;
}

bool fake_call_read(struct fake_call *c, struct buf *ret)
{
	_cleanup_buf_ struct buf credit = {};

	while (c->in.len == 0) {
		if (c->in_fin || !fake_call_wait(c, NS_FOREVER))
			return false;
	}
	wire_put_u32(&credit, TAG_CREDIT, (uint32_t)c->in.len);
	buf_append(ret, c->in.data, c->in.len);
	buf_truncate(&c->in, 0);
	send_frame(c->f,
		   (struct wire_header){.type = WIRE_CREDIT,
					.arg = WIRE_STREAM_IN,
					.call = c->id,
					.len = (uint32_t)credit.len},
		   credit.data);
	return true;
}

void fake_session_violate(struct fake *f)
{
	unsigned starts = f->starts;

	for (struct fake_call *c = f->calls; c && f->starts == starts; c = c->next)
		send_frame(
			f,
			(struct wire_header){.type = WIRE_DATA, .arg = WIRE_STREAMS, .call = c->id},
			NULL);
}

/* --- receiving --- */

void fake_session_drop_calls(struct fake *f)
{
	while (f->calls) {
		struct fake_call *c = f->calls;

		f->calls = c->next;
		c->gone = true;
		if (!c->started) { /* no fiber has it */
			buf_done(&c->body);
			fake_unref(c->f);
			free(c);
		}
	}
	waiters_wake_all(&f->changed);
}

static int call_run(void *userdata)
{
	struct fake_call *c = userdata;
	struct wire_fields in = {.data = (const uint8_t *)buf_str(&c->body), .len = c->body.len};

	if (wire_fields_valid(in.data, in.len))
		fake_op_run(c, &in);
	else
		fake_call_error(c, ERROR_BUG, EBADMSG, "the call's body is malformed");
	assert(c->gone); /* replied, or nobody is there */
	buf_done(&c->body);
	buf_done(&c->in);
	fake_unref(c->f);
	free(c);
	return 0;
}

static struct fake_call *call_find(struct fake *f, uint32_t id)
{
	struct fake_call *c = f->calls;

	while (c && c->id != id)
		c = c->next;
	return c;
}

static void on_call(struct fake *f, const struct wire_header *h, const uint8_t *payload)
{
	struct fake_call *c = call_find(f, h->call);

	if (!c) {
		c = xcalloc(1, sizeof(*c));
		*c = (struct fake_call){.f = fake_ref(f), .id = h->call, .op = h->arg};
		for (size_t i = 0; i < WIRE_STREAMS; i++)
			c->credit[i] = WIRE_WINDOW;
		c->next = f->calls;
		f->calls = c;
	}
	buf_append(&c->body, payload, h->len);
	if (h->flags & WIRE_MORE)
		return;
	c->started = true;
	fake_spawn("fake-call", call_run, c);
}

static void on_call_frame(struct fake *f, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_fields in = {.data = payload, .len = h->len};
	struct fake_call *c = call_find(f, h->call);
	uint32_t n;

	if (!c)
		return;
	if (h->type == WIRE_DATA) {
		buf_append(&c->in, payload, h->len);
		c->in_fin |= (h->flags & WIRE_FIN) != 0;
	} else if (h->type == WIRE_CREDIT && h->arg < WIRE_STREAMS) {
		if (wire_get_u32(&in, TAG_CREDIT, &n))
			c->credit[h->arg] += n;
	} else if (h->type == WIRE_MESSAGE) {
		if (wire_get_u32(&in, TAG_SIGNAL, &n))
			c->signal = (int)n;
	} else if (h->type == WIRE_CANCEL) {
		c->cancelled = (enum wire_cancel)h->arg;
	}
	waiters_wake_all(&f->changed);
}

static void on_attach(struct fake *f, const struct wire_fields *in)
{
	uint64_t host_id = 0;

	wire_get_u64(in, TAG_HOST_ID, &host_id);
	if (host_id != f->host_id) {
		fake_session_drop_calls(f);
		f->host_id = host_id;
		f->nonce += 1ULL << 16;
	}
	send_hello(f);
	waiters_wake_all(&f->changed);
}

/* --- saving and going on --- */

static void on_freeze(struct fake *f, uint32_t number)
{
	send_frame(f, (struct wire_header){.type = WIRE_FROZEN, .call = number}, NULL);
	f->frozen = true;
}

/* Clock and entropy are the host's own; of what a copy is given, only the machine id stays. */
static void on_thaw(struct fake *f, uint32_t number, const struct wire_fields *in)
{
	_cleanup_free_ char *id = wire_dup_str(in, TAG_MACHINE_ID, 64);
	_cleanup_buf_ struct buf b = {};
	struct error err = {};
	uint64_t host_id = 0;

	if (!f->frozen)
		error_set(&err, ERROR_INFRA, EALREADY, "the guest agent was not frozen");
	f->frozen = false;
	wire_get_u64(in, TAG_HOST_ID, &host_id);
	if (id) {
		struct fake_file *file = guest_file_make(f, "/etc/machine-id");

		buf_truncate(&file->data, 0);
		buf_printf(&file->data, "%s\n", id);
	}
	if (host_id != f->host_id) {
		fake_session_drop_calls(f);
		buf_truncate(&f->kept, 0);
		f->host_id = host_id;
		f->nonce += 1ULL << 16;
	}
	put_hello(f, &b);
	wire_put_u64(&b, TAG_DELTA_NS, 0);
	wire_put_error(&b, &err);
	send_frame(
		f,
		(struct wire_header){.type = WIRE_THAWED, .call = number, .len = (uint32_t)b.len},
		b.data);
	buf_append(&f->out, f->kept.data, f->kept.len);
	buf_truncate(&f->kept, 0);
	flush(f);
	waiters_wake_all(&f->changed);
}

static void on_frame(struct fake *f, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_fields in = {.data = payload, .len = h->len};

	if (h->type == WIRE_ATTACH)
		return on_attach(f, &in);
	if (h->type == WIRE_THAW)
		return on_thaw(f, h->call, &in);
	if (!f->host_id || h->nonce != f->nonce)
		return;
	if (h->type == WIRE_FREEZE)
		return on_freeze(f, h->call);
	if (h->type == WIRE_CALL)
		on_call(f, h, payload);
	else
		on_call_frame(f, h, payload);
}

/* Nothing is taken from the stream before the agent runs, when it hangs, or while vCPUs stand
 * still. */
static bool is_deaf(const struct fake *f)
{
	return f->paused || f->hung || !f->phase[0];
}

struct session {
	struct fake *f;
	unsigned start;
};

static bool session_lives(const struct session *s)
{
	return s->f->agent && s->f->starts == s->start;
}

static int session_run(void *userdata)
{
	struct session *s = userdata;
	struct fake *f = s->f;
	struct wire_header h;
	const uint8_t *payload;

	while (session_lives(s)) {
		size_t room;
		void *space;
		ssize_t n;

		if (is_deaf(f)) {
			if (fiber_wait(&f->changed, NS_FOREVER, "the fake guest", NULL) < 0)
				break;
			continue;
		}
		if (io_wait_readable(f->agent, NS_FOREVER, NULL) < 0 || !session_lives(s))
			break;
		if (is_deaf(f))
			continue;
		space = wire_decoder_space(&f->in, &room);
		n = io_read(f->agent, space, room, NS_FOREVER, NULL);
		if (n <= 0 || !session_lives(s))
			break;
		wire_decoder_fill(&f->in, (size_t)n);
		while (session_lives(s) && wire_decoder_next(&f->in, &h, &payload))
			on_frame(f, &h, payload);
	}
	fake_unref(f);
	free(s);
	return 0;
}

void fake_session_start(struct fake *f, const char *phase)
{
	struct session *s = xcalloc(1, sizeof(*s));

	*s = (struct session){.f = fake_ref(f), .start = f->starts};
	snprintf(f->phase, sizeof(f->phase), "%s", phase ?: "");
	f->frozen = phase != NULL;
	buf_truncate(&f->kept, 0);
	fake_spawn("fake-agent", session_run, s);
}
