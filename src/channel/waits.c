/* SPDX-License-Identifier: MIT */
/* Waiting for a state of the guest: the agent waits there, this asks it to. */
#include "channel/agent.h"

#include <string.h>

#include "base/str.h"
#include "channel/call.h"

/*
 * Each of these is one call: the operation's fields go out, the agent answers in the moment in
 * which the thing is true, or with the reason why it will not become true. The time-out is kept
 * here; at its expiry the call layer cancels, and the agent's answer to that says what it saw
 * instead.
 */

int agent_wait_unit(struct agent *a, const struct agent_unit_wait *w, uint64_t timeout_ns,
		    struct error *err)
{
	_cleanup_buf_ struct buf body = {};
	_cleanup_free_ char *what = NULL;
	const char *state = w->state ? w->state : "active";

	wire_put_str(&body, TAG_UNIT, w->unit);
	wire_put_str(&body, TAG_USER, w->user);
	wire_put_str(&body, TAG_STATE, state);
	what = xasprintf("unit '%s'%s%s%s to be %s", w->unit, w->user ? " of user '" : "",
			 w->user ? w->user : "", w->user ? "'" : "", state);
	return agent_call_simple(a, WIRE_OP_WAIT_UNIT, &body, what, timeout_ns, NULL, err);
}

int agent_wait_booted(struct agent *a, uint64_t timeout_ns, char ret_state[32], struct error *err)
{
	_cleanup_buf_ struct buf reply = {};
	struct wire_fields fields;
	int rc;

	rc = agent_call_simple(a, WIRE_OP_WAIT_BOOTED, NULL, "systemd to finish booting",
			       timeout_ns, &reply, err);
	if (rc < 0)
		return rc;
	fields = (struct wire_fields){(const uint8_t *)reply.data, reply.len};
	if (ret_state)
		wire_copy_str(&fields, TAG_STATE, ret_state, 32);
	return 0;
}

static char *describe_socket(const struct agent_socket_wait *w, const char *address)
{
	const char *until = w->closed ? "closed" : "open";

	switch (w->type) {
	case AGENT_SOCKET_TCP:
		return xasprintf("TCP port %u on %s to be %s", w->port, address, until);
	case AGENT_SOCKET_UDP:
		return xasprintf("UDP port %u on %s to be %s", w->port, address, until);
	default:
		return xasprintf("socket '%s' to be %s", address, until);
	}
}

int agent_wait_socket(struct agent *a, const struct agent_socket_wait *w, uint64_t timeout_ns,
		      struct error *err)
{
	const char *address = w->address ? w->address : "localhost";
	_cleanup_free_ char *what = describe_socket(w, address);
	_cleanup_buf_ struct buf body = {};

	wire_put_u32(&body, TAG_SOCKET_TYPE, w->type);
	wire_put_str(&body, TAG_ADDRESS, address);
	wire_put_u32(&body, TAG_PORT, w->port);
	wire_put_u32(&body, TAG_NEGATED, w->closed);
	return agent_call_simple(a, WIRE_OP_WAIT_SOCKET, &body, what, timeout_ns, NULL, err);
}

int agent_wait_file(struct agent *a, const char *pattern, bool gone, uint64_t timeout_ns,
		    struct error *err)
{
	_cleanup_buf_ struct buf body = {};
	_cleanup_free_ char *what =
		xasprintf("file '%s' to %s", pattern, gone ? "be gone" : "exist");

	wire_put_str(&body, TAG_PATH, pattern);
	wire_put_u32(&body, TAG_NEGATED, gone);
	return agent_call_simple(a, WIRE_OP_WAIT_FILE, &body, what, timeout_ns, NULL, err);
}

int agent_wait_mount(struct agent *a, const char *path, uint64_t timeout_ns, struct error *err)
{
	_cleanup_buf_ struct buf body = {};
	_cleanup_free_ char *what = xasprintf("a mount at '%s'", path);

	wire_put_str(&body, TAG_PATH, path);
	return agent_call_simple(a, WIRE_OP_WAIT_MOUNT, &body, what, timeout_ns, NULL, err);
}

/* Looks at the complete lines (they end with NUL) in lines, and drops them. */
static bool any_line_matches(struct buf *lines, bool (*match)(const char *cmdline, void *userdata),
			     void *userdata)
{
	size_t at = 0;
	char *end;

	while ((end = memchr(buf_str(lines) + at, 0, lines->len - at))) {
		if (match(lines->data + at, userdata))
			return true;
		at = end + 1 - lines->data;
	}
	buf_consume(lines, at);
	return false;
}

/* A guest that sends a command line without an end is not our agent. */
#define CMDLINE_MAX_BYTES (128 * KIB)

/* The one wait that is decided here: the agent streams command lines, since the pattern is the
 * caller's (a regular expression of the test file's kind needs a library that the agent does not
 * have). */
int agent_wait_process(struct agent *a, bool (*match)(const char *cmdline, void *userdata),
		       void *userdata, const char *what, uint64_t timeout_ns, struct error *err)
{
	_cleanup_free_ char *text = xasprintf("process %s", what);
	_cleanup_agent_call_ struct agent_call *c = NULL;
	uint64_t deadline = deadline_in(timeout_ns);
	_cleanup_buf_ struct buf lines = {};
	struct wire_fields reply;
	ssize_t n;
	int rc;

	rc = agent_call_start(a, WIRE_OP_WAIT_PROCESS, NULL, text, deadline, &c, err);
	if (rc < 0)
		return rc;
	for (;;) {
		struct error late = {};

		n = agent_call_read(c, WIRE_STREAM_OUT, &lines, 64 * KIB, deadline, timeout_ns,
				    &late);
		if (n < 0 && late.kind != ERROR_TIMEOUT)
			return error_propagate(err, &late);
		if (n <= 0)
			break;
		if (any_line_matches(&lines, match, userdata))
			return 0;
		if (lines.len > CMDLINE_MAX_BYTES)
			return error_set(err, ERROR_INFRA, EBADMSG,
					 "the agent sent a command line without an end");
	}
	/* Its end, or our deadline: the agent says why, or what there was instead. */
	rc = agent_call_wait(c, deadline, timeout_ns, &reply, err);
	if (rc < 0)
		return rc;
	return error_set(err, ERROR_INFRA, EPROTO, "the agent gave up waiting for %s", text);
}
