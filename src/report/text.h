/* SPDX-License-Identifier: MIT */
/* Text from guests and scripts, made harmless for JSON, XML and terminals. */
#pragma once

#include <jansson.h>

#include "base/buf.h"

/* A JSON string; bytes that are no UTF-8 become U+FFFD. NULL gives "". */
json_t *text_json(const char *s);
json_t *text_jsonn(const char *s, size_t len);

/* Escaped for XML 1.0 text and attributes; characters that XML cannot carry, and no UTF-8, become
 * U+FFFD. */
void text_append_xml(struct buf *b, const char *s, bool attribute);

/* For a terminal: escape sequences are removed, other control characters (but \n and \t) and bytes
 * that are no UTF-8 shown as U+FFFD. */
void text_append_plain(struct buf *b, const char *s, size_t len);
char *text_plain(const char *s);

/* How many columns the (plain) text takes, and the longest beginning that takes no more than n:
 * returns its length in bytes. Tabs and newlines count as one. */
size_t text_columns(const char *s);
size_t text_fit(const char *s, size_t columns);

/* The last n lines (without the final newline): a pointer into s. */
const char *text_last_lines(const char *s, unsigned n);
