/* SPDX-License-Identifier: MIT */
/* The reporters, one file each, and what they share. */
#pragma once

#include <stdio.h>

#include "base/buf.h"
#include "report/event.h"

extern const struct reporter_ops reporter_terminal, reporter_tap, reporter_junit, reporter_json;

/* A string member; "" if it is missing. */
const char *event_string(json_t *event, const char *key);
double event_number(json_t *event, const char *key);
enum verdict event_verdict(json_t *event);
bool event_is(json_t *event, const char *type);

/* The error of a result as plain text, in the order in which a person reads it: message, hint,
 * source lines, what was seen. Each line begins with indent. ANSI and control characters of
 * guests are gone. */
void report_failure_text(struct buf *b, json_t *result, const char *indent);
/* "outer / inner": the subtest whose failure is the test's error; NULL if there is none. malloc'd.
 */
char *report_subtest_path(json_t *result);
/* "412 ms", "3.2 s", "4 min 05 s" */
char *report_seconds(double seconds, char buf[32]);
/* A value with three digits that count and a unit of a sensible size: 9474 "ns" is "9.47 µs", 3e6
 * "bytes" is "2.86 MiB", 12345 "requests" stays "12345 requests". Text of guests is made harmless.
 */
#define QUANTITY_MAX 64
char *report_quantity(double value, const char *unit, char buf[QUANTITY_MAX]);
/* path as seen from the working directory, if it is below it. Into path. */
const char *report_relative(const char *path);

/* Writes to r->path (atomically), or to stdout. */
int report_write(struct reporter *r, const struct buf *b, struct error *err);
