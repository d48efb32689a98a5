/* SPDX-License-Identifier: MIT */
/* A machine's serial console: recorded from the first byte, matched as text, written to. */
#pragma once

#include <jansson.h>

#include "base/buf.h"
#include "base/error.h"
#include "loop/io.h"

/*
 * A reader fiber drains the console's stream for the whole life of the VMM, whoever waits or not,
 * so that a guest never blocks on it. Raw bytes go to `console-<machine>.log` with a time stamp per
 * line (seconds since the VMM's start); the cleaned text (CR, escape sequences removed) goes to a
 * bounded window in memory (the last CONSOLE_WINDOW_BYTES) that the waits match against. What has
 * fallen out of the window unread is counted, and a wait that could have missed it says so.
 */
#define CONSOLE_WINDOW_BYTES (4 * MIB)
/* The log file is bounded too; what is dropped is said in it, and its tail is kept. */
#define CONSOLE_LOG_MAX_BYTES (256 * MIB)

struct console;

struct console_callbacks {
	/* A complete cleaned line (without its newline). Main or reader stack; must not wait. */
	void (*on_line)(struct console *c, const char *line, void *userdata);
	void (*on_closed)(struct console *c, void *userdata);
};

/* log_path may be NULL. Appends across power cycles (console_attach again after a new start). */
struct console *console_new(const char *log_path, const struct console_callbacks *cb,
			    void *userdata, struct error *err);
void console_free(struct console *c);
void console_attach(struct console *c, struct io *io /* takes */, uint64_t epoch_ns);
/* Reads what is still in the stream, then closes it; called when the VMM has ended. */
void console_drain(struct console *c);
/* Reads what is in the stream at this moment; for when the vCPUs stand still. */
void console_catch_up(struct console *c);

/* What the console has said, as far as it is kept with a saved state (the last
 * CONSOLE_SAVED_BYTES), and how far the waits have come in it. A new object. */
#define CONSOLE_SAVED_BYTES (1 * MIB)
json_t *console_save(const struct console *c);
/* Makes that (borrowed) all that it has said, in place of what it has: the machine goes on from
 * there. The log file keeps everything; a new one gets that text, too. Not attached. */
void console_restore(struct console *c, json_t *saved);
/* As console_attach(), for a machine that goes on in the middle. */
void console_resume(struct console *c, struct io *io /* takes */, uint64_t epoch_ns);

/* For backends without a stream. */
void console_feed(struct console *c, const void *data, size_t len);

int console_send(struct console *c, const void *data, size_t len, uint64_t timeout_ns,
		 struct error *err);

/* Captures: ret is a JSON object {"0": whole, "1": …, "name": …}. from_boot: search from the last
 * start instead of from the cursor. Moves the cursor past the match. A regex error is
 * ERROR_USAGE; a time-out's message holds the tail. */
int console_wait_text(struct console *c, const char *regex, bool from_boot, uint64_t timeout_ns,
		      json_t **ret, struct error *err);
/* No more text will come (the machine died): waits that do not find what they want in the text that
 * is there fail with a copy of err, those under way and later ones, until the next attach. */
void console_fail(struct console *c, const struct error *err);

/* Bytes that are not in the log file: too many, or the disk was full. */
uint64_t console_log_dropped(const struct console *c);

/* The last n lines of cleaned text; malloc'd. */
char *console_tail(const struct console *c, unsigned lines);
/* All of the log as far as kept (cleaned), since the first start. */
char *console_text(const struct console *c);

/* A small shared PCRE2 wrapper (multi-line on, JIT off, match limits set). */
struct regex;
int regex_compile(const char *pattern, struct regex **ret, struct error *err);
void regex_free(struct regex *re);
/* 1 match, 0 none, -errno (ERROR_USAGE when a limit was hit). start: byte offset. ret may be
 * NULL; ret_end the offset behind the match. */
int regex_match(struct regex *re, const char *text, size_t len, size_t start, size_t *ret_start,
		size_t *ret_end, json_t **ret_captures, struct error *err);
/* The same for a text that still grows at its end: where there is no match, *start moves to where
 * the next search has to begin, which is behind all that no match can be in or before what more
 * text could complete. The text before it must stay, up to the caller's bound. */
int regex_match_growing(struct regex *re, const char *text, size_t len, size_t *start,
			size_t *ret_end, json_t **ret_captures, struct error *err);
