/* SPDX-License-Identifier: MIT */
/* The console as a whole: a stream is drained, logged, matched and written to. */
#include "console/console.h"

#include <string.h>
#include <sys/socket.h>

#include "base/str.h"
#include "fiber-test.h"

#define MS NS_PER_MS

struct rig {
	struct console *c;
	struct io *guest; /* the other end */
	struct buf lines; /* as on_line got them */
	bool closed;
};

static void on_line(struct console *c, const char *line, void *userdata)
{
	struct rig *rig = userdata;

	if (rig->lines.len < MIB)
		buf_printf(&rig->lines, "%s|", line);
}

static void on_closed(struct console *c, void *userdata)
{
	((struct rig *)userdata)->closed = true;
}

static void attach(struct rig *rig)
{
	int fds[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	rig->guest = io_new(fds[0]);
	console_attach(rig->c, io_new(fds[1]), now_ns());
}

static void rig_init(struct rig *rig, const char *log)
{
	static const struct console_callbacks cb = {.on_line = on_line, .on_closed = on_closed};

	*rig = (struct rig){};
	rig->c = console_new(log, &cb, rig, NULL);
	check(rig->c);
	attach(rig);
}

static void rig_done(struct rig *rig)
{
	console_free(rig->c);
	io_free(rig->guest);
	buf_done(&rig->lines);
}
#define RIG(name)                                                                                  \
	_cleanup_(rig_done) struct rig name;                                                       \
	rig_init(&name, NULL)

static void say(struct rig *rig, const char *text)
{
	check(io_write_all(rig->guest, text, strlen(text), NS_PER_SEC, NULL) == 0);
}

/* Waits, and compares the whole match. */
static void expect(struct rig *rig, const char *regex, const char *wanted)
{
	struct error err = {};
	json_t *c = NULL;

	if (console_wait_text(rig->c, regex, false, 2 * NS_PER_SEC, &c, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	check_str(json_string_value(json_object_get(c, "0")), wanted);
	json_decref(c);
}

static void expect_none(struct rig *rig, const char *regex)
{
	struct error err = {};

	check(console_wait_text(rig->c, regex, false, 60 * MS, NULL, &err) == -ETIMEDOUT);
	check(err.kind == ERROR_TIMEOUT);
}

struct sayer {
	struct rig *rig;
	const char *const *parts;
	uint64_t pause_ns;
};

static int say_parts(void *userdata)
{
	struct sayer *s = userdata;

	for (const char *const *p = s->parts; *p; p++) {
		fiber_sleep(s->pause_ns, NULL);
		say(s->rig, *p);
	}
	return 0;
}

/* Parts arrive one after the other while the caller waits. */
#define SAY_LATER(rig_, pause, ...)                                                                \
	const char *const parts_[] = {__VA_ARGS__, NULL};                                          \
	struct sayer sayer_ = {rig_, parts_, pause};                                               \
	_cleanup_fiber_ struct fiber *sayer_fiber_ = NULL;                                         \
	fiber_start("sayer", say_parts, &sayer_, &sayer_fiber_)
#define SAID() check(fiber_join(sayer_fiber_, NS_PER_SEC, NULL) == 0)

FIBER_TEST(text_is_found_across_chunks_and_lines)
{
	RIG(rig);
	SAY_LATER(&rig, 2 * MS, "boo", "t\r\nlo", "gin\x1b[0", "m: ");
	expect(&rig, "boot\\nlogin: ", "boot\nlogin: ");
	SAID();
	check_str(buf_str(&rig.lines), "boot|");
}

FIBER_TEST(the_cursor_moves_past_each_match)
{
	RIG(rig);
	say(&rig, "a1 a2 a3\n");
	expect(&rig, "a\\d", "a1");
	expect(&rig, "a\\d", "a2");
	expect(&rig, "a3", "a3");
	expect_none(&rig, "a\\d");
	check(console_wait_text(rig.c, "a1", true, NS_PER_SEC, NULL, NULL) == 0); /* from boot */
}

/* A match that could become longer waits for the rest, but not for ever. */
FIBER_TEST(captures_do_not_depend_on_chunks)
{
	RIG(rig);
	SAY_LATER(&rig, 5 * MS, "took 1", "2", "3");
	expect(&rig, "took (\\d+)", "took 123");
	SAID();
	say(&rig, "\nlast 45");
	expect(&rig, "last \\d+", "last 45"); /* nothing follows: it counts as it is */
}

FIBER_TEST(a_prompt_is_found_at_once)
{
	uint64_t before;
	RIG(rig);

	say(&rig, "guest login: ");
	before = now_ns();
	expect(&rig, "login: ", "login: ");
	check(now_ns() - before < 15 * MS); /* a literal cannot become longer */
}

FIBER_TEST(anchors_see_line_starts)
{
	RIG(rig);
	say(&rig, "x done\ndone\n");
	expect(&rig, "^done$", "done");
	say(&rig, "not\n# ");
	expect(&rig, "^# ", "# ");
}

FIBER_TEST(echoes_are_skipped)
{
	RIG(rig);
	SAY_LATER(&rig, 3 * MS, "$ ", "echo o", "k\r\n", "[  5.0] noise\r\n", "ok\r\n$ ");
	fiber_sleep(5 * MS, NULL);
	check(console_send(rig.c, "echo ok\n", 8, NS_PER_SEC, NULL) == 0);
	expect(&rig, "ok", "ok");
	expect_none(&rig, "noise"); /* which stands between the echo and the answer */
	expect(&rig, "\\$ ", "$ ");
	SAID();
}

FIBER_TEST(what_is_sent_arrives)
{
	char got[16] = "";
	RIG(rig);

	check(console_send(rig.c, "root\n", 5, NS_PER_SEC, NULL) == 0);
	check(io_read(rig.guest, got, sizeof(got) - 1, NS_PER_SEC, NULL) == 5);
	check_str(got, "root\n");
}

FIBER_TEST(a_timeout_tells_what_was_there_instead)
{
	struct error err = {};
	RIG(rig);

	say(&rig, "one\ntwo\nthree\n");
	check(console_wait_text(rig.c, "four", false, 50 * MS, NULL, &err) == -ETIMEDOUT);
	check_str(err.message,
		  "timed out after 50 ms waiting for console text that matches 'four'; "
		  "the console's last lines:\none\ntwo\nthree");
	check(err.kind == ERROR_TIMEOUT);
}

FIBER_TEST(a_silent_console_is_said_to_be_one)
{
	struct error err = {};
	RIG(rig);

	check(console_wait_text(rig.c, "x", false, 20 * MS, NULL, &err) == -ETIMEDOUT);
	check(str_ends(err.message, "; the console said nothing"));
}

FIBER_TEST(a_wrong_regex_is_refused)
{
	struct error err = {};
	RIG(rig);

	check(console_wait_text(rig.c, "(", false, NS_PER_SEC, NULL, &err) == -EINVAL);
	check(err.kind == ERROR_USAGE);
}

static int fail_soon(void *userdata)
{
	struct rig *rig = userdata;
	struct error err = {};

	fiber_sleep(10 * MS, NULL);
	say(rig, "the last words\n");
	console_drain(rig->c);
	error_set(&err, ERROR_CRASH, ECONNRESET, "machine 'x' died");
	console_fail(rig->c, &err);
	return 0;
}

FIBER_TEST(the_machines_end_ends_waits_and_is_heard_out)
{
	struct error err = {};
	uint64_t before = now_ns();
	RIG(rig);

	fiber_start("fail", fail_soon, &rig, NULL);
	check(console_wait_text(rig.c, "never", false, 5 * NS_PER_SEC, NULL, &err) == -ECONNRESET);
	check_str(err.message, "machine 'x' died");
	check(now_ns() - before < NS_PER_SEC);
	expect(&rig, "last words$", "last words"); /* what is there is found still */
	check(console_send(rig.c, "x", 1, NS_PER_SEC, NULL) == -ECONNRESET);
	io_free(rig.guest);
	attach(&rig); /* started anew */
	say(&rig, "again\n");
	expect(&rig, "again", "again");
	check(console_wait_text(rig.c, "words", true, 30 * MS, NULL, NULL) == -ETIMEDOUT);
}

FIBER_TEST(a_closed_stream_is_told)
{
	RIG(rig);
	say(&rig, "bye");
	io_free(TAKE_PTR(rig.guest));
	for (int i = 0; i < 100 && !rig.closed; i++)
		fiber_sleep(MS, NULL);
	check(rig.closed);
	expect(&rig, "bye", "bye");
}

FIBER_TEST(tail_and_text)
{
	_cleanup_free_ char *all = NULL;
	RIG(rig);

	say(&rig, "one\r\n\x1b[1mtwo\x1b[0m\r\nthree\r\nfour");
	expect(&rig, "four", "four");
	for (unsigned n = 1; n <= 5; n++) {
		static const char *const tails[] = {"four", "three\nfour", "two\nthree\nfour",
						    "one\ntwo\nthree\nfour",
						    "one\ntwo\nthree\nfour"};
		_cleanup_free_ char *tail = console_tail(rig.c, n);

		check_str(tail, tails[n - 1]);
	}
	all = console_text(rig.c);
	check_str(all, "one\ntwo\nthree\nfour");
}

#define FLOOD_BYTES (16 * MIB) /* four windows */

static int flood(void *userdata)
{
	struct rig *rig = userdata;
	char block[64 * 1024];
	int r = 0;

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = i % 80 == 79 ? '\n' : (char)('!' + i % 90);
	for (size_t n = 0; n < FLOOD_BYTES && r == 0; n += sizeof(block))
		r = io_write_all(rig->guest, block, sizeof(block), 10 * NS_PER_SEC, NULL);
	if (r == 0)
		r = io_write_all(rig->guest, "\nthe end 42.", 12, NS_PER_SEC, NULL);
	return r;
}

/* With a wait that has a partial match open all the time: neither may be quadratic. */
FIBER_TEST(a_flood_neither_stalls_nor_grows)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	uint64_t before = now_ns();
	struct error err = {};
	RIG(rig);

	fiber_start("flood", flood, &rig, &f);
	if (console_wait_text(rig.c, "the end (\\d+)\\.", false, 20 * NS_PER_SEC, NULL, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	check(fiber_join(f, NS_PER_SEC, NULL) == 0);
	fprintf(stderr, "%.0f MB/s\n",
		FLOOD_BYTES / 1e6 / ((double)(now_ns() - before) / NS_PER_SEC));
	/* What fell out of the window unread is told. */
	check(console_wait_text(rig.c, "nothing", true, 100 * MS, NULL, &err) < 0);
	check(strstr(err.hint, "came too fast"));
}

FIBER_TEST(an_open_match_over_a_flood_is_linear)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	uint64_t before = now_ns();
	RIG(rig);

	fiber_start("flood", flood, &rig, &f);
	/* Partial from the first byte on; what is found is within the window. */
	check(console_wait_text(rig.c, "(?s)!.*the end", false, 20 * NS_PER_SEC, NULL, NULL) == 0);
	check(fiber_join(f, NS_PER_SEC, NULL) == 0);
	check(now_ns() - before < 8 * NS_PER_SEC);
}

/* Such a pattern on one long line is quadratic; the loop goes on and the time-out holds. */
FIBER_TEST(a_bad_pattern_stops_nobody)
{
	_cleanup_free_ char *text = xmalloc(MIB + 1);
	uint64_t before;
	struct error err = {};
	RIG(rig);

	memset(text, 'x', MIB);
	console_feed(rig.c, text, MIB);
	before = now_ns();
	check(console_wait_text(rig.c, "\\w+foo\\d", false, 300 * MS, NULL, &err) < 0);
	check(now_ns() - before < 3 * NS_PER_SEC);
}

static void resume(struct rig *rig)
{
	int fds[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	io_free(rig->guest);
	rig->guest = io_new(fds[0]);
	console_resume(rig->c, io_new(fds[1]), now_ns());
}

/* What was said until the state was saved, and how far it was looked at; half a line goes on. */
FIBER_TEST(a_saved_state_is_its_past)
{
	json_t *saved;
	char *text;
	RIG(rig);

	console_feed(rig.c, "first boot\n", 11);
	console_drain(rig.c);
	io_free(rig.guest);
	attach(&rig);
	check(io_write_all(rig.guest, "second boot\nmet\nlog", 19, MS, NULL) == 0);
	console_catch_up(rig.c); /* without the reader's turn */
	check(console_wait_text(rig.c, "met", false, MS, NULL, NULL) == 0);
	saved = console_save(rig.c);
	console_feed(rig.c, "in: undone\n", 11);
	console_drain(rig.c);
	for (int i = 0; i < 2; i++) {
		buf_truncate(&rig.lines, 0);
		console_restore(rig.c, saved);
		resume(&rig);
		text = console_text(rig.c);
		check_str(text, "first boot\nsecond boot\nmet\nlog");
		free(text);
		check(console_wait_text(rig.c, "met", false, MS, NULL, NULL) < 0);
		check(console_wait_text(rig.c, "first", true, MS, NULL, NULL) < 0);
		check(console_wait_text(rig.c, "second", true, MS, NULL, NULL) == 0);
		console_feed(rig.c, "in: again\n", 10);
		check(console_wait_text(rig.c, "login: again", false, MS, NULL, NULL) == 0);
		check_str(buf_str(&rig.lines), "login: again|"); /* the past's are not told anew */
		console_drain(rig.c);
	}
	json_decref(saved);
}

FIBER_TEST(of_a_long_past_the_end_is_saved)
{
	char *line = xasprintf("%1023d\n", 7);
	json_t *saved;
	char *text;
	RIG(rig);

	for (int i = 0; i < 2048; i++)
		console_feed(rig.c, line, 1024);
	console_feed(rig.c, "end", 3);
	saved = console_save(rig.c);
	console_drain(rig.c);
	console_restore(rig.c, saved);
	text = console_text(rig.c);
	check(strlen(text) == CONSOLE_SAVED_BYTES);
	check(str_ends(text, "7\nend"));
	free(text);
	free(line);
	json_decref(saved);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_is_found_across_chunks_and_lines),
		cmocka_unit_test(the_cursor_moves_past_each_match),
		cmocka_unit_test(captures_do_not_depend_on_chunks),
		cmocka_unit_test(a_prompt_is_found_at_once),
		cmocka_unit_test(anchors_see_line_starts),
		cmocka_unit_test(echoes_are_skipped),
		cmocka_unit_test(what_is_sent_arrives),
		cmocka_unit_test(a_timeout_tells_what_was_there_instead),
		cmocka_unit_test(a_silent_console_is_said_to_be_one),
		cmocka_unit_test(a_wrong_regex_is_refused),
		cmocka_unit_test(the_machines_end_ends_waits_and_is_heard_out),
		cmocka_unit_test(a_closed_stream_is_told),
		cmocka_unit_test(tail_and_text),
		cmocka_unit_test(a_flood_neither_stalls_nor_grows),
		cmocka_unit_test(an_open_match_over_a_flood_is_linear),
		cmocka_unit_test(a_saved_state_is_its_past),
		cmocka_unit_test(of_a_long_past_the_end_is_saved),
		cmocka_unit_test(a_bad_pattern_stops_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
