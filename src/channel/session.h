/* SPDX-License-Identifier: MIT */
/* What the files of the agent client share: the session, its calls, its outgoing bytes. */
#pragma once

#include "channel/call.h"

struct timer;

/* Bytes of one stream from the guest: the reader's fiber appends to `incoming`, the call's owner
 * reads `reading`, and swaps when that is empty. So what he looks at never moves. */
struct call_stream {
	struct buf incoming, reading;
	size_t start;	/* of what is left in reading */
	size_t allowed; /* the guest may still send that much */
	size_t grant;	/* consumed and not yet told the guest */
	bool fin;
};

struct agent_call {
	struct agent *agent; /* referenced */
	struct agent_call *next;
	uint32_t id;
	uint16_t op;
	char what[160];
	bool listed;	/* on the agent's list: its frames are delivered */
	bool done;	/* replied, or failed */
	bool cancelled; /* CANCEL was sent */
	bool discard;	/* nobody reads the streams any more: incoming bytes are dropped and granted
			 */
	bool wants_room;
	struct error error; /* the reply's, or the session's */
	struct buf reply;
	int pid; /* EXEC: of the process, once it was started */
	struct call_stream streams[WIRE_STREAMS];
	size_t credit;		/* for WIRE_STREAM_IN */
	struct waiters waiters; /* woken at anything that happens to the call */
};

struct agent {
	unsigned n_ref; /* the owner, the two fibers, each call */
	struct io *io;
	struct agent_callbacks callbacks;
	void *userdata;
	struct timer *starter;
	bool freed;
	struct error broken; /* the stream's end; for good */
	struct error failed; /* agent_fail(); until agent_revive() */

	uint64_t host_id, nonce;
	bool session_up;
	bool have_hello;
	struct agent_hello hello;
	struct waiters hello_waiters;

	struct wire_decoder in;
	struct buf out; /* frames to be written */
	size_t writing; /* bytes that the writer's fiber has taken and not yet written */
	struct waiters out_ready;

	struct agent_call *calls;
	size_t n_calls;
	uint32_t next_id;

	/* Saving the guest: while it is not AWAKE, frames go into kept. */
	enum agent_rest { AWAKE, FREEZING, FROZEN, THAWING } rest;
	struct buf kept;
	uint32_t rest_number;	 /* of the latest request */
	struct error rest_error; /* what it came to */
	bool clock_set;		 /* by the latest thaw */
	struct waiters rest_waiters;
};

/* More than that waits to be written: senders of bodies and data wait. */
#define OUT_SOFT (512 * KIB)

struct agent *agent_ref(struct agent *a);
void agent_unref(struct agent *a);
/* The error that every call meets now; NULL if there is none. */
const struct error *agent_error(const struct agent *a);
/* The stream has ended, or the peer does not keep to the protocol, so no word of it can be trusted
 * any more. Every call fails for good, and on_closed tells the owner. */
void agent_break(struct agent *a, const struct error *err);
/* Puts a frame into the out buffer and wakes the writer. Never waits. */
void agent_send(struct agent *a, enum wire_type type, uint8_t flags, uint16_t arg, uint32_t call,
		const void *payload, size_t len);
bool agent_has_room(const struct agent *a);
/* A HELLO of this very session: the first, of a new session, or of a new phase. */
void agent_on_session(struct agent *a, const struct agent_hello *hello, uint64_t nonce);
void agent_parse_hello(const struct wire_fields *f, struct agent_hello *ret, uint64_t *ret_host_id);

/* freeze.c, for the session: an answer; the session's end, or the guest's own restart. */
void freeze_on_frame(struct agent *a, const struct wire_header *h, const uint8_t *payload);
void freeze_on_end(struct agent *a, const struct error *err);

/* The guest's clock by SET_CLOCK; ops.c. */
int agent_set_clock_within(struct agent *a, uint64_t timeout_ns, int64_t *ret_delta_ns,
			   struct error *err);

/* call.c, for the session: a frame for a call; all calls fail. */
void calls_on_frame(struct agent *a, const struct wire_header *h, const uint8_t *payload);
void calls_fail_all(struct agent *a, const struct error *err);
/* The writer has written: who waited for room looks again. */
void calls_wake_for_room(struct agent *a);

/* Sends what credit and room allow at once, without waiting; returns how much (fin goes with the
 * last byte: *ret_fin_sent). */
size_t call_send_some(struct agent_call *c, const void *data, size_t len, bool fin,
		      bool *ret_fin_sent);
/* What is there to be read on a stream, without waiting; 0: nothing now. */
size_t call_peek_now(struct agent_call *c, unsigned stream, const uint8_t **ret);
/* Tells the guest to give the call up. Once; later ones are ignored. */
void call_cancel(struct agent_call *c, enum wire_cancel reason);
/* After a time-out: asks the guest to end and waits a little, shielded, for its reply. on_progress
 * may collect output meanwhile (NULL: it is dropped). */
void call_wind_up(struct agent_call *c, void (*on_progress)(void *userdata), void *userdata);
/* Completes a time-out's error by what the guest has seen instead. */
void call_explain_timeout(struct agent_call *c, struct error *err);
