/* SPDX-License-Identifier: MIT */
/* What was typed is told apart from what the guest says. */
#include <string.h>

#include "base/str.h"
#include "console/console-internal.h"
#include "fiber-test.h"

struct fixture {
	struct window w;
	struct echo e;
};

static void send(struct fixture *f, const char *text)
{
	echo_sent(&f->e, text, strlen(text), window_end(&f->w));
}

static void come(struct fixture *f, const char *text)
{
	window_append(&f->w, text, strlen(text));
	echo_scan(&f->e, &f->w);
}

/* All that is visible from 0 on, with '|' where something is hidden; "…" if the end is held back.
 */
static void expect(struct fixture *f, const char *wanted)
{
	_cleanup_buf_ struct buf seen = {};
	uint64_t pos = 0;
	bool held;

	for (;;) {
		uint64_t end = echo_visible(&f->e, &f->w, &pos, &held);

		if (seen.len > 0 || pos > 0)
			buf_putc(&seen, '|');
		buf_append(&seen, f->w.data + pos, end - pos);
		if (held)
			buf_puts(&seen, "...");
		if (held || end == window_end(&f->w))
			break;
		pos = end;
	}
	assert_string_equal(buf_str(&seen), wanted);
}

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	window_init(&f->w, 64 * KIB);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	window_done(&f->w);
	echo_done(&f->e);
	free(f);
	return 0;
}

static void an_echo_is_hidden(void **state)
{
	struct fixture *f = *state;

	come(f, "login: ");
	send(f, "root\n");
	come(f, "root\nPassword: ");
	expect(f, "login: |\nPassword: ");
}

static void what_may_be_an_echo_is_held_back(void **state)
{
	struct fixture *f = *state;

	send(f, "uname\n");
	come(f, "$ una");
	expect(f, "$ ...");
	come(f, "x");
	expect(f, "$ unax");
	come(f, " uname\nLinux\n");
	expect(f, "$ unax |\nLinux\n");
}

static void what_was_there_before_is_no_echo(void **state)
{
	struct fixture *f = *state;

	come(f, "root is the user\n");
	send(f, "root\n");
	expect(f, "root is the user\n");
	come(f, "root\n");
	expect(f, "root is the user\n|\n");
}

static void lines_are_found_one_by_one(void **state)
{
	struct fixture *f = *state;

	send(f, "a=1\necho $a\n");
	come(f, "a=1\n[  3.1] eth0: link up\necho $a\n1\n");
	expect(f, "|\n[  3.1] eth0: link up\n|\n1\n");
}

static void wrapped_lines_are_found(void **state)
{
	struct fixture *f = *state;

	send(f, "echo a-very-long-command\n");
	come(f, "echo a-very \r-long-command\nout\n");
	expect(f, "|\nout\n");
}

/* Passwords are not echoed; their text later is the guest's own. */
static void a_line_without_echo_is_given_up(void **state)
{
	struct fixture *f = *state;

	send(f, "secret\n");
	for (int i = 0; i < 500; i++)
		come(f, "0123456789\n");
	assert_null(f->e.first);
	come(f, "secret\n");
	assert_int_equal(f->e.n_hidden, 0);
}

static void many_echoes_cost_bounded_memory(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 1000; i++) {
		send(f, "x\n");
		come(f, "x\n");
	}
	assert_true(f->e.n_hidden <= 64);
	assert_null(f->e.first);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(an_echo_is_hidden),
		T(what_may_be_an_echo_is_held_back),
		T(what_was_there_before_is_no_echo),
		T(lines_are_found_one_by_one),
		T(wrapped_lines_are_found),
		T(a_line_without_echo_is_given_up),
		T(many_echoes_cost_bounded_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
