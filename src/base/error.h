/* SPDX-License-Identifier: MIT */
/* Errors: a negative errno for the program, a kind for the verdict, a sentence for the person. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

#include "base/util.h"

/*
 * Rules.
 *
 * - A function that can fail returns a negative errno and takes a `struct error *err` as its last
 *   parameter. The caller owns it (on the stack: `struct error err = {};`); it may be NULL.
 * - It is set exactly once, by whoever detects the failure, and untouched on success.
 * - On the way up it may be prefixed (`error_prefix(err, "machine '%s'", name)`).
 * - Whoever stops an error reports it, once. Library code does not log above debug.
 * - No heap in it: a Lua error is a longjmp and skips clean-up attributes.
 *
 *	if (fd < 0)
 *		return error_set_errno(err, ERROR_INFRA, errno, "cannot open '%s'", path);
 *	if (!unit)
 *		return error_set(err, ERROR_EXPECT, ENOENT, "unit '%s' does not exist", name);
 */

/* What went wrong, as far as the verdict is concerned. The order is not significant. */
enum error_kind {
	ERROR_NONE = 0,
	ERROR_USAGE,	   /* the test file or the command line is wrong */
	ERROR_EXPECT,	   /* the system under test did not do what the test asked: failed */
	ERROR_TIMEOUT,	   /* a wait's own time-out ran out: failed */
	ERROR_CRASH,	   /* a machine died: failed */
	ERROR_UNSUPPORTED, /* this backend, host or build cannot do it: skipped */
	ERROR_INFRA,	   /* the lab is broken, not the code: errored */
	ERROR_BUG,	   /* Assay itself is wrong: errored */
	ERROR_DEADLINE,	   /* the enclosing (test's) deadline passed; cannot be caught: failed */
	ERROR_CANCELLED,   /* somebody gave the fiber up; cannot be caught */
	ERROR_SKIP,	   /* skip() was called; cannot be caught */
};

#define ERROR_MESSAGE_MAX 2048
#define ERROR_HINT_MAX	  512

struct error {
	enum error_kind kind;
	int code; /* positive errno */
	char message[ERROR_MESSAGE_MAX];
	char hint[ERROR_HINT_MAX];
};

static inline bool error_is_set(const struct error *err)
{
	return err && err->kind != ERROR_NONE;
}

/* Each returns -code, so that `return error_set(…)` is the idiom. `code` is a positive errno. */
int error_set(struct error *err, enum error_kind kind, int code, const char *fmt, ...)
	_printf_(4, 5);
/* As error_set(), with ": <strerror(code)>" behind the message. */
int error_set_errno(struct error *err, enum error_kind kind, int code, const char *fmt, ...)
	_printf_(4, 5);
int error_setv(struct error *err, enum error_kind kind, int code, const char *fmt, va_list ap);

/* What to try; a sentence for a line of its own. Replaces an earlier hint. */
void error_hint(struct error *err, const char *fmt, ...) _printf_(2, 3);
/* "prefix: message". */
void error_prefix(struct error *err, const char *fmt, ...) _printf_(2, 3);
void error_clear(struct error *err);
/* Copies src to dst if dst is not NULL; returns -src->code. */
int error_propagate(struct error *dst, const struct error *src);

/* "expect", "timeout", "crash", "unsupported", "infra", "usage", "bug", "deadline", "cancelled",
 * "skip"; never NULL. */
const char *error_kind_name(enum error_kind kind);
/* ERROR_NONE for an unknown name. */
enum error_kind error_kind_from_name(const char *name);
