/* SPDX-License-Identifier: MIT */
/* The window on a stream of text: positions hold, memory is bounded. */
#include <string.h>

#include "base/str.h"
#include "console/console-internal.h"
#include "fiber-test.h"

/* What stands at a position tells the position. */
static char letter_at(uint64_t pos)
{
	return (char)('a' + pos % 23);
}

static void append_letters(struct window *w, size_t n)
{
	char *text = xmalloc(n);

	for (size_t i = 0; i < n; i++)
		text[i] = letter_at(window_end(w) + i);
	window_append(w, text, n);
	free(text);
}

static void it_keeps_at_least_what_it_promises(void **state)
{
	static const size_t steps[] = {1, 7, 100, 4000, 10000, 3};
	struct window w;

	window_init(&w, 8192);
	for (size_t i = 0; i < 3000; i++) {
		append_letters(&w, steps[i % ARRAY_SIZE(steps)]);
		assert_true(w.len >= MIN(window_end(&w), 8192u));
		assert_true(w.len <= 8192 + 8192 / 4);
		assert_true(w.cap <= 8192 * 2);
		assert_int_equal(w.data[0], letter_at(w.start));
		assert_int_equal(w.data[w.len - 1], letter_at(window_end(&w) - 1));
	}
	window_done(&w);
}

static void it_begins_with_a_whole_character(void **state)
{
	struct window w;

	window_init(&w, 1000);
	for (size_t i = 0; i < 2000; i++) {
		window_append(&w, "\xe2\x82\xac", 3);
		assert_true(((unsigned char)w.data[0] & 0xC0) != 0x80);
		assert_int_equal(w.start % 3, 0);
	}
	assert_int_equal(window_align(&w, w.start + 4), w.start + 3);
	assert_int_equal(window_align(&w, w.start + 6), w.start + 6);
	assert_int_equal(window_align(&w, window_end(&w)), window_end(&w));
	window_done(&w);
}

static void it_is_small_while_little_comes(void **state)
{
	struct window w;

	window_init(&w, 4 * MIB);
	append_letters(&w, 100);
	assert_true(w.cap <= 64 * KIB);
	window_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_keeps_at_least_what_it_promises),
		cmocka_unit_test(it_begins_with_a_whole_character),
		cmocka_unit_test(it_is_small_while_little_comes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
