/* SPDX-License-Identifier: MIT */
/* The parts of a console: cleaning filter, log file, window of text, echoes. */
#pragma once

#include "console/console.h"

/* --- filter.c: raw bytes to text --- */

/*
 * Removes CR, escape sequences and other control characters except newline and tab; what is no
 * UTF-8 becomes U+FFFD. Its state carries over from one chunk to the next.
 */
struct filter {
	enum {
		FILTER_GROUND,
		FILTER_ESC,	 /* behind ESC */
		FILTER_ESC_MORE, /* behind ESC and an intermediate byte */
		FILTER_CSI,	 /* ESC [ … final byte */
		FILTER_STRING,	 /* OSC, DCS, SOS, PM, APC: until BEL or ESC \ */
		FILTER_STRING_ESC,
	} state;
	unsigned swallowed; /* bytes of the sequence so far: a broken one must end somewhere */
	uint8_t utf8[4];    /* a character begun */
	unsigned utf8_have, utf8_want;
};
void filter_feed(struct filter *f, const void *data, size_t len, struct buf *ret);

/* --- log-file.c: raw bytes, a time stamp for each line, bounded --- */

struct log_file;
/* max_bytes bounds the file; appends to what is there. */
int log_file_open(const char *path, uint64_t max_bytes, struct log_file **ret, struct error *err);
void log_file_close(struct log_file *l);
/* ns: since the VMM's start. */
void log_file_feed(struct log_file *l, const void *data, size_t len, uint64_t ns);
/* A line of our own. */
void log_file_note(struct log_file *l, const char *text, uint64_t ns);
/* Bytes not in the file because of the bound, or because it could not be written. */
uint64_t log_file_dropped(const struct log_file *l);
/* The file's text without stamps, cleaned, appended to ret. */
void log_file_read_text(const struct log_file *l, struct buf *ret);

/* --- window.c: the last text, by its position in the whole stream --- */

struct window {
	char *data;
	size_t len, cap, keep;
	uint64_t start; /* position of data[0]; a character's first byte */
};
void window_init(struct window *w, size_t keep_bytes);
void window_done(struct window *w);
void window_append(struct window *w, const char *text, size_t len);
static inline uint64_t window_end(const struct window *w)
{
	return w->start + w->len;
}
/* The position of a character's first byte at or before pos (>= w->start). */
uint64_t window_align(const struct window *w, uint64_t pos);

/* --- echo.c: what the terminal repeats of what we sent --- */

/*
 * A terminal repeats its input line by line, with what the guest prints meanwhile in between. Each
 * line sent is looked for in the text that follows, blanks not counted (a shell that wraps a long
 * line puts some in); where it is found, that range is hidden from the waits. A line that does not
 * come within ECHO_REACH bytes (a password) is given up.
 */
#define ECHO_REACH (4 * KIB)

struct range {
	uint64_t start, end;
};
struct echo {
	struct echo_line *first; /* lines sent and not seen yet */
	struct echo_line *last;
	struct range *hidden; /* in order */
	size_t n_hidden;
};
void echo_done(struct echo *e);
void echo_sent(struct echo *e, const void *data, size_t len, uint64_t end);
/* Looks at the text that is new. */
void echo_scan(struct echo *e, const struct window *w);
/* Where a search from pos may look: it begins at *pos (moved behind a hidden range) and ends
 * at the return value. A line that may just be arriving is held back: *ret_held is true. */
uint64_t echo_visible(const struct echo *e, const struct window *w, uint64_t *pos, bool *ret_held);
