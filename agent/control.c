/* SPDX-License-Identifier: MIT */
/* Small operations: ping, clock. */
#include <time.h>

#include "agent/internal.h"

/* --- ping ------------------------------------------------------------------------------------- */

static void ping_start(struct agent_call *c, const struct wire_fields *in)
{
	call_reply(c, NULL);
}

const struct agent_op agent_op_ping = {.op = WIRE_OP_PING, .name = "ping", .start = ping_start};

/* --- clock ------------------------------------------------------------------------------------ */

int clock_set(uint64_t want_ns, int64_t *ret_delta_ns, struct error *err)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	*ret_delta_ns =
		(int64_t)(want_ns - ((uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec));
	ts = (struct timespec){
		.tv_sec = (time_t)(want_ns / NS_PER_SEC),
		.tv_nsec = (long)(want_ns % NS_PER_SEC),
	};
	if (clock_settime(CLOCK_REALTIME, &ts) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot set the guest's clock");
	return 0;
}

static void clock_start(struct agent_call *c, const struct wire_fields *in)
{
	_cleanup_buf_ struct buf b = {};
	struct error err = {};
	uint64_t want;
	int64_t delta;

	if (!wire_get_u64(in, TAG_REALTIME_NS, &want)) {
		call_reply_error(c, ERROR_BUG, EBADMSG, "the time is missing");
		return;
	}
	if (clock_set(want, &delta, &err) < 0) {
		call_reply_err(c, &err);
		return;
	}
	wire_put_u64(&b, TAG_DELTA_NS, (uint64_t)delta);
	call_reply(c, &b);
}

const struct agent_op agent_op_set_clock = {
	.op = WIRE_OP_SET_CLOCK,
	.name = "set clock",
	.start = clock_start,
};
