/* SPDX-License-Identifier: MIT */
/* JUnit XML, in the shape that CI systems agree on: one testsuite for each file. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "report/reporters.h"
#include "report/text.h"

/*
 * The order of elements and the names of attributes are those of Jenkins's junit-10 schema, the one
 * that validators check against; tests/data/junit.xsd is ours to the same effect. failed → failure,
 * errored → error, skipped and xfail → skipped, flaky → a pass with flakyFailure.
 */
struct junit_state {
	json_t *files; /* object: file → array of test-end */
	json_t *start, *end;
	json_t *errors; /* of files and of the run */
};

static int junit_open(struct reporter *r, struct error *err)
{
	struct junit_state *s = xcalloc(1, sizeof(*s));

	s->files = json_object();
	s->errors = json_array();
	r->state = s;
	return 0;
}

static json_t *suite_of(struct junit_state *s, const char *file)
{
	json_t *suite = json_object_get(s->files, file);

	if (!suite) {
		suite = json_array();
		json_object_set_new(s->files, file, suite);
	}
	return suite;
}

static void junit_event(struct reporter *r, json_t *event)
{
	struct junit_state *s = r->state;

	if (event_is(event, "run-start"))
		s->start = json_incref(event);
	else if (event_is(event, "run-end"))
		s->end = json_incref(event);
	else if (event_is(event, "test-end"))
		json_array_append(suite_of(s, event_string(event, "file")), event);
	else if (event_is(event, "error") && !json_object_get(event, "test"))
		json_array_append(s->errors, event);
}

/* --- writing --------------------------------------------------------------------------------- */

static void attribute(struct buf *b, const char *name, const char *value)
{
	buf_printf(b, " %s=\"", name);
	text_append_xml(b, value, true);
	buf_putc(b, '"');
}

static void attribute_seconds(struct buf *b, double seconds)
{
	buf_printf(b, " time=\"%.3f\"", seconds);
}

/* <failure message="…" type="…">all that is known</failure> */
static void problem(struct buf *b, const char *element, json_t *error, json_t *result)
{
	_cleanup_buf_ struct buf text = {}, title = {};
	_cleanup_free_ char *message = text_plain(event_string(error, "message"));
	_cleanup_free_ char *subtest = result ? report_subtest_path(result) : NULL;

	if (subtest)
		buf_printf(&title, "in subtest '%s': ", subtest);
	buf_puts(&title, message);
	buf_printf(b, "      <%s", element);
	attribute(b, "message", buf_str(&title));
	attribute(b, "type", event_string(error, "kind"));
	buf_putc(b, '>');
	if (result)
		report_failure_text(&text, result, "");
	if (result && *event_string(result, "reproduce"))
		buf_printf(&text, "reproduce: %s\n", event_string(result, "reproduce"));
	text_append_xml(b, buf_str(&text), false);
	buf_printf(b, "</%s>\n", element);
}

static void skipped(struct buf *b, const char *reason)
{
	_cleanup_free_ char *plain = text_plain(reason);

	buf_puts(b, "      <skipped");
	attribute(b, "message", plain);
	buf_puts(b, "/>\n");
}

static void verdict_element(struct buf *b, json_t *t)
{
	json_t *attempt;
	size_t i;

	switch (event_verdict(t)) {
	case VERDICT_FAILED:
	case VERDICT_XPASS:
		problem(b, "failure", json_object_get(t, "error"), t);
		break;
	case VERDICT_ERRORED:
		problem(b, "error", json_object_get(t, "error"), t);
		break;
	case VERDICT_SKIPPED:
	case VERDICT_XFAIL:
		skipped(b, event_string(t, "reason"));
		break;
	case VERDICT_FLAKY:
		json_array_foreach(json_object_get(t, "attempts"), i,
				   attempt) if (json_object_get(attempt, "error"))
			problem(b, "flakyFailure", json_object_get(attempt, "error"), NULL);
		break;
	case VERDICT_PASSED:
		break;
	}
}

static void log_element(struct buf *b, json_t *log)
{
	json_t *line;
	size_t i;

	if (json_array_size(log) == 0)
		return;
	buf_puts(b, "      <system-out>");
	json_array_foreach(log, i, line)
	{
		_cleanup_free_ char *plain = text_plain(event_string(line, "text"));

		text_append_xml(b, plain, false);
		buf_putc(b, '\n');
	}
	buf_puts(b, "</system-out>\n");
}

/* "tests/nginx.lua" → "tests.nginx", as tools that think of classes want it. */
static char *class_name(const char *file)
{
	char *name = xstrdup(file);

	if (str_ends(name, ".lua"))
		name[strlen(name) - 4] = '\0';
	for (char *p = name; *p; p++)
		if (*p == '/')
			*p = '.';
	return name;
}

static void testcase(struct buf *b, json_t *t)
{
	_cleanup_free_ char *class = class_name(event_string(t, "file"));
	_cleanup_free_ char *name = NULL;
	json_int_t repeat = json_integer_value(json_object_get(t, "repeat"));
	size_t before;

	name = repeat ? xasprintf("%s (%d)", event_string(t, "test"), (int)repeat)
		      : xstrdup(event_string(t, "test"));
	buf_puts(b, "    <testcase");
	attribute(b, "name", name);
	attribute(b, "classname", class);
	attribute_seconds(b, event_number(t, "seconds"));
	buf_puts(b, ">\n");
	before = b->len;
	verdict_element(b, t);
	log_element(b, json_object_get(t, "log"));
	if (b->len == before) {
		buf_truncate(b, before - 2);
		buf_puts(b, "/>\n");
	} else {
		buf_puts(b, "    </testcase>\n");
	}
}

struct totals {
	unsigned tests, failures, errors, skipped;
	double seconds;
};

static void add_totals(struct totals *t, json_t *result)
{
	enum verdict v = event_verdict(result);

	t->tests++;
	t->failures += v == VERDICT_FAILED || v == VERDICT_XPASS;
	t->errors += v == VERDICT_ERRORED;
	t->skipped += v == VERDICT_SKIPPED || v == VERDICT_XFAIL;
	t->seconds += event_number(result, "seconds");
}

static void totals_attributes(struct buf *b, const struct totals *t, bool with_skipped)
{
	buf_printf(b, " tests=\"%u\" failures=\"%u\" errors=\"%u\"", t->tests, t->failures,
		   t->errors);
	if (with_skipped)
		buf_printf(b, " skipped=\"%u\"", t->skipped);
	attribute_seconds(b, t->seconds);
}

static void testsuite(struct buf *b, struct junit_state *s, const char *file, json_t *tests,
		      size_t id)
{
	char host[HOST_NAME_MAX + 1] = "localhost", stamp[32];
	struct totals totals = {};
	json_t *t;
	size_t i;

	json_array_foreach(tests, i, t) add_totals(&totals, t);
	(void)gethostname(host, sizeof(host) - 1);
	/* The schema's time stamps have no zone. */
	snprintf(stamp, sizeof(stamp), "%.19s", event_string(s->start, "started"));
	buf_puts(b, "  <testsuite");
	attribute(b, "name", file);
	totals_attributes(b, &totals, true);
	attribute(b, "timestamp", stamp);
	attribute(b, "hostname", host);
	attribute(b, "file", file);
	buf_printf(b, " id=\"%zu\">\n", id);
	json_array_foreach(tests, i, t) testcase(b, t);
	buf_puts(b, "  </testsuite>\n");
}

/* Files that could not be loaded, and what broke the run: a suite of its own, so that a CI system
 * which looks at nothing else turns red. */
static void error_suite(struct buf *b, struct junit_state *s, size_t id)
{
	struct totals totals = {.tests = (unsigned)json_array_size(s->errors),
				.errors = (unsigned)json_array_size(s->errors)};
	json_t *e;
	size_t i;

	if (totals.tests == 0)
		return;
	buf_puts(b, "  <testsuite name=\"assay\"");
	totals_attributes(b, &totals, true);
	buf_printf(b, " id=\"%zu\">\n", id);
	json_array_foreach(s->errors, i, e)
	{
		_cleanup_free_ char *name = xasprintf("error %zu", i + 1);
		const char *file = event_string(e, "file");

		buf_puts(b, "    <testcase");
		attribute(b, "name", *file ? file : name);
		attribute(b, "classname", "assay");
		buf_puts(b, ">\n");
		problem(b, "error", e, NULL);
		buf_puts(b, "    </testcase>\n");
	}
	buf_puts(b, "  </testsuite>\n");
}

static int junit_close(struct reporter *r, struct error *err)
{
	struct junit_state *s = r->state;
	_cleanup_buf_ struct buf b = {};
	struct totals totals = {};
	const char *file;
	json_t *tests, *t;
	size_t i, id = 0;
	int e;

	json_object_foreach(s->files, file, tests) json_array_foreach(tests, i, t)
		add_totals(&totals, t);
	totals.tests += (unsigned)json_array_size(s->errors);
	totals.errors += (unsigned)json_array_size(s->errors);
	if (s->end)
		totals.seconds = event_number(s->end, "seconds");
	buf_puts(&b, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"assay\"");
	totals_attributes(&b, &totals, false);
	buf_puts(&b, ">\n");
	json_object_foreach(s->files, file, tests) testsuite(&b, s, file, tests, id++);
	error_suite(&b, s, id);
	buf_puts(&b, "</testsuites>\n");
	e = report_write(r, &b, err);
	json_decref(s->files);
	json_decref(s->errors);
	json_decref(s->start);
	json_decref(s->end);
	free(s);
	return e;
}

const struct reporter_ops reporter_junit = {
	.name = "junit",
	.open = junit_open,
	.event = junit_event,
	.close = junit_close,
};
