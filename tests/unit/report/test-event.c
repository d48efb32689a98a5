/* SPDX-License-Identifier: MIT */
/* The table of events: well-formed, documented, and enforced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "report/event.h"

#define MARK_BEGIN "<!-- made from event_types[] by tests/unit/report/test-event.c -->\n"
#define MARK_END   "<!-- end -->\n"

static void test_table_is_well_formed(void **state)
{
	static const char *const types[] = {"string", "integer", "number", "boolean",
					    "object", "array",	 "any",	   NULL};

	for (const struct event_type *t = event_types; t->name; t++) {
		const char *fields = t->fields;
		struct event_field f;

		assert_ptr_equal(event_type_find(t->name), t); /* no name twice */
		assert_true(strlen(t->doc) > 10);
		while (event_field_next(&fields, &f)) {
			_cleanup_free_ char *type = xstrndup(f.type, f.type_len);

			assert_true(strv_contains((char *const *)types, type));
			assert_true(f.name_len > 0);
		}
	}
	assert_null(event_type_find("no-such-event"));
}

static int validate(const char *json, struct error *err)
{
	json_t *event = json_loads(json, 0, NULL);
	int r;

	assert_non_null(event);
	r = event_validate(event, err);
	json_decref(event);
	return r;
}

static void refused(const char *json, const char *word)
{
	struct error err = {};

	assert_true(validate(json, &err) < 0);
	assert_int_equal(err.kind, ERROR_BUG);
	assert_non_null(strstr(err.message, word));
}

static void test_validate(void **state)
{
	assert_int_equal(validate("{\"v\":1,\"type\":\"log\",\"t\":0.5,\"text\":\"x\"}", NULL), 0);
	assert_int_equal(validate("{\"v\":1,\"type\":\"log\",\"t\":0,\"text\":\"x\",\"test\":\"a\","
				  "\"attempt\":2}",
				  NULL),
			 0);
	refused("{\"v\":1,\"type\":\"log\",\"t\":0.5}", "'text'");
	refused("{\"v\":1,\"type\":\"log\",\"t\":0.5,\"text\":3}", "'text'");
	refused("{\"v\":1,\"type\":\"log\",\"t\":0.5,\"text\":\"x\",\"txt\":\"x\"}", "'txt'");
	refused("{\"v\":1,\"type\":\"lgo\",\"t\":0.5,\"text\":\"x\"}", "'lgo'");
	refused("{\"v\":1,\"t\":0.5}", "unknown type");
	refused("{\"type\":\"log\",\"t\":0.5,\"text\":\"x\"}", "'v'");
	refused("[]", "not an object");
}

static void test_new(void **state)
{
	json_t *e = event_new("log", 1.25, json_pack("{s:s}", "text", "x"));

	assert_int_equal(event_validate(e, NULL), 0);
	assert_int_equal(json_integer_value(json_object_get(e, "v")), EVENT_VERSION);
	json_decref(e);
	e = event_new("subtest-start", 0, NULL);
	assert_true(event_validate(e, NULL) < 0);
	json_decref(e);
}

static void test_verdicts(void **state)
{
	enum verdict v;

	for (v = VERDICT_PASSED; v <= VERDICT_FLAKY; v++) {
		enum verdict back = VERDICT_PASSED;

		assert_int_equal(verdict_from_name(verdict_name(v), &back), 0);
		assert_int_equal(back, v);
	}
	assert_true(verdict_from_name("great", &v) < 0);
	assert_int_equal(verdict_of_error(ERROR_TIMEOUT), VERDICT_FAILED);
	assert_int_equal(verdict_of_error(ERROR_DEADLINE), VERDICT_FAILED);
	assert_int_equal(verdict_of_error(ERROR_UNSUPPORTED), VERDICT_SKIPPED);
	assert_int_equal(verdict_of_error(ERROR_SKIP), VERDICT_SKIPPED);
	assert_int_equal(verdict_of_error(ERROR_INFRA), VERDICT_ERRORED);
	assert_int_equal(verdict_of_error(ERROR_CANCELLED), VERDICT_ERRORED);
}

/* --- docs/events.md --------------------------------------------------------------------------- */

static void append_type(struct buf *b, const struct event_type *t)
{
	const char *fields = t->fields;
	struct event_field f;

	buf_printf(b, "\n### `%s`\n\n%s\n\n", t->name, t->doc);
	while (event_field_next(&fields, &f))
		buf_printf(b, "- `%.*s`: %.*s%s\n", (int)f.name_len, f.name, (int)f.type_len,
			   f.type, f.optional ? "?" : "");
}

static void test_documented(void **state)
{
	const char *path = SOURCE_DIR "/docs/events.md", *begin, *end;
	_cleanup_buf_ struct buf doc = {}, wanted = {}, whole = {};
	struct error err = {};

	assert_int_equal(file_read(path, MIB, &doc, &err), 0);
	for (const struct event_type *t = event_types; t->name; t++)
		append_type(&wanted, t);
	buf_putc(&wanted, '\n');
	begin = strstr(buf_str(&doc), MARK_BEGIN);
	end = strstr(buf_str(&doc), MARK_END);
	assert_true(begin && end && begin < end);
	begin += strlen(MARK_BEGIN);
	if (getenv("GOLDEN_UPDATE")) {
		buf_append(&whole, doc.data, (size_t)(begin - doc.data));
		buf_append(&whole, wanted.data, wanted.len);
		buf_puts(&whole, end);
		assert_int_equal(file_write_atomic(path, whole.data, whole.len, 0644, &err), 0);
		return;
	}
	assert_int_equal((size_t)(end - begin), wanted.len);
	assert_memory_equal(begin, wanted.data, wanted.len);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_is_well_formed),
		cmocka_unit_test(test_validate),
		cmocka_unit_test(test_new),
		cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_documented),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
