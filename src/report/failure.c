/* SPDX-License-Identifier: MIT */
/* A failed test in words: what the terminal, TAP and JUnit have in common. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "report/reporters.h"
#include "report/text.h"

/* How much of what was seen a report shows; the files have the rest. */
#define TAIL_LINES  20
#define TRACE_LINES 6

const char *event_string(json_t *event, const char *key)
{
	const char *s = json_string_value(json_object_get(event, key));

	return s ? s : "";
}

double event_number(json_t *event, const char *key)
{
	return json_number_value(json_object_get(event, key));
}

enum verdict event_verdict(json_t *event)
{
	enum verdict v = VERDICT_ERRORED;

	(void)verdict_from_name(event_string(event, "verdict"), &v);
	return v;
}

bool event_is(json_t *event, const char *type)
{
	return str_eq(event_string(event, "type"), type);
}

char *report_seconds(double seconds, char buf[32])
{
	if (seconds < 0.9995)
		snprintf(buf, 32, "%.0f ms", seconds * 1000);
	else if (seconds < 59.95)
		snprintf(buf, 32, "%.1f s", seconds);
	else
		snprintf(buf, 32, "%d min %02d s", (int)(seconds + 0.5) / 60,
			 (int)(seconds + 0.5) % 60);
	return buf;
}

const char *report_relative(const char *path)
{
	char cwd[PATH_MAX];
	size_t len;

	if (!getcwd(cwd, sizeof(cwd)))
		return path;
	len = strlen(cwd);
	if (strncmp(path, cwd, len) == 0 && path[len] == '/')
		return path + len + 1;
	return path;
}

int report_write(struct reporter *r, const struct buf *b, struct error *err)
{
	if (r->path)
		return file_write_atomic(r->path, buf_str(b), b->len, 0644, err);
	if (fwrite(buf_str(b), 1, b->len, stdout) != b->len || fflush(stdout) != 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write the report");
	return 0;
}

/* Text with each line behind indent and mark; the last `lines` of it. */
static void append_block(struct buf *b, const char *indent, const char *mark, const char *text,
			 unsigned lines)
{
	_cleanup_free_ char *plain = text_plain(text);
	const char *p = text_last_lines(plain, lines);

	if (p > plain)
		buf_printf(b, "%s%s…\n", indent, mark);
	while (*p) {
		size_t len = strcspn(p, "\n");

		buf_printf(b, "%s%s%.*s\n", indent, mark, (int)len, p);
		p += len + (p[len] == '\n');
	}
}

static bool same_place(json_t *a, json_t *b)
{
	return json_equal(json_object_get(a, "file"), json_object_get(b, "file")) &&
	       json_equal(json_object_get(a, "line"), json_object_get(b, "line"));
}

static void append_trace(struct buf *b, json_t *trace, const char *indent)
{
	json_t *frame, *last = NULL;
	size_t i;

	json_array_foreach(trace, i, frame)
	{
		const char *source = event_string(frame, "source");

		if (i >= TRACE_LINES)
			break;
		if (last && same_place(frame, last))
			continue; /* functions that begin and are called on one line */
		last = frame;
		source += strspn(source, " \t");
		buf_printf(b, "%s%s:%d", indent, event_string(frame, "file"),
			   (int)event_number(frame, "line"));
		buf_puts(b, *source ? ": " : "\n");
		if (*source)
			append_block(b, "", "", source, 1);
	}
}

/* "exit_code" → "exit code" */
static char *key_title(const char *key)
{
	char *title = xstrdup(key);

	for (char *p = title; *p; p++)
		if (*p == '_')
			*p = ' ';
	return title;
}

/* An error within an error (the last attempt of a retry): indented, and its message only if the
 * outer one does not repeat it. */
static void append_cause(struct buf *b, const char *title, json_t *cause, const char *outer,
			 const char *indent)
{
	_cleanup_free_ char *deeper = xasprintf("%s  ", indent);
	const char *message = event_string(cause, "message");

	buf_printf(b, "%s%s:\n", indent, title);
	if (!strstr(outer, message))
		append_block(b, deeper, "", message, TAIL_LINES);
	append_trace(b, json_object_get(cause, "trace"), deeper);
}

/* What an assertion compared, where its message has it whole or shows the difference. */
static bool told_by_message(json_t *error, const char *key, const char *text)
{
	bool differ = json_object_get(json_object_get(error, "detail"), "difference");

	if (str_eq(key, "difference"))
		return true;
	if (!str_eq(key, "got") && !str_eq(key, "want"))
		return false;
	return differ || (text && strstr(event_string(error, "message"), text));
}

/* What was seen: short values on a line with their name, long ones as a block below it. */
static void append_detail(struct buf *b, json_t *error, const char *indent)
{
	const char *key;
	json_t *value;

	json_object_foreach(json_object_get(error, "detail"), key, value)
	{
		_cleanup_free_ char *title = key_title(key), *dumped = NULL;
		const char *text = json_string_value(value);

		if (told_by_message(error, key, text))
			continue;
		if (json_is_array(json_object_get(value, "trace"))) {
			append_cause(b, title, value, event_string(error, "message"), indent);
			continue;
		}
		if (!text)
			text = dumped = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT |
								  JSON_REAL_PRECISION(6));
		if (!text || !*text || json_is_null(value))
			continue;
		if (!strchr(text, '\n') && strlen(text) < 60) {
			_cleanup_free_ char *plain = text_plain(text);

			buf_printf(b, "%s%s: %s\n", indent, title, plain);
			continue;
		}
		buf_printf(b, "%s%s:\n", indent, title);
		append_block(b, indent, "  | ", text, TAIL_LINES);
	}
}

static void append_diagnostic_tail(struct buf *b, json_t *d, const char *what, const char *indent)
{
	_cleanup_free_ char *tail_key = xasprintf("%s_tail", what);
	_cleanup_free_ char *file_key = xasprintf("%s_file", what);
	const char *tail = event_string(d, tail_key), *file = event_string(d, file_key);

	if (!*tail)
		return;
	buf_printf(b, "%s%s: %s", indent, event_string(d, "machine"), what);
	if (*file)
		buf_printf(b, " (%s)", file);
	buf_puts(b, ":\n");
	append_block(b, indent, "  | ", tail, TAIL_LINES);
}

static void append_diagnostics(struct buf *b, json_t *diagnostics, const char *indent)
{
	json_t *d, *unit;
	size_t i, k;

	json_array_foreach(diagnostics, i, d)
	{
		json_t *units = json_object_get(d, "failed_units");

		if (json_array_size(units) > 0) {
			buf_printf(b, "%s%s: failed units:", indent, event_string(d, "machine"));
			json_array_foreach(units, k, unit)
				buf_printf(b, " %s", json_string_value(unit));
			buf_putc(b, '\n');
		}
		if (*event_string(d, "note"))
			buf_printf(b, "%s%s: %s\n", indent, event_string(d, "machine"),
				   event_string(d, "note"));
		append_diagnostic_tail(b, d, "journal", indent);
		append_diagnostic_tail(b, d, "console", indent);
	}
}

/* subtest: where in the test it was, or NULL. */
static void append_error(struct buf *b, json_t *error, const char *subtest, const char *indent)
{
	const char *phase = event_string(error, "phase"), *hint = event_string(error, "hint");
	_cleanup_free_ char *deeper = xasprintf("%s  ", indent);
	_cleanup_free_ char *message = text_plain(event_string(error, "message"));

	buf_puts(b, indent);
	if (*phase && !str_eq(phase, "test"))
		buf_printf(b, "in %s: ", phase);
	if (subtest)
		buf_printf(b, "in subtest '%s': ", subtest);
	/* Several lines of a message stand below each other. */
	for (const char *p = message; *p;) {
		size_t len = strcspn(p, "\n");

		buf_printf(b, "%s%.*s\n", p == message ? "" : deeper, (int)len, p);
		p += len + (p[len] == '\n');
	}
	if (*hint)
		append_block(b, deeper, "hint: ", hint, 5);
	append_trace(b, json_object_get(error, "trace"), indent);
	append_detail(b, error, indent);
}

/* Did the subtest fail, or was it open when the test ended, because of what failed the test? One
 * whose error was caught has a message of its own. */
static bool is_guilty(json_t *subtest, const char *message)
{
	const char *own = event_string(subtest, "message");

	if (str_eq(event_string(subtest, "verdict"), "passed"))
		return false;
	/* A retry() around it repeats the message behind its own words. */
	return !*own || strstr(message, own);
}

char *report_subtest_path(json_t *result)
{
	json_t *error = json_object_get(result, "error"), *s;
	const char *message = event_string(error, "message");
	_cleanup_strv_ char **path = NULL;
	size_t i;

	json_array_foreach(json_object_get(result, "subtests"), i, s)
	{
		size_t depth = (size_t)json_integer_value(json_object_get(s, "depth"));

		if (!error || depth > strv_len(path) || !is_guilty(s, message))
			continue;
		/* Of several in one place the last: those before were a retry's attempts. */
		for (size_t k = strv_len(path); path && k > depth; k--)
			free(TAKE_PTR(path[k - 1]));
		strv_push_take(&path, text_plain(event_string(s, "name")));
	}
	return path ? strv_join(path, " / ") : NULL;
}

void report_failure_text(struct buf *b, json_t *result, const char *indent)
{
	_cleanup_free_ char *subtest = report_subtest_path(result);
	json_t *other, *w;
	size_t i;

	if (json_object_get(result, "error"))
		append_error(b, json_object_get(result, "error"), subtest, indent);
	json_array_foreach(json_object_get(result, "errors"), i, other)
		append_error(b, other, NULL, indent);
	json_array_foreach(json_object_get(result, "warnings"), i, w)
		buf_printf(b, "%swarning: %s\n", indent, event_string(w, "message"));
	append_diagnostics(b, json_object_get(result, "diagnostics"), indent);
}
