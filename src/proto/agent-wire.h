/* SPDX-License-Identifier: MIT */
/* The wire format between the host and the guest agent: frames, fields, numbers. Pure. */
#pragma once

#include "base/buf.h"
#include "base/util.h"

/*
 * Theory of operation
 *
 * A byte stream in each direction carries frames; all integers are little-endian:
 *
 *	 0  u32 magic     WIRE_MAGIC
 *	 4  u8  type      enum wire_type
 *	 5  u8  flags     WIRE_FIN, WIRE_MORE
 *	 6  u16 arg       CALL: the operation; DATA, CREDIT: the stream; CANCEL: the reason
 *	 8  u32 call      which call, chosen by the host; 0: the session itself
 *	12  u32 len       of the payload, WIRE_PAYLOAD_MAX at most
 *	16  u64 nonce     of the session
 *	24  u32 check     CRC-32C of the 24 bytes above
 *	28  payload
 *	28+len u32 end    ~check
 *
 * Payloads other than DATA and PAD are fields, one after the other: u16 tag, u32 len, bytes.
 * Unknown tags are ignored, a tag may stand more than once.
 *
 * Greeting. Header, ATTACH, HELLO and PAD are the same in all versions. The agent sends HELLO
 * (host id 0) when it starts; the host sends ATTACH with a random host id (nonce 0) when it starts
 * and whenever it sees a HELLO that does not name its id. The agent answers ATTACH with HELLO that
 * names the id; an id unlike the last one ends all calls and begins a session with a new nonce.
 * Frames with another nonce than the session's are dropped by both (ATTACH, HELLO and PAD
 *excepted), so nothing of an old session does harm.
 *
 * Torn frames. A guest may die in mid-frame, and what follows is of its next life. A reader takes
 * a frame only when its end mark is right; otherwise it looks for the next valid header right
 * behind the header of the torn one. Whoever begins a stream sends PAD of the largest size behind
 *its greeting, so that a torn frame is always completed and the greeting in it found.
 *
 * Saving a guest. FREEZE: the agent sends what it has begun, stops the calendar timers, and answers
 * FROZEN, behind which it writes nothing; the host has written nothing behind FREEZE. So no byte
 * is in a queue when the guest's memory is saved. THAW begins again, on this guest or a copy of it:
 * with the session's host id everything goes on under the same nonce; another id begins a session,
 * and the commands of the old one live on unheard. The answers repeat the request's number. THAW
 * without a time and a seed only ends the rest. ATTACH ends it, too.
 *
 * Credit. Each stream of a call starts with WIRE_WINDOW bytes in its direction; the reader
 * grants more (CREDIT) as it consumes. Who sends more than was granted is cut off.
 */

#define WIRE_VERSION	 2
#define WIRE_MAGIC	 0x59534195u /* 95 41 53 59: "\x95" "ASY" */
#define WIRE_HEADER	 28
#define WIRE_TRAILER	 4
#define WIRE_OVERHEAD	 (WIRE_HEADER + WIRE_TRAILER)
#define WIRE_PAYLOAD_MAX (64 * KIB)
#define WIRE_FRAME_MAX	 (WIRE_PAYLOAD_MAX + WIRE_OVERHEAD)
/* The preferred size of DATA: a frame is then one 32 KiB buffer of Linux' virtio_console. */
#define WIRE_DATA_CHUNK (32 * KIB - WIRE_OVERHEAD)
#define WIRE_WINDOW	(512 * KIB)
/* A call's body may be spread over several CALL frames (WIRE_MORE on all but the last). */
#define WIRE_CALL_MAX  (64 * MIB)
#define WIRE_CALLS_MAX 1024 /* under way at once */

enum wire_type {
	WIRE_ATTACH = 1,  /* host → agent: TAG_VERSION, TAG_BUILD, TAG_HOST_ID */
	WIRE_HELLO,	  /* agent → host: see TAG_*; again when the phase changes */
	WIRE_PAD,	  /* both: ignored */
	WIRE_REFUSE,	  /* both: fields of an error; the peer's session cannot go on */
	WIRE_CALL,	  /* host → agent */
	WIRE_REPLY,	  /* agent → host: the call is over; the last frame of it */
	WIRE_MESSAGE,	  /* both: fields within a call (started; send a signal) */
	WIRE_DATA,	  /* both: bytes of a stream; WIRE_FIN: the stream's end */
	WIRE_CREDIT,	  /* both: TAG_CREDIT more bytes may be sent on the stream */
	WIRE_CANCEL,	  /* host → agent: arg is a WIRE_CANCEL_* reason; REPLY follows */
	WIRE_FREEZE = 32, /* host → agent: rest; `call` is the number of this request */
	WIRE_FROZEN,	  /* agent → host: nothing follows; or an error, and nothing rests */
	WIRE_THAW,	  /* host → agent, any nonce: see TAG_REALTIME_NS and TAG_SEED */
	WIRE_THAWED,	  /* agent → host: HELLO's fields, TAG_DELTA_NS, an error */
};

#define WIRE_FIN  0x01 /* DATA: the last of the stream */
#define WIRE_MORE 0x02 /* CALL: the body goes on; DATA: a hint that more follows at once */

enum wire_cancel {
	WIRE_CANCEL_TIMEOUT = 1, /* give up, and tell in REPLY what was seen (TAG_MESSAGE) */
	WIRE_CANCEL_GONE,	 /* nobody is interested any more */
};

enum wire_op {
	WIRE_OP_PING = 1,
	WIRE_OP_EXEC,
	WIRE_OP_READ_FILE,  /* data: WIRE_STREAM_OUT */
	WIRE_OP_WRITE_FILE, /* data: WIRE_STREAM_IN */
	WIRE_OP_POWER,
	WIRE_OP_SET_CLOCK,
	WIRE_OP_WAIT_UNIT = 32,
	WIRE_OP_WAIT_BOOTED,
	WIRE_OP_WAIT_SOCKET,
	WIRE_OP_WAIT_FILE,
	WIRE_OP_WAIT_MOUNT,
	WIRE_OP_WAIT_PROCESS, /* command lines: WIRE_STREAM_OUT */
	WIRE_OP_COPY_IN = 48, /* tree: WIRE_STREAM_IN */
	WIRE_OP_COPY_OUT,     /* tree: WIRE_STREAM_OUT */
	/* Reserved for a port forward, links and addresses, journal. */
	WIRE_OP_CONNECT = 64,
	WIRE_OP_NETWORK,
	WIRE_OP_JOURNAL,
};

/* Streams of a call. */
enum wire_stream {
	WIRE_STREAM_IN = 0,  /* host → agent: a command's stdin, a file, a tree */
	WIRE_STREAM_OUT = 1, /* agent → host: stdout, a file, a tree */
	WIRE_STREAM_ERR = 2, /* agent → host: stderr */
	WIRE_STREAMS = 3,
};

enum wire_tag {
	/* greeting */
	TAG_VERSION = 1, /* u32 */
	TAG_BUILD,   /* str: hex digest of the agent binary (HELLO), Assay's own version (ATTACH) */
	TAG_HOST_ID, /* u64 */
	TAG_BOOT_ID, /* str */
	TAG_PHASE,   /* str: "initramfs", "system", "failed" */
	TAG_UPTIME_NS, /* u64: CLOCK_BOOTTIME */

	/* errors, in REPLY and REFUSE, and the state seen so far after WIRE_CANCEL_TIMEOUT */
	TAG_ERRNO = 16, /* u32: Linux' number; absent or 0: success */
	TAG_KIND,	/* str: error_kind_name() */
	TAG_MESSAGE,	/* str */
	TAG_HINT,	/* str */

	TAG_CREDIT = 24, /* u32 bytes */

	/* EXEC */
	TAG_ARG = 32,	/* str, one for each argument */
	TAG_SCRIPT,	/* str: instead of arguments */
	TAG_EXEC_FLAGS, /* u32: WIRE_EXEC_* */
	TAG_USER,	/* str */
	TAG_CWD,	/* str */
	TAG_ENV,	/* str "K=V", one for each */
	TAG_PID,	/* u32; MESSAGE: the command was started */
	TAG_SIGNAL,	/* u32; MESSAGE: send it; REPLY: it ended by it */
	TAG_EXIT_CODE,	/* u32; REPLY */
	TAG_WALL_NS,	/* u64; REPLY */

	/* files, trees */
	TAG_PATH = 48, /* str */
	TAG_MODE,      /* u32 */
	TAG_OWNER,     /* str "user[:group]" */
	TAG_MAX,       /* u64 bytes */
	TAG_SIZE,      /* u64 bytes */
	TAG_FLAGS,     /* u32: of the operation */

	/* power, clock */
	TAG_HOW = 64,	 /* str: "poweroff", "reboot" */
	TAG_REALTIME_NS, /* u64: CLOCK_REALTIME (as an i64) */
	TAG_DELTA_NS,	 /* u64: an i64 */
	TAG_SEED,	 /* bytes for the kernel's random generator, all of them random */
	TAG_MACHINE_ID,	 /* str: 32 hex digits */

	/* waits */
	TAG_UNIT = 80,	 /* str */
	TAG_STATE,	 /* str */
	TAG_SOCKET_TYPE, /* u32: enum agent_socket_wait's type */
	TAG_ADDRESS,	 /* str */
	TAG_PORT,	 /* u32 */
	TAG_NEGATED,	 /* u32 bool: until closed, until gone */
	/* 96 … 127 are free for the operations of waits and trees. */
	TAG_WAIT_FIRST = 96,
	TAG_WAIT_LAST = 127,
};

#define WIRE_EXEC_PLAIN_SHELL 0x01 /* script without -e, -u, pipefail */
#define WIRE_EXEC_STDIN	      0x02 /* WIRE_STREAM_IN follows; else /dev/null */
#define WIRE_EXEC_TTY	      0x04

struct wire_header {
	uint8_t type, flags;
	uint16_t arg;
	uint32_t call;
	uint32_t len;
	uint64_t nonce;
};

/* Writes WIRE_HEADER bytes to dst and WIRE_TRAILER bytes to end (which may be dst + WIRE_HEADER +
 * h->len). h->len <= WIRE_PAYLOAD_MAX is asserted. */
void wire_seal(const struct wire_header *h, uint8_t *dst, uint8_t *end);
/* True if WIRE_HEADER bytes at src are a valid header. */
bool wire_header_parse(const uint8_t *src, struct wire_header *ret);
bool wire_trailer_ok(const uint8_t *header, const uint8_t *trailer);
uint32_t wire_crc32c(const void *data, size_t len);

/* --- decoding a stream ------------------------------------------------------------------------ */

/*
 * Turns bytes into frames. Memory: one buffer of WIRE_DECODER_BYTES, never more. The caller reads
 * straight into it:
 *
 *	n = read(fd, wire_decoder_space(d, &room), room);
 *	wire_decoder_fill(d, n);
 *	while (wire_decoder_next(d, &h, &payload))
 *		…	(payload lives until the next call of space)
 *
 * Every input is taken; bytes that are no frame are skipped and counted in d->skipped.
 */
#define WIRE_DECODER_BYTES (256 * KIB)

struct wire_decoder {
	uint8_t *data;
	size_t start, end;
	uint64_t skipped; /* bytes that belonged to no frame */
	uint64_t torn;	  /* frames with a wrong end mark */
};

void wire_decoder_init(struct wire_decoder *d);
void wire_decoder_done(struct wire_decoder *d);
/* Forgets what is there: after a disconnection. */
void wire_decoder_reset(struct wire_decoder *d);
void *wire_decoder_space(struct wire_decoder *d,
			 size_t *ret_room); /* room > 0 after next() said false */
void wire_decoder_fill(struct wire_decoder *d, size_t n);
bool wire_decoder_next(struct wire_decoder *d, struct wire_header *ret,
		       const uint8_t **ret_payload);

/* --- fields ------------------------------------------------------------------------------------
 */

/* Appending to a body; u32 and u64 are 4 and 8 bytes. */
void wire_put_bytes(struct buf *b, uint16_t tag, const void *data, size_t len);
void wire_put_str(struct buf *b, uint16_t tag, const char *s); /* without the NUL; NULL: nothing */
void wire_put_u32(struct buf *b, uint16_t tag, uint32_t v);
void wire_put_u64(struct buf *b, uint16_t tag, uint64_t v);

/* A body as received; borrows the bytes. */
struct wire_fields {
	const uint8_t *data;
	size_t len;
};
struct wire_field {
	uint16_t tag;
	const uint8_t *data;
	size_t len;
};
/* True if the body is fields all the way, none longer than what is there. All below may be
 * called on any bytes, but only on a valid body do they find everything. */
bool wire_fields_valid(const void *data, size_t len);
/* Iterates: *pos starts at 0. False at the end, or at a field that reaches beyond it. */
bool wire_field_next(const struct wire_fields *f, size_t *pos, struct wire_field *ret);
/* The first field of this tag. False if it is absent or has another size. */
bool wire_get_bytes(const struct wire_fields *f, uint16_t tag, const uint8_t **ret,
		    size_t *ret_len);
bool wire_get_u32(const struct wire_fields *f, uint16_t tag, uint32_t *ret);
bool wire_get_u64(const struct wire_fields *f, uint16_t tag, uint64_t *ret);
/* As a malloc'd string; NULL if absent, longer than max, or with a NUL in it. */
char *wire_dup_str(const struct wire_fields *f, uint16_t tag, size_t max);
/* Into a buffer, cut off if it does not fit, "" if absent; NULs become '?'. False if absent. */
bool wire_copy_str(const struct wire_fields *f, uint16_t tag, char *ret, size_t size);
/* Into a NULL-terminated vector (strv), one for each field of the tag. False (and nothing) if
 * there are more than max or one has a NUL in it. */
bool wire_dup_strv(const struct wire_fields *f, uint16_t tag, size_t max, char ***ret);

/* An error as fields and back. `err` may be the NONE error: then TAG_ERRNO is absent. */
struct error;
void wire_put_error(struct buf *b, const struct error *err);
/* Returns true and fills ret if the fields tell an error. */
bool wire_get_error(const struct wire_fields *f, struct error *ret);
