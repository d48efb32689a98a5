/* SPDX-License-Identifier: MIT */
/* Filling, prefixing and naming of errors. */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

/* By kind; the words are part of the event format and of the Lua API. */
static const char *const kind_names[] = {
	[ERROR_NONE] = "none",	       [ERROR_USAGE] = "usage",
	[ERROR_EXPECT] = "expect",     [ERROR_TIMEOUT] = "timeout",
	[ERROR_CRASH] = "crash",       [ERROR_UNSUPPORTED] = "unsupported",
	[ERROR_INFRA] = "infra",       [ERROR_BUG] = "bug",
	[ERROR_DEADLINE] = "deadline", [ERROR_CANCELLED] = "cancelled",
	[ERROR_SKIP] = "skip",
};

/* Formats into a fixed buffer; an end that was cut off is marked, never silently gone. */
static void format_bounded(char *buf, size_t size, const char *fmt, va_list ap)
{
	static const char ellipsis[] = "…";
	int n = vsnprintf(buf, size, fmt, ap);
	size_t end;

	if (n < 0) {
		buf[0] = '\0';
		return;
	}
	if ((size_t)n < size)
		return;
	end = size - sizeof(ellipsis);
	/* Not in the middle of a UTF-8 sequence. */
	while (end > 0 && ((unsigned char)buf[end] & 0xc0) == 0x80)
		end--;
	memcpy(buf + end, ellipsis, sizeof(ellipsis));
}

static void format_message(struct error *err, const char *fmt, ...) _printf_(2, 3);

static void format_message(struct error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	format_bounded(err->message, sizeof(err->message), fmt, ap);
	va_end(ap);
}

/* Callers pass errno or a negated result; both mean the same. Zero would read as success. */
static int normal_code(int code)
{
	if (code == 0)
		return EIO;
	return code < 0 ? -code : code;
}

/* A second error in the same place replaces the first: the caller forgot to clear it, and the new
 * one is what he is about to report. */
int error_setv(struct error *err, enum error_kind kind, int code, const char *fmt, va_list ap)
{
	code = normal_code(code);
	if (!err)
		return -code;
	err->kind = kind == ERROR_NONE ? ERROR_BUG : kind;
	err->code = code;
	err->hint[0] = '\0';
	format_bounded(err->message, sizeof(err->message), fmt, ap);
	return -code;
}

int error_set(struct error *err, enum error_kind kind, int code, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = error_setv(err, kind, code, fmt, ap);
	va_end(ap);
	return r;
}

int error_set_errno(struct error *err, enum error_kind kind, int code, const char *fmt, ...)
{
	char message[ERROR_MESSAGE_MAX];
	va_list ap;

	code = normal_code(code);
	if (!err)
		return -code;
	va_start(ap, fmt);
	format_bounded(message, sizeof(message), fmt, ap);
	va_end(ap);
	return error_set(err, kind, code, "%s: %s", message, strerror(code));
}

void error_hint(struct error *err, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return;
	va_start(ap, fmt);
	format_bounded(err->hint, sizeof(err->hint), fmt, ap);
	va_end(ap);
}

void error_prefix(struct error *err, const char *fmt, ...)
{
	char prefix[ERROR_MESSAGE_MAX];
	char message[ERROR_MESSAGE_MAX];
	va_list ap;

	if (!error_is_set(err))
		return;
	va_start(ap, fmt);
	format_bounded(prefix, sizeof(prefix), fmt, ap);
	va_end(ap);
	memcpy(message, err->message, sizeof(message));
	format_message(err, "%s: %s", prefix, message);
}

void error_clear(struct error *err)
{
	if (!err)
		return;
	err->kind = ERROR_NONE;
	err->code = 0;
	err->message[0] = '\0';
	err->hint[0] = '\0';
}

int error_propagate(struct error *dst, const struct error *src)
{
	if (dst && dst != src)
		*dst = *src;
	return -src->code;
}

const char *error_kind_name(enum error_kind kind)
{
	if ((unsigned)kind >= ARRAY_SIZE(kind_names))
		return "bug";
	return kind_names[kind];
}

enum error_kind error_kind_from_name(const char *name)
{
	for (size_t i = 1; name && i < ARRAY_SIZE(kind_names); i++)
		if (strcmp(kind_names[i], name) == 0)
			return (enum error_kind)i;
	return ERROR_NONE;
}
