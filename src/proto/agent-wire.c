/* SPDX-License-Identifier: MIT */
/* Frames and fields of the agent's protocol: bytes in, messages out. */
#include "proto/agent-wire.h"

#include <assert.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"

/* Byte by byte: compilers make one load or store of it, and alignment and endianness are no topic.
 */
static void put_le(uint8_t *dst, uint64_t v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *src, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v |= (uint64_t)src[i] << (8 * i);
	return v;
}

/* Castagnoli's polynomial, reflected (RFC 3720, appendix B.4). Only headers go through it, so four
 * bits at a time is fast enough and the table small. */
uint32_t wire_crc32c(const void *data, size_t len)
{
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
		0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	const uint8_t *p = data;
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < len; i++) {
		crc ^= p[i];
		crc = (crc >> 4) ^ table[crc & 15];
		crc = (crc >> 4) ^ table[crc & 15];
	}
	return ~crc;
}

/* --- frames ----------------------------------------------------------------------------------- */

#define CHECKED 24 /* bytes of the header in front of the check */

void wire_seal(const struct wire_header *h, uint8_t *dst, uint8_t *end)
{
	uint32_t check;

	assert(h->len <= WIRE_PAYLOAD_MAX);
	put_le(dst, WIRE_MAGIC, 4);
	dst[4] = h->type;
	dst[5] = h->flags;
	put_le(dst + 6, h->arg, 2);
	put_le(dst + 8, h->call, 4);
	put_le(dst + 12, h->len, 4);
	put_le(dst + 16, h->nonce, 8);
	check = wire_crc32c(dst, CHECKED);
	put_le(dst + CHECKED, check, 4);
	put_le(end, ~check, 4);
}

bool wire_header_parse(const uint8_t *src, struct wire_header *ret)
{
	if (get_le(src, 4) != WIRE_MAGIC || get_le(src + CHECKED, 4) != wire_crc32c(src, CHECKED))
		return false;
	*ret = (struct wire_header){
		.type = src[4],
		.flags = src[5],
		.arg = (uint16_t)get_le(src + 6, 2),
		.call = (uint32_t)get_le(src + 8, 4),
		.len = (uint32_t)get_le(src + 12, 4),
		.nonce = get_le(src + 16, 8),
	};
	return ret->len <= WIRE_PAYLOAD_MAX;
}

bool wire_trailer_ok(const uint8_t *header, const uint8_t *trailer)
{
	return (uint32_t)get_le(trailer, 4) == ~(uint32_t)get_le(header + CHECKED, 4);
}

/* --- the decoder ------------------------------------------------------------------------------ */

void wire_decoder_init(struct wire_decoder *d)
{
	*d = (struct wire_decoder){.data = xmalloc(WIRE_DECODER_BYTES)};
}

void wire_decoder_done(struct wire_decoder *d)
{
	free(d->data);
	*d = (struct wire_decoder){};
}

void wire_decoder_reset(struct wire_decoder *d)
{
	d->start = d->end = 0;
}

void *wire_decoder_space(struct wire_decoder *d, size_t *ret_room)
{
	/* Moving is rare: only when the buffer's end is near, and then less than one frame. */
	if (d->start == d->end) {
		d->start = d->end = 0;
	} else if (d->start > 0 && WIRE_DECODER_BYTES - d->end < WIRE_FRAME_MAX) {
		memmove(d->data, d->data + d->start, d->end - d->start);
		d->end -= d->start;
		d->start = 0;
	}
	*ret_room = WIRE_DECODER_BYTES - d->end;
	return d->data + d->end;
}

void wire_decoder_fill(struct wire_decoder *d, size_t n)
{
	assert(n <= WIRE_DECODER_BYTES - d->end);
	d->end += n;
}

/* Could a frame begin so? Also with less than a whole magic. */
static bool may_be_frame(const uint8_t *p, size_t len)
{
	uint8_t magic[4];

	put_le(magic, WIRE_MAGIC, sizeof(magic));
	return memcmp(p, magic, MIN(len, sizeof(magic))) == 0;
}

/* Drops bytes that cannot begin a frame: at least one, then up to the next magic, or to what may be
 * the beginning of one at the end of the buffer. */
static void decoder_skip(struct wire_decoder *d)
{
	size_t from = d->start;

	d->start++;
	while (d->start < d->end) {
		size_t have = d->end - d->start;
		uint8_t *p = memchr(d->data + d->start, WIRE_MAGIC & 0xff, have);

		if (!p) {
			d->start = d->end;
			break;
		}
		d->start = (size_t)(p - d->data);
		if (may_be_frame(p, d->end - d->start))
			break;
		d->start++;
	}
	d->skipped += d->start - from;
}

bool wire_decoder_next(struct wire_decoder *d, struct wire_header *ret, const uint8_t **ret_payload)
{
	for (;;) {
		const uint8_t *p = d->data + d->start;
		size_t have = d->end - d->start;

		/* What is not even the beginning of a magic need not wait for a whole header. */
		if (have > 0 && !may_be_frame(p, have)) {
			decoder_skip(d);
			continue;
		}
		if (have < WIRE_HEADER)
			return false;
		if (!wire_header_parse(p, ret)) {
			decoder_skip(d);
			continue;
		}
		if (have < WIRE_OVERHEAD + ret->len)
			return false;
		if (!wire_trailer_ok(p, p + WIRE_HEADER + ret->len)) {
			d->torn++;
			decoder_skip(d);
			continue;
		}
		*ret_payload = p + WIRE_HEADER;
		d->start += WIRE_OVERHEAD + ret->len;
		return true;
	}
}

/* --- fields ----------------------------------------------------------------------------------- */

#define FIELD_HEADER 6

void wire_put_bytes(struct buf *b, uint16_t tag, const void *data, size_t len)
{
	uint8_t head[FIELD_HEADER];

	assert(len <= UINT32_MAX);
	put_le(head, tag, 2);
	put_le(head + 2, len, 4);
	buf_append(b, head, sizeof(head));
	buf_append(b, data, len);
}

void wire_put_str(struct buf *b, uint16_t tag, const char *s)
{
	if (s)
		wire_put_bytes(b, tag, s, strlen(s));
}

void wire_put_u32(struct buf *b, uint16_t tag, uint32_t v)
{
	uint8_t bytes[4];

	put_le(bytes, v, sizeof(bytes));
	wire_put_bytes(b, tag, bytes, sizeof(bytes));
}

void wire_put_u64(struct buf *b, uint16_t tag, uint64_t v)
{
	uint8_t bytes[8];

	put_le(bytes, v, sizeof(bytes));
	wire_put_bytes(b, tag, bytes, sizeof(bytes));
}

bool wire_field_next(const struct wire_fields *f, size_t *pos, struct wire_field *ret)
{
	const uint8_t *p;
	size_t len;

	if (*pos > f->len || f->len - *pos < FIELD_HEADER)
		return false;
	p = f->data + *pos;
	len = (size_t)get_le(p + 2, 4);
	if (len > f->len - *pos - FIELD_HEADER)
		return false;
	*ret = (struct wire_field){
		.tag = (uint16_t)get_le(p, 2),
		.data = p + FIELD_HEADER,
		.len = len,
	};
	*pos += FIELD_HEADER + len;
	return true;
}

bool wire_fields_valid(const void *data, size_t len)
{
	struct wire_fields f = {.data = data, .len = len};
	struct wire_field field;
	size_t pos = 0;

	while (wire_field_next(&f, &pos, &field))
		;
	return pos == len;
}

bool wire_get_bytes(const struct wire_fields *f, uint16_t tag, const uint8_t **ret, size_t *ret_len)
{
	struct wire_field field;

	for (size_t pos = 0; wire_field_next(f, &pos, &field);) {
		if (field.tag != tag)
			continue;
		*ret = field.data;
		*ret_len = field.len;
		return true;
	}
	return false;
}

static bool get_number(const struct wire_fields *f, uint16_t tag, size_t size, uint64_t *ret)
{
	const uint8_t *p;
	size_t len;

	if (!wire_get_bytes(f, tag, &p, &len) || len != size)
		return false;
	*ret = get_le(p, size);
	return true;
}

bool wire_get_u32(const struct wire_fields *f, uint16_t tag, uint32_t *ret)
{
	uint64_t v;

	if (!get_number(f, tag, 4, &v))
		return false;
	*ret = (uint32_t)v;
	return true;
}

bool wire_get_u64(const struct wire_fields *f, uint16_t tag, uint64_t *ret)
{
	return get_number(f, tag, 8, ret);
}

char *wire_dup_str(const struct wire_fields *f, uint16_t tag, size_t max)
{
	const uint8_t *p;
	size_t len;

	if (!wire_get_bytes(f, tag, &p, &len) || len > max || memchr(p, 0, len))
		return NULL;
	return xstrndup((const char *)p, len);
}

bool wire_copy_str(const struct wire_fields *f, uint16_t tag, char *ret, size_t size)
{
	const uint8_t *p;
	size_t len;

	assert(size > 0);
	ret[0] = '\0';
	if (!wire_get_bytes(f, tag, &p, &len))
		return false;
	len = MIN(len, size - 1);
	for (size_t i = 0; i < len; i++)
		ret[i] = p[i] ? (char)p[i] : '?';
	ret[len] = '\0';
	return true;
}

bool wire_dup_strv(const struct wire_fields *f, uint16_t tag, size_t max, char ***ret)
{
	struct wire_field field;
	char **v;
	size_t n = 0;

	for (size_t pos = 0; wire_field_next(f, &pos, &field);) {
		if (field.tag != tag)
			continue;
		if (++n > max || memchr(field.data, 0, field.len))
			return false;
	}
	v = xcalloc(n + 1, sizeof(*v));
	n = 0;
	for (size_t pos = 0; wire_field_next(f, &pos, &field);) {
		if (field.tag == tag)
			v[n++] = xstrndup((const char *)field.data, field.len);
	}
	*ret = v;
	return true;
}

void wire_put_error(struct buf *b, const struct error *err)
{
	if (!error_is_set(err))
		return;
	wire_put_u32(b, TAG_ERRNO, err->code > 0 ? (uint32_t)err->code : EIO);
	wire_put_str(b, TAG_KIND, error_kind_name(err->kind));
	wire_put_str(b, TAG_MESSAGE, err->message);
	if (err->hint[0])
		wire_put_str(b, TAG_HINT, err->hint);
}

bool wire_get_error(const struct wire_fields *f, struct error *ret)
{
	char kind[32];
	uint32_t code;

	if (!wire_get_u32(f, TAG_ERRNO, &code) || code == 0)
		return false;
	*ret = (struct error){.code = code < 4096 ? (int)code : EPROTO};
	wire_copy_str(f, TAG_KIND, kind, sizeof(kind));
	ret->kind = error_kind_from_name(kind);
	/* What the guest says must not end a test as the host's own decisions do. */
	if (ret->kind == ERROR_NONE || ret->kind == ERROR_DEADLINE || ret->kind == ERROR_SKIP)
		ret->kind = ERROR_INFRA;
	wire_copy_str(f, TAG_MESSAGE, ret->message, sizeof(ret->message));
	wire_copy_str(f, TAG_HINT, ret->hint, sizeof(ret->hint));
	return true;
}
