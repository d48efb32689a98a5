/* SPDX-License-Identifier: MIT */
/* From the bytes of a terminal to text that can be matched. */
#include <string.h>

#include "console/console-internal.h"

/* No honest sequence is longer; behind that many bytes text is text again. */
#define SWALLOW_MAX 4096

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

static bool is_plain(uint8_t c)
{
	return (c >= 0x20 && c < 0x7F) || c == '\n' || c == '\t';
}

/* How many bytes a character with this first byte has; 0: it is none. */
static unsigned utf8_length(uint8_t c)
{
	if (c >= 0xC2 && c <= 0xDF)
		return 2;
	if (c >= 0xE0 && c <= 0xEF)
		return 3;
	if (c >= 0xF0 && c <= 0xF4)
		return 4;
	return 0;
}

/* Overlong forms, surrogates and what is beyond U+10FFFF show in the second byte. */
static bool utf8_second_ok(uint8_t first, uint8_t second)
{
	if ((second & 0xC0) != 0x80)
		return false;
	switch (first) {
	case 0xE0:
		return second >= 0xA0;
	case 0xED:
		return second < 0xA0;
	case 0xF0:
		return second >= 0x90;
	case 0xF4:
		return second < 0x90;
	default:
		return true;
	}
}

/* A byte within a character. False if it does not belong there: then it is still to be looked at.
 */
static bool utf8_continue(struct filter *f, uint8_t c, struct buf *ret)
{
	bool ok = f->utf8_have == 1 ? utf8_second_ok(f->utf8[0], c) : (c & 0xC0) == 0x80;

	if (!ok) {
		buf_puts(ret, REPLACEMENT);
		f->utf8_want = 0;
		return false;
	}
	f->utf8[f->utf8_have++] = c;
	if (f->utf8_have == f->utf8_want) {
		buf_append(ret, f->utf8, f->utf8_have);
		f->utf8_want = 0;
	}
	return true;
}

static void ground(struct filter *f, uint8_t c, struct buf *ret)
{
	if (f->utf8_want && utf8_continue(f, c, ret))
		return;
	if (is_plain(c)) {
		buf_putc(ret, (char)c);
	} else if (c == 0x1B) {
		f->state = FILTER_ESC;
		f->swallowed = 0;
	} else if (c >= 0x80) {
		f->utf8[0] = c;
		f->utf8_have = 1;
		f->utf8_want = utf8_length(c);
		if (!f->utf8_want)
			buf_puts(ret, REPLACEMENT);
	} /* CR, BEL, BS, DEL and their like leave nothing */
}

/* One byte of an escape sequence (ECMA-48: 5.3, 5.4, 5.6). */
static void sequence(struct filter *f, uint8_t c, struct buf *ret)
{
	/* CAN and SUB end any sequence; so does its length, or a newline where none can be. */
	if (c == 0x18 || c == 0x1A || ++f->swallowed > SWALLOW_MAX) {
		f->state = FILTER_GROUND;
		return;
	}
	if (c == '\n' && f->state != FILTER_STRING) {
		f->state = FILTER_GROUND;
		buf_putc(ret, '\n');
		return;
	}
	switch (f->state) {
	case FILTER_ESC:
		if (c == '[')
			f->state = FILTER_CSI;
		else if (c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_')
			f->state = FILTER_STRING;
		else if (c >= 0x20 && c <= 0x2F)
			f->state = FILTER_ESC_MORE;
		else if (c != 0x1B)
			f->state = FILTER_GROUND;
		break;
	case FILTER_ESC_MORE:
		if (c < 0x20 || c > 0x2F)
			f->state = FILTER_GROUND;
		break;
	case FILTER_CSI:
		if (c == 0x1B)
			f->state = FILTER_ESC;
		else if (c >= 0x40 && c <= 0x7E)
			f->state = FILTER_GROUND;
		break;
	case FILTER_STRING:
		if (c == 0x07)
			f->state = FILTER_GROUND;
		else if (c == 0x1B)
			f->state = FILTER_STRING_ESC;
		break;
	case FILTER_STRING_ESC:
		f->state = c == '\\' ? FILTER_GROUND : FILTER_STRING;
		break;
	case FILTER_GROUND:
		break;
	}
}

void filter_feed(struct filter *f, const void *data, size_t len, struct buf *ret)
{
	const uint8_t *p = data, *end = p + len;

	buf_reserve(ret, len);
	while (p < end) {
		const uint8_t *run = p;

		if (f->state != FILTER_GROUND) {
			sequence(f, *p++, ret);
			continue;
		}
		/* Nearly all of it is plain: take runs at once. */
		if (!f->utf8_want)
			while (p < end && is_plain(*p))
				p++;
		if (p > run)
			buf_append(ret, run, (size_t)(p - run));
		else
			ground(f, *p++, ret);
	}
}
