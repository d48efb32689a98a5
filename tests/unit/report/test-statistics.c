/* SPDX-License-Identifier: MIT */
/* Median and percentiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "report/reporters.h"

static double number(json_t *o, const char *key)
{
	assert_non_null(json_object_get(o, key));
	return json_number_value(json_object_get(o, key));
}

static void test_statistics(void **state)
{
	json_t *samples = json_pack("[i, f, i, i, i]", 5, 1.0, 4, 2, 3), *ret = json_object();

	collect_statistics(samples, ret);
	assert_int_equal(number(ret, "n"), 5);
	assert_true(fabs(number(ret, "median") - 3) < 1e-9);
	assert_true(fabs(number(ret, "p5") - 1.2) < 1e-9);
	assert_true(fabs(number(ret, "p95") - 4.8) < 1e-9);
	json_decref(samples);
	json_decref(ret);
}

static void test_few(void **state)
{
	json_t *none = json_array(), *one = json_pack("[f]", 0.5), *ret = json_object();

	collect_statistics(none, ret);
	assert_int_equal(number(ret, "n"), 0);
	assert_null(json_object_get(ret, "median"));
	collect_statistics(one, ret);
	assert_true(fabs(number(ret, "median") - 0.5) < 1e-9);
	assert_true(fabs(number(ret, "p95") - 0.5) < 1e-9);
	json_decref(none);
	json_decref(one);
	json_decref(ret);
}

static void looks(double value, const char *unit, const char *want)
{
	char text[QUANTITY_MAX];

	assert_string_equal(report_quantity(value, unit, text), want);
}

/* Units grow with the value; three digits count; what is of no known kind keeps its unit. */
static void test_quantities(void **state)
{
	looks(9474, "ns", "9.47 µs");
	looks(0.000009474, "s", "9.47 µs");
	looks(0.0254, "s", "25.4 ms");
	looks(1.234567, "s", "1.23 s");
	looks(240, "s", "4 min");
	looks(12, "us", "12 µs");
	looks(0.5, "ns", "0.500 ns");
	looks(0, "ms", "0 ms");
	looks(-2500, "ms", "-2.50 s");
	looks(3000000, "bytes", "2.86 MiB");
	looks(123456.7, "requests/s", "123457 requests/s");
	looks(12.3456, "", "12.3");
	looks(0.0000123456, "V", "1.235e-05 V");
	looks(1, "\033[31mx", "1 x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_statistics),
		cmocka_unit_test(test_few),
		cmocka_unit_test(test_quantities),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
