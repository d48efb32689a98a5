/* SPDX-License-Identifier: MIT */
/* All reporters on one recorded run, against golden files; GOLDEN_UPDATE=1 rewrites them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"
#include "report/reporters.h"

#define EVENTS SOURCE_DIR "/tests/data/report-events.jsonl"
#define GOLDEN SOURCE_DIR "/tests/golden/report/"

static json_t *load_events(void)
{
	_cleanup_buf_ struct buf text = {};
	json_t *events = json_array();

	assert_int_equal(file_read(EVENTS, MIB, &text, NULL), 0);
	for (const char *p = buf_str(&text); *p;) {
		size_t len = strcspn(p, "\n");
		json_t *e = json_loadb(p, len, 0, NULL);
		struct error err = {};

		assert_non_null(e);
		if (event_validate(e, &err) < 0)
			fail_msg("%.60s…: %s", p, err.message);
		json_array_append_new(events, e);
		p += len + 1;
	}
	return events;
}

/* What the reporter writes to stdout goes to fd. */
static void feed(const struct reporter_ops *ops, const char *path, bool decorated, int verbosity)
{
	struct reporter r = {.ops = ops,
			     .path = path,
			     .color = decorated,
			     .live = decorated,
			     .verbosity = verbosity};
	json_t *events = load_events(), *e;
	size_t i;

	assert_int_equal(loop_init(NULL), 0);
	assert_int_equal(ops->open(&r, NULL), 0);
	json_array_foreach(events, i, e) ops->event(&r, e);
	assert_int_equal(ops->close(&r, NULL), 0);
	loop_done();
	json_decref(events);
}

static void collect(const struct reporter_ops *ops, bool to_file, bool decorated, int verbosity,
		    struct buf *ret)
{
	char path[] = "/tmp/assay-report-XXXXXX";
	int fd = mkstemp(path), saved;

	assert_true(fd >= 0);
	fflush(stdout);
	saved = dup(STDOUT_FILENO);
	dup2(fd, STDOUT_FILENO);
	feed(ops, to_file ? path : NULL, decorated, verbosity);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	close(fd);
	assert_int_equal(file_read(path, MIB, ret, NULL), 0);
	unlink(path);
}

/* The only thing in a report that differs from host to host. */
static void hide_host(struct buf *b)
{
	static const char key[] = " hostname=\"";
	struct buf out = {};
	const char *p = buf_str(b);

	for (const char *at; (at = strstr(p, key)); p = strchr(at + strlen(key), '"'))
		buf_append(&out, p, (size_t)(at - p) + strlen(key));
	buf_puts(&out, p);
	buf_done(b);
	*b = out;
}

static void compare(struct buf *got, const char *name)
{
	_cleanup_free_ char *path = xasprintf(GOLDEN "%s", name);
	_cleanup_buf_ struct buf want = {};

	if (getenv("GOLDEN_UPDATE")) {
		assert_int_equal(file_write_atomic(path, buf_str(got), got->len, 0644, NULL), 0);
		return;
	}
	assert_int_equal(file_read(path, MIB, &want, NULL), 0);
	assert_string_equal(buf_str(got), buf_str(&want));
}

static void test_terminal(void **state)
{
	_cleanup_buf_ struct buf got = {};

	collect(&reporter_terminal, false, false, 1, &got);
	assert_null(strchr(buf_str(&got), '\033'));
	compare(&got, "terminal.txt");
}

/* Live lines are wiped before anything stays; what a guest says moves no cursor. */
static void test_live_terminal(void **state)
{
	_cleanup_buf_ struct buf got = {};
	const char *p;

	collect(&reporter_terminal, false, true, 0, &got);
	p = strstr(buf_str(&got), "building: installing nginx");
	assert_non_null(p);
	assert_non_null(strstr(p, "\033[1A\033[J"));
	assert_null(strstr(buf_str(&got), "\033[1mno"));
	assert_null(strchr(buf_str(&got), '\a'));
}

static void test_tap(void **state)
{
	_cleanup_buf_ struct buf got = {};

	collect(&reporter_tap, false, false, 0, &got);
	compare(&got, "tap.txt");
}

static void test_json(void **state)
{
	_cleanup_buf_ struct buf got = {};
	json_t *results;

	collect(&reporter_json, true, false, 0, &got);
	compare(&got, "results.json");
	results = json_loadb(got.data, got.len, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(results);
	assert_int_equal(json_array_size(json_object_get(results, "tests")), 9);
	assert_int_equal(json_array_size(json_object_get(results, "templates")), 3);
	assert_int_equal(json_array_size(json_object_get(results, "not_run")), 1);
	json_decref(results);
}

static void test_junit(void **state)
{
	_cleanup_buf_ struct buf got = {};

	collect(&reporter_junit, true, false, 0, &got);
	hide_host(&got);
	compare(&got, "junit.xml");
}

/* As good as the CI systems' own validators. */
static void test_junit_schema(void **state)
{
	int status = system("xmllint --version >/dev/null 2>&1");

	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		skip();
	status = system("xmllint --noout --schema " SOURCE_DIR "/tests/data/junit.xsd " GOLDEN
			"junit.xml 2>/dev/null");
	assert_int_equal(status, 0);
	/* And the schema does refuse something. */
	status = system("sed 's/<testcase/<testcas/' " GOLDEN "junit.xml | xmllint --noout "
			"--schema " SOURCE_DIR "/tests/data/junit.xsd - 2>/dev/null");
	assert_int_not_equal(status, 0);
}

static void test_unwritable(void **state)
{
	struct reporter r = {.ops = &reporter_json, .path = "/nonexistent/folder/results.json"};
	struct error err = {};

	assert_int_equal(r.ops->open(&r, &err), 0);
	assert_true(r.ops->close(&r, &err) < 0);
	assert_int_equal(err.kind, ERROR_INFRA);
	assert_non_null(strstr(err.message, "/nonexistent/folder/results.json"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_terminal),   cmocka_unit_test(test_live_terminal),
		cmocka_unit_test(test_tap),	   cmocka_unit_test(test_json),
		cmocka_unit_test(test_junit),	   cmocka_unit_test(test_junit_schema),
		cmocka_unit_test(test_unwritable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
