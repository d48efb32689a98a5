/* SPDX-License-Identifier: MIT */
/* Hostile text: for JSON, XML and terminals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <locale.h>
#include <string.h>

#include "report/text.h"

#define FFFD "\xef\xbf\xbd"

static void plain(const char *in, const char *out)
{
	char *got = text_plain(in);

	assert_string_equal(got, out);
	free(got);
}

static void test_plain(void **state)
{
	plain("", "");
	plain("a\tb\nc", "a\tb\nc");
	plain("\033[1;31mred\033[0m", "red");
	plain("\033]0;title\abody", "body");
	plain("\033]8;;http://x\033\\link\033]8;;\033\\", "link");
	plain("\033(Bx\033cy\033", "xy");
	plain("50%\r100%\r\n", "50%100%\n");
	plain("\033[", "");
	plain("\033[12", "");
	plain("bell\a back\b del\x7f", "bell" FFFD " back" FFFD " del" FFFD);
	plain("\xc2\x9b"
	      "31m",
	      FFFD "31m"); /* CSI as one character */
	plain("gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f");
	plain("\xff\xfe", FFFD FFFD);
	plain("\xc0\xaf", FFFD FFFD);			/* overlong */
	plain("\xed\xa0\x80", FFFD FFFD FFFD);		/* surrogate */
	plain("\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD); /* above U+10FFFF */
	plain("\xe2\x82", FFFD FFFD);			/* cut off */
}

static void xml(const char *in, bool attribute, const char *out)
{
	_cleanup_buf_ struct buf b = {};

	text_append_xml(&b, in, attribute);
	assert_string_equal(buf_str(&b), out);
}

static void test_xml(void **state)
{
	xml("a<b>&\"c\"]]>", false, "a&lt;b&gt;&amp;&quot;c&quot;]]&gt;");
	xml("x\ty\nz", false, "x\ty\nz");
	xml("x\ty\nz\r", true, "x&#9;y&#10;z&#13;");
	xml("\001\033\x1f", false, FFFD FFFD FFFD);
	xml("\xef\xbf\xbe", false, FFFD); /* U+FFFE */
	xml("\xf0\x9f\x90\xba", false, "\xf0\x9f\x90\xba");
	xml("\xff", true, FFFD);
	xml(NULL, true, "");
}

static void test_json(void **state)
{
	json_t *j = text_jsonn("a\xff\0b", 4);

	assert_non_null(j);
	assert_int_equal(json_string_length(j), 6);
	assert_memory_equal(json_string_value(j), "a" FFFD "\0b", 6);
	json_decref(j);
	j = text_json(NULL);
	assert_string_equal(json_string_value(j), "");
	json_decref(j);
}

static void test_columns(void **state)
{
	setlocale(LC_CTYPE, "C.UTF-8");
	assert_int_equal(text_columns("abc"), 3);
	assert_int_equal(text_columns("gr\xc3\xbc\xc3\x9f"), 4);
	assert_int_equal(text_columns("\xe6\xbc\xa2\xe5\xad\x97"), 4); /* wide */
	assert_int_equal(text_columns("e\xcc\x81"), 1);		       /* combining */
	assert_int_equal(text_fit("abcdef", 4), 4);
	assert_int_equal(text_fit("abc", 10), 3);
	assert_int_equal(text_fit("\xe6\xbc\xa2\xe5\xad\x97", 3), 3);
	assert_int_equal(text_fit("x", 0), 0);
}

static void test_tail(void **state)
{
	assert_string_equal(text_last_lines("a\nb\nc\n", 2), "b\nc\n");
	assert_string_equal(text_last_lines("a\nb\nc", 2), "b\nc");
	assert_string_equal(text_last_lines("a\nb", 5), "a\nb");
	assert_string_equal(text_last_lines("", 3), "");
	assert_string_equal(text_last_lines("\n\n\n", 1), "\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain), cmocka_unit_test(test_xml),
		cmocka_unit_test(test_json),  cmocka_unit_test(test_columns),
		cmocka_unit_test(test_tail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
