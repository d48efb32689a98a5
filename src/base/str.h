/* SPDX-License-Identifier: MIT */
/* Strings: allocation that aborts when memory is gone, lists, quoting, nearest name, units. */
#pragma once

#include <stdarg.h>

#include "base/error.h"
#include "base/util.h"

/* None of these returns NULL: out of memory aborts. */
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) _printf_(1, 2);
char *xvasprintf(const char *fmt, va_list ap);
void *xmemdup(const void *p, size_t n);

static inline bool str_eq(const char *a, const char *b)
{
	return a == b || (a && b && __builtin_strcmp(a, b) == 0);
}
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);

/* A NULL-terminated vector of strings, all owned. NULL is an empty one. */
size_t strv_len(char *const *v);
void strv_free(char **v);
void cleanup_strv(char ***v);
#define _cleanup_strv_ _cleanup_(cleanup_strv)
void strv_push(char ***v, const char *s); /* copies */
void strv_push_take(char ***v, char *s);  /* takes */
void strv_pushf(char ***v, const char *fmt, ...) _printf_(2, 3);
char **strv_copy(char *const *v);
bool strv_contains(char *const *v, const char *s);
char *strv_join(char *const *v, const char *sep);
char **strv_split(const char *s, const char *seps); /* empty fields dropped */

/* Quoted for POSIX sh; plain words stay plain. */
char *shell_quote(const char *s);
char *shell_quote_argv(char *const *argv);

/* The candidate with the smallest edit distance to name, if it is near enough to be a typing error
 * (at most 2, and less than half of the length); else NULL. candidates ends with NULL. */
const char *nearest_name(const char *name, const char *const *candidates);

/* "250ms", "90s", "5m", "2h", "1d", or a bare number of seconds ("1.5"). 0 or -EINVAL. */
int parse_duration(const char *s, uint64_t *ret_ns);
/* "512M", "1G", "64K", "2T" (1024 each, an optional "iB" or "B" allowed), or bytes. 0 or -EINVAL,
 * -ERANGE. */
int parse_size(const char *s, uint64_t *ret_bytes);
int parse_u64(const char *s, uint64_t *ret);
int parse_int(const char *s, int *ret);
/* "0.25 s", "12 s", "3 min 20 s"; for people. Writes to a caller's buffer of 32 bytes, returns it.
 */
#define FORMAT_MAX 32
char *format_duration(uint64_t ns, char buf[FORMAT_MAX]);
/* "380 KiB", "1.2 GiB". */
char *format_size(uint64_t bytes, char buf[FORMAT_MAX]);
