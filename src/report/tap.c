/* SPDX-License-Identifier: MIT */
/* TAP 14 on stdout: a test point for each test, subtests indented before it. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "report/reporters.h"
#include "report/text.h"

struct tap_state {
	unsigned number;
	bool planned, open;
};

static int tap_open(struct reporter *r, struct error *err)
{
	r->state = xcalloc(1, sizeof(struct tap_state));
	fputs("TAP version 14\n", stdout);
	return 0;
}

/* A description: one line, with '#' and '\' escaped, as the specification wants it. */
static void append_description(struct buf *b, const char *text)
{
	_cleanup_free_ char *plain = text_plain(text);

	for (const char *p = plain; *p; p++) {
		if (*p == '#' || *p == '\\')
			buf_putc(b, '\\');
		buf_putc(b, *p == '\n' || *p == '\t' ? ' ' : *p);
	}
}

static void append_indent(struct buf *b, size_t depth)
{
	for (size_t i = 0; i < depth; i++)
		buf_puts(b, "    ");
}

/* Subtests are a flat list with depths, in the order in which they began; TAP wants the inner
 * ones before the outer one's point. Returns behind those of this depth. */
static size_t append_subtests(struct buf *b, json_t *subtests, size_t i, size_t depth)
{
	unsigned number = 0;

	while (i < json_array_size(subtests)) {
		json_t *s = json_array_get(subtests, i);
		size_t own = (size_t)json_integer_value(json_object_get(s, "depth"));

		if (own < depth)
			break;
		if (i + 1 < json_array_size(subtests) &&
		    (size_t)json_integer_value(
			    json_object_get(json_array_get(subtests, i + 1), "depth")) > depth) {
			append_indent(b, depth + 1);
			buf_puts(b, "    # Subtest: ");
			append_description(b, event_string(s, "name"));
			buf_putc(b, '\n');
			i = append_subtests(b, subtests, i + 1, depth + 1);
		} else {
			i++;
		}
		append_indent(b, depth + 1);
		buf_printf(b, "%s %u - ",
			   str_eq(event_string(s, "verdict"), "passed") ? "ok" : "not ok",
			   ++number);
		append_description(b, event_string(s, "name"));
		buf_putc(b, '\n');
	}
	append_indent(b, depth + 1);
	buf_printf(b, "1..%u\n", number);
	return i;
}

static bool is_ok(enum verdict v)
{
	return v == VERDICT_PASSED || v == VERDICT_FLAKY || v == VERDICT_SKIPPED;
}

static void append_directive(struct buf *b, json_t *t)
{
	enum verdict v = event_verdict(t);

	/* TODO is TAP's word for an expected failure; a TODO test that passes is the consumer's
	 * business, so an unexpected pass is a plain failure. */
	if (v == VERDICT_SKIPPED || v == VERDICT_XFAIL) {
		buf_puts(b, v == VERDICT_SKIPPED ? " # SKIP " : " # TODO ");
		append_description(b, event_string(t, "reason"));
	}
	buf_putc(b, '\n');
}

/* A literal block, with its indentation said, so that nothing in it needs to be quoted. */
static void append_yaml_text(struct buf *b, const char *key, const char *text)
{
	buf_printf(b, "  %s: |2\n", key);
	for (const char *p = text; *p;) {
		size_t len = strcspn(p, "\n");

		if (len)
			buf_printf(b, "    %.*s\n", (int)len, p);
		else
			buf_putc(b, '\n');
		p += len + (p[len] == '\n');
	}
}

static void append_yaml(struct buf *b, json_t *t)
{
	_cleanup_buf_ struct buf text = {};
	const char *reproduce = event_string(t, "reproduce");

	buf_puts(b, "  ---\n");
	buf_printf(b, "  verdict: %s\n", event_string(t, "verdict"));
	buf_printf(b, "  duration_ms: %.3f\n", event_number(t, "seconds") * 1000);
	if (!is_ok(event_verdict(t)) || event_verdict(t) == VERDICT_FLAKY) {
		report_failure_text(&text, t, "");
		if (text.len > 0)
			append_yaml_text(b, "message", buf_str(&text));
		if (*reproduce)
			append_yaml_text(b, "reproduce", reproduce);
	}
	buf_puts(b, "  ...\n");
}

static void test_point(struct tap_state *s, json_t *t)
{
	_cleanup_buf_ struct buf b = {};
	_cleanup_free_ char *name =
		xasprintf("%s: %s", event_string(t, "file"), event_string(t, "test"));
	json_t *subtests = json_object_get(t, "subtests");

	if (json_array_size(subtests) > 0) {
		buf_puts(&b, "    # Subtest: ");
		append_description(&b, name);
		buf_putc(&b, '\n');
		append_subtests(&b, subtests, 0, 0);
	}
	buf_printf(&b, "%s %u - ", is_ok(event_verdict(t)) ? "ok" : "not ok", ++s->number);
	append_description(&b, name);
	append_directive(&b, t);
	append_yaml(&b, t);
	fputs(buf_str(&b), stdout);
	fflush(stdout);
}

static void comment(const char *what, const char *text)
{
	_cleanup_buf_ struct buf b = {};

	append_description(&b, text);
	printf("# %s%s\n", what, buf_str(&b));
}

static void tap_event(struct reporter *r, json_t *event)
{
	struct tap_state *s = r->state;

	if (event_is(event, "plan")) {
		s->open = json_is_true(json_object_get(event, "open"));
		s->planned = !s->open;
		if (s->planned)
			printf("1..%zu\n", json_array_size(json_object_get(event, "tests")));
	} else if (event_is(event, "run-start") && json_object_get(event, "shuffle_seed")) {
		printf("# shuffled with seed %lld\n",
		       (long long)event_number(event, "shuffle_seed"));
	} else if (event_is(event, "test-end")) {
		test_point(s, event);
	} else if (event_is(event, "error") && !json_object_get(event, "test")) {
		comment("error: ", event_string(event, "message"));
	} else if (event_is(event, "warning") && !json_object_get(event, "test")) {
		comment("warning: ", event_string(event, "message"));
	} else if (event_is(event, "run-end")) {
		if (!s->planned)
			printf("1..%u\n", s->number);
		if (json_is_true(json_object_get(event, "interrupted")))
			puts("Bail out! interrupted");
	}
}

static int tap_close(struct reporter *r, struct error *err)
{
	free(r->state);
	if (fflush(stdout) != 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write the report");
	return 0;
}

const struct reporter_ops reporter_tap = {
	.name = "tap",
	.open = tap_open,
	.event = tap_event,
	.close = tap_close,
};
