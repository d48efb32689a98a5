/* SPDX-License-Identifier: MIT */
/* Splits a stream of bytes into the JSON texts (objects and arrays) that it consists of. */
#pragma once

#include "base/buf.h"

/*
 * QMP and its relatives send one JSON object after the other; the specification calls it a
 * stream and promises nothing about line ends. This finds where each one ends, by looking at
 * brackets and strings only: a text is balanced when it is handed out, but whether it is valid
 * JSON is for the JSON parser to say.
 *
 * Everything is bounded: a text of more than max_bytes and brackets nested deeper than
 * JSON_STREAM_MAX_DEPTH are errors, and an error is final.
 */

#define JSON_STREAM_MAX_DEPTH 512

struct json_stream {
	struct buf text; /* of the text under way or, after 1 was returned, of the complete one */
	size_t max_bytes;
	unsigned depth;
	bool in_string;
	bool escaped;  /* behind a backslash in a string */
	bool complete; /* text is to be thrown away at the next feed */
	int failed;    /* negative errno once broken */
};

void json_stream_init(struct json_stream *s, size_t max_bytes);
void json_stream_done(struct json_stream *s);

/*
 * Takes bytes up to the end of a text or of the data; *ret_used says how many. Returns 1 when a
 * text is complete: it is in s->text until the next call. 0: all data used, more is needed.
 * -EBADMSG: a byte outside of a text that is no white space. -EMSGSIZE: too long or too deep.
 */
int json_stream_feed(struct json_stream *s, const void *data, size_t len, size_t *ret_used);

/* True between two texts, where a stream may end. */
bool json_stream_is_idle(const struct json_stream *s);
