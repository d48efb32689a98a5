/* SPDX-License-Identifier: MIT */
/* Either end of the agent's protocol, spoken by the test itself, frame by frame. */
#pragma once

#include "agent-test.h"
#include "proto/agent-wire.h"

/* One end of a stream, spoken by the test itself. */
struct peer {
	struct io *io;
	struct wire_decoder in;
};

static inline void peer_init(struct peer *p, int fd)
{
	p->io = io_new(fd);
	wire_decoder_init(&p->in);
}

static inline void peer_done(struct peer *p)
{
	io_free(p->io);
	wire_decoder_done(&p->in);
}

static inline void peer_send(struct peer *p, struct wire_header h, const void *payload, size_t len)
{
	uint8_t *frame = xcalloc(1, WIRE_FRAME_MAX);

	h.len = (uint32_t)len;
	if (payload)
		memcpy(frame + WIRE_HEADER, payload, len);
	wire_seal(&h, frame, frame + WIRE_HEADER + len);
	check_ok(io_write_all(p->io, frame, WIRE_OVERHEAD + len, 5 * S, &failure));
	free(frame);
}

/* The next frame that is not PAD; false at the end of the stream or after a second. */
static inline bool peer_receive(struct peer *p, struct wire_header *h, struct wire_fields *f)
{
	const uint8_t *payload;

	for (;;) {
		size_t room;
		void *space;
		ssize_t n;

		while (wire_decoder_next(&p->in, h, &payload)) {
			*f = (struct wire_fields){.data = payload, .len = h->len};
			if (h->type != WIRE_PAD)
				return true;
		}
		space = wire_decoder_space(&p->in, &room);
		n = io_read(p->io, space, room, S, NULL);
		if (n <= 0)
			return false;
		wire_decoder_fill(&p->in, (size_t)n);
	}
}

static inline void peer_expect(struct peer *p, enum wire_type type, struct wire_header *h,
			       struct wire_fields *f)
{
	check(peer_receive(p, h, f));
	check(h->type == type);
}

static inline void send_hello(struct peer *p, uint32_t version, uint64_t host_id, uint64_t nonce,
			      const char *boot, const char *phase)
{
	_cleanup_buf_ struct buf b = {};

	wire_put_u32(&b, TAG_VERSION, version);
	wire_put_str(&b, TAG_BUILD, "c0ffee");
	wire_put_u64(&b, TAG_HOST_ID, host_id);
	wire_put_str(&b, TAG_BOOT_ID, boot);
	wire_put_str(&b, TAG_PHASE, phase);
	if (str_eq(phase, "failed"))
		wire_put_str(&b, TAG_MESSAGE, "no disk");
	peer_send(p, (struct wire_header){.type = WIRE_HELLO, .nonce = nonce}, b.data, b.len);
}

static inline void send_attach(struct peer *p, uint32_t version, uint64_t host_id)
{
	_cleanup_buf_ struct buf b = {};

	wire_put_u32(&b, TAG_VERSION, version);
	wire_put_str(&b, TAG_BUILD, "9.9");
	wire_put_u64(&b, TAG_HOST_ID, host_id);
	peer_send(p, (struct wire_header){.type = WIRE_ATTACH}, b.data, b.len);
}

/* A client whose guest is the test. */
static inline void client_start(struct guest *g, struct peer *p, uint64_t *ret_host_id)
{
	struct wire_header h;
	struct wire_fields f;
	int ends[2];

	*g = (struct guest){};
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	g->agent = agent_new(io_new(ends[0]), &guest_callbacks, g);
	peer_init(p, ends[1]);
	peer_expect(p, WIRE_ATTACH, &h, &f);
	check(wire_get_u64(&f, TAG_HOST_ID, ret_host_id) && *ret_host_id != 0);
}

/* --- against the real agent ------------------------------------------------------------------- */

static inline void agent_peer_start(struct guest *g, struct peer *p, uint64_t host_id,
				    uint64_t *ret_nonce)
{
	struct wire_header h;
	struct wire_fields f;
	uint64_t id;

	peer_init(p, guest_spawn(g));
	peer_expect(p, WIRE_HELLO, &h, &f);
	check(wire_get_u64(&f, TAG_HOST_ID, &id) && id == 0);
	send_attach(p, WIRE_VERSION, host_id);
	peer_expect(p, WIRE_HELLO, &h, &f);
	check(wire_get_u64(&f, TAG_HOST_ID, &id) && id == host_id);
	*ret_nonce = h.nonce;
}

static inline void agent_peer_stop(struct guest *g, struct peer *p)
{
	peer_done(p);
	process_stop(g->process, 5 * S);
	process_free(g->process);
}

static inline void expect_ping(struct peer *p, uint64_t nonce, uint32_t call)
{
	struct wire_header h;
	struct wire_fields f;
	struct error err = {};

	peer_send(p,
		  (struct wire_header){
			  .type = WIRE_CALL,
			  .arg = WIRE_OP_PING,
			  .call = call,
			  .nonce = nonce,
		  },
		  NULL, 0);
	peer_expect(p, WIRE_REPLY, &h, &f);
	check(h.call == call && h.nonce == nonce && !wire_get_error(&f, &err));
}
