/* SPDX-License-Identifier: MIT */
/* What a person at a terminal sees: finished tests as lines, running ones alive below them. */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/str.h"
#include "loop/loop.h"
#include "report/reporters.h"
#include "report/text.h"

/*
 * Theory of operation
 *
 * Lines that stay are printed once, in order. On a terminal (`live`) a block follows them, one
 * line for each running test, building image or template that is made, with what it does now and
 * for how long. Before anything else is printed the block is wiped; afterwards, or when a second
 * has passed, it is drawn again. Each block line is cut to the terminal's width, so that a line is
 * a row and the block can be wiped by going up as many rows as it has lines.
 *
 * Everything that comes from a guest or a script goes through text_plain(): nobody but us moves
 * the cursor.
 */
#define TICK_NS	      NS_PER_SEC
#define REDRAW_NS     (80 * NS_PER_MS)
#define MAX_LIVE_ROWS 12

struct running {
	struct running *next;
	char *file, *test; /* NULL test: an image's or template's name in file */
	char *doing;
	uint64_t start_ns;
};

struct terminal {
	struct reporter *reporter;
	struct running *running; /* in the order in which they began */
	unsigned rows;		 /* of the block that stands below the lines */
	uint64_t drawn_ns;
	struct timer *timer;
	json_t *start;
	char *failed_setup; /* of which the whole text is out already */
	size_t n_tests;
};

enum color { COLOR_NONE, COLOR_GREEN, COLOR_RED, COLOR_YELLOW, COLOR_DIM, COLOR_BOLD };

static const char *color(const struct terminal *t, enum color c)
{
	static const char *const codes[] = {
		[COLOR_NONE] = "\033[0m",    [COLOR_GREEN] = "\033[32m", [COLOR_RED] = "\033[1;31m",
		[COLOR_YELLOW] = "\033[33m", [COLOR_DIM] = "\033[2m",	 [COLOR_BOLD] = "\033[1m",
	};

	return t->reporter->color ? codes[c] : "";
}

/* --- the block of running tests --------------------------------------------------------------- */

static size_t terminal_width(void)
{
	struct winsize ws;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 20 ? ws.ws_col : 80;
}

static void append_running(const struct terminal *t, struct buf *b, const struct running *r,
			   size_t width)
{
	char seconds[32];
	_cleanup_free_ char *line = NULL;
	double elapsed = (double)(now_ns() - r->start_ns) / (double)NS_PER_SEC;

	/* Whole seconds: digits that jump are no information. */
	if (elapsed < 60)
		snprintf(seconds, sizeof(seconds), "%2d s", (int)elapsed);
	else
		report_seconds(elapsed, seconds);
	line = xasprintf("%s  %s%s%s%s%s", seconds, r->file, r->test ? ": " : "",
			 r->test ? r->test : "", r->doing ? "  · " : "", r->doing ? r->doing : "");
	buf_puts(b, color(t, COLOR_DIM));
	buf_puts(b, "  ");
	buf_append(b, line, text_fit(line, width - 3));
	buf_puts(b, color(t, COLOR_NONE));
	buf_puts(b, "\033[K\n");
}

static void append_wipe(const struct terminal *t, struct buf *b)
{
	if (t->rows > 0)
		buf_printf(b, "\033[%uA\033[J", t->rows);
}

static void draw(struct terminal *t)
{
	_cleanup_buf_ struct buf b = {};
	size_t width = terminal_width();
	unsigned rows = 0, more = 0;

	append_wipe(t, &b);
	for (const struct running *r = t->running; r; r = r->next) {
		if (rows < MAX_LIVE_ROWS) {
			append_running(t, &b, r, width);
			rows++;
		} else {
			more++;
		}
	}
	if (more) {
		buf_printf(&b, "  … and %u more\033[K\n", more);
		rows++;
	}
	t->rows = rows;
	t->drawn_ns = now_ns();
	fputs(buf_str(&b), stdout);
	fflush(stdout);
}

static void wipe(struct terminal *t)
{
	_cleanup_buf_ struct buf b = {};

	append_wipe(t, &b);
	t->rows = 0;
	fputs(buf_str(&b), stdout);
}

static void on_tick(void *userdata);

/* At most so often; what comes meanwhile is drawn by the timer. */
static void draw_soon(struct terminal *t)
{
	uint64_t now = now_ns(), next = t->drawn_ns + REDRAW_NS;

	if (!t->reporter->live)
		return;
	if (now >= next) {
		draw(t);
		next = now + TICK_NS;
	}
	timer_free(t->timer);
	t->timer = t->running ? timer_start(next, on_tick, t) : NULL;
}

static void on_tick(void *userdata)
{
	struct terminal *t = userdata;

	t->drawn_ns = 0;
	draw_soon(t);
}

static struct running *find_running(struct terminal *t, const char *file, const char *test)
{
	for (struct running *r = t->running; r; r = r->next)
		if (str_eq(r->file, file) && str_eq(r->test, test))
			return r;
	return NULL;
}

static struct running *add_running(struct terminal *t, const char *file, const char *test)
{
	struct running *r = xcalloc(1, sizeof(*r)), **p = &t->running;

	r->file = text_plain(file);
	r->test = test ? text_plain(test) : NULL;
	r->start_ns = now_ns();
	while (*p)
		p = &(*p)->next;
	*p = r;
	return r;
}

static void remove_running(struct terminal *t, const char *file, const char *test)
{
	for (struct running **p = &t->running; *p; p = &(*p)->next) {
		struct running *r = *p;

		if (!str_eq(r->file, file) || !str_eq(r->test, test))
			continue;
		*p = r->next;
		free(r->file);
		free(r->test);
		free(r->doing);
		free(r);
		return;
	}
}

/* Takes text (NULL: nothing in particular); made one harmless line. */
static void set_doing(struct running *r, char *text)
{
	free(r->doing);
	r->doing = text ? text_plain(text) : NULL;
	for (char *p = r->doing; p && *p; p++)
		if (*p == '\n' || *p == '\t')
			*p = ' ';
	free(text);
}

/* --- what a test does now -----------------------------------------------------------------------
 */

static char *describe(json_t *e)
{
	const char *machine = event_string(e, "machine"), *phase = event_string(e, "phase");

	if (event_is(e, "attempt-start"))
		return *event_string(e, "note") ? xstrdup(event_string(e, "note")) : NULL;
	if (event_is(e, "phase"))
		return xstrdup(event_string(e, "name"));
	if (event_is(e, "subtest-start"))
		return xstrdup(event_string(e, "name"));
	if (event_is(e, "machine-state"))
		return xasprintf("%s is %s", machine, event_string(e, "state"));
	if (!str_eq(phase, "start"))
		return NULL;
	if (event_is(e, "command"))
		return xasprintf("%s: %s", machine, event_string(e, "text"));
	if (event_is(e, "wait"))
		return xasprintf("%s%swaiting for %s", machine, *machine ? ": " : "",
				 event_string(e, "what"));
	if (event_is(e, "call"))
		return xasprintf("%s%s%s %s", machine, *machine ? ": " : "",
				 event_string(e, "call"), event_string(e, "text"));
	return NULL;
}

static void update_doing(struct terminal *t, json_t *e)
{
	const char *template = json_string_value(json_object_get(e, "template"));
	struct running *r =
		template ? find_running(t, template, NULL)
			 : find_running(t, event_string(e, "file"), event_string(e, "test"));
	char *text = r && t->reporter->live ? describe(e) : NULL;

	if (!text)
		return;
	set_doing(r, text);
	draw_soon(t);
}

/* --- lines that stay -----------------------------------------------------------------------------
 */

static void print_verbose(struct terminal *t, json_t *e)
{
	_cleanup_free_ char *text = NULL, *plain = NULL;

	if (event_is(e, "log"))
		text = xstrdup(event_string(e, "text"));
	else if (event_is(e, "machine-console"))
		text = xasprintf("%s| %s", event_string(e, "machine"), event_string(e, "text"));
	else if (t->reporter->verbosity >= 1)
		text = describe(e);
	if (!text)
		return;
	plain = text_plain(text);
	wipe(t);
	printf("%s%8.2f  %s: %s%s\n", color(t, COLOR_DIM), event_number(e, "t"),
	       event_string(e, json_object_get(e, "template") ? "template" : "test"), plain,
	       color(t, COLOR_NONE));
	draw_soon(t);
}

struct look {
	const char *word;
	enum color color;
};

static struct look look_of(enum verdict v)
{
	switch (v) {
	case VERDICT_PASSED:
		return (struct look){"PASS", COLOR_GREEN};
	case VERDICT_FAILED:
		return (struct look){"FAIL", COLOR_RED};
	case VERDICT_ERRORED:
		return (struct look){"ERROR", COLOR_RED};
	case VERDICT_SKIPPED:
		return (struct look){"SKIP", COLOR_YELLOW};
	case VERDICT_XFAIL:
		return (struct look){"XFAIL", COLOR_YELLOW};
	case VERDICT_XPASS:
		return (struct look){"XPASS", COLOR_RED};
	case VERDICT_FLAKY:
		return (struct look){"FLAKY", COLOR_YELLOW};
	}
	return (struct look){"?", COLOR_NONE};
}

/* "median 9.47 µs, p5 9.21 µs, p95 12.3 µs (±16 %, n = 40)": half of what lies between the
 * percentiles, as a part of the median. */
static void print_metrics(struct terminal *t, json_t *metrics)
{
	const char *name;
	json_t *m;

	json_object_foreach(metrics, name, m)
	{
		_cleanup_free_ char *plain = text_plain(name);
		double median = event_number(m, "median"), low = event_number(m, "p5"),
		       high = event_number(m, "p95");
		const char *unit = event_string(m, "unit");
		int n = (int)event_number(m, "n");
		char texts[3][QUANTITY_MAX];

		printf("  %s%s: ", color(t, COLOR_DIM), plain);
		if (n == 1) {
			printf("%s (n = 1)", report_quantity(median, unit, texts[0]));
		} else {
			printf("median %s, p5 %s, p95 %s (",
			       report_quantity(median, unit, texts[0]),
			       report_quantity(low, unit, texts[1]),
			       report_quantity(high, unit, texts[2]));
			if (median > 0)
				printf("±%.0f %%, ", 50 * (high - low) / median);
			printf("n = %d)", n);
		}
		printf("%s\n", color(t, COLOR_NONE));
	}
}

static void print_warnings(struct terminal *t, json_t *warnings)
{
	json_t *w;
	size_t i;

	json_array_foreach(warnings, i, w)
	{
		_cleanup_free_ char *plain = text_plain(event_string(w, "message"));

		printf("  %swarning:%s %s\n", color(t, COLOR_YELLOW), color(t, COLOR_NONE), plain);
	}
}

/* A failed setup is told once at length; for the other tests of its group a line must do. */
static bool told_already(struct terminal *t, json_t *e)
{
	const char *phase = event_string(json_object_get(e, "error"), "phase");
	const char *dir = event_string(e, "dir");
	bool again;

	if (!str_eq(phase, "setup") && !str_eq(phase, "boot") && !str_eq(phase, "save"))
		return false;
	/* With "boot" each has a setup of its own. */
	if (str_eq(event_string(e, "isolation"), "boot") || !*dir)
		return false;
	again = str_eq(t->failed_setup, dir);
	free(t->failed_setup);
	t->failed_setup = xstrdup(dir);
	return again;
}

static void print_failure(struct terminal *t, json_t *e)
{
	_cleanup_buf_ struct buf b = {};
	const char *dir = event_string(t->start, "dir");

	if (told_already(t, e)) {
		printf("  its %s failed, see above\n",
		       event_string(json_object_get(e, "error"), "phase"));
		return;
	}
	report_failure_text(&b, e, "  ");
	if (*event_string(e, "dir"))
		buf_printf(&b, "  report:    %s/%s\n", report_relative(dir),
			   event_string(e, "dir"));
	if (*event_string(e, "reproduce"))
		buf_printf(&b, "  reproduce: %s\n", event_string(e, "reproduce"));
	fputs(buf_str(&b), stdout);
}

static void print_test_end(struct terminal *t, json_t *e)
{
	enum verdict v = event_verdict(e);
	struct look look = look_of(v);
	_cleanup_free_ char *name = text_plain(event_string(e, "test"));
	_cleanup_free_ char *reason = text_plain(event_string(e, "reason"));
	json_int_t repeat = json_integer_value(json_object_get(e, "repeat"));
	bool interrupted = str_eq(event_string(json_object_get(e, "error"), "kind"), "cancelled");
	char seconds[32];

	remove_running(t, event_string(e, "file"), event_string(e, "test"));
	wipe(t);
	t->n_tests++;
	printf("%s%s%s %s: %s", color(t, look.color), look.word, color(t, COLOR_NONE),
	       event_string(e, "file"), name);
	if (repeat)
		printf(" (%d)", (int)repeat);
	if (v != VERDICT_SKIPPED)
		printf("  %s%s%s", color(t, COLOR_DIM),
		       report_seconds(event_number(e, "seconds"), seconds), color(t, COLOR_NONE));
	if (*reason)
		printf("  (%s)", reason);
	if (interrupted)
		fputs("  (interrupted)", stdout);
	if (v == VERDICT_FLAKY)
		printf("  (passed at attempt %zu)",
		       json_array_size(json_object_get(e, "attempts")));
	putchar('\n');
	/* Who interrupts knows why. */
	if (!interrupted && (v == VERDICT_FAILED || v == VERDICT_ERRORED || v == VERDICT_XPASS))
		print_failure(t, e);
	else
		print_warnings(t, json_object_get(e, "warnings"));
	print_metrics(t, json_object_get(e, "metrics"));
	fflush(stdout);
	draw_soon(t);
}

static void print_problem(struct terminal *t, json_t *e, const char *word, enum color c)
{
	_cleanup_free_ char *message = text_plain(event_string(e, "message"));
	_cleanup_free_ char *hint = text_plain(event_string(e, "hint"));

	wipe(t);
	printf("%s%s:%s %s\n", color(t, c), word, color(t, COLOR_NONE), message);
	if (*hint)
		printf("  hint: %s\n", hint);
	fflush(stdout);
	draw_soon(t);
}

static void show_image(struct terminal *t, json_t *e)
{
	const char *name = event_string(e, "name"), *state = event_string(e, "state");
	struct running *r = find_running(t, name, NULL);
	char seconds[32];

	if (str_eq(state, "building")) {
		if (!r)
			r = add_running(t, name, NULL);
		set_doing(r, xasprintf("building: %s", event_string(e, "phase")));
		/* Where nothing moves, somebody who waits wants to know for what. */
		if (!t->reporter->live) {
			printf("image %s: %s\n", name, event_string(e, "phase"));
			fflush(stdout);
		}
		draw_soon(t);
		return;
	}
	if (!r && str_eq(state, "ready") && event_number(e, "seconds") < 1)
		return; /* it was there */
	remove_running(t, name, NULL);
	wipe(t);
	printf("image %s: %s after %s\n", name, state,
	       report_seconds(event_number(e, "seconds"), seconds));
	fflush(stdout);
	draw_soon(t);
}

/* What an earlier run was told is told again: it is as true of this one. */
static void end_template(struct terminal *t, json_t *e)
{
	const char *name = event_string(e, "name"), *state = event_string(e, "state");
	bool cached = json_is_true(json_object_get(e, "cached"));
	json_t *warnings = json_object_get(e, "warnings");
	bool failed = str_eq(state, "failed");
	char seconds[32];

	remove_running(t, name, NULL);
	wipe(t);
	/* What took no time is nobody's concern, nor is what somebody has stopped; of a failure
	 * the tests tell. */
	if (!cached && !failed && event_number(e, "seconds") >= 1)
		printf("%s: %s after %s\n", name, state,
		       report_seconds(event_number(e, "seconds"), seconds));
	else if (json_array_size(warnings) > 0)
		printf("%s%s\n", name, cached ? " (cached)" : "");
	print_warnings(t, warnings);
	fflush(stdout);
	draw_soon(t);
}

/* --- beginning and end -------------------------------------------------------------------------
 */

static void print_start(struct terminal *t, json_t *e)
{
	t->start = json_incref(e);
	if (json_object_get(e, "shuffle_seed"))
		printf("shuffled with seed %lld\n", (long long)event_number(e, "shuffle_seed"));
	if (!str_eq(event_string(e, "ns_level"), "full"))
		printf("%snamespaces: %s (%s); clean-up after a SIGKILL of the runner is best "
		       "effort%s\n",
		       color(t, COLOR_DIM), event_string(e, "ns_level"),
		       event_string(e, "ns_reason"), color(t, COLOR_NONE));
	fflush(stdout);
}

static void append_count(struct buf *b, json_t *e, const char *key, const char *word, bool always)
{
	int n = (int)event_number(e, key);

	if (n > 0 || always)
		buf_printf(b, "%s%d %s", b->len ? ", " : "", n, word);
}

/* What the counts alone do not explain. */
static void print_remarks(json_t *e)
{
	int wanting = (int)event_number(e, "wanting"), slow = (int)event_number(e, "slow");

	if (wanting > 0)
		printf("  %d skipped for want of a capability: an error because of --strict, "
		       "which holds where CI is set\n",
		       wanting);
	if (slow > 0)
		printf("  %d slow %s left out; --slow runs %s\n", slow,
		       slow == 1 ? "test" : "tests", slow == 1 ? "it" : "them");
}

/* The last line: counts, then where the report is. Nothing when nothing was run. */
static void print_summary(struct terminal *t, json_t *e)
{
	_cleanup_buf_ struct buf b = {};
	bool good = event_number(e, "exit") == 0;
	char seconds[32];

	wipe(t);
	if (json_is_true(json_object_get(e, "interrupted")))
		puts("interrupted");
	if (t->n_tests == 0 && !json_is_true(json_object_get(e, "interrupted")))
		return;
	append_count(&b, e, "passed", "passed", true);
	append_count(&b, e, "failed", "failed", true);
	append_count(&b, e, "errored", "errored", false);
	append_count(&b, e, "skipped", "skipped", true);
	append_count(&b, e, "xfailed", "failed as expected", false);
	append_count(&b, e, "flaky", "flaky", false);
	append_count(&b, e, "not_run", "not run", false);
	printf("%s%s%s (%s), report in %s\n", color(t, good ? COLOR_GREEN : COLOR_RED), buf_str(&b),
	       color(t, COLOR_NONE), report_seconds(event_number(e, "seconds"), seconds),
	       report_relative(event_string(t->start, "dir")));
	print_remarks(e);
	fflush(stdout);
}

static int terminal_open(struct reporter *r, struct error *err)
{
	struct terminal *t = xcalloc(1, sizeof(*t));

	r->state = t;
	return 0;
}

static void terminal_event(struct reporter *r, json_t *e)
{
	struct terminal *t = r->state;

	/* The reporter's place in memory is settled only once all are open. */
	t->reporter = r;
	if (event_is(e, "run-start")) {
		print_start(t, e);
	} else if (event_is(e, "image")) {
		show_image(t, e);
	} else if (event_is(e, "template-start")) {
		add_running(t, event_string(e, "name"), NULL);
		draw_soon(t);
	} else if (event_is(e, "template-end")) {
		end_template(t, e);
	} else if (event_is(e, "test-start")) {
		add_running(t, event_string(e, "file"), event_string(e, "test"));
		draw_soon(t);
	} else if (event_is(e, "test-end")) {
		print_test_end(t, e);
	} else if (event_is(e, "run-end")) {
		print_summary(t, e);
	} else if (json_object_get(e, "test") || json_object_get(e, "template")) {
		if (r->verbosity >= 1)
			print_verbose(t, e);
		update_doing(t, e);
	} else if (event_is(e, "error")) {
		print_problem(t, e, "error", COLOR_RED);
	} else if (event_is(e, "warning")) {
		print_problem(t, e, "warning", COLOR_YELLOW);
	}
}

static int terminal_close(struct reporter *r, struct error *err)
{
	struct terminal *t = r->state;

	if (r->live && t->reporter)
		wipe(t);
	timer_free(t->timer);
	while (t->running)
		remove_running(t, t->running->file, t->running->test);
	json_decref(t->start);
	free(t->failed_setup);
	free(t);
	if (fflush(stdout) != 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write to stdout");
	return 0;
}

const struct reporter_ops reporter_terminal = {
	.name = "terminal",
	.open = terminal_open,
	.event = terminal_event,
	.close = terminal_close,
};
