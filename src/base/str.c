/* SPDX-License-Identifier: MIT */
/* Allocation that aborts, comparison, quoting, and the nearest name. */
#include "base/str.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"

static _noreturn_ void out_of_memory(size_t n)
{
	dprintf(STDERR_FILENO, "assay: out of memory: cannot get %zu bytes\n", n);
	abort();
}

void *xmalloc(size_t n)
{
	void *p = malloc(n ? n : 1);

	if (!p)
		out_of_memory(n);
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);

	if (!p)
		out_of_memory(n * size);
	return p;
}

void *xrealloc(void *p, size_t n)
{
	p = realloc(p, n ? n : 1);
	if (!p)
		out_of_memory(n);
	return p;
}

void *xmemdup(const void *p, size_t n)
{
	void *copy = xmalloc(n);

	if (n)
		memcpy(copy, p, n);
	return copy;
}

char *xstrdup(const char *s)
{
	return xmemdup(s, strlen(s) + 1);
}

char *xstrndup(const char *s, size_t n)
{
	size_t len = strnlen(s, n);
	char *copy = xmalloc(len + 1);

	memcpy(copy, s, len);
	copy[len] = '\0';
	return copy;
}

char *xvasprintf(const char *fmt, va_list ap)
{
	char *s;

	if (vasprintf(&s, fmt, ap) < 0)
		out_of_memory(0);
	return s;
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	s = xvasprintf(fmt, ap);
	va_end(ap);
	return s;
}

bool str_starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

/* Of characters that mean nothing to a POSIX shell within an argument. */
static bool is_plain_word(const char *s)
{
	if (!*s)
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("_@%+=:,./-", *s))
			return false;
	return true;
}

static void append_quoted(struct buf *b, const char *s)
{
	if (is_plain_word(s)) {
		buf_puts(b, s);
		return;
	}
	buf_putc(b, '\'');
	for (; *s; s++) {
		if (*s == '\'')
			buf_puts(b, "'\\''");
		else
			buf_putc(b, *s);
	}
	buf_putc(b, '\'');
}

char *shell_quote(const char *s)
{
	struct buf b = {};

	append_quoted(&b, s);
	return buf_steal(&b, NULL);
}

char *shell_quote_argv(char *const *argv)
{
	struct buf b = {};

	for (size_t i = 0; argv && argv[i]; i++) {
		if (i > 0)
			buf_putc(&b, ' ');
		append_quoted(&b, argv[i]);
	}
	return buf_steal(&b, NULL);
}

/* Longer names are never typing errors of each other; it also bounds the rows below. */
#define NEAREST_MAX 64

/*
 * Damerau-Levenshtein distance in the restricted form (optimal string alignment): insertion,
 * deletion, substitution, and transposition of two neighbours cost 1 each. Case does not count.
 */
static size_t edit_distance(const char *a, size_t n, const char *b, size_t m)
{
	size_t rows[3][NEAREST_MAX + 1];
	size_t *prev2 = rows[0], *prev = rows[1], *row = rows[2];

	for (size_t j = 0; j <= m; j++)
		prev[j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t *spare = prev2;

		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			int ca = tolower((unsigned char)a[i - 1]);
			int cb = tolower((unsigned char)b[j - 1]);
			size_t d = prev[j - 1] + (ca != cb);

			d = MIN(d, prev[j] + 1);
			d = MIN(d, row[j - 1] + 1);
			if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
			    cb == tolower((unsigned char)a[i - 2]))
				d = MIN(d, prev2[j - 2] + 1);
			row[j] = d;
		}
		prev2 = prev;
		prev = row;
		row = spare;
	}
	return prev[m];
}

const char *nearest_name(const char *name, const char *const *candidates)
{
	size_t n = strlen(name);
	size_t best = 3;
	const char *found = NULL;

	if (n == 0 || n > NEAREST_MAX)
		return NULL;
	for (; candidates && *candidates; candidates++) {
		size_t m = strlen(*candidates), d;

		if (m > NEAREST_MAX)
			continue;
		d = edit_distance(name, n, *candidates, m);
		/* If half of it is another one, it is another name and no typing error. */
		if (d < best && 2 * d < MAX(n, m)) {
			best = d;
			found = *candidates;
		}
	}
	return found;
}
