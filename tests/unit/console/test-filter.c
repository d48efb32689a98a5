/* SPDX-License-Identifier: MIT */
/* From a terminal's bytes to text, whatever the chunks are. */
#include <string.h>

#include "base/str.h"
#include "console/console-internal.h"
#include "fiber-test.h"

/* Feeds in chunks of every size: the result must be the same. */
static void expect(const char *in, size_t len, const char *wanted)
{
	for (size_t chunk = 1; chunk <= len; chunk++) {
		struct filter f = {};
		_cleanup_buf_ struct buf out = {};

		for (size_t i = 0; i < len; i += chunk)
			filter_feed(&f, in + i, MIN(chunk, len - i), &out);
		assert_string_equal(buf_str(&out), wanted);
		assert_int_equal(out.len, strlen(wanted));
	}
}
#define EXPECT(in, wanted) expect(in, sizeof(in) - 1, wanted)

static void plain_text_passes(void **state)
{
	EXPECT("Linux version 6.12\n\tok ~\n", "Linux version 6.12\n\tok ~\n");
}

static void carriage_returns_go(void **state)
{
	EXPECT("one\r\ntwo\r\r\n10%\r20%\n", "one\ntwo\n10%20%\n");
}

static void escape_sequences_go(void **state)
{
	EXPECT("\x1b[0;32m  OK  \x1b[0m] Started\n", "  OK  ] Started\n");
	EXPECT("\x1b[?2004h$ \x1b[6n\x1b[2J\x1b[1;1H", "$ ");
	EXPECT("a\x1b]0;title\x07"
	       "b\x1b]3008;start=x\x1b\\c",
	       "abc");
	EXPECT("a\x1b(Bb\x1b=c\x1bMd", "abcd");
	EXPECT("a\x1bP1$r0m\x1b\\b", "ab");
	EXPECT("a\x1b[\x1b[31mb", "ab");
}

static void control_characters_go(void **state)
{
	EXPECT("a\0b\x07\x08"
	       "c\x7f\x0e\x0f",
	       "abc");
}

static void a_broken_sequence_ends_with_the_line(void **state)
{
	EXPECT("a\x1b[31\nb", "a\nb");
	EXPECT("a\x1b[12\x18"
	       "b",
	       "ab");
}

static void an_endless_string_ends_some_time(void **state)
{
	struct filter f = {};
	_cleanup_buf_ struct buf out = {};

	filter_feed(&f, "\x1b]", 2, &out);
	for (int i = 0; i < 1000; i++)
		filter_feed(&f, "0123456789", 10, &out);
	assert_true(out.len > 5000);
}

static void utf8_is_kept_and_mended(void **state)
{
	EXPECT("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80.", "caf\xc3\xa9 \xe2\x82\xac "
							     "\xf0\x9f\x98\x80.");
	EXPECT("a\xff.\xc3.\xe2\x82.\xed\xa0\x80.", "a\xef\xbf\xbd.\xef\xbf\xbd.\xef\xbf\xbd."
						    "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd.");
	EXPECT("\xc3\x1b[0mx", "\xef\xbf\xbdx");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_text_passes),
		cmocka_unit_test(carriage_returns_go),
		cmocka_unit_test(escape_sequences_go),
		cmocka_unit_test(control_characters_go),
		cmocka_unit_test(a_broken_sequence_ends_with_the_line),
		cmocka_unit_test(an_endless_string_ends_some_time),
		cmocka_unit_test(utf8_is_kept_and_mended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
