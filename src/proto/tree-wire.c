/* SPDX-License-Identifier: MIT */
/* The format in which a file tree travels between host and agent. */
#include "proto/tree-wire.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

static const char magic[8] = {'A', 'S', 'Y', 'T', 'R', 'E', 'E', '1'};

/* --- writing ------------------------------------------------------------------------------- */

static void put_u16(struct buf *b, uint16_t v)
{
	v = htole16(v);
	buf_append(b, &v, sizeof(v));
}

static void put_u32(struct buf *b, uint32_t v)
{
	v = htole32(v);
	buf_append(b, &v, sizeof(v));
}

static void put_u64(struct buf *b, uint64_t v)
{
	v = htole64(v);
	buf_append(b, &v, sizeof(v));
}

static void put_text(struct buf *b, const char *s)
{
	size_t len = strlen(s);

	assert(len <= UINT16_MAX);
	put_u16(b, len);
	buf_append(b, s, len);
}

static void put_meta(struct buf *b, const struct tree_entry *e)
{
	put_u16(b, e->mode);
	put_u64(b, e->mtime_sec);
	put_u32(b, e->mtime_nsec);
}

void tree_encode_start(struct buf *out)
{
	buf_append(out, magic, sizeof(magic));
}

/* The letters of the types, which are their places in enum tree_type. */
static const char letters[] = {
	[TREE_DIR] = 'D',      [TREE_UP] = 'U',	  [TREE_FILE] = 'F', [TREE_SYMLINK] = 'L',
	[TREE_HARDLINK] = 'H', [TREE_FIFO] = 'P', [TREE_CHAR] = 'C', [TREE_BLOCK] = 'K',
};

void tree_encode_entry(struct buf *out, const struct tree_entry *e)
{
	buf_putc(out, letters[e->type]);
	if (e->type == TREE_UP)
		return;
	if (e->type == TREE_HARDLINK)
		put_u32(out, e->link);
	else
		put_meta(out, e);
	if (e->type == TREE_FILE) {
		put_u64(out, e->size);
		put_u32(out, e->link);
	} else if (e->type == TREE_CHAR || e->type == TREE_BLOCK) {
		put_u32(out, e->major);
		put_u32(out, e->minor);
	}
	put_text(out, e->name);
	if (e->type == TREE_SYMLINK)
		put_text(out, e->target);
}

void tree_encode_data_head(uint8_t head[TREE_WIRE_DATA_HEAD], uint64_t offset, uint32_t len)
{
	assert(len > 0 && len <= TREE_WIRE_DATA_MAX);
	offset = htole64(offset);
	len = htole32(len);
	head[0] = 'B';
	memcpy(head + 1, &offset, sizeof(offset));
	memcpy(head + 9, &len, sizeof(len));
}

void tree_encode_data(struct buf *out, uint64_t offset, const void *data, size_t len)
{
	uint8_t head[TREE_WIRE_DATA_HEAD];

	tree_encode_data_head(head, offset, len);
	buf_append(out, head, sizeof(head));
	buf_append(out, data, len);
}

void tree_encode_end_file(struct buf *out, uint64_t size)
{
	buf_putc(out, 'E');
	put_u64(out, size);
}

void tree_encode_finish(struct buf *out, uint64_t entries)
{
	buf_putc(out, 'T');
	put_u64(out, entries);
}

/* --- reading ------------------------------------------------------------------------------- */

/*
 * A record is parsed from contiguous bytes: from the input, or, where the end of the input cuts it,
 * from `held`, which is filled from the next input. (Records without data are short, and few are
 * cut.)
 */
struct cursor {
	const uint8_t *p;
	size_t left;
	bool bad, small; /* malformed; more bytes needed */
};

/* n bytes, or NULL and a reason. After the first failure all fail, so callers look once at the end.
 */
static const uint8_t *get(struct cursor *c, size_t n)
{
	const uint8_t *p = c->p;

	if (c->bad || c->small)
		return NULL;
	if (c->left < n) {
		c->small = true;
		return NULL;
	}
	c->p += n;
	c->left -= n;
	return p;
}

static uint16_t get_u16(struct cursor *c)
{
	const uint8_t *p = get(c, 2);

	return p ? p[0] | p[1] << 8 : 0;
}

static uint32_t get_u32(struct cursor *c)
{
	const uint8_t *p = get(c, 4);
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t get_u64(struct cursor *c)
{
	const uint8_t *p = get(c, 8);
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* Mode and time, as most entries have them. */
static void get_meta(struct cursor *c, struct tree_entry *e)
{
	e->mode = get_u16(c);
	e->mtime_sec = get_u64(c);
	e->mtime_nsec = get_u32(c);
	if (e->mode > 07777 || e->mtime_nsec >= 1000000000)
		c->bad = true;
}

/* The text's bytes; they are followed by more of the record or of the next, so the caller gets the
 * length and makes a string of it when the record is complete. */
static const char *get_text(struct cursor *c, size_t max, size_t *ret_len)
{
	const char *p;

	*ret_len = get_u16(c);
	if (*ret_len > max) {
		c->bad = true;
		return NULL;
	}
	p = (const char *)get(c, *ret_len);
	if (p && memchr(p, 0, *ret_len))
		c->bad = true;
	return p;
}

static enum tree_type type_of(uint8_t letter)
{
	for (size_t i = 1; i < ARRAY_SIZE(letters); i++)
		if ((uint8_t)letters[i] == letter)
			return i;
	return 0;
}

/* Is such an entry possible here? */
static bool entry_fits(const struct tree_decoder *d, const struct tree_entry *e, size_t name_len)
{
	if (e->type == TREE_UP)
		return d->depth > 0;
	if (d->depth == 0)
		return !d->have_top && name_len == 0 && e->type != TREE_HARDLINK &&
		       (e->type != TREE_FILE || e->link == 0);
	if (!tree_name_is_valid(e->name, name_len) || d->depth >= TREE_DEPTH_MAX)
		return false;
	if (e->type == TREE_HARDLINK)
		return e->link > 0 && e->link <= d->links;
	if (e->type == TREE_FILE && e->link > 0)
		return e->link == d->links + 1 && e->link <= TREE_LINKS_MAX;
	return true;
}

/* The state behind an entry that fits. */
static void entry_done(struct tree_decoder *d, const struct tree_entry *e)
{
	if (e->type != TREE_UP)
		d->entries++;
	d->have_top = true;
	if (e->type == TREE_DIR)
		d->depth++;
	else if (e->type == TREE_UP)
		d->depth--;
	d->in_file = e->type == TREE_FILE;
	d->data_end = 0;
	if (e->type == TREE_FILE && e->link > 0)
		d->links++;
}

/* All fields first, then whether they make sense: only a complete record changes the state. */
static bool parse_entry(struct tree_decoder *d, struct cursor *c, enum tree_type type,
			struct tree_entry *e)
{
	size_t name_len = 0, target_len = 0;
	const char *name = "", *target = NULL;

	*e = (struct tree_entry){.type = type};
	if (type == TREE_HARDLINK)
		e->link = get_u32(c);
	else if (type != TREE_UP)
		get_meta(c, e);
	if (type == TREE_FILE) {
		e->size = get_u64(c);
		e->link = get_u32(c);
	} else if (type == TREE_CHAR || type == TREE_BLOCK) {
		e->major = get_u32(c);
		e->minor = get_u32(c);
	}
	if (type != TREE_UP)
		name = get_text(c, TREE_NAME_MAX, &name_len);
	if (type == TREE_SYMLINK) {
		target = get_text(c, TREE_TARGET_MAX, &target_len);
		if (target_len == 0 && target)
			c->bad = true;
	}
	if (c->bad || c->small)
		return false;
	/* The wire has no NULs, and the bytes may be gone at the next call. */
	memcpy(d->name, name, name_len);
	d->name[name_len] = 0;
	e->name = d->name;
	if (target) {
		memcpy(d->target, target, target_len);
		d->target[target_len] = 0;
		e->target = d->target;
	}
	if (!entry_fits(d, e, name_len)) {
		c->bad = true;
		return false;
	}
	entry_done(d, e);
	return true;
}

/* Data come in order and do not overlap; their offsets are those of a file. */
static bool parse_data_head(struct tree_decoder *d, struct cursor *c)
{
	uint64_t offset = get_u64(c);
	uint32_t len = get_u32(c);

	if (c->small)
		return false;
	if (len == 0 || len > TREE_WIRE_DATA_MAX || offset < d->data_end ||
	    offset > INT64_MAX - len) {
		c->bad = true;
		return false;
	}
	d->data_offset = offset;
	d->data_left = len;
	d->data_end = offset + len;
	return true;
}

/* One record without data. False: see the cursor. ret->record stays 0 for what the caller of
 * tree_decode() does not see. */
static bool parse_record(struct tree_decoder *d, struct cursor *c, struct tree_item *ret)
{
	const uint8_t *letter;
	uint64_t number;

	if (!d->started) {
		const uint8_t *p = get(c, sizeof(magic));

		c->bad = p && memcmp(p, magic, sizeof(magic)) != 0;
		d->started = p && !c->bad;
		return d->started;
	}
	letter = get(c, 1);
	if (!letter)
		return false;
	if (d->in_file && *letter == 'B')
		return parse_data_head(d, c);
	if (d->in_file && *letter == 'E') {
		number = get_u64(c);
		if (c->small)
			return false;
		c->bad = number > INT64_MAX;
		d->in_file = false;
		*ret = (struct tree_item){.record = TREE_RECORD_END_FILE, .size = number};
		return !c->bad;
	}
	if (!d->in_file && *letter == 'T') {
		number = get_u64(c);
		if (c->small)
			return false;
		c->bad = !d->have_top || d->depth > 0 || number != d->entries;
		d->finished = true;
		ret->record = TREE_RECORD_FINISH;
		return !c->bad;
	}
	if (d->in_file || !type_of(*letter)) {
		c->bad = true;
		return false;
	}
	ret->record = TREE_RECORD_ENTRY;
	return parse_entry(d, c, type_of(*letter), &ret->entry);
}

/* The bytes of a B record, as many of them as there are. */
static void take_data(struct tree_decoder *d, const uint8_t **data, size_t *len,
		      struct tree_item *ret)
{
	size_t n = MIN(*len, (size_t)d->data_left);

	*ret = (struct tree_item){
		.record = TREE_RECORD_DATA,
		.offset = d->data_offset,
		.data = *data,
		.len = n,
	};
	d->data_offset += n;
	d->data_left -= n;
	*data += n;
	*len -= n;
}

/* Parses one record from held bytes and input; 0 when it is still cut. */
static int step(struct tree_decoder *d, const uint8_t **data, size_t *len, struct tree_item *ret)
{
	size_t before = d->held_len, used;
	struct cursor c = {.p = *data, .left = *len};

	if (before > 0) {
		size_t n = MIN(*len, sizeof(d->held) - before);

		memcpy(d->held + before, *data, n);
		c = (struct cursor){.p = d->held, .left = before + n};
	}
	used = c.left;
	if (parse_record(d, &c, ret)) {
		used -= c.left + before;
		d->held_len = 0;
		*data += used;
		*len -= used;
		return 1;
	}
	/* Cut, though there were more bytes than the longest record has: its lengths are lies. */
	if (c.bad || used >= sizeof(d->held))
		return -EBADMSG;
	if (before == 0)
		memcpy(d->held, *data, *len);
	d->held_len = before + *len;
	*data += *len;
	*len = 0;
	return 0;
}

int tree_decode(struct tree_decoder *d, const uint8_t **data, size_t *len, struct tree_item *ret)
{
	while (*len > 0) {
		int rc;

		assert(*data);
		if (d->data_left > 0) {
			take_data(d, data, len, ret);
			return 1;
		}
		if (d->finished)
			return -EBADMSG; /* nothing may follow */
		ret->record = 0;
		rc = step(d, data, len, ret);
		if (rc <= 0)
			return rc;
		if (ret->record)
			return 1;
	}
	return 0;
}
