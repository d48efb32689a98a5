/* SPDX-License-Identifier: MIT */
/* Finds in a console's text what is only the echo of what was sent to it. */
#include <string.h>

#include "base/str.h"
#include "console/console-internal.h"

#define HIDDEN_MAX 64	/* older ones are far behind every cursor */
#define LINES_MAX  1024 /* a script of that length is not watched for its echo */

struct echo_line {
	struct echo_line *next;
	uint64_t from;	/* it cannot be before this */
	uint64_t limit; /* … nor begin behind this */
	size_t len;
	char text[]; /* blanks taken out */
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void drop_first(struct echo *e)
{
	struct echo_line *l = e->first;

	e->first = l->next;
	if (!e->first)
		e->last = NULL;
	free(l);
}

void echo_done(struct echo *e)
{
	while (e->first)
		drop_first(e);
	free(e->hidden);
	e->hidden = NULL;
	e->n_hidden = 0;
}

static void add_line(struct echo *e, const char *data, size_t len, uint64_t end)
{
	struct echo_line *l = xcalloc(1, sizeof(*l) + len + 1);

	for (size_t i = 0; i < len; i++)
		if (!is_blank(data[i]) && (unsigned char)data[i] >= 0x20)
			l->text[l->len++] = data[i];
	if (l->len == 0) { /* an empty line's echo hides nothing */
		free(l);
		return;
	}
	l->from = end;
	l->limit = end + ECHO_REACH;
	if (e->last)
		e->last->next = l;
	else
		e->first = l;
	e->last = l;
}

void echo_sent(struct echo *e, const void *data, size_t len, uint64_t end)
{
	const char *p = data, *stop = p + len;

	for (unsigned n = 0; p < stop && n < LINES_MAX; n++) {
		const char *nl = p;

		while (nl < stop && *nl != '\n' && *nl != '\r')
			nl++;
		add_line(e, p, (size_t)(nl - p), end);
		p = nl + 1;
	}
}

/*
 * Compares the line with the text at pos, blanks not counted. Returns the position behind it, 0 if
 * it is not there, UINT64_MAX if the text ends before the line does.
 */
static uint64_t compare(const struct echo_line *l, const struct window *w, uint64_t pos)
{
	size_t have = 0;

	for (uint64_t p = pos; p < window_end(w); p++) {
		char c = w->data[p - w->start];

		if (c == l->text[have]) {
			if (++have == l->len)
				return p + 1;
		} else if (!is_blank(c) || c == '\n') {
			return 0;
		}
	}
	return UINT64_MAX;
}

static void hide(struct echo *e, uint64_t start, uint64_t end)
{
	if (e->n_hidden == HIDDEN_MAX) {
		memmove(e->hidden, e->hidden + 1, (HIDDEN_MAX - 1) * sizeof(*e->hidden));
		e->n_hidden--;
	}
	e->hidden = xrealloc(e->hidden, HIDDEN_MAX * sizeof(*e->hidden));
	e->hidden[e->n_hidden++] = (struct range){start, end};
}

void echo_scan(struct echo *e, const struct window *w)
{
	while (e->first) {
		struct echo_line *l = e->first;
		uint64_t pos = l->from > w->start ? l->from : w->start, end = 0;

		for (; pos < window_end(w) && pos <= l->limit; pos++) {
			if (w->data[pos - w->start] != l->text[0])
				continue;
			end = compare(l, w, pos);
			if (end)
				break;
		}
		l->from = pos; /* nothing before it, whatever comes */
		if (end == UINT64_MAX)
			return; /* it may be arriving */
		if (end) {
			hide(e, pos, end);
			if (l->next && l->next->from < end) {
				l->next->from = end;
				l->next->limit = end + ECHO_REACH;
			}
		} else if (pos <= l->limit) {
			return;
		}
		drop_first(e);
	}
}

uint64_t echo_visible(const struct echo *e, const struct window *w, uint64_t *pos, bool *ret_held)
{
	uint64_t end = window_end(w);

	*ret_held = false;
	for (size_t i = 0; i < e->n_hidden; i++) {
		const struct range *h = &e->hidden[i];

		if (*pos >= h->start && *pos < h->end)
			*pos = h->end;
		if (h->start >= *pos && h->start < end)
			return h->start;
	}
	/* echo_scan() left `from` at the first place where the line may be. */
	if (e->first && e->first->from < end && e->first->from >= *pos) {
		*ret_held = true;
		return e->first->from;
	}
	return end;
}
