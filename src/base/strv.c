/* SPDX-License-Identifier: MIT */
/* NULL-terminated vectors of owned strings. */
#include <string.h>

#include "base/buf.h"
#include "base/str.h"

size_t strv_len(char *const *v)
{
	size_t n = 0;

	while (v && v[n])
		n++;
	return n;
}

void strv_free(char **v)
{
	for (size_t i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
}

void cleanup_strv(char ***v)
{
	strv_free(*v);
}

void strv_push_take(char ***v, char *s)
{
	size_t n = strv_len(*v);

	/* Exactly: the vector may have been made elsewhere, so nothing is assumed of its room. */
	*v = xrealloc(*v, (n + 2) * sizeof(char *));
	(*v)[n] = s;
	(*v)[n + 1] = NULL;
}

void strv_push(char ***v, const char *s)
{
	strv_push_take(v, xstrdup(s));
}

void strv_pushf(char ***v, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	strv_push_take(v, xvasprintf(fmt, ap));
	va_end(ap);
}

char **strv_copy(char *const *v)
{
	char **copy = NULL;

	for (size_t i = 0; v && v[i]; i++)
		strv_push(&copy, v[i]);
	return copy;
}

bool strv_contains(char *const *v, const char *s)
{
	for (size_t i = 0; v && v[i]; i++)
		if (strcmp(v[i], s) == 0)
			return true;
	return false;
}

char *strv_join(char *const *v, const char *sep)
{
	struct buf b = {};

	for (size_t i = 0; v && v[i]; i++) {
		if (i > 0)
			buf_puts(&b, sep);
		buf_puts(&b, v[i]);
	}
	return buf_steal(&b, NULL);
}

/* NULL if there is no field at all, which is an empty vector as well. */
char **strv_split(const char *s, const char *seps)
{
	char **v = NULL;

	while (*(s += strspn(s, seps))) {
		size_t n = strcspn(s, seps);

		strv_push_take(&v, xstrndup(s, n));
		s += n;
	}
	return v;
}
