/* SPDX-License-Identifier: MIT */
/* The host's side of saving a guest: silence on the stream, and the guest's going on. */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/str.h"
#include "channel/session.h"
#include "loop/loop.h"

/*
 *	        FREEZE             FROZEN          THAW             THAWED
 *	AWAKE ---------> FREEZING --------> FROZEN ------> THAWING --------> AWAKE
 *	  ^                 |                 ^ ^             |
 *	  +-error, given up-+                 | +-given up----+
 *	                                      +-- agent_new_frozen()
 *
 * What is to be sent while it is not AWAKE is kept, and follows when it is again (by another host's
 * agent, it is of no use, but then there is nothing). An end of the session (agent_fail(), a guest
 * that restarted) is an end of the rest, too.
 *
 * A freeze that is given up is ended by a THAW that changes nothing: the frames arrive in order, so
 * the guest is awake for what follows. Requests are numbered; answers to old ones are ignored.
 */

#define SEED_BYTES 64
/* An answer that took longer leaves the clock in doubt by as much: it is set once more, on a path
 * that is warm by then. What is promised is 50 ms. */
#define CLOCK_DOUBT_NS (25 * NS_PER_MS)

static void wake_up(struct agent *a)
{
	a->rest = AWAKE;
	if (a->kept.len > 0)
		buf_append(&a->out, a->kept.data, a->kept.len);
	buf_done(&a->kept);
	waiters_wake_all(&a->out_ready);
	waiters_wake_all(&a->rest_waiters);
	calls_wake_for_room(a);
}

void freeze_on_end(struct agent *a, const struct error *err)
{
	if (a->rest == AWAKE)
		return;
	buf_done(&a->kept);
	a->rest_error = *err;
	wake_up(a);
}

/* --- answers ---------------------------------------------------------------------------------- */

static void on_frozen(struct agent *a, const struct wire_fields *f)
{
	if (wire_get_error(f, &a->rest_error)) {
		wake_up(a);
		return;
	}
	a->rest = FROZEN;
	waiters_wake_all(&a->rest_waiters);
}

static void on_thawed(struct agent *a, const struct wire_header *h, const struct wire_fields *f)
{
	struct agent_hello hello;
	uint64_t host_id, delta;
	bool failed = wire_get_error(f, &a->rest_error);

	agent_parse_hello(f, &hello, &host_id);
	if (host_id != a->host_id) {
		/* Not even thawed. */
		if (!failed)
			error_set(&a->rest_error, ERROR_INFRA, EPROTO,
				  "the guest agent thawed for somebody else");
		a->rest = FROZEN;
		waiters_wake_all(&a->rest_waiters);
		return;
	}
	a->clock_set = wire_get_u64(f, TAG_DELTA_NS, &delta);
	/* What was kept is of this session, or there is none. */
	wake_up(a);
	agent_on_session(a, &hello, h->nonce);
}

void freeze_on_frame(struct agent *a, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_fields f = {.data = payload, .len = h->len};

	if (h->call != a->rest_number)
		return;
	if (h->type == WIRE_FROZEN && a->rest == FREEZING && h->nonce == a->nonce)
		on_frozen(a, &f);
	else if (h->type == WIRE_THAWED && a->rest == THAWING)
		on_thawed(a, h, &f);
}

/* --- requests --------------------------------------------------------------------------------- */

static void send_request(struct agent *a, enum wire_type type, const struct buf *fields)
{
	error_clear(&a->rest_error);
	a->rest = type == WIRE_FREEZE ? FREEZING : THAWING;
	if (++a->rest_number == 0)
		a->rest_number = 1;
	agent_send(a, type, 0, 0, a->rest_number, fields ? fields->data : NULL,
		   fields ? fields->len : 0);
}

static void put_thaw(const struct agent *a, struct buf *b)
{
	wire_put_u32(b, TAG_VERSION, WIRE_VERSION);
	wire_put_u64(b, TAG_HOST_ID, a->host_id);
}

/* Waits for the answer to the latest request. Not answered in time: an error of ours, unless it is
 * an enclosing deadline's. */
static int await_answer(struct agent *a, uint64_t timeout_ns, const char *verb, struct error *err)
{
	enum agent_rest asked = a->rest;
	uint64_t deadline = deadline_in(timeout_ns);
	struct error local = {};
	char after[FORMAT_MAX];
	int r = 0;

	while (a->rest == asked && r >= 0)
		r = fiber_wait_until(&a->rest_waiters, deadline, timeout_ns, "the guest agent",
				     &local);
	if (r >= 0)
		return error_is_set(&a->rest_error) ? error_propagate(err, &a->rest_error) : 0;
	if (local.kind != ERROR_TIMEOUT)
		return error_propagate(err, &local);
	error_set(err, ERROR_INFRA, ETIMEDOUT, "the guest agent did not %s within %s", verb,
		  format_duration(timeout_ns, after));
	error_hint(err, "see the machine's console; a guest that is short of processor time "
			"needs a larger time-out");
	return -ETIMEDOUT;
}

int agent_freeze(struct agent *a, uint64_t timeout_ns, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	int r = 0;

	if (a->rest == FROZEN && !agent_error(a))
		return 0;
	if (a->rest == AWAKE)
		r = agent_wait_hello(a, NULL, timeout_ns, err);
	if (r >= 0 && a->rest != AWAKE)
		r = error_set(err, ERROR_BUG, EBUSY, "the guest agent is being frozen or thawed");
	if (r < 0)
		return r;
	agent_ref(a);
	send_request(a, WIRE_FREEZE, NULL);
	r = await_answer(a, timeout_left(deadline), "freeze", err);
	if (r < 0 && a->rest == FREEZING) {
		_cleanup_buf_ struct buf b = {};

		put_thaw(a, &b);
		send_request(a, WIRE_THAW, &b);
		wake_up(a);
	}
	agent_unref(a);
	return r;
}

bool agent_is_frozen(const struct agent *a)
{
	return a->rest == FROZEN;
}

static void put_time(struct buf *b)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	wire_put_u64(b, TAG_REALTIME_NS, (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec);
}

static int put_seed(struct buf *b, struct error *err)
{
	uint8_t seed[SEED_BYTES];

	if (getrandom(seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
		return error_set_errno(err, ERROR_INFRA, errno, "cannot get random bytes");
	wire_put_bytes(b, TAG_SEED, seed, sizeof(seed));
	return 0;
}

/* The clock's time was taken at sent_ns; how much later the guest has set it, nobody knows. */
static int settle_clock(struct agent *a, uint64_t sent_ns, uint64_t deadline_ns, struct error *err)
{
	struct error local = {};

	if (!a->clock_set || now_ns() - sent_ns <= CLOCK_DOUBT_NS)
		return 0;
	if (agent_set_clock_within(a, timeout_left(deadline_ns), NULL, &local) >= 0)
		return 0;
	if (local.kind == ERROR_TIMEOUT)
		local.kind = ERROR_INFRA; /* no fault of what is tested */
	return error_propagate(err, &local);
}

int agent_thaw(struct agent *a, const struct agent_thaw *how, uint64_t timeout_ns,
	       struct error *err)
{
	_cleanup_buf_ struct buf b = {};
	uint64_t deadline = deadline_in(timeout_ns), sent;
	int r;

	if (agent_error(a))
		return error_propagate(err, agent_error(a));
	if (a->rest != FROZEN)
		return error_set(err, ERROR_BUG, EALREADY, "the guest agent is not frozen");
	put_thaw(a, &b);
	r = put_seed(&b, err);
	if (r < 0)
		return r;
	if (how)
		wire_put_str(&b, TAG_MACHINE_ID, how->machine_id);
	put_time(&b);
	sent = now_ns();
	agent_ref(a);
	send_request(a, WIRE_THAW, &b);
	r = await_answer(a, timeout_ns, "thaw", err);
	if (r < 0 && a->rest == THAWING)
		a->rest = FROZEN;
	if (r >= 0)
		r = settle_clock(a, sent, deadline, err);
	agent_unref(a);
	return r;
}
