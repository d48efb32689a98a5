/* SPDX-License-Identifier: MIT */
/* Median and percentiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "report/event.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_statistics),
		cmocka_unit_test(test_few),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
