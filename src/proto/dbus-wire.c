/* SPDX-License-Identifier: MIT */
/* The D-Bus message format: calls out, anything in. */
#include "proto/dbus-wire.h"

#include <endian.h>
#include <string.h>
#include <sys/types.h>

/*
 * A message: a fixed part of 12 bytes (byte order, type, flags, version, length of the body,
 * serial), the array of header fields a(yv), padding to 8, the body. Alignment of a value counts
 * from the start of the message, which for the body is the same as from its own start, because it
 * starts at a multiple of 8.
 */

#define FIXED_BYTES 12	       /* before the array of fields, whose length makes it 16 */
#define ARRAY_MAX   (64 * MIB) /* by the specification; the message's bound is tighter */

enum header_field {
	FIELD_PATH = 1,
	FIELD_INTERFACE = 2,
	FIELD_MEMBER = 3,
	FIELD_ERROR_NAME = 4,
	FIELD_REPLY_SERIAL = 5,
	FIELD_DESTINATION = 6,
	FIELD_SENDER = 7,
	FIELD_SIGNATURE = 8,
};

static uint32_t get_u32(const uint8_t *p, bool big_endian)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return big_endian ? be32toh(v) : le32toh(v);
}

static int fail(struct dbus_reader *r)
{
	return r->error = -EBADMSG;
}

/* The padding bytes must be zero, by the specification; a peer that has them otherwise is refused.
 */
static int align_to(struct dbus_reader *r, size_t align)
{
	if (r->error < 0)
		return -EBADMSG;
	while (r->pos % align != 0) {
		if (r->pos >= r->end || r->data[r->pos] != 0)
			return fail(r);
		r->pos++;
	}
	return 0;
}

/* len bytes at a multiple of align. All reading ends here, so this is where bounds are kept. */
static int take(struct dbus_reader *r, size_t align, size_t len, const uint8_t **ret)
{
	if (align_to(r, align) < 0)
		return -EBADMSG;
	if (len > r->end - r->pos)
		return fail(r);
	*ret = r->data + r->pos;
	r->pos += len;
	return 0;
}

void dbus_reader_init(struct dbus_reader *r, const struct dbus_message *m)
{
	*r = (struct dbus_reader){
		.data = m->body,
		.end = m->body_len,
		.big_endian = m->big_endian,
	};
}

int dbus_read_u32(struct dbus_reader *r, uint32_t *ret)
{
	const uint8_t *p = NULL;

	if (take(r, 4, 4, &p) < 0)
		return -EBADMSG;
	*ret = get_u32(p, r->big_endian);
	return 0;
}

int dbus_read_u64(struct dbus_reader *r, uint64_t *ret)
{
	const uint8_t *p = NULL;
	uint64_t v;

	if (take(r, 8, 8, &p) < 0)
		return -EBADMSG;
	memcpy(&v, p, sizeof(v));
	*ret = r->big_endian ? be64toh(v) : le64toh(v);
	return 0;
}

int dbus_read_bool(struct dbus_reader *r, bool *ret)
{
	uint32_t v;

	if (dbus_read_u32(r, &v) < 0)
		return -EBADMSG;
	/* The specification knows no other values. */
	if (v > 1)
		return fail(r);
	*ret = v;
	return 0;
}

/* The text behind a length that is already read: it ends with NUL and has no other one. */
static int take_text(struct dbus_reader *r, size_t len, const char **ret)
{
	const uint8_t *p = NULL;

	if (len >= r->end - r->pos)
		return fail(r);
	if (take(r, 1, len + 1, &p) < 0)
		return -EBADMSG;
	if (p[len] != 0 || memchr(p, 0, len))
		return fail(r);
	*ret = (const char *)p;
	return 0;
}

int dbus_read_string(struct dbus_reader *r, const char **ret)
{
	uint32_t len;

	if (dbus_read_u32(r, &len) < 0)
		return -EBADMSG;
	return take_text(r, len, ret);
}

int dbus_read_signature(struct dbus_reader *r, const char **ret)
{
	const uint8_t *len = NULL;

	if (take(r, 1, 1, &len) < 0)
		return -EBADMSG;
	return take_text(r, *len, ret);
}

int dbus_read_array(struct dbus_reader *r, size_t element_align, size_t *ret_end)
{
	uint32_t len;

	if (dbus_read_u32(r, &len) < 0)
		return -EBADMSG;
	/* The padding to the first element is there even if there is none, and is not counted. */
	if (align_to(r, element_align) < 0)
		return -EBADMSG;
	if (len > ARRAY_MAX || len > r->end - r->pos)
		return fail(r);
	*ret_end = r->pos + len;
	return 0;
}

int dbus_read_struct(struct dbus_reader *r)
{
	return align_to(r, 8);
}

int dbus_read_property(struct dbus_reader *r, size_t end, const char **ret_name,
		       const char **ret_signature)
{
	if (r->error < 0)
		return -EBADMSG;
	if (r->pos == end)
		return 0;
	if (r->pos > end)
		return fail(r);
	if (dbus_read_struct(r) < 0 || dbus_read_string(r, ret_name) < 0 ||
	    dbus_read_signature(r, ret_signature) < 0)
		return -EBADMSG;
	return r->pos > end ? fail(r) : 1;
}

/* --- skipping a value of any type ---------------------------------------------------------- */

/* Alignment, and the size of the types that have a fixed one (0: they have not). */
static bool type_layout(char type, size_t *ret_align, size_t *ret_size)
{
	switch (type) {
	case 'y':
		*ret_align = *ret_size = 1;
		return true;
	case 'n':
	case 'q':
		*ret_align = *ret_size = 2;
		return true;
	case 'b':
	case 'i':
	case 'u':
	case 'h':
		*ret_align = *ret_size = 4;
		return true;
	case 'x':
	case 't':
	case 'd':
		*ret_align = *ret_size = 8;
		return true;
	case 's':
	case 'o':
	case 'a':
		*ret_align = 4;
		*ret_size = 0;
		return true;
	case 'g':
	case 'v':
		*ret_align = 1;
		*ret_size = 0;
		return true;
	case '(':
	case '{':
		*ret_align = 8;
		*ret_size = 0;
		return true;
	default:
		return false;
	}
}

/* The end of the single complete type at sig; NULL if there is none. Signatures have at most 255
 * characters, so the recursion is bounded by `depth` and the work by the length. */
static const char *type_end(const char *sig, unsigned depth)
{
	size_t align, size;
	char close;

	if (depth > DBUS_WIRE_DEPTH_MAX || !type_layout(*sig, &align, &size))
		return NULL;
	if (*sig == 'a')
		return type_end(sig + 1, depth + 1);
	if (*sig != '(' && *sig != '{')
		return sig + 1;
	close = *sig == '(' ? ')' : '}';
	sig++;
	if (*sig == close)
		return NULL; /* an empty struct does not exist */
	while (*sig != close) {
		sig = type_end(sig, depth + 1);
		if (!sig)
			return NULL;
	}
	return sig + 1;
}

static int skip_value(struct dbus_reader *r, const char *sig, unsigned depth,
		      const char **ret_rest);

static int skip_array(struct dbus_reader *r, const char *element, unsigned depth)
{
	size_t align, size, end;
	const char *rest;

	if (!type_layout(*element, &align, &size))
		return fail(r);
	if (dbus_read_array(r, align, &end) < 0)
		return -EBADMSG;
	/* Elements of one size (which is their alignment, so no padding is between them) in one
	 * step. */
	if (size > 0) {
		if ((end - r->pos) % size != 0)
			return fail(r);
		r->pos = end;
		return 0;
	}
	while (r->pos < end)
		if (skip_value(r, element, depth + 1, &rest) < 0)
			return -EBADMSG;
	return r->pos == end ? 0 : fail(r);
}

/* A struct or a dict entry, up to its closing character. */
static int skip_members(struct dbus_reader *r, const char *sig, char close, unsigned depth)
{
	if (dbus_read_struct(r) < 0)
		return -EBADMSG;
	while (*sig != close)
		if (skip_value(r, sig, depth + 1, &sig) < 0)
			return -EBADMSG;
	return 0;
}

/* Its type is on the wire, so this is the way to nest without end: `depth` is counted on. */
static int skip_variant(struct dbus_reader *r, unsigned depth)
{
	const char *sig, *rest;

	if (dbus_read_signature(r, &sig) < 0)
		return -EBADMSG;
	if (skip_value(r, sig, depth + 1, &rest) < 0)
		return -EBADMSG;
	return *rest == 0 ? 0 : fail(r); /* exactly one type */
}

static int skip_value(struct dbus_reader *r, const char *sig, unsigned depth, const char **ret_rest)
{
	const char *end = type_end(sig, depth), *text;
	size_t align, size;
	const uint8_t *p;

	if (r->error < 0)
		return -EBADMSG;
	if (!end || !type_layout(*sig, &align, &size))
		return fail(r);
	*ret_rest = end;
	if (size > 0)
		return take(r, align, size, &p);
	switch (*sig) {
	case 's':
	case 'o':
		return dbus_read_string(r, &text);
	case 'g':
		return dbus_read_signature(r, &text);
	case 'v':
		return skip_variant(r, depth);
	case 'a':
		return skip_array(r, sig + 1, depth);
	case '(':
		return skip_members(r, sig + 1, ')', depth);
	default:
		return skip_members(r, sig + 1, '}', depth);
	}
}

int dbus_skip(struct dbus_reader *r, const char *signature, const char **ret_rest)
{
	const char *rest;
	int n = skip_value(r, signature, 0, &rest);

	if (n < 0)
		return n;
	if (ret_rest)
		*ret_rest = rest;
	return 0;
}

/* --- messages ------------------------------------------------------------------------------ */

/* Stores the value of one header field; fields of a number that we do not know are skipped, as
 * the specification demands. */
static int read_field(struct dbus_reader *r, uint8_t code, const char *sig, struct dbus_message *m)
{
	const char **text = NULL;
	char want = 's';

	switch (code) {
	case 0:
		return fail(r);
	case FIELD_PATH:
		text = &m->path;
		want = 'o';
		break;
	case FIELD_INTERFACE:
		text = &m->interface;
		break;
	case FIELD_MEMBER:
		text = &m->member;
		break;
	case FIELD_ERROR_NAME:
		text = &m->error_name;
		break;
	case FIELD_SENDER:
		text = &m->sender;
		break;
	case FIELD_REPLY_SERIAL:
		return sig[0] == 'u' && sig[1] == 0 ? dbus_read_u32(r, &m->reply_serial) : fail(r);
	case FIELD_SIGNATURE:
		return sig[0] == 'g' && sig[1] == 0 ? dbus_read_signature(r, &m->signature)
						    : fail(r);
	default: {
		const char *rest;

		if (dbus_skip(r, sig, &rest) < 0)
			return -EBADMSG;
		return *rest == 0 ? 0 : fail(r);
	}
	}
	return sig[0] == want && sig[1] == 0 ? dbus_read_string(r, text) : fail(r);
}

static int read_fields(struct dbus_reader *r, struct dbus_message *m)
{
	size_t end;

	if (dbus_read_array(r, 8, &end) < 0)
		return -EBADMSG;
	while (r->pos < end) {
		const uint8_t *code = NULL;
		const char *sig;

		if (dbus_read_struct(r) < 0 || take(r, 1, 1, &code) < 0 ||
		    dbus_read_signature(r, &sig) < 0 || read_field(r, *code, sig, m) < 0)
			return -EBADMSG;
	}
	return r->pos == end ? 0 : fail(r);
}

/* The fields that each type must have; "Header Fields" in the specification. */
static bool has_required(const struct dbus_message *m)
{
	switch (m->type) {
	case DBUS_METHOD_CALL:
		return m->path && m->member;
	case DBUS_METHOD_RETURN:
		return m->reply_serial != 0;
	case DBUS_ERROR:
		return m->reply_serial != 0 && m->error_name;
	case DBUS_SIGNAL:
		return m->path && m->interface && m->member;
	default:
		return true; /* unknown types are to be ignored, not refused */
	}
}

ssize_t dbus_wire_parse(const void *data, size_t len, struct dbus_message *ret)
{
	struct dbus_message m = {.signature = ""};
	const uint8_t *p = data;
	struct dbus_reader r;
	uint64_t header, total;
	uint32_t body;

	if (len < FIXED_BYTES + 4)
		return 0;
	if ((p[0] != 'l' && p[0] != 'B') || p[1] == 0 || p[3] != 1)
		return -EBADMSG;
	m.big_endian = p[0] == 'B';
	m.type = p[1];
	body = get_u32(p + 4, m.big_endian);
	m.serial = get_u32(p + 8, m.big_endian);
	if (m.serial == 0)
		return -EBADMSG;
	/* In 64 bits, so that no length overflows the sum. */
	header = FIXED_BYTES + 4 + (uint64_t)get_u32(p + 12, m.big_endian);
	header = (header + 7) & ~7ULL;
	total = header + body;
	if (total > DBUS_WIRE_MESSAGE_MAX)
		return -EMSGSIZE;
	if (len < total)
		return 0;
	r = (struct dbus_reader){
		.data = p,
		.pos = FIXED_BYTES,
		.end = header,
		.big_endian = m.big_endian,
	};
	if (read_fields(&r, &m) < 0 || align_to(&r, 8) < 0 || !has_required(&m))
		return -EBADMSG;
	m.body = p + header;
	m.body_len = body;
	*ret = m;
	return total;
}

/* --- writing
 * --------------------------------------------------------------------------------------- */

/* Messages are built in a buffer of their own, so that alignment counts from its start. */
static void put_align(struct buf *b, size_t align)
{
	while (b->len % align != 0)
		buf_putc(b, 0);
}

static void put_u32(struct buf *b, uint32_t v)
{
	uint32_t le = htole32(v);

	put_align(b, 4);
	buf_append(b, &le, sizeof(le));
}

static void put_string(struct buf *b, const char *s)
{
	size_t len = strlen(s);

	put_u32(b, len);
	buf_append(b, s, len + 1);
}

static void put_signature(struct buf *b, const char *sig)
{
	size_t len = strlen(sig);

	buf_putc(b, (char)len);
	buf_append(b, sig, len + 1);
}

/* One element of the array of fields: a struct (yv), the variant's value a string or a signature.
 */
static void put_field(struct buf *b, enum header_field code, const char *sig, const char *value)
{
	put_align(b, 8);
	buf_putc(b, (char)code);
	put_signature(b, sig);
	if (sig[0] == 'g')
		put_signature(b, value);
	else
		put_string(b, value);
}

static void patch_u32(struct buf *b, size_t at, uint32_t v)
{
	uint32_t le = htole32(v);

	memcpy(b->data + at, &le, sizeof(le));
}

void dbus_wire_call(struct buf *out, uint32_t serial, const char *path, const char *interface,
		    const char *member, const char *signature, const char *const *args)
{
	static const char fixed[] = {'l', DBUS_METHOD_CALL, 0, 1}; /* no flags, version 1 */
	_cleanup_buf_ struct buf b = {};
	size_t start;

	buf_append(&b, fixed, sizeof(fixed));
	put_u32(&b, 0); /* length of the body, known below */
	put_u32(&b, serial);
	put_u32(&b, 0); /* length of the fields */
	put_field(&b, FIELD_PATH, "o", path);
	put_field(&b, FIELD_INTERFACE, "s", interface);
	put_field(&b, FIELD_MEMBER, "s", member);
	if (*signature)
		put_field(&b, FIELD_SIGNATURE, "g", signature);
	patch_u32(&b, FIXED_BYTES, b.len - FIXED_BYTES - 4);
	put_align(&b, 8);
	start = b.len;
	for (const char *type = signature; *type; type++) {
		if (*type == 'a') {
			/* Its length in bytes, with the string's own length and NUL. */
			put_u32(&b, 4 + strlen(*args) + 1);
			continue;
		}
		put_string(&b, *args++);
	}
	patch_u32(&b, 4, b.len - start);
	buf_append(out, b.data, b.len);
}
