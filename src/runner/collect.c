/* SPDX-License-Identifier: MIT */
/* What the events of a test add up to: subtests, metrics, artifacts, logs; all bounded. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "runner/internal.h"

/* The events file has everything; a result keeps what a person can look at. */
#define MAX_SUBTESTS  10000
#define MAX_SAMPLES   100000
#define MAX_ARTIFACTS 10000
#define MAX_LOG	      200 /* the last ones */
#define MAX_WARNINGS  100
#define MAX_DEPTH     64

void collector_init(struct collector *c)
{
	*c = (struct collector){
		.subtests = json_array(),
		.metrics = json_object(),
		.artifacts = json_array(),
		.diagnostics = json_array(),
		.log = json_array(),
		.warnings = json_array(),
		.errors = json_array(),
		.open = json_array(),
	};
}

void collector_done(struct collector *c)
{
	json_decref(c->subtests);
	json_decref(c->metrics);
	json_decref(c->artifacts);
	json_decref(c->diagnostics);
	json_decref(c->log);
	json_decref(c->warnings);
	json_decref(c->errors);
	json_decref(c->open);
	json_decref(c->end);
	json_decref(c->fork_seconds);
	*c = (struct collector){};
}

/* The event without what every event has. */
static json_t *payload(json_t *event)
{
	static const char *const common[] = {"v",    "type", "t",	"run",
					     "file", "test", "attempt", "template"};
	json_t *copy = json_copy(event);

	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		json_object_del(copy, common[i]);
	return copy;
}

/* Subtests are a flat list with a depth, in the order in which they began. */
static void subtest_start(struct collector *c, json_t *event)
{
	size_t depth = json_array_size(c->open);
	json_t *s;

	if (depth >= MAX_DEPTH || json_array_size(c->subtests) >= MAX_SUBTESTS) {
		json_array_append_new(c->open, json_integer(-1));
		return;
	}
	s = payload(event);
	json_object_set_new(s, "depth", json_integer((json_int_t)depth));
	json_array_append_new(c->open, json_integer((json_int_t)json_array_size(c->subtests)));
	json_array_append_new(c->subtests, s);
}

static void subtest_end(struct collector *c, json_t *event)
{
	size_t depth = json_array_size(c->open);
	json_int_t index;
	json_t *ended;

	if (depth == 0)
		return;
	index = json_integer_value(json_array_get(c->open, depth - 1));
	json_array_remove(c->open, depth - 1);
	if (index < 0)
		return;
	ended = payload(event);
	json_object_update(json_array_get(c->subtests, (size_t)index), ended);
	json_decref(ended);
}

static void metric(struct collector *c, json_t *event)
{
	const char *name = json_string_value(json_object_get(event, "name"));
	json_t *m = json_object_get(c->metrics, name);

	if (c->n_samples++ >= MAX_SAMPLES)
		return;
	if (!m) {
		m = json_pack("{s:O*, s:O*, s:[]}", "unit", json_object_get(event, "unit"),
			      "better", json_object_get(event, "better"), "samples");
		json_object_set_new(c->metrics, name, m);
	}
	json_array_append(json_object_get(m, "samples"), json_object_get(event, "value"));
}

static void append_bounded(json_t *array, json_t *value, size_t max, bool keep_last)
{
	if (json_array_size(array) >= max) {
		if (!keep_last) {
			json_decref(value);
			return;
		}
		json_array_remove(array, 0);
	}
	json_array_append_new(array, value);
}

void collector_event(struct collector *c, json_t *event)
{
	const char *type = json_string_value(json_object_get(event, "type"));

	if (str_eq(type, "subtest-start"))
		subtest_start(c, event);
	else if (str_eq(type, "subtest-end"))
		subtest_end(c, event);
	else if (str_eq(type, "metric"))
		metric(c, event);
	else if (str_eq(type, "artifact"))
		append_bounded(c->artifacts, payload(event), MAX_ARTIFACTS, false);
	else if (str_eq(type, "diagnostic"))
		append_bounded(c->diagnostics, payload(event), MAX_WARNINGS, false);
	else if (str_eq(type, "log"))
		append_bounded(c->log, payload(event), MAX_LOG, true);
	else if (str_eq(type, "warning"))
		append_bounded(c->warnings, payload(event), MAX_WARNINGS, false);
	else if (str_eq(type, "error"))
		append_bounded(c->errors, payload(event), MAX_WARNINGS, false);
	else if (str_eq(type, "fork") && !c->fork_seconds)
		c->fork_seconds = json_incref(json_object_get(event, "seconds"));
	else if (str_eq(type, "attempt-end") && !c->end)
		c->end = json_incref(event);
}

static void set_if_any(json_t *result, const char *key, json_t *array)
{
	if (json_array_size(array) > 0)
		json_object_set(result, key, array);
}

void collector_finish(struct collector *c, json_t *result)
{
	const char *name;
	json_t *m;

	json_object_foreach(c->metrics, name, m)
		collect_statistics(json_object_get(m, "samples"), m);
	if (json_object_size(c->metrics) > 0)
		json_object_set(result, "metrics", c->metrics);
	if (c->fork_seconds)
		json_object_set(result, "fork_seconds", c->fork_seconds);
	set_if_any(result, "subtests", c->subtests);
	set_if_any(result, "artifacts", c->artifacts);
	set_if_any(result, "diagnostics", c->diagnostics);
	set_if_any(result, "log", c->log);
	set_if_any(result, "warnings", c->warnings);
	set_if_any(result, "errors", c->errors);
}
