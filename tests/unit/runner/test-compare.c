/* SPDX-License-Identifier: MIT */
/* What differs between two declarations, in words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "runner/worker.h"

static const char base[] =
	"{\"file\":\"a.lua\",\"suite\":{\"tags\":[\"x\"]},\"groups\":[{\"name\":\"\",\"machines\":["
	"{\"name\":\"m\",\"memory\":\"512M\",\"packages\":[\"a\",\"b\"]}],\"setup\":null,"
	"\"tests\":[{\"name\":\"one\",\"line\":1},{\"name\":\"two\",\"line\":2}]}]}";

/* The base with one text replaced, compared with the base. */
static void check(const char *from, const char *to, const char *words)
{
	const char *at = from ? strstr(base, from) : NULL;
	char text[1024];
	json_t *was = json_loads(base, 0, NULL), *now;
	struct error err = {};
	int r;

	if (from)
		assert_non_null(at);
	snprintf(text, sizeof(text), "%.*s%s%s", at ? (int)(at - base) : 0, base, at ? to : "",
		 at ? at + strlen(from) : base);
	now = json_loads(text, 0, NULL);
	assert_non_null(now);
	r = declarations_compare(was, now, &err);
	if (!words) {
		assert_int_equal(r, 0);
	} else {
		assert_true(r < 0);
		assert_int_equal(err.kind, ERROR_USAGE);
		if (!strstr(err.message, words))
			fail_msg("'%s' is not in '%s'", words, err.message);
		assert_non_null(strstr(err.message, "'a.lua'"));
	}
	json_decref(was);
	json_decref(now);
}

static void test_same(void **state)
{
	check(NULL, NULL, NULL);
	check("\"name\":\"one\",\"line\":1", "\"line\":1,\"name\":\"one\"", NULL); /* order */
}

static void test_values(void **state)
{
	check("512M", "1G", "machine 'm': memory is \"1G\" and was \"512M\"");
	check("\"line\":2", "\"line\":3", "test 'two': line is 3 and was 2");
	check("\"setup\":null", "\"setup\":{\"line\":4}", "setup is {\"line\":4} and was null");
	check("[\"x\"]", "[\"y\"]", "tag 1: tags is \"y\" and was \"x\"");
}

static void test_keys(void **state)
{
	check("\"line\":2", "\"line\":2,\"slow\":true",
	      "test 'two': slow is true and was not given");
	check(",\"line\":2", "", "test 'two': line is nothing and was 2");
}

static void test_elements(void **state)
{
	check(",{\"name\":\"two\",\"line\":2}", "", "the top level: test 'two' is gone");
	check("\"tests\":[", "\"tests\":[{\"name\":\"zero\"},", "test 'zero' is new");
	check("[\"a\",\"b\"]", "[\"a\"]", "machine 'm': packages: 1 instead of 2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_elements),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
