/* SPDX-License-Identifier: MIT */
/* The bytes that wait to leave for the host, and the gate that keeps them while it is frozen. */
#include "agent/output.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/str.h"

/*
 * The buffer is linear, OUT_BYTES long: bytes from `start` to `end` wait to be written; frames of
 * DATA are made in place at its end. DATA stops at OUT_SOFT waiting bytes, which is what keeps
 * commands from filling our memory; replies, messages and credit may go beyond, as far as there are
 * calls to be replied to.
 *
 * Behind a shut gate frames go to `kept` instead: there is no DATA among them, and no new calls
 * come.
 */

#define OUT_BYTES (2 * MIB)

static struct {
	int fd;
	bool open;
	enum output_gate gate;
	uint8_t *bytes;
	size_t cap, start, end;
	struct buf kept;
} out;

void output_open(int fd)
{
	out.fd = fd;
	out.open = true;
	out.start = out.end = 0;
}

void output_close(void)
{
	out.open = false;
	out.start = out.end = 0;
}

bool output_is_open(void)
{
	return out.open;
}

size_t output_pending(void)
{
	return out.end - out.start;
}

void output_flush(void)
{
	while (out.open && output_pending() > 0) {
		ssize_t n = write(out.fd, out.bytes + out.start, output_pending());

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break; /* EAGAIN; what else it may be, the reading side will see */
		out.start += (size_t)n;
	}
}

/* --- frames ----------------------------------------------------------------------------------- */

uint8_t *output_reserve(size_t n)
{
	if (!out.bytes)
		out.bytes = xmalloc(out.cap = OUT_BYTES);
	if (out.start == out.end)
		out.start = out.end = 0;
	if (out.cap - out.end < n) {
		memmove(out.bytes, out.bytes + out.start, output_pending());
		out.end -= out.start;
		out.start = 0;
	}
	/* Only replies can come here: a thousand calls that all fail with long texts. */
	if (out.cap - out.end < n)
		out.bytes = xrealloc(out.bytes, out.cap = out.end + n);
	return out.bytes + out.end;
}

void output_commit(const struct wire_header *h)
{
	uint8_t *p = out.bytes + out.end;

	wire_seal(h, p, p + WIRE_HEADER + h->len);
	out.end += WIRE_OVERHEAD + h->len;
}

void output_send_now(const struct wire_header *h, const void *payload)
{
	uint8_t *p;

	if (!out.open)
		return;
	p = output_reserve(WIRE_OVERHEAD + h->len);
	if (payload)
		memcpy(p + WIRE_HEADER, payload, h->len);
	else
		memset(p + WIRE_HEADER, 0, h->len);
	output_commit(h);
}

void output_send(const struct wire_header *h, const void *payload)
{
	uint8_t *p;

	if (out.gate != GATE_SHUT) {
		output_send_now(h, payload);
		return;
	}
	buf_reserve(&out.kept, WIRE_OVERHEAD + h->len);
	p = (uint8_t *)out.kept.data + out.kept.len;
	if (payload)
		memcpy(p + WIRE_HEADER, payload, h->len);
	else
		memset(p + WIRE_HEADER, 0, h->len);
	wire_seal(h, p, p + WIRE_HEADER + h->len);
	out.kept.len += WIRE_OVERHEAD + h->len;
}

/* --- the gate --------------------------------------------------------------------------------- */

enum output_gate output_gate(void)
{
	return out.gate;
}

void output_set_gate(enum output_gate gate)
{
	out.gate = gate;
	if (gate == GATE_SHUT || out.kept.len == 0)
		return;
	if (out.open) {
		memcpy(output_reserve(out.kept.len), out.kept.data, out.kept.len);
		out.end += out.kept.len;
	}
	output_drop_kept();
}

void output_drop_kept(void)
{
	buf_done(&out.kept);
}
