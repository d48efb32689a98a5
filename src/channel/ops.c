/* SPDX-License-Identifier: MIT */
/* Small calls: ping, files, power, clock. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/str.h"
#include "channel/session.h"
#include "loop/loop.h"

int agent_ping(struct agent *a, uint64_t timeout_ns, struct error *err)
{
	return agent_call_simple(a, WIRE_OP_PING, NULL, "the guest agent's answer", timeout_ns,
				 NULL, err);
}

int agent_read_file(struct agent *a, const char *path, size_t max_bytes, uint64_t timeout_ns,
		    struct buf *ret, struct error *err)
{
	_cleanup_agent_call_ struct agent_call *c = NULL;
	_cleanup_buf_ struct buf body = {};
	_cleanup_free_ char *what = xasprintf("file '%s' to be read", path);
	uint64_t deadline = deadline_in(timeout_ns);
	size_t start = ret->len;
	ssize_t n;
	int r;

	wire_put_str(&body, TAG_PATH, path);
	wire_put_u64(&body, TAG_MAX, max_bytes);
	r = agent_call_start(a, WIRE_OP_READ_FILE, &body, what, deadline, &c, err);
	if (r < 0)
		return r;
	while ((n = agent_call_read(c, WIRE_STREAM_OUT, ret, SIZE_MAX, deadline, timeout_ns, err)) >
	       0) {
		/* The guest keeps the limit; this is for one that does not. */
		if (ret->len - start > max_bytes)
			break;
	}
	r = n < 0 ? (int)n : agent_call_wait(c, deadline, timeout_ns, NULL, err);
	if (r >= 0 && ret->len - start > max_bytes)
		r = error_set(err, ERROR_EXPECT, EFBIG, "'%s' is larger than %zu bytes", path,
			      max_bytes);
	if (r < 0 && ret->data)
		buf_truncate(ret, start);
	return r;
}

int agent_write_file(struct agent *a, const char *path, const void *data, size_t len, mode_t mode,
		     const char *owner, uint64_t timeout_ns, struct error *err)
{
	_cleanup_agent_call_ struct agent_call *c = NULL;
	_cleanup_buf_ struct buf body = {};
	_cleanup_free_ char *what = xasprintf("file '%s' to be written", path);
	uint64_t deadline = deadline_in(timeout_ns);
	int r;

	wire_put_str(&body, TAG_PATH, path);
	wire_put_str(&body, TAG_OWNER, owner);
	wire_put_u32(&body, TAG_MODE, (uint32_t)mode);
	r = agent_call_start(a, WIRE_OP_WRITE_FILE, &body, what, deadline, &c, err);
	if (r < 0)
		return r;
	r = agent_call_write(c, WIRE_STREAM_IN, data, len, true, deadline, timeout_ns, err);
	/* When the other side has ended, its reply says why. */
	if (r < 0 && !agent_call_is_done(c))
		return r;
	if (r < 0 && err)
		error_clear(err);
	return agent_call_wait(c, deadline, timeout_ns, NULL, err);
}

/* Enough for a guest that does nothing else; a request, not the shutdown itself. */
#define REQUEST_TIMEOUT_NS (10 * NS_PER_SEC)
#define POWER_TIMEOUT_NS   (60 * NS_PER_SEC)

int agent_power(struct agent *a, enum agent_power how, struct error *err)
{
	_cleanup_buf_ struct buf body = {};

	wire_put_str(&body, TAG_HOW, how == AGENT_REBOOT ? "reboot" : "poweroff");
	/* An init that is only starting accepts it when it is up. */
	return agent_call_simple(a, WIRE_OP_POWER, &body,
				 how == AGENT_REBOOT ? "the guest to accept a reboot"
						     : "the guest to accept a power-off",
				 POWER_TIMEOUT_NS, NULL, err);
}

int agent_set_clock(struct agent *a, int64_t *ret_delta_ns, struct error *err)
{
	return agent_set_clock_within(a, REQUEST_TIMEOUT_NS, ret_delta_ns, err);
}

int agent_set_clock_within(struct agent *a, uint64_t timeout_ns, int64_t *ret_delta_ns,
			   struct error *err)
{
	_cleanup_buf_ struct buf body = {};
	_cleanup_buf_ struct buf reply = {};
	struct wire_fields f;
	struct timespec ts;
	uint64_t delta = 0;
	int r;

	clock_gettime(CLOCK_REALTIME, &ts);
	wire_put_u64(&body, TAG_REALTIME_NS,
		     (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec);
	r = agent_call_simple(a, WIRE_OP_SET_CLOCK, &body, "the guest's clock to be set",
			      timeout_ns, &reply, err);
	if (r < 0)
		return r;
	f = (struct wire_fields){.data = (const uint8_t *)reply.data, .len = reply.len};
	wire_get_u64(&f, TAG_DELTA_NS, &delta);
	if (ret_delta_ns)
		*ret_delta_ns = (int64_t)delta;
	return 0;
}
