/* SPDX-License-Identifier: MIT */
/* Events: what a run tells the world, as JSON lines with a version; every report is made from them.
 */
#pragma once

#include <jansson.h>

#include "base/error.h"

/*
 * An event is a JSON object { "v": 1, "type": "...", "t": <seconds since the run's start>, … }.
 * A worker sends its events to the runner over the control socket; the runner stamps run, file,
 * test and attempt, appends the line to the test's events.jsonl and hands it to every reporter.
 * Types and fields are documented in docs/events.md, which a test checks against the table
 * event_types[].
 */
#define EVENT_VERSION 1

struct event_type {
	const char *name;
	const char *fields; /* "name:string seconds:number …", '?' behind optional ones */
	const char *doc;
};
extern const struct event_type event_types[];
/* 0, or ERROR_BUG naming the field that is missing, unknown or of a wrong type. */
int event_validate(json_t *event, struct error *err);
const struct event_type *event_type_find(const char *name); /* NULL if unknown */
/* Takes the reference of fields (may be NULL); t: seconds since the run's start. */
json_t *event_new(const char *type, double t, json_t *fields);

/* One entry of event_type.fields; the strings are not terminated. */
struct event_field {
	const char *name, *type;
	size_t name_len, type_len;
	bool optional;
};
/* Moves *fields behind the next entry; false at the end. */
bool event_field_next(const char **fields, struct event_field *ret);

enum verdict {
	VERDICT_PASSED,
	VERDICT_FAILED,
	VERDICT_ERRORED, /* infrastructure, usage or bug: not the code's fault */
	VERDICT_SKIPPED,
	VERDICT_XFAIL, /* failed as expected */
	VERDICT_XPASS, /* passed although a failure was expected: counts as failed */
	VERDICT_FLAKY, /* passed at a retry */
};
const char *verdict_name(enum verdict v);
int verdict_from_name(const char *name, enum verdict *ret); /* 0 or -EINVAL */
enum verdict verdict_of_error(enum error_kind kind);

/* n, median, p5, p95 of an array of numbers, set in ret. */
void collect_statistics(json_t *samples, json_t *ret);

/* A reporter is one const struct in report/registry.c; state is its own. */
struct reporter;
struct reporter_ops {
	const char *name; /* "terminal", "junit", "tap", "json" */
	int (*open)(struct reporter *r, struct error *err);
	void (*event)(struct reporter *r, json_t *event);    /* borrowed */
	int (*close)(struct reporter *r, struct error *err); /* writes, frees */
};
struct reporter {
	const struct reporter_ops *ops;
	const char *path; /* output file, NULL: stdout */
	bool color, live; /* terminal */
	int verbosity;
	void *state;
};
extern const struct reporter_ops *const reporters[]; /* NULL-terminated */
