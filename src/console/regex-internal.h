/* SPDX-License-Identifier: MIT */
/* The regular expressions' inside, for searches in a stream that still grows. */
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "console/console.h"

struct regex {
	char *pattern;
	pcre2_code *code;	 /* for any bytes */
	pcre2_code *stream_code; /* for text known to be UTF-8; made when first needed */
	pcre2_match_data *data;
	pcre2_match_context *context;
	size_t lookbehind_bytes; /* so much of what is before a start must be shown */
};

enum regex_mode {
	REGEX_ANY_TEXT,	   /* any bytes, all there is */
	REGEX_ANY_MORE,	   /* any bytes; says REGEX_PARTIAL if more text could change the result */
	REGEX_STREAM_MORE, /* valid UTF-8; says REGEX_PARTIAL if more text could change the result
			    */
	REGEX_STREAM_NOW,  /* valid UTF-8; what is there counts */
};

enum { REGEX_NONE = 0, REGEX_FOUND = 1, REGEX_PARTIAL = 2 };

/* One slice of a search: matches that begin in [start, last_start]. ret_start and ret_end are
 * filled for REGEX_PARTIAL too. */
int regex_search(struct regex *re, enum regex_mode mode, const char *text, size_t len, size_t start,
		 size_t last_start, size_t *ret_start, size_t *ret_end, json_t **ret_captures,
		 struct error *err);

/* How many starting positions to try at once; adapts to what the slices before took. */
struct regex_pace {
	size_t slice;
	uint64_t cheap_ns;
};
void regex_pace_begin(struct regex_pace *p, size_t len);
void regex_pace_step(struct regex_pace *p, uint64_t took_ns);
