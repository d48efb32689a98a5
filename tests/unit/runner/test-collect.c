/* SPDX-License-Identifier: MIT */
/* What a test's events add up to, and that it stays bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/str.h"
/* cmocka has a macro of the name of our function. */
#undef run_tests
#include "runner/internal.h"

static void feed(struct collector *c, const char *type, json_t *fields)
{
	json_t *e = event_new(type, 0, fields);

	collector_event(c, e);
	json_decref(e);
}

static json_t *finish(struct collector *c)
{
	json_t *result = json_object();

	collector_finish(c, result);
	collector_done(c);
	return result;
}

static const char *string_at(json_t *array, size_t i, const char *key)
{
	return json_string_value(json_object_get(json_array_get(array, i), key));
}

static json_int_t depth_at(json_t *array, size_t i)
{
	return json_integer_value(json_object_get(json_array_get(array, i), "depth"));
}

static void test_subtests(void **state)
{
	struct collector c;
	json_t *result, *s;

	collector_init(&c);
	feed(&c, "subtest-start", json_pack("{s:s}", "name", "outer"));
	feed(&c, "subtest-start", json_pack("{s:s}", "name", "inner"));
	feed(&c, "subtest-end",
	     json_pack("{s:s, s:s, s:f}", "name", "inner", "verdict", "passed", "seconds", 0.5));
	feed(&c, "subtest-end",
	     json_pack("{s:s, s:s, s:f}", "name", "outer", "verdict", "failed", "seconds", 1.0));
	feed(&c, "subtest-end", json_pack("{s:s}", "name", "never begun"));
	result = finish(&c);
	s = json_object_get(result, "subtests");
	assert_int_equal(json_array_size(s), 2);
	assert_string_equal(string_at(s, 0, "name"), "outer");
	assert_string_equal(string_at(s, 0, "verdict"), "failed");
	assert_int_equal(depth_at(s, 0), 0);
	assert_string_equal(string_at(s, 1, "verdict"), "passed");
	assert_int_equal(depth_at(s, 1), 1);
	json_decref(result);
}

static void test_metrics(void **state)
{
	struct collector c;
	json_t *result, *m;

	collector_init(&c);
	for (int i = 1; i <= 3; i++)
		feed(&c, "metric",
		     json_pack("{s:s, s:i, s:s}", "name", "lat", "value", i, "unit", "ms"));
	result = finish(&c);
	m = json_object_get(json_object_get(result, "metrics"), "lat");
	assert_int_equal(json_integer_value(json_object_get(m, "n")), 3);
	assert_true(json_number_value(json_object_get(m, "median")) == 2.0);
	assert_string_equal(json_string_value(json_object_get(m, "unit")), "ms");
	json_decref(result);
}

static void test_bounds(void **state)
{
	struct collector c;
	json_t *result, *log;

	collector_init(&c);
	for (int i = 0; i < 1000; i++) {
		_cleanup_free_ char *text = xasprintf("%d", i);

		feed(&c, "log", json_pack("{s:s}", "text", text));
		feed(&c, "warning", json_pack("{s:s}", "message", text));
		feed(&c, "subtest-start", json_pack("{s:s}", "name", "deep"));
	}
	for (int i = 0; i < 1000; i++)
		feed(&c, "subtest-end",
		     json_pack("{s:s, s:s}", "name", "deep", "verdict", "passed"));
	assert_int_equal(json_array_size(c.open), 0);
	result = finish(&c);
	log = json_object_get(result, "log");
	assert_true(json_array_size(log) <= 200);
	/* Of a log the end is what matters, of warnings the beginning. */
	assert_string_equal(string_at(log, json_array_size(log) - 1, "text"), "999");
	assert_string_equal(string_at(json_object_get(result, "warnings"), 0, "message"), "0");
	assert_true(json_array_size(json_object_get(result, "subtests")) <= 64);
	json_decref(result);
}

static void test_nothing(void **state)
{
	struct collector c;
	json_t *result;

	collector_init(&c);
	result = finish(&c);
	assert_int_equal(json_object_size(result), 0);
	json_decref(result);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_subtests),
		cmocka_unit_test(test_metrics),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
