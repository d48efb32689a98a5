/* SPDX-License-Identifier: MIT */
/* The agent's end of a session: greeting, calls, credit, and the one buffer of outgoing bytes. */
#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <time.h>

#include "agent/build-id.h"
#include "agent/internal.h"
#include "agent/output.h"
#include "base/str.h"

/*
 * Theory of operation
 *
 *	stream --> decoder --> on_frame --> call (op callbacks)
 *	stream <-- out buffer <-- call_data_begin/commit, replies
 *
 * Outgoing frames go through the buffer of output.c; while more than OUT_HARD bytes wait in it,
 * nothing is read from the stream either, so a host that sends calls and reads no replies is
 * stopped, too. While the guest is frozen (freeze.c), its gate is shut.
 *
 * (The port could take a pipe's pages by splice(2), without a copy. But Linux' virtio_console, 6.12
 *at least, hands zero-sized buffers to the device when it splices less than all that is in the
 *pipe, and QEMU then declares the device broken; a frame's length has to be said before.)
 *
 * A call goes through: assembling (WIRE_MORE) → started → replied. Replied calls are freed at the
 * next turn of the loop, so that a callback further up the stack never holds a freed one. Calls of
 *a host that a copied guest has left behind may go on `detached`: what they send goes nowhere.
 */

#define ASSEMBLY_MAX (WIRE_CALL_MAX + WIRE_PAYLOAD_MAX) /* of all unfinished bodies together */

struct agent_call {
	uint32_t id;
	const struct agent_op *op;
	struct agent_call *next;
	struct buf body;
	bool started, replied;
	bool rejected; /* replied already; the rest of its body is still to come */
	bool detached;
	bool want_write[WIRE_STREAMS];
	bool fin_in[WIRE_STREAMS];
	bool more_follows;
	size_t credit[WIRE_STREAMS];  /* we may send */
	size_t granted[WIRE_STREAMS]; /* the host may send */
	size_t grant[WIRE_STREAMS];   /* consumed and not yet told the host */
	max_align_t state[];
};

static struct {
	bool attached, refused;
	uint64_t host_id, nonce;
	char phase[16];
	char message[1024];
	struct wire_decoder in;
	struct agent_call *calls, *detached, *zombies;
	size_t n_calls, assembling;
	struct agent_source source_in, source_out;
} session = {.phase = PHASE_INITRAMFS};

void (*session_on_eof)(void);

/* --- sending ---------------------------------------------------------------------------------- */

bool session_output_is_empty(void)
{
	return output_pending() == 0;
}

static void send_frame(enum wire_type type, uint8_t flags, uint16_t arg, uint32_t call,
		       const void *payload, size_t len)
{
	struct wire_header h = {
		.type = (uint8_t)type,
		.flags = flags,
		.arg = arg,
		.call = call,
		.len = (uint32_t)len,
		.nonce = session.nonce,
	};

	assert(len <= WIRE_PAYLOAD_MAX);
	if (output_is_open())
		output_send(&h, payload);
}

/* fields may be NULL. */
static void call_send(const struct agent_call *c, enum wire_type type, uint8_t flags, uint16_t arg,
		      const struct buf *fields)
{
	if (!c->detached)
		send_frame(type, flags, arg, c->id, fields ? fields->data : NULL,
			   fields ? fields->len : 0);
}

void session_send(enum wire_type type, uint32_t number, const struct buf *fields)
{
	struct wire_header h = {
		.type = (uint8_t)type,
		.call = number,
		.len = (uint32_t)fields->len,
		.nonce = session.nonce,
	};

	output_send_now(&h, fields->data);
}

void session_flush(void)
{
	output_flush();
	session.source_out.events = output_pending() > 0 ? POLLOUT : 0;
	session.source_in.events = output_pending() < OUT_HARD ? POLLIN : 0;
	while (session.zombies) {
		struct agent_call *c = session.zombies;

		session.zombies = c->next;
		free(c);
	}
}

static uint64_t boottime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void put_boot_id(struct buf *b)
{
	_cleanup_close_ int fd =
		openat(agent_proc_fd(), "sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char id[40];
	ssize_t n = fd < 0 ? -1 : read(fd, id, sizeof(id) - 1);

	while (n > 0 && id[n - 1] == '\n')
		n--;
	if (n > 0)
		wire_put_bytes(b, TAG_BOOT_ID, id, (size_t)n);
}

void session_put_hello(struct buf *b)
{
	wire_put_u32(b, TAG_VERSION, WIRE_VERSION);
	wire_put_str(b, TAG_BUILD, agent_build_id());
	wire_put_u64(b, TAG_HOST_ID, session.host_id);
	put_boot_id(b);
	wire_put_str(b, TAG_PHASE, session.phase);
	wire_put_u64(b, TAG_UPTIME_NS, boottime_ns());
	if (session.message[0])
		wire_put_str(b, TAG_MESSAGE, session.message);
}

static void send_hello(void)
{
	_cleanup_buf_ struct buf b = {};

	session_put_hello(&b);
	send_frame(WIRE_HELLO, 0, 0, 0, b.data, b.len);
}

void session_set_phase(const char *phase, const char *message)
{
	strncpy(session.phase, phase, sizeof(session.phase) - 1);
	strncpy(session.message, message ? message : "", sizeof(session.message) - 1);
	if (output_is_open())
		send_hello();
}

/* --- calls ------------------------------------------------------------------------------------ */

void *call_state(struct agent_call *c)
{
	return c->state;
}

static struct agent_call *call_find(uint32_t id)
{
	struct agent_call *c = session.calls;

	while (c && c->id != id)
		c = c->next;
	return c;
}

static struct agent_call *call_new(uint32_t id, const struct agent_op *op)
{
	struct agent_call *c = xcalloc(1, sizeof(*c) + op->size);

	c->id = id;
	c->op = op;
	for (size_t i = 0; i < WIRE_STREAMS; i++)
		c->credit[i] = c->granted[i] = WIRE_WINDOW;
	c->next = session.calls;
	session.calls = c;
	session.n_calls++;
	return c;
}

static void call_drop_body(struct agent_call *c)
{
	session.assembling -= c->body.len;
	buf_done(&c->body);
}

/* Takes it off the list; the memory goes at the next turn. */
static void call_remove(struct agent_call *c)
{
	struct agent_call **p = c->detached ? &session.detached : &session.calls;

	while (*p && *p != c)
		p = &(*p)->next;
	if (*p)
		*p = c->next;
	if (!c->detached)
		session.n_calls--;
	call_drop_body(c);
	c->next = session.zombies;
	session.zombies = c;
}

static void call_end(struct agent_call *c)
{
	c->replied = true;
	if (c->started && c->op->end)
		c->op->end(c);
	if (!c->rejected)
		call_remove(c);
}

void call_reply(struct agent_call *c, const struct buf *fields)
{
	assert(!c->replied);
	call_send(c, WIRE_REPLY, 0, 0, fields);
	call_end(c);
}

void call_reply_err(struct agent_call *c, const struct error *err)
{
	_cleanup_buf_ struct buf b = {};

	wire_put_error(&b, err);
	call_reply(c, &b);
}

void call_reply_error(struct agent_call *c, enum error_kind kind, int code, const char *fmt, ...)
{
	struct error err = {};
	va_list ap;

	va_start(ap, fmt);
	error_setv(&err, kind, code, fmt, ap);
	va_end(ap);
	call_reply_err(c, &err);
}

void call_message(struct agent_call *c, const struct buf *fields)
{
	call_send(c, WIRE_MESSAGE, 0, 0, fields);
}

size_t call_writable(const struct agent_call *c, unsigned stream)
{
	if (c->detached)
		return WIRE_DATA_CHUNK;
	if (!output_is_open() || output_gate() != GATE_OPEN || output_pending() >= OUT_SOFT)
		return 0;
	return MIN(c->credit[stream], WIRE_DATA_CHUNK);
}

void call_want_write(struct agent_call *c, unsigned stream, bool on)
{
	c->want_write[stream] = on;
}

void *call_data_begin(struct agent_call *c, unsigned stream, size_t *ret_max)
{
	assert(!c->detached);
	*ret_max = call_writable(c, stream);
	if (*ret_max == 0)
		return NULL;
	return output_reserve(WIRE_OVERHEAD + *ret_max) + WIRE_HEADER;
}

void call_data_commit(struct agent_call *c, unsigned stream, size_t len, bool fin)
{
	if (len == 0 && !fin)
		return;
	assert(len <= c->credit[stream]);
	c->credit[stream] -= len;
	output_commit(&(struct wire_header){
		.type = WIRE_DATA,
		.flags = fin ? WIRE_FIN : 0,
		.arg = (uint16_t)stream,
		.call = c->id,
		.len = (uint32_t)len,
		.nonce = session.nonce,
	});
}

static ssize_t read_and_forget(int fd, size_t max)
{
	static char trash[64 * KIB];
	ssize_t n = read(fd, trash, MIN(max, sizeof(trash)));

	return n < 0 ? -errno : n;
}

ssize_t call_data_read(struct agent_call *c, unsigned stream, int fd, size_t max)
{
	struct iovec iov[OUT_SOFT / WIRE_DATA_CHUNK + 1];
	size_t pending = output_pending(), planned = 0;
	uint8_t *p;
	ssize_t n;
	int frames = 0;

	if (c->detached)
		return read_and_forget(fd, max);
	if (call_writable(c, stream) == 0)
		return -EBUSY;
	max = MIN(max, MIN(c->credit[stream], OUT_SOFT - pending));
	p = output_reserve((max / WIRE_DATA_CHUNK + 1) * (WIRE_OVERHEAD + WIRE_DATA_CHUNK));
	while (planned < max) {
		size_t len = MIN(max - planned, WIRE_DATA_CHUNK);

		iov[frames] = (struct iovec){.iov_base = p + WIRE_HEADER, .iov_len = len};
		p += WIRE_OVERHEAD + len;
		planned += len;
		frames++;
	}
	n = readv(fd, iov, frames);
	if (n < 0)
		return -errno;
	for (size_t left = (size_t)n; left > 0;) {
		size_t len = MIN(left, WIRE_DATA_CHUNK);

		call_data_commit(c, stream, len, false);
		left -= len;
	}
	return n;
}

void call_data_fin(struct agent_call *c, unsigned stream)
{
	call_send(c, WIRE_DATA, WIRE_FIN, (uint16_t)stream, NULL);
}

bool call_more_follows(const struct agent_call *c)
{
	return c->more_follows;
}

void call_grant(struct agent_call *c, unsigned stream, size_t n)
{
	_cleanup_buf_ struct buf b = {};

	c->grant[stream] += n;
	if (c->grant[stream] < WIRE_WINDOW / 4)
		return;
	wire_put_u32(&b, TAG_CREDIT, (uint32_t)c->grant[stream]);
	c->granted[stream] += c->grant[stream];
	c->grant[stream] = 0;
	call_send(c, WIRE_CREDIT, 0, (uint16_t)stream, &b);
}

static bool wants_turn(const struct agent_call *c, unsigned stream)
{
	return c->want_write[stream] && c->op->on_writable && call_writable(c, stream) > 0;
}

static bool list_is_busy(const struct agent_call *list)
{
	for (const struct agent_call *c = list; c; c = c->next) {
		for (unsigned i = 0; i < WIRE_STREAMS; i++) {
			if (wants_turn(c, i))
				return true;
		}
	}
	return false;
}

bool session_is_busy(void)
{
	return list_is_busy(session.calls) || list_is_busy(session.detached);
}

static void run_list(struct agent_call *list)
{
	struct agent_call *next;

	for (struct agent_call *c = list; c; c = next) {
		next = c->next;
		for (unsigned i = 0; i < WIRE_STREAMS && !c->replied; i++) {
			if (wants_turn(c, i))
				c->op->on_writable(c, i);
		}
	}
}

/* One turn for each writer, so that none starves the others. */
void session_run_writers(void)
{
	run_list(session.calls);
	run_list(session.detached);
}

/* --- receiving -------------------------------------------------------------------------------- */

static void end_list(struct agent_call **list)
{
	while (*list) {
		struct agent_call *c = *list;

		c->rejected = false;
		call_end(c);
	}
}

/* Those that live on go on unheard, the others end. */
static void detach_all_calls(void)
{
	struct agent_call *keep = NULL, *c;

	while ((c = session.calls)) {
		c->rejected = false;
		if (!c->started || !c->op->lives_on) {
			call_end(c);
			continue;
		}
		session.calls = c->next;
		session.n_calls--;
		c->detached = true;
		c->next = keep;
		keep = c;
	}
	while ((c = keep)) {
		keep = c->next;
		c->next = session.detached;
		session.detached = c;
	}
}

/* A new session: a nonce that no earlier one had. Weak randomness will do, blocking will not: we
 * run before the kernel has any entropy. */
static void new_nonce(void)
{
	uint64_t random = 0;

	(void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
	session.nonce = random ^ (boottime_ns() << 20) ^ ((uint64_t)getpid() << 50);
	if (session.nonce == 0)
		session.nonce = 1;
}

void session_take_host(uint64_t host_id)
{
	if (session.attached && host_id == session.host_id)
		return;
	detach_all_calls();
	output_drop_kept();
	session.host_id = host_id;
	session.attached = true;
	session.refused = false;
	new_nonce();
}

static void on_attach(const struct wire_fields *in)
{
	uint32_t version = 0;
	uint64_t host_id = 0;
	char build[80];

	wire_get_u32(in, TAG_VERSION, &version);
	wire_get_u64(in, TAG_HOST_ID, &host_id);
	wire_copy_str(in, TAG_BUILD, build, sizeof(build));
	session.refused = version != WIRE_VERSION;
	if (session.refused)
		agent_log("refused: the host (build %s) speaks version %u of the agent protocol, "
			  "this "
			  "agent version %d",
			  build, version, WIRE_VERSION);
	freeze_abandon("a host attached");
	if (session.refused || !session.attached || host_id != session.host_id) {
		end_list(&session.calls);
		session.host_id = host_id;
		session.attached = !session.refused && host_id != 0;
		new_nonce();
	}
	send_hello();
}

static const struct agent_op *op_find(uint16_t number)
{
	for (const struct agent_op *const *op = agent_ops; *op; op++) {
		if ((*op)->op == number)
			return *op;
	}
	return NULL;
}

/* Replies to a call that cannot be; `more` of its body may still come and is swallowed. */
static void reject(struct agent_call *c, bool more, enum error_kind kind, int code, const char *why)
{
	call_drop_body(c);
	c->rejected = more;
	call_reply_error(c, kind, code, "%s", why);
}

static const struct agent_op op_unknown = {.name = "unknown"};

static void on_call(const struct wire_header *h, const uint8_t *payload)
{
	struct agent_call *c = call_find(h->call);
	bool more = h->flags & WIRE_MORE;
	struct wire_fields in;

	if (c && c->rejected) {
		if (!more)
			call_remove(c);
		return;
	}
	if (c && c->started)
		return; /* a number that is in use; the host never does that */
	if (!c) {
		const struct agent_op *op = op_find(h->arg);

		c = call_new(h->call, op ? op : &op_unknown);
		if (!op)
			return reject(c, more, ERROR_UNSUPPORTED, EOPNOTSUPP,
				      "the agent does not know this operation");
		if (session.n_calls > WIRE_CALLS_MAX)
			return reject(c, more, ERROR_INFRA, EBUSY,
				      "too many calls under way in the guest");
	}
	if (c->body.len + h->len > WIRE_CALL_MAX || session.assembling + h->len > ASSEMBLY_MAX)
		return reject(c, more, ERROR_USAGE, E2BIG,
			      "the command with its arguments is longer than 64 MiB");
	buf_append(&c->body, payload, h->len);
	session.assembling += h->len;
	if (more)
		return;
	in = (struct wire_fields){.data = (const uint8_t *)buf_str(&c->body), .len = c->body.len};
	if (!wire_fields_valid(in.data, in.len))
		return reject(c, false, ERROR_BUG, EBADMSG, "the call's body is malformed");
	c->started = true;
	c->op->start(c, &in);
	/* A replied call is only a zombie yet, and its body is gone. */
	if (!c->replied)
		call_drop_body(c);
}

static void on_data(struct agent_call *c, const struct wire_header *h, const uint8_t *payload)
{
	bool fin = h->flags & WIRE_FIN;

	if (h->arg >= WIRE_STREAMS || !c->op->on_data || c->fin_in[h->arg] ||
	    h->len > c->granted[h->arg]) {
		call_reply_error(c, ERROR_BUG, EPROTO, "unexpected data on stream %u", h->arg);
		return;
	}
	c->granted[h->arg] -= h->len;
	c->fin_in[h->arg] = fin;
	c->more_follows = h->flags & WIRE_MORE;
	if (h->len > 0 || fin)
		c->op->on_data(c, h->arg, payload, h->len, fin);
}

static void on_credit(struct agent_call *c, const struct wire_header *h,
		      const struct wire_fields *in)
{
	uint32_t n;

	if (h->arg < WIRE_STREAMS && wire_get_u32(in, TAG_CREDIT, &n) &&
	    n <= WIRE_WINDOW - MIN(c->credit[h->arg], WIRE_WINDOW))
		c->credit[h->arg] += n;
}

static void on_call_frame(const struct wire_header *h, const uint8_t *payload)
{
	struct wire_fields in = {.data = payload, .len = h->len};
	struct agent_call *c = call_find(h->call);

	/* Given up before its body was complete: the rest will not come. */
	if (c && !c->started && h->type == WIRE_CANCEL) {
		if (c->rejected)
			call_remove(c);
		else
			call_reply_error(c, ERROR_TIMEOUT, ECANCELED, "given up by the host");
		return;
	}
	/* Frames cross with replies: what comes for a call that is over means nothing. */
	if (!c || !c->started || c->replied)
		return;
	if (h->type == WIRE_DATA)
		return on_data(c, h, payload);
	if (!wire_fields_valid(payload, h->len))
		return call_reply_error(c, ERROR_BUG, EBADMSG,
					"a message to the call is malformed");
	switch (h->type) {
	case WIRE_CREDIT:
		on_credit(c, h, &in);
		break;
	case WIRE_MESSAGE:
		if (c->op->on_message)
			c->op->on_message(c, &in);
		break;
	case WIRE_CANCEL:
		if (c->op->on_cancel)
			c->op->on_cancel(c, h->arg);
		else
			call_reply_error(c, ERROR_TIMEOUT, ECANCELED, "given up by the host");
		break;
	}
}

static void on_frame(const struct wire_header *h, const uint8_t *payload)
{
	struct wire_fields in = {.data = payload, .len = h->len};

	if (h->type == WIRE_ATTACH) {
		if (wire_fields_valid(payload, h->len))
			on_attach(&in);
		return;
	}
	if (h->type == WIRE_THAW) {
		if (wire_fields_valid(payload, h->len))
			freeze_on_thaw(h->call, &in);
		return;
	}
	if (!session.attached || h->nonce != session.nonce)
		return;
	if (h->type == WIRE_FREEZE)
		freeze_on_freeze(h->call);
	/* A host that waits for FROZEN, or has read it, sends nothing else. */
	if (freeze_is_deaf())
		return;
	switch (h->type) {
	case WIRE_CALL:
		on_call(h, payload);
		break;
	case WIRE_DATA:
	case WIRE_CREDIT:
	case WIRE_MESSAGE:
	case WIRE_CANCEL:
		on_call_frame(h, payload);
		break;
	}
}

/* As much as is there, up to a full buffer. virtio_console gives a page for each read. */
static ssize_t read_stream(int fd)
{
	size_t room, total = 0;

	for (;;) {
		void *space = wire_decoder_space(&session.in, &room);
		ssize_t n;

		if (room == 0)
			return (ssize_t)total;
		n = read(fd, space, room);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || total > 0 ? (ssize_t)total : -errno;
		/* The end will be read again. */
		if (n == 0)
			return total > 0 ? (ssize_t)total : -EPIPE;
		wire_decoder_fill(&session.in, (size_t)n);
		total += (size_t)n;
	}
}

static void on_readable(struct agent_source *s, short revents)
{
	struct wire_header h;
	const uint8_t *payload;

	if (read_stream(s->fd) < 0) {
		session_on_eof();
		return;
	}
	while (output_is_open() && wire_decoder_next(&session.in, &h, &payload))
		on_frame(&h, payload);
}

static void on_write_room(struct agent_source *s, short revents)
{
	/* session_flush() at the loop's next turn does the work. A broken stream shows up here as
	 * POLLERR without POLLOUT, again and again, but also at the reading side. */
	if ((revents & (POLLERR | POLLHUP)) && !(revents & POLLOUT))
		session_on_eof();
}

void session_open(int in_fd, int out_fd)
{
	if (!session.in.data)
		wire_decoder_init(&session.in);
	wire_decoder_reset(&session.in);
	session.attached = session.refused = false;
	session.host_id = 0;
	output_open(out_fd);
	new_nonce();
	session.source_in = (struct agent_source){.fd = in_fd, .events = POLLIN, .fn = on_readable};
	session.source_out = (struct agent_source){.fd = out_fd, .fn = on_write_room};
	agent_source_add(&session.source_in);
	agent_source_add(&session.source_out);
	/* A saved guest's copy is spoken to first. */
	if (freeze_is_frozen())
		return;
	send_hello();
	/* Completes a frame that an earlier life may have left torn. */
	send_frame(WIRE_PAD, 0, 0, 0, NULL, WIRE_PAYLOAD_MAX);
}

void session_close(void)
{
	if (!output_is_open())
		return;
	output_close();
	session.attached = false;
	agent_source_remove(&session.source_in);
	agent_source_remove(&session.source_out);
	output_drop_kept();
	/* An uploaded agent ends with its stream, and leaves nothing behind. */
	if (!life_is_guest())
		end_list(&session.detached);
	if (freeze_is_frozen() && life_is_guest()) {
		detach_all_calls();
		return;
	}
	freeze_abandon("the connection to the host has ended");
	end_list(&session.calls);
}
