/* SPDX-License-Identifier: MIT */
/* JSON lines over the control socket, both ends. */
#include "runner/wire.h"

#include <string.h>
#include <sys/socket.h>

#include "base/str.h"
#include "loop/fiber.h"

#define READ_CHUNK_BYTES (64 * KIB)
/* Above the first the script waits; above the second, what cannot wait is dropped. */
#define QUEUE_WAIT_BYTES (512 * KIB)
#define QUEUE_MAX_BYTES	 (8 * MIB)

void wire_reader_done(struct wire_reader *r)
{
	buf_done(&r->buf);
}

static const char *find_newline(const struct wire_reader *r)
{
	if (r->scanned >= r->buf.len)
		return NULL;
	return memchr(r->buf.data + r->scanned, '\n', r->buf.len - r->scanned);
}

bool wire_has_line(const struct wire_reader *r)
{
	return find_newline(r) != NULL;
}

/* Takes one line out of the buffer; NULL if it is none of ours. */
static json_t *take_line(struct wire_reader *r, const char *newline)
{
	const char *line = r->buf.data + r->head;
	size_t len = (size_t)(newline - line);
	json_t *msg = NULL;

	if (!r->skipping && len <= r->max)
		msg = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
	if (msg && !json_is_object(msg)) {
		json_decref(msg);
		msg = NULL;
	}
	if (!msg)
		r->dropped++;
	r->skipping = false;
	r->head += len + 1;
	r->scanned = r->head;
	return msg;
}

/* Makes room, and forgets the beginning of a line that has grown too long. */
static void compact(struct wire_reader *r)
{
	if (r->head) {
		buf_consume(&r->buf, r->head);
		r->head = 0;
	}
	if (r->skipping || r->buf.len > r->max) {
		r->skipping = true;
		buf_truncate(&r->buf, 0);
	}
	r->scanned = r->buf.len;
}

int wire_read(struct wire_reader *r, json_t **ret, uint64_t timeout_ns, struct error *err)
{
	for (;;) {
		const char *newline;
		ssize_t n;

		while ((newline = find_newline(r))) {
			*ret = take_line(r, newline);
			if (*ret)
				return 1;
		}
		compact(r);
		buf_reserve(&r->buf, READ_CHUNK_BYTES);
		n = io_read(r->io, r->buf.data + r->buf.len, READ_CHUNK_BYTES, timeout_ns, err);
		if (n < 0)
			return (int)n;
		if (n == 0) {
			if (r->buf.len > 0 || r->skipping)
				r->dropped++;
			return 0;
		}
		r->buf.len += (size_t)n;
		r->buf.data[r->buf.len] = '\0';
	}
}

static int append_json(const char *data, size_t len, void *userdata)
{
	buf_append(userdata, data, len);
	return 0;
}

char *wire_format(json_t *msg, size_t *ret_len)
{
	struct buf line = {};

	json_dump_callback(msg, append_json, &line, JSON_COMPACT | JSON_REAL_PRECISION(12));
	buf_putc(&line, '\n');
	return buf_steal(&line, ret_len);
}

int wire_write(struct io *io, json_t *msg, uint64_t timeout_ns, struct error *err)
{
	size_t len;
	_cleanup_free_ char *line = wire_format(msg, &len);

	return io_write_all(io, line, len, timeout_ns, err);
}

/* --- a worker's way out ------------------------------------------------------------------- */

struct outlet {
	struct io *io;
	struct buf queue; /* not yet taken by the writer */
	bool writing;	  /* the writer holds a batch of its own */
	bool broken;	  /* nobody listens any more */
	bool closing;
	uint64_t dropped;
	struct waiters filled, drained;
	struct fiber *writer;
};

static int writer_fiber(void *userdata)
{
	struct outlet *o = userdata;
	struct error err = {};

	while (!o->closing || o->queue.len > 0) {
		_cleanup_free_ char *batch = NULL;
		size_t len;
		int r;

		if (o->queue.len == 0) {
			r = fiber_wait(&o->filled, NS_FOREVER, "events", &err);
			if (r < 0)
				break;
			continue;
		}
		batch = buf_steal(&o->queue, &len);
		o->writing = true;
		waiters_wake_all(&o->drained);
		r = io_write_all(o->io, batch, len, NS_FOREVER, &err);
		o->writing = false;
		if (r < 0)
			break;
		waiters_wake_all(&o->drained);
	}
	/* The runner is gone, or we are told to stop: nobody shall wait for us. */
	o->broken = true;
	buf_truncate(&o->queue, 0);
	waiters_wake_all(&o->drained);
	return 0;
}

struct outlet *outlet_new(struct io *io)
{
	struct outlet *o = xcalloc(1, sizeof(*o));

	o->io = io;
	fiber_start("events", writer_fiber, o, &o->writer);
	return o;
}

/* What the socket takes at once, when nothing else is before it: so what was told before a crash
 * has been told, and most events cost no switch to the writer. */
static size_t send_now(struct outlet *o, const char *line, size_t len)
{
	ssize_t n;

	if (o->writing || o->queue.len > 0)
		return 0;
	n = send(io_fd(o->io), line, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n > 0 ? (size_t)n : 0;
}

void outlet_emit(struct outlet *o, json_t *event, bool may_wait)
{
	_cleanup_free_ char *line = NULL;
	size_t len, sent;

	line = wire_format(event, &len);
	json_decref(event);
	while (may_wait && fiber_self() && !o->broken && o->queue.len > QUEUE_WAIT_BYTES)
		if (fiber_wait(&o->drained, NS_FOREVER, "events to be taken", NULL) < 0)
			break;
	if (o->broken)
		return;
	sent = send_now(o, line, len);
	if (sent == len)
		return;
	if (o->queue.len + len - sent > QUEUE_MAX_BYTES && sent == 0) {
		o->dropped++;
		return;
	}
	buf_append(&o->queue, line + sent, len - sent);
	waiters_wake_all(&o->filled);
}

void outlet_flush(struct outlet *o, uint64_t timeout_ns)
{
	struct fiber_shield shield;

	fiber_shield_enter(&shield, timeout_ns);
	while (!o->broken && (o->queue.len > 0 || o->writing))
		if (fiber_wait(&o->drained, NS_FOREVER, "events to be taken", NULL) < 0)
			break;
	fiber_shield_leave(&shield);
}

uint64_t outlet_dropped(const struct outlet *o)
{
	return o->dropped;
}

void outlet_free(struct outlet *o)
{
	if (!o)
		return;
	o->closing = true;
	fiber_stop(o->writer);
	fiber_unref(o->writer);
	buf_done(&o->queue);
	free(o);
}
