/* SPDX-License-Identifier: MIT */
/* Splits a stream of bytes into JSON texts by brackets and strings, with limits. */
#include "proto/json-stream.h"

#include <string.h>

void json_stream_init(struct json_stream *s, size_t max_bytes)
{
	*s = (struct json_stream){.max_bytes = max_bytes};
}

void json_stream_done(struct json_stream *s)
{
	buf_done(&s->text);
	*s = (struct json_stream){.failed = -EBADMSG};
}

bool json_stream_is_idle(const struct json_stream *s)
{
	return s->depth == 0 && !s->failed;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Inside of a string all that matters is its end. Returns how many bytes it is safe to pass over
 * at once, at least 1. */
static size_t scan_string(struct json_stream *s, const char *p, const char *end)
{
	const char *q = p;

	if (s->escaped) {
		s->escaped = false;
		return 1;
	}
	while (q < end && *q != '"' && *q != '\\')
		q++;
	if (q == end)
		return (size_t)(q - p);
	if (*q == '\\')
		s->escaped = true;
	else
		s->in_string = false;
	return (size_t)(q - p) + 1;
}

/* One byte outside of strings. 1: that was the last one of the text. */
static int scan_structure(struct json_stream *s, char c)
{
	switch (c) {
	case '{':
	case '[':
		return ++s->depth > JSON_STREAM_MAX_DEPTH ? -EMSGSIZE : 0;
	case '}':
	case ']':
		return --s->depth == 0; /* depth is at least 1 inside of a text */
	case '"':
		s->in_string = true;
		return 0;
	default:
		return 0;
	}
}

static int feed(struct json_stream *s, const char *data, size_t len, size_t *ret_used)
{
	const char *p = data, *end = data + len, *start;
	int r = 0;

	while (s->depth == 0 && p < end && is_space(*p))
		p++;
	if (s->depth == 0 && p < end && *p != '{' && *p != '[')
		return -EBADMSG;
	start = p;
	while (p < end && r == 0) {
		if (s->in_string)
			p += scan_string(s, p, end);
		else
			r = scan_structure(s, *p++);
	}
	if (r < 0)
		return r;
	if ((size_t)(p - start) > s->max_bytes - s->text.len)
		return -EMSGSIZE;
	buf_append(&s->text, start, (size_t)(p - start));
	*ret_used = (size_t)(p - data);
	return r;
}

int json_stream_feed(struct json_stream *s, const void *data, size_t len, size_t *ret_used)
{
	int r;

	*ret_used = 0;
	if (s->failed)
		return s->failed;
	if (s->complete) {
		buf_truncate(&s->text, 0);
		s->complete = false;
	}
	if (len == 0)
		return 0;
	r = feed(s, data, len, ret_used);
	if (r < 0)
		s->failed = r;
	s->complete = r == 1;
	return r;
}
