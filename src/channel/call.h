/* SPDX-License-Identifier: MIT */
/* The agent client's inside: one call over the session, with streams and credit. */
#pragma once

#include "channel/agent.h"
#include "proto/agent-wire.h"

/*
 * A call is started with a body of fields, may exchange bytes on its streams, and is over with its
 * reply. All functions wait as fibers do; every one of them returns at once with the session's
 * error when the session has failed. A call belongs to the fiber that started it, though others may
 * read and write its streams. What the guest sends is kept in the call, WIRE_WINDOW bytes for each
 * stream at most; reading grants new credit.
 */
struct agent_call;

/* op and body are copied. `what` completes "waiting for …" in time-outs ("unit 'nginx.service'").
 * Waits for a session (HELLO) if there is none, and for room on the port, until deadline_ns
 * (absolute). */
int agent_call_start(struct agent *a, uint16_t op, const struct buf *body, const char *what,
		     uint64_t deadline_ns, struct agent_call **ret, struct error *err);
/*
 * Waits for the reply. 0 and its fields (borrowed, alive as long as the call), or the error that
 * the agent sent. At the deadline: CANCEL with WIRE_CANCEL_TIMEOUT, a few seconds for the guest to
 * tell what it saw, ERROR_TIMEOUT "timed out after <timeout> waiting for <what>: <what was seen>".
 * timeout_ns is what the user gave, for that message.
 */
int agent_call_wait(struct agent_call *c, uint64_t deadline_ns, uint64_t timeout_ns,
		    struct wire_fields *ret, struct error *err);
bool agent_call_is_done(const struct agent_call *c); /* the reply is there */
/* Appends what has come on a stream to ret (at least one byte, as much as there is, max at most).
 * > 0: bytes; 0: end of the stream (FIN, or the call is over). Expiry: ERROR_TIMEOUT, the call goes
 * on (use agent_call_wait to cancel it properly). */
ssize_t agent_call_read(struct agent_call *c, unsigned stream, struct buf *ret, size_t max,
			uint64_t deadline_ns, uint64_t timeout_ns, struct error *err);
/* Without a copy: *ret_data points to what has come (alive until the next call on this stream);
 * agent_call_consume() takes it away and grants credit. Return value as above. */
ssize_t agent_call_peek(struct agent_call *c, unsigned stream, const uint8_t **ret_data,
			uint64_t deadline_ns, uint64_t timeout_ns, struct error *err);
void agent_call_consume(struct agent_call *c, unsigned stream, size_t n);
/* Sends bytes on a stream, waiting for credit. -EPIPE (ERROR_EXPECT) when the call is over: then
 * agent_call_wait() has the reason. len 0 with fin is the end alone. */
int agent_call_write(struct agent_call *c, unsigned stream, const void *data, size_t len, bool fin,
		     uint64_t deadline_ns, uint64_t timeout_ns, struct error *err);
int agent_call_message(struct agent_call *c, const struct buf *body, struct error *err);
/* Not waiting: tells the guest that nobody is interested, if the reply has not come. */
void agent_call_free(struct agent_call *c);
void cleanup_agent_call(struct agent_call **c);
#define _cleanup_agent_call_ _cleanup_(cleanup_agent_call)

/* The whole of a simple call; the reply's fields are copied to ret_reply (may be NULL). */
int agent_call_simple(struct agent *a, uint16_t op, const struct buf *body, const char *what,
		      uint64_t timeout_ns, struct buf *ret_reply, struct error *err);
