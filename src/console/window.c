/* SPDX-License-Identifier: MIT */
/* The last few MiB of a stream of text, addressed by position in the whole stream. */
#include <assert.h>
#include <string.h>

#include "base/str.h"
#include "console/console-internal.h"

/* Room behind what must be kept: the window is moved to the front once in so many bytes. */
#define SLACK(w)  ((w)->keep / 4)
#define FIRST_CAP (16 * KIB)

void window_init(struct window *w, size_t keep_bytes)
{
	*w = (struct window){.keep = keep_bytes, .cap = FIRST_CAP, .data = xmalloc(FIRST_CAP)};
}

void window_done(struct window *w)
{
	free(w->data);
	w->data = NULL;
}

uint64_t window_align(const struct window *w, uint64_t pos)
{
	assert(pos >= w->start && pos <= window_end(w));
	while (pos > w->start && pos < window_end(w) &&
	       ((uint8_t)w->data[pos - w->start] & 0xC0) == 0x80)
		pos--;
	return pos;
}

/* Forgets the n oldest bytes, and the rest of a character cut in two. */
static void drop(struct window *w, size_t n)
{
	while (n < w->len && ((uint8_t)w->data[n] & 0xC0) == 0x80)
		n++;
	memmove(w->data, w->data + n, w->len - n);
	w->len -= n;
	w->start += n;
}

void window_append(struct window *w, const char *text, size_t len)
{
	size_t max = w->keep + SLACK(w);

	while (len > SLACK(w)) { /* never more than fits behind what must be kept */
		size_t part = SLACK(w);

		while (part > 1 && ((uint8_t)text[part] & 0xC0) == 0x80)
			part--;
		window_append(w, text, part);
		text += part;
		len -= part;
	}
	if (w->len + len > max)
		drop(w, w->len - w->keep);
	if (w->len + len > w->cap) {
		size_t cap = w->cap;

		while (cap < w->len + len)
			cap *= 2;
		w->cap = cap < max ? cap : max;
		w->data = xrealloc(w->data, w->cap);
	}
	if (len)
		memcpy(w->data + w->len, text, len);
	w->len += len;
}
