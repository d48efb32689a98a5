/* SPDX-License-Identifier: MIT */
/* results.json: the whole run as one document. */
#include <string.h>

#include "base/str.h"
#include "report/reporters.h"
#include "report/text.h"

#define RESULTS_VERSION 1

/*
 *	{ "version": 1, "run": { of run-start }, "accel": {…}, "tests": [ of test-end ],
 *	  "not_run": [ { file, test } ], "errors": [], "warnings": [], "images": [],
 *	  "templates": [ of template-end ],
 *	  "summary": { of run-end }, "metrics": { "file: test": { name: { n, median, … } } } }
 *
 * docs/events.md describes the members.
 */
struct json_state {
	json_t *root;
	json_t *planned; /* object: "file: test" → { file, test, left: how many are to come } */
	json_t *metrics;
};

static json_t *payload(json_t *event, bool keep_test)
{
	json_t *copy = json_copy(event);

	json_object_del(copy, "v");
	json_object_del(copy, "type");
	json_object_del(copy, "run");
	json_object_del(copy, "t");
	if (!keep_test)
		json_object_del(copy, "test");
	return copy;
}

static int json_open(struct reporter *r, struct error *err)
{
	struct json_state *s = xcalloc(1, sizeof(*s));

	s->root = json_pack("{s:i, s:{}, s:[], s:[], s:[], s:[], s:[], s:[]}", "version",
			    RESULTS_VERSION, "run", "tests", "not_run", "errors", "warnings",
			    "images", "templates");
	s->planned = json_object();
	s->metrics = json_object();
	r->state = s;
	return 0;
}

static char *test_key(json_t *o)
{
	return xasprintf("%s: %s", event_string(o, "file"), event_string(o, "test"));
}

static void note_plan(struct json_state *s, json_t *event)
{
	json_t *test;
	size_t i;

	json_array_foreach(json_object_get(event, "tests"), i, test)
	{
		_cleanup_free_ char *key = test_key(test);
		json_t *p = json_object_get(s->planned, key);
		json_int_t left = json_integer_value(json_object_get(p, "left"));

		json_object_set_new(s->planned, key,
				    json_pack("{s:s, s:s, s:I}", "file", event_string(test, "file"),
					      "test", event_string(test, "test"), "left",
					      left + 1));
	}
}

/* Samples of all repetitions of a test together. */
static void note_metrics(struct json_state *s, const char *key, json_t *metrics)
{
	const char *name;
	json_t *metric;

	json_object_foreach(metrics, name, metric)
	{
		json_t *of_test = json_object_get(s->metrics, key), *all;

		if (!of_test) {
			of_test = json_object();
			json_object_set_new(s->metrics, key, of_test);
		}
		all = json_object_get(of_test, name);
		if (!all) {
			all = json_copy(metric);
			json_object_set_new(all, "samples", json_array());
			json_object_set_new(of_test, name, all);
		}
		json_array_extend(json_object_get(all, "samples"),
				  json_object_get(metric, "samples"));
	}
}

static void note_test(struct json_state *s, json_t *event)
{
	_cleanup_free_ char *key = test_key(event);
	json_t *p = json_object_get(s->planned, key);

	json_array_append_new(json_object_get(s->root, "tests"), payload(event, true));
	note_metrics(s, key, json_object_get(event, "metrics"));
	if (p)
		json_object_set_new(
			p, "left",
			json_integer(json_integer_value(json_object_get(p, "left")) - 1));
}

static void json_event(struct reporter *r, json_t *event)
{
	struct json_state *s = r->state;

	if (event_is(event, "run-start"))
		json_object_set_new(s->root, "run", payload(event, false));
	else if (event_is(event, "accel"))
		json_object_set_new(s->root, "accel", payload(event, false));
	else if (event_is(event, "plan"))
		note_plan(s, event);
	else if (event_is(event, "test-end"))
		note_test(s, event);
	else if (event_is(event, "error") && !json_object_get(event, "test"))
		json_array_append_new(json_object_get(s->root, "errors"), payload(event, false));
	else if (event_is(event, "warning") && !json_object_get(event, "test"))
		json_array_append_new(json_object_get(s->root, "warnings"), payload(event, false));
	else if (event_is(event, "image") && !str_eq(event_string(event, "state"), "building"))
		json_array_append_new(json_object_get(s->root, "images"), payload(event, false));
	else if (event_is(event, "template-end"))
		json_array_append_new(json_object_get(s->root, "templates"), payload(event, false));
	else if (event_is(event, "run-end"))
		json_object_set_new(s->root, "summary", payload(event, false));
}

static int append_json(const char *data, size_t len, void *userdata)
{
	buf_append(userdata, data, len);
	return 0;
}

static int json_close(struct reporter *r, struct error *err)
{
	struct json_state *s = r->state;
	_cleanup_buf_ struct buf text = {};
	const char *key, *name;
	json_t *p, *metric;
	int e;

	json_object_foreach(s->planned, key,
			    p) if (json_integer_value(json_object_get(p, "left")) > 0)
	{
		json_object_del(p, "left");
		json_array_append(json_object_get(s->root, "not_run"), p);
	}
	json_object_foreach(s->metrics, key, p) json_object_foreach(p, name, metric)
		collect_statistics(json_object_get(metric, "samples"), metric);
	if (json_object_size(s->metrics) > 0)
		json_object_set(s->root, "metrics", s->metrics);
	json_dump_callback(s->root, append_json, &text, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
	buf_putc(&text, '\n');
	e = report_write(r, &text, err);
	json_decref(s->root);
	json_decref(s->planned);
	json_decref(s->metrics);
	free(s);
	return e;
}

const struct reporter_ops reporter_json = {
	.name = "json",
	.open = json_open,
	.event = json_event,
	.close = json_close,
};
