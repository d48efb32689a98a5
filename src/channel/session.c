/* SPDX-License-Identifier: MIT */
/* The host's end of a session: greeting, reader and writer fibers, failure and revival. */
#include "channel/session.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "base/str.h"
#include "loop/loop.h"

/*
 * Theory of operation
 *
 *	reader fiber: io → decoder → HELLO (here) or a call's frame (call.c)
 *	writer fiber: out buffer → io
 *
 * Nobody but the writer writes to the io: a fiber that is cancelled in mid-write would leave a torn
 * frame. Callers put whole frames into the out buffer; those with much to say wait while it is
 * fuller than OUT_SOFT. What does not wait is bounded otherwise: credit and cancellations by the
 * number of calls.
 *
 * A session begins when a HELLO names our host id. A HELLO without it is an agent that has just
 * started, in a new boot most likely: calls under way fail, ATTACH is sent, the answer begins the
 *next session. Frames with another nonce are of an old one and dropped.
 *
 *	             HELLO, other id: calls fail, ATTACH
 *	            +------------------------------------+
 *	            v                                    |
 *	(new) --> no session --HELLO with our id--> session up
 *	            |  ^                                 |
 *	            |  +---agent_revive(), ATTACH---+    |
 *	            +---------------> failed <------|----+  agent_fail()
 *	                             broken: end of the stream, another version, a violation of
 *	                             the protocol; for good
 *
 * Beside that, the guest may be at rest (freeze.c): frames are kept until it is awake.
 */

struct agent *agent_ref(struct agent *a)
{
	a->n_ref++;
	return a;
}

void agent_unref(struct agent *a)
{
	if (--a->n_ref > 0)
		return;
	assert(!a->calls);
	wire_decoder_done(&a->in);
	buf_done(&a->out);
	buf_done(&a->kept);
	free(a);
}

const struct error *agent_error(const struct agent *a)
{
	if (error_is_set(&a->failed))
		return &a->failed;
	if (error_is_set(&a->broken))
		return &a->broken;
	return NULL;
}

/* --- sending ---------------------------------------------------------------------------------- */

bool agent_has_room(const struct agent *a)
{
	return a->out.len + a->writing + a->kept.len < OUT_SOFT;
}

void agent_send(struct agent *a, enum wire_type type, uint8_t flags, uint16_t arg, uint32_t call,
		const void *payload, size_t len)
{
	struct wire_header h = {
		.type = (uint8_t)type,
		.flags = flags,
		.arg = arg,
		.call = call,
		.len = (uint32_t)len,
		.nonce = type == WIRE_ATTACH ? 0 : a->nonce,
	};
	/* A guest that is saved is sent nothing but what saves it. */
	bool keep = a->rest != AWAKE && type != WIRE_FREEZE && type != WIRE_THAW;
	struct buf *to = keep ? &a->kept : &a->out;
	uint8_t *p;

	if (error_is_set(&a->broken) || a->freed)
		return;
	buf_reserve(to, WIRE_OVERHEAD + len);
	p = (uint8_t *)to->data + to->len;
	if (payload && len > 0)
		memcpy(p + WIRE_HEADER, payload, len);
	else
		memset(p + WIRE_HEADER, 0, len);
	wire_seal(&h, p, p + WIRE_HEADER + len);
	to->len += WIRE_OVERHEAD + len;
	waiters_wake_all(&a->out_ready);
}

static void send_attach(struct agent *a)
{
	_cleanup_buf_ struct buf b = {};

	wire_put_u32(&b, TAG_VERSION, WIRE_VERSION);
	wire_put_str(&b, TAG_BUILD, ASSAY_VERSION);
	wire_put_u64(&b, TAG_HOST_ID, a->host_id);
	agent_send(a, WIRE_ATTACH, 0, 0, 0, b.data, b.len);
}

/* --- the end ---------------------------------------------------------------------------------- */

static void end_session(struct agent *a, const struct error *err)
{
	a->session_up = false;
	freeze_on_end(a, err);
	calls_fail_all(a, err);
	waiters_wake_all(&a->hello_waiters);
}

void agent_break(struct agent *a, const struct error *err)
{
	if (error_is_set(&a->broken) || a->freed)
		return;
	a->broken = *err;
	end_session(a, err);
	waiters_wake_all(&a->out_ready);
	if (a->callbacks.on_closed)
		a->callbacks.on_closed(a, err, a->userdata);
}

void agent_fail(struct agent *a, const struct error *err)
{
	assert(error_is_set(err));
	if (error_is_set(&a->failed))
		return;
	a->failed = *err;
	end_session(a, err);
}

void agent_revive(struct agent *a)
{
	if (!error_is_set(&a->failed))
		return;
	error_clear(&a->failed);
	/* The agent may be the same as before, and would not greet by itself. */
	send_attach(a);
}

/* --- receiving -------------------------------------------------------------------------------- */

void agent_parse_hello(const struct wire_fields *f, struct agent_hello *ret, uint64_t *ret_host_id)
{
	uint32_t version = 0;

	*ret = (struct agent_hello){};
	*ret_host_id = 0;
	wire_get_u32(f, TAG_VERSION, &version);
	ret->version = version;
	wire_copy_str(f, TAG_BUILD, ret->build, sizeof(ret->build));
	wire_copy_str(f, TAG_BOOT_ID, ret->boot_id, sizeof(ret->boot_id));
	wire_copy_str(f, TAG_PHASE, ret->phase, sizeof(ret->phase));
	wire_copy_str(f, TAG_MESSAGE, ret->message, sizeof(ret->message));
	wire_get_u64(f, TAG_UPTIME_NS, &ret->uptime_ns);
	wire_get_u64(f, TAG_HOST_ID, ret_host_id);
}

static void on_agent_restart(struct agent *a, const struct agent_hello *hello)
{
	struct error err = {};

	if (a->session_up || a->rest != AWAKE) {
		if (str_eq(hello->boot_id, a->hello.boot_id))
			error_set(&err, ERROR_CRASH, ECONNRESET, "the guest agent has restarted");
		else
			error_set(&err, ERROR_CRASH, ECONNRESET, "the guest has rebooted");
		end_session(a, &err);
	}
	send_attach(a);
}

void agent_on_session(struct agent *a, const struct agent_hello *hello, uint64_t nonce)
{
	struct error err = {};
	bool is_news;

	is_news = !a->session_up || nonce != a->nonce || !str_eq(hello->phase, a->hello.phase);
	if (a->session_up && nonce != a->nonce) {
		error_set(&err, ERROR_CRASH, ECONNRESET, "the guest agent has begun a new session");
		end_session(a, &err);
	}
	if (!is_news)
		return;
	a->nonce = nonce;
	a->hello = *hello;
	a->have_hello = true;
	if (agent_error(a))
		return; /* late words of a machine that was given up */
	a->session_up = true;
	if (a->callbacks.on_hello)
		a->callbacks.on_hello(a, &a->hello, a->userdata);
	if (str_eq(hello->phase, "failed") && !agent_error(a)) {
		error_set(&err, ERROR_CRASH, EIO, "the guest cannot boot: %s", hello->message);
		agent_fail(a, &err);
	}
	waiters_wake_all(&a->hello_waiters);
}

static void on_hello(struct agent *a, const struct wire_header *h, const struct wire_fields *f)
{
	struct agent_hello hello;
	struct error err = {};
	uint64_t host_id;

	agent_parse_hello(f, &hello, &host_id);
	if (hello.version != WIRE_VERSION) {
		error_set(
			&err, ERROR_INFRA, EPROTO,
			"the guest agent speaks version %u of the protocol (build %s), this Assay "
			"(%s) speaks version %d (build %s)",
			hello.version, hello.build, ASSAY_VERSION, WIRE_VERSION,
			agent_binary_build());
		error_hint(&err, "boot the machine with the agent of this Assay: rebuild what was "
				 "cached with another one");
		agent_break(a, &err);
		return;
	}
	if (host_id != a->host_id) {
		/* Of a copied guest: late words to the host that it was saved by. */
		if (host_id == 0 || a->rest == AWAKE)
			on_agent_restart(a, &hello);
		return;
	}
	agent_on_session(a, &hello, h->nonce);
}

static void on_refuse(struct agent *a, const struct wire_fields *f)
{
	struct error err = {};

	if (!wire_get_error(f, &err))
		error_set(&err, ERROR_INFRA, EPROTO, "no reason given");
	error_prefix(&err, "the guest agent refused");
	agent_break(a, &err);
}

static void on_frame(struct agent *a, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_fields f = {.data = payload, .len = h->len};

	if (h->type == WIRE_HELLO) {
		if (wire_fields_valid(payload, h->len))
			on_hello(a, h, &f);
		return;
	}
	if (h->type == WIRE_FROZEN || h->type == WIRE_THAWED) {
		if (wire_fields_valid(payload, h->len))
			freeze_on_frame(a, h, payload);
		return;
	}
	if (h->type == WIRE_PAD || !a->session_up || h->nonce != a->nonce)
		return;
	if (h->type == WIRE_REFUSE)
		on_refuse(a, &f);
	else
		calls_on_frame(a, h, payload);
}

/* --- the fibers ------------------------------------------------------------------------------- */

static int reader_main(void *userdata)
{
	struct agent *a = userdata;
	struct error err = {};

	while (!a->freed && !error_is_set(&a->broken)) {
		struct wire_header h;
		const uint8_t *payload;
		uint64_t skipped = a->in.skipped;
		size_t room;
		void *space = wire_decoder_space(&a->in, &room);
		ssize_t n = io_read(a->io, space, room, NS_FOREVER, &err);

		if (a->freed)
			break;
		/* A peer that died with bytes unread in its socket shows as a reset connection. */
		if (n == 0 || n == -ECONNRESET || n == -EPIPE) {
			error_clear(&err);
			error_set(&err, ERROR_CRASH, ECONNRESET,
				  "the connection to the guest agent has ended");
		}
		if (n <= 0) {
			agent_break(a, &err);
			break;
		}
		wire_decoder_fill(&a->in, (size_t)n);
		while (!a->freed && !error_is_set(&a->broken) &&
		       wire_decoder_next(&a->in, &h, &payload))
			on_frame(a, &h, payload);
		if (a->in.skipped != skipped)
			log_debug("agent: skipped %llu bytes that are no frame",
				  (unsigned long long)(a->in.skipped - skipped));
	}
	/* A machine keeps the agents of its earlier runs, but not their descriptors. Whoever writes
	 * is woken, and ends. */
	io_free(TAKE_PTR(a->io));
	agent_unref(a);
	return 0;
}

static int writer_main(void *userdata)
{
	struct agent *a = userdata;
	struct error err = {};
	int r = 0;

	while (!a->freed && !error_is_set(&a->broken) && r >= 0) {
		_cleanup_buf_ struct buf batch = {};

		if (a->out.len == 0) {
			r = fiber_wait(&a->out_ready, NS_FOREVER, "something to send", &err);
			continue;
		}
		batch = a->out;
		a->out = (struct buf){};
		a->writing = batch.len;
		r = io_write_all(a->io, batch.data, batch.len, NS_FOREVER, &err);
		a->writing = 0;
		if (r >= 0 && !a->freed)
			calls_wake_for_room(a);
	}
	/* The reader sees the end of the stream as well, after what the guest still had to say. */
	if (r < 0 && !a->freed && r != -EPIPE && r != -ECONNRESET)
		agent_break(a, &err);
	agent_unref(a);
	return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

/* On the main stack, so that the fibers inherit nobody's deadlines. */
static void on_start(void *userdata)
{
	struct agent *a = userdata;

	timer_free(TAKE_PTR(a->starter));
	fiber_start("agent reader", reader_main, agent_ref(a), NULL);
	fiber_start("agent writer", writer_main, agent_ref(a), NULL);
}

static struct agent *new_silent(struct io *io, const struct agent_callbacks *cb, void *userdata)
{
	struct agent *a = xcalloc(1, sizeof(*a));

	a->n_ref = 1;
	a->io = io;
	if (cb)
		a->callbacks = *cb;
	a->userdata = userdata;
	wire_decoder_init(&a->in);
	while (a->host_id == 0)
		(void)!getrandom(&a->host_id, sizeof(a->host_id), 0);
	a->starter = timer_start(0, on_start, a);
	return a;
}

struct agent *agent_new(struct io *io, const struct agent_callbacks *cb, void *userdata)
{
	struct agent *a = new_silent(io, cb, userdata);

	send_attach(a);
	/* Completes a frame that an earlier host may have left torn. */
	agent_send(a, WIRE_PAD, 0, 0, 0, NULL, WIRE_PAYLOAD_MAX);
	return a;
}

struct agent *agent_new_frozen(struct io *io, const struct agent_callbacks *cb, void *userdata)
{
	struct agent *a = new_silent(io, cb, userdata);

	a->rest = FROZEN;
	return a;
}

void agent_free(struct agent *a)
{
	struct error err = {};

	if (!a)
		return;
	error_set(&err, ERROR_CANCELLED, ECANCELED, "the connection to the guest agent was closed");
	a->callbacks = (struct agent_callbacks){};
	agent_break(a, &err);
	a->broken = err;
	a->freed = true;
	timer_free(TAKE_PTR(a->starter));
	waiters_wake_all(&a->out_ready);
	io_free(TAKE_PTR(a->io)); /* wakes the fibers, which end */
	agent_unref(a);
}

int agent_wait_hello(struct agent *a, const char *other_than, uint64_t timeout_ns,
		     struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	int r = 0;

	agent_ref(a);
	for (;;) {
		if (agent_error(a)) {
			r = error_propagate(err, agent_error(a));
			break;
		}
		if (a->session_up && (!other_than || !str_eq(a->hello.boot_id, other_than)))
			break;
		r = fiber_wait_until(&a->hello_waiters, deadline, timeout_ns,
				     other_than ? "the guest agent to answer after a reboot"
						: "the guest agent to answer",
				     err);
		if (r < 0)
			break;
	}
	agent_unref(a);
	return r;
}

const struct agent_hello *agent_last_hello(const struct agent *a)
{
	return a->have_hello ? &a->hello : NULL;
}
