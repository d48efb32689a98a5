/* SPDX-License-Identifier: MIT */
/* A machine's serial console: recorded, matched, written to. */
#include "console/console-internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "console/regex-internal.h"
#include "loop/fiber.h"
#include "loop/loop.h"

/*
 * Theory of operation
 *
 *	stream ─► reader fiber ─► feed ─┬─► log file (raw, stamped, bounded)
 *	                                └─► filter ─► window ─► on_line, waits
 *
 * One reader for each attachment; it outlives nothing: console_drain() takes what is still in
 * the stream and closes it, whereupon the reader's read fails and it ends by itself.
 *
 * Waits. Text is searched once. A wait remembers the first position where a match could still
 * begin, and each search goes on from there. PCRE2's partial matching (hard) tells two cases
 * apart at the end of the text: no match can begin here (go on behind it), or one may have begun
 * (look again from there when there is more). A match that touches the end of the text and could
 *become longer, such as \d+ behind "took 1", counts once the stream was quiet for SETTLE_NS, or at
 *the latest ACCEPT_NS after it was there: so captures do not depend on how bytes came in chunks.
 * While a long part of the text is undecided ((?s)begin.*end), it is searched again only when it
 * has grown by a quarter: the whole stays linear.
 *
 * A search runs in slices with fiber_yield() between them, so that neither a bad pattern nor a
 * flood stops the loop, and the wait's deadline holds.
 */
#define READ_CHUNK     (64 * KIB)
#define LINE_MAX_BYTES 4096 /* on_line gets the beginning of a longer line */
#define SETTLE_NS      (20 * NS_PER_MS)
#define ACCEPT_NS      (250 * NS_PER_MS)
#define TAIL_LINES     5
#define TAIL_BYTES     700

struct reader {
	struct console *c; /* NULL: drained */
	struct io *io;
};

struct console {
	struct console_callbacks cb;
	void *userdata;
	struct log_file *log;
	struct reader *reader;
	uint64_t epoch_ns;
	uint64_t last_ns; /* when the last bytes came */
	unsigned n_attached;

	struct filter filter;
	struct window window;
	struct echo echo;
	uint64_t cursor;
	uint64_t boot;	 /* where the last power cycle begins */
	uint64_t begin;	 /* where its text begins: 0, or after a restore */
	struct buf text; /* one chunk, cleaned */
	struct buf line; /* the last line, not complete */

	struct waiters waiters;
	bool failed;
	struct error failure;
};

struct console *console_new(const char *log_path, const struct console_callbacks *cb,
			    void *userdata, struct error *err)
{
	struct console *c = xcalloc(1, sizeof(*c));

	if (log_path && log_file_open(log_path, CONSOLE_LOG_MAX_BYTES, &c->log, err) < 0) {
		free(c);
		return NULL;
	}
	if (cb)
		c->cb = *cb;
	c->userdata = userdata;
	c->epoch_ns = now_ns();
	window_init(&c->window, CONSOLE_WINDOW_BYTES);
	return c;
}

void console_free(struct console *c)
{
	if (!c)
		return;
	console_drain(c);
	assert(waiters_empty(&c->waiters));
	log_file_close(c->log);
	window_done(&c->window);
	echo_done(&c->echo);
	buf_done(&c->text);
	buf_done(&c->line);
	free(c);
}

/* --- input --- */

static void end_line(struct console *c)
{
	if (c->cb.on_line)
		c->cb.on_line(c, buf_str(&c->line), c->userdata);
	buf_truncate(&c->line, 0);
}

static void split_lines(struct console *c, const char *text, size_t len)
{
	const char *end = text + len;

	while (text < end) {
		const char *nl = memchr(text, '\n', (size_t)(end - text));
		size_t part = (size_t)((nl ?: end) - text);
		size_t room = LINE_MAX_BYTES - MIN(c->line.len, (size_t)LINE_MAX_BYTES);

		buf_append(&c->line, text, MIN(part, room));
		if (!nl)
			return;
		end_line(c);
		text = nl + 1;
	}
}

void console_feed(struct console *c, const void *data, size_t len)
{
	if (len == 0)
		return;
	c->last_ns = now_ns();
	log_file_feed(c->log, data, len, c->last_ns - MIN(c->epoch_ns, c->last_ns));
	buf_truncate(&c->text, 0);
	filter_feed(&c->filter, data, len, &c->text);
	window_append(&c->window, c->text.data, c->text.len);
	echo_scan(&c->echo, &c->window);
	split_lines(c, buf_str(&c->text), c->text.len);
	waiters_wake_all(&c->waiters);
}

static int reader_run(void *userdata)
{
	struct reader *r = userdata;
	char *chunk = xmalloc(READ_CHUNK);

	while (r->c) {
		ssize_t n = io_read(r->io, chunk, READ_CHUNK, NS_FOREVER, NULL);
		struct console *c = r->c;

		if (!c)
			break; /* drained meanwhile: the io is gone */
		if (n > 0) {
			console_feed(c, chunk, (size_t)n);
			continue;
		}
		c->reader = NULL;
		r->c = NULL;
		io_free(r->io);
		waiters_wake_all(&c->waiters);
		if (c->cb.on_closed)
			c->cb.on_closed(c, c->userdata);
	}
	free(chunk);
	free(r);
	return 0;
}

/* It reads for as long as the VMM lives: the deadlines of the test that happens to start it are not
 * its own. */
static void start_reader(struct reader *r)
{
	struct fiber_shield shield;

	if (fiber_self())
		fiber_shield_enter(&shield, NS_FOREVER);
	fiber_start("console", reader_run, r, NULL);
	if (fiber_self())
		fiber_shield_leave(&shield);
}

static void attach(struct console *c, struct io *io, uint64_t epoch_ns)
{
	assert(!c->reader);
	c->epoch_ns = epoch_ns;
	c->failed = false;
	c->filter = (struct filter){};
	c->n_attached++;
	c->reader = xcalloc(1, sizeof(*c->reader));
	c->reader->c = c;
	c->reader->io = io;
	start_reader(c->reader);
}

void console_attach(struct console *c, struct io *io, uint64_t epoch_ns)
{
	if (c->line.len > 0)
		end_line(c);
	c->boot = window_end(&c->window);
	if (c->n_attached > 0)
		log_file_note(c->log, "--- power on ---", 0);
	attach(c, io, epoch_ns);
}

void console_catch_up(struct console *c)
{
	struct reader *r = c->reader;
	char *chunk;
	ssize_t n;

	if (!r)
		return;
	chunk = xmalloc(READ_CHUNK);
	/* Nobody writes any more: what is there is all that will come, so this ends. */
	while ((n = read(io_fd(r->io), chunk, READ_CHUNK)) > 0)
		console_feed(c, chunk, (size_t)n);
	free(chunk);
}

void console_drain(struct console *c)
{
	struct reader *r = c->reader;

	if (!r)
		return;
	console_catch_up(c);
	c->reader = NULL;
	r->c = NULL;
	io_free(r->io); /* the reader's read fails, and it frees itself */
	waiters_wake_all(&c->waiters);
}

/* --- saved states --- */

/* A position in the text that is saved; what is before it counts as its beginning. */
static json_t *offset_json(uint64_t pos, uint64_t from)
{
	return json_integer((json_int_t)(pos > from ? pos - from : 0));
}

json_t *console_save(const struct console *c)
{
	const struct window *w = &c->window;
	uint64_t end = window_end(w), from = MAX(w->start, c->begin);
	json_t *ret = json_object();

	if (end - from > CONSOLE_SAVED_BYTES)
		from = window_align(w, end - CONSOLE_SAVED_BYTES);
	json_object_set_new(ret, "text", json_stringn(w->data + (from - w->start), end - from));
	json_object_set_new(ret, "boot", offset_json(c->boot, from));
	json_object_set_new(ret, "cursor", offset_json(c->cursor, from));
	return ret;
}

static uint64_t saved_offset(json_t *saved, const char *key, size_t len)
{
	json_int_t at = json_integer_value(json_object_get(saved, key));

	return at < 0 ? 0 : MIN((uint64_t)at, (uint64_t)len);
}

/* Positions go on, so that no one who still waits in the old text finds himself in the new. */
void console_restore(struct console *c, json_t *saved)
{
	json_t *value = json_object_get(saved, "text");
	const char *text = json_string_value(value) ?: "";
	size_t len = json_string_length(value);
	const char *last = memrchr(text, '\n', len);
	struct window *w = &c->window;

	assert(!c->reader);
	w->start = c->begin = window_end(w);
	w->len = 0;
	window_append(w, text, len);
	c->boot = window_align(w, MAX(w->start, c->begin + saved_offset(saved, "boot", len)));
	c->cursor = window_align(w, MAX(w->start, c->begin + saved_offset(saved, "cursor", len)));
	echo_done(&c->echo);
	c->echo = (struct echo){};
	last = last ? last + 1 : text;
	buf_truncate(&c->line, 0);
	buf_append(&c->line, last, MIN(len - (size_t)(last - text), (size_t)LINE_MAX_BYTES));
	if (c->n_attached == 0 && len > 0) {
		log_file_note(c->log, "--- what it said before it was saved ---", 0);
		log_file_feed(c->log, text, len, 0);
	}
}

void console_resume(struct console *c, struct io *io, uint64_t epoch_ns)
{
	log_file_note(c->log, "--- goes on from a saved state ---", 0);
	attach(c, io, epoch_ns);
}

void console_fail(struct console *c, const struct error *err)
{
	c->failed = true;
	c->failure = *err;
	waiters_wake_all(&c->waiters);
}

uint64_t console_log_dropped(const struct console *c)
{
	return log_file_dropped(c->log);
}

/* --- output --- */

int console_send(struct console *c, const void *data, size_t len, uint64_t timeout_ns,
		 struct error *err)
{
	struct error why = {};
	int r;

	if (!c->reader) {
		if (c->failed)
			return error_propagate(err, &c->failure);
		return error_set(err, ERROR_USAGE, ENOTCONN,
				 "nothing can be sent to the console: the machine does not run");
	}
	echo_sent(&c->echo, data, len, window_end(&c->window));
	r = io_write_all(c->reader->io, data, len, timeout_ns, &why);
	if (r >= 0)
		return 0;
	if (why.kind == ERROR_TIMEOUT || why.kind == ERROR_DEADLINE || why.kind == ERROR_CANCELLED)
		return error_propagate(err, &why);
	if (c->failed)
		return error_propagate(err, &c->failure);
	return error_set_errno(err, ERROR_CRASH, -r, "cannot write to the console");
}

/* --- waits --- */

struct wait {
	struct console *c;
	struct regex *re;
	uint64_t pos;	    /* a match can only begin here or later */
	uint64_t searched;  /* how far the text was looked at */
	uint64_t accept_at; /* when a match at the end of the text counts at the latest */
	uint64_t missed;    /* bytes that fell out of the window before they were searched */
	bool open;	    /* what stands at the end may become a match, or a longer one */
	bool was_final;	    /* the last search took the text as it is */
	json_t *captures;
};

/* The deadline of the whole wait, or of the test, has passed, or it was cancelled: what
 * fiber_wait() would say is found out by asking it. */
static bool must_stop(uint64_t deadline_ns)
{
	uint64_t now = now_ns();

	return now >= deadline_ns || now >= deadline_current() || fiber_is_cancelled(fiber_self());
}

/*
 * Matches that begin in [w->pos, end] of text that is taken to end at `end`. Moves w->pos to where
 * the search of MORE must go on: behind all that was tried, or to the beginning of a partial match.
 */
static int search_part(struct wait *w, uint64_t end, enum regex_mode mode, uint64_t deadline_ns,
		       uint64_t *ret_end, struct error *err)
{
	const struct window *win = &w->c->window;
	uint64_t pos = w->pos;
	struct regex_pace pace;

	regex_pace_begin(&pace, end - pos);
	for (;;) {
		uint64_t base, last, before = now_ns();
		size_t s = 0, e = 0;
		int r;

		if (pos < win->start) { /* it fell out of the window while others ran */
			w->missed += win->start - pos;
			w->pos = pos = win->start;
		}
		if (end < pos)
			return REGEX_NONE;
		base = pos - win->start > w->re->lookbehind_bytes
			       ? window_align(win, pos - w->re->lookbehind_bytes)
			       : win->start;
		last = end - pos > pace.slice ? window_align(win, pos + pace.slice) : end;
		r = regex_search(w->re, mode, win->data + (base - win->start), end - base,
				 pos - base, last - base, &s, &e, &w->captures, err);
		*ret_end = base + e;
		if (mode == REGEX_STREAM_MORE)
			w->pos = r == REGEX_PARTIAL ? base + s : last;
		if (r != REGEX_NONE || last == end)
			return r;
		pos = last;
		regex_pace_step(&pace, now_ns() - before);
		fiber_yield();
		if (must_stop(deadline_ns))
			return REGEX_NONE;
	}
}

/* All of the text from w->pos on. 1: found; 0: not (yet); or an error. final: the text counts as it
 * is, nothing more will come soon. */
static int search(struct wait *w, bool final, uint64_t deadline_ns, uint64_t *ret_end,
		  struct error *err)
{
	struct console *c = w->c;
	bool held = false;
	uint64_t stop;
	int r;

	w->open = false;
	for (;;) {
		if (w->pos < c->window.start) {
			w->missed += c->window.start - w->pos;
			w->pos = c->window.start;
		}
		stop = echo_visible(&c->echo, &c->window, &w->pos, &held);
		if (stop == window_end(&c->window) || held)
			break;
		/* What stands before an echo ends there. */
		r = search_part(w, stop, REGEX_STREAM_NOW, deadline_ns, ret_end, err);
		if (r != REGEX_NONE || must_stop(deadline_ns))
			return r;
		w->pos = stop;
	}
	r = search_part(w, stop, REGEX_STREAM_MORE, deadline_ns, ret_end, err);
	if (r < 0 || r == REGEX_FOUND || must_stop(deadline_ns))
		return r == REGEX_PARTIAL ? 0 : r;
	w->open = r == REGEX_PARTIAL || held;
	if (!w->open || (!final && w->accept_at != NS_FOREVER))
		return 0;
	r = search_part(w, window_end(&c->window), REGEX_STREAM_NOW, deadline_ns, ret_end, err);
	if (r == REGEX_FOUND && !final) {
		w->accept_at = now_ns() + ACCEPT_NS;
		json_decref(w->captures);
		w->captures = NULL;
		return 0;
	}
	return r;
}

/* Whether a search now could tell more than the last one. */
static bool search_is_due(const struct wait *w, bool final)
{
	uint64_t end = window_end(&w->c->window);

	if (final && w->open && !w->was_final)
		return true;
	if (end == w->searched)
		return false;
	return final || !w->open || end - w->searched > (w->searched - w->pos) / 4;
}

static int run_wait(struct wait *w, uint64_t deadline_ns, uint64_t timeout_ns, struct error *err)
{
	struct console *c = w->c;
	char what[200];
	int r;

	snprintf(what, sizeof(what), "console text that matches '%s'", w->re->pattern);
	for (;;) {
		uint64_t now = now_ns(), settled = c->last_ns + SETTLE_NS, until = deadline_ns, end;
		bool final = !c->reader || now >= settled || now >= w->accept_at;

		if (search_is_due(w, final)) {
			w->searched = window_end(&c->window);
			w->was_final = final;
			r = search(w, final, deadline_ns, &end, err);
			if (r < 0)
				return r;
			if (r > 0) {
				c->cursor = MAX(c->cursor, end);
				return 0;
			}
			if (!must_stop(deadline_ns))
				continue;
		} else if (c->failed) {
			return error_propagate(err, &c->failure);
		}
		if (w->searched != window_end(&c->window) || (w->open && !w->was_final))
			until = MIN(until, MIN(settled, w->accept_at));
		r = fiber_wait_until(&c->waiters, until, timeout_ns, what, err);
		if (r == -ETIMEDOUT && until < deadline_ns && now_ns() >= until) {
			error_clear(err); /* it was only quiet for a moment */
			continue;
		}
		if (r < 0)
			return r;
	}
}

int console_wait_text(struct console *c, const char *regex, bool from_boot, uint64_t timeout_ns,
		      json_t **ret, struct error *err)
{
	struct wait w = {.c = c, .accept_at = NS_FOREVER, .searched = UINT64_MAX};
	struct error why = {};
	int r;

	r = regex_compile(regex, &w.re, err);
	if (r < 0)
		return r;
	w.pos = from_boot ? c->boot : c->cursor;
	r = run_wait(&w, deadline_in(timeout_ns), timeout_ns, &why);
	regex_free(w.re);
	if (r >= 0) {
		if (ret)
			*ret = w.captures;
		else
			json_decref(w.captures);
		return 0;
	}
	json_decref(w.captures);
	if (why.kind == ERROR_TIMEOUT || why.kind == ERROR_DEADLINE) {
		_cleanup_free_ char *tail = console_tail(c, TAIL_LINES);
		size_t len = strlen(tail), skip = len > TAIL_BYTES ? len - TAIL_BYTES : 0;
		char msg[ERROR_MESSAGE_MAX];

		if (len == 0)
			snprintf(msg, sizeof(msg), "%.800s; the console said nothing", why.message);
		else
			snprintf(msg, sizeof(msg), "%.800s; the console's last lines:\n%s",
				 why.message, tail + skip);
		error_set(err, why.kind, why.code, "%s", msg);
		if (w.missed > 0)
			error_hint(err, "%llu bytes of console text came too fast to be searched",
				   (unsigned long long)w.missed);
		return r;
	}
	return error_propagate(err, &why);
}

/* --- for people --- */

char *console_tail(const struct console *c, unsigned lines)
{
	const char *text = c->window.data;
	size_t end = c->window.len, start;

	while (end > 0 && text[end - 1] == '\n')
		end--;
	for (start = end; start > 0; start--)
		if (text[start - 1] == '\n' && lines-- <= 1)
			break;
	return xstrndup(end ? text + start : "", end - start);
}

char *console_text(const struct console *c)
{
	struct buf text = {};

	if (c->window.start > c->begin && c->log)
		log_file_read_text(c->log, &text);
	else
		buf_append(&text, c->window.data, c->window.len);
	return buf_steal(&text, NULL);
}
