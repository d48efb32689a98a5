/* SPDX-License-Identifier: MIT */
/* Fibers: order, waiting, deadlines, cancelling. */
#include "loop/fiber.h"

#include <string.h>

#include "base/buf.h"
#include "base/str.h"
#include "fiber-test.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#endif
#ifdef WITH_ASAN
#include <sanitizer/lsan_interface.h>
#endif

#define MS NS_PER_MS

static bool near_ms(uint64_t since, uint64_t ms)
{
	uint64_t took = now_ns() - since;

	/* Never early; late only as far as a loaded machine explains. */
	return took >= ms * MS && took < (ms + 500) * MS;
}

/* --- Order and life ------------------------------------------------------------------------- */

struct letter {
	struct buf *log;
	char c;
};

static int write_twice(void *userdata)
{
	struct letter *l = userdata;

	buf_putc(l->log, l->c);
	fiber_yield();
	buf_putc(l->log, l->c);
	return l->c;
}

FIBER_TEST(order_is_first_in_first_out)
{
	_cleanup_buf_ struct buf log = {};
	struct letter l[] = {{&log, 'a'}, {&log, 'b'}, {&log, 'c'}};
	struct fiber *f[3];

	for (int i = 0; i < 3; i++)
		fiber_start("letter", write_twice, &l[i], &f[i]);
	check(log.len == 0); /* none runs before the starter waits */
	for (int i = 2; i >= 0; i--) {
		check(fiber_join(f[i], NS_FOREVER, NULL) == 0);
		check(fiber_result(f[i]) == l[i].c);
		fiber_unref(f[i]);
	}
	check_str(buf_str(&log), "abcabc");
}

static struct waiters gate;

static int pass_gate(void *userdata)
{
	struct letter *l = userdata;

	check(fiber_wait(&gate, NS_FOREVER, "the gate", NULL) == 0);
	buf_putc(l->log, l->c);
	return 0;
}

FIBER_TEST(waiters_are_woken_in_order)
{
	_cleanup_buf_ struct buf log = {};
	struct letter l[] = {{&log, 'a'}, {&log, 'b'}, {&log, 'c'}, {&log, 'd'}};

	for (int i = 0; i < 4; i++)
		fiber_start("gate", pass_gate, &l[i], NULL);
	fiber_yield();
	check(!waiters_empty(&gate));
	waiters_wake_one(&gate);
	fiber_yield();
	check_str(buf_str(&log), "a");
	waiters_wake_all(&gate);
	check(waiters_empty(&gate));
	fiber_yield();
	check_str(buf_str(&log), "abcd");
}

static int add_one(void *userdata)
{
	++*(int *)userdata;
	return 0;
}

FIBER_TEST(ten_thousand_one_after_the_other)
{
	int n = 0;

	for (int i = 0; i < 10000; i++) {
		_cleanup_fiber_ struct fiber *f = NULL;

		fiber_start("one", add_one, &n, &f);
		check(fiber_join(f, NS_FOREVER, NULL) == 0);
	}
	check(n == 10000);
}

static int use_stack_and_wait(void *userdata)
{
	volatile char block[16 * 1024];

	memset((void *)block, 0x5a, sizeof(block));
	check(fiber_wait(&gate, NS_PER_SEC * 10, "the gate", NULL) == 0);
	for (size_t i = 0; i < sizeof(block); i += 512)
		check(block[i] == 0x5a);
	return add_one(userdata);
}

FIBER_TEST(a_thousand_at_once)
{
	static struct fiber *f[1000];
	int n = 0;

	for (int i = 0; i < 1000; i++)
		fiber_start("many", use_stack_and_wait, &n, &f[i]);
	fiber_yield();
	check(n == 0);
	waiters_wake_all(&gate);
	for (int i = 0; i < 1000; i++) {
		check(fiber_join(f[i], NS_FOREVER, NULL) == 0);
		fiber_unref(f[i]);
	}
	check(n == 1000);
}

static int hold_heap(void *userdata)
{
	_cleanup_free_ char *p = xstrdup("held");
	int r = fiber_sleep(20 * MS, NULL);

	check_str(p, "held");
	return r;
}

FIBER_TEST(fibers_that_nobody_waits_for_end_before_the_loop)
{
	/* Its sleep is cancelled by loop_main(), and its memory freed. */
	fiber_start("left alone", hold_heap, NULL, NULL);
	fiber_yield();
}

static int leaks;

static void look_for_leaks(void *userdata)
{
#ifdef WITH_ASAN
	leaks = __lsan_do_recoverable_leak_check();
#endif
}

FIBER_TEST(what_a_parked_fiber_holds_is_no_leak)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	struct timer *t;

	/* Only the fiber's stack points to the memory while it is parked. */
	fiber_start("holder", hold_heap, NULL, &f);
	t = timer_start(deadline_in(5 * MS), look_for_leaks, NULL);
	check(fiber_join(f, NS_FOREVER, NULL) == 0);
	check(!leaks);
	timer_free(t);
}

/* --- Time ----------------------------------------------------------------------------------- */

FIBER_TEST(sleep_takes_its_time)
{
	uint64_t start = now_ns();

	check(fiber_sleep(30 * MS, NULL) == 0);
	check(near_ms(start, 30));
	start = now_ns();
	check(fiber_sleep(0, NULL) == 0);
	check(near_ms(start, 0));
}

FIBER_TEST(timed_wait_says_what_it_waited_for)
{
	struct waiters w = {};
	struct error err = {};
	uint64_t start = now_ns();

	check(fiber_wait(&w, 20 * MS, "the moon", &err) == -ETIMEDOUT);
	check(near_ms(start, 20));
	check(err.kind == ERROR_TIMEOUT && err.code == ETIMEDOUT);
	check_str(err.message, "timed out after 20 ms waiting for the moon");
	check(waiters_empty(&w));
	check(fiber_wait(&w, 0, "the moon", NULL) == -ETIMEDOUT);
}

static int wake_after(void *userdata)
{
	check(fiber_sleep(10 * MS, NULL) == 0);
	waiters_wake_all(userdata);
	return 0;
}

static void wake_from_timer(void *userdata)
{
	waiters_wake_all(userdata);
}

FIBER_TEST(wait_until_names_the_whole_time_out)
{
	struct waiters w = {};
	struct error err = {};
	uint64_t deadline = deadline_in(300 * MS);

	fiber_start("waker", wake_after, &w, NULL);
	check(fiber_wait_until(&w, deadline, 300 * MS, "rain", &err) == 0);
	check(fiber_wait_until(&w, deadline, 300 * MS, "rain", &err) == -ETIMEDOUT);
	check_str(err.message, "timed out after 0.3 s waiting for rain");
}

FIBER_TEST(a_timer_of_an_earlier_wait_does_not_end_a_later_one)
{
	struct waiters w = {};
	uint64_t start;

	fiber_start("waker", wake_after, &w, NULL);
	check(fiber_wait(&w, 150 * MS, "first", NULL) == 0);
	start = now_ns();
	check(fiber_wait(&w, 300 * MS, "second", NULL) == -ETIMEDOUT);
	check(near_ms(start, 300));
}

FIBER_TEST(a_timer_of_an_earlier_wait_does_not_end_an_endless_one)
{
	struct waiters w = {};
	struct timer *t;

	fiber_start("waker", wake_after, &w, NULL);
	check(fiber_wait(&w, 150 * MS, "first", NULL) == 0);
	t = timer_start(deadline_in(250 * MS), wake_from_timer, &w);
	check(fiber_wait(&w, NS_FOREVER, "second", NULL) == 0);
	timer_free(t);
}

/* --- Deadlines ------------------------------------------------------------------------------ */

FIBER_TEST(inner_deadline_counts_when_earlier)
{
	struct deadline_scope outer, inner;
	struct waiters w = {};
	struct error err = {};
	uint64_t start = now_ns();

	deadline_enter(&outer, NS_PER_SEC, ERROR_DEADLINE, "the test's time-out of 1 s");
	deadline_enter(&inner, 20 * MS, ERROR_TIMEOUT, "within's 20 ms");
	check(fiber_wait(&w, 5 * NS_PER_SEC, "the moon", &err) == -ETIMEDOUT);
	check(near_ms(start, 20));
	check(err.kind == ERROR_TIMEOUT);
	check_str(err.message, "within's 20 ms passed while waiting for the moon");
	/* It stays in force until it is left. */
	check(fiber_sleep(MS, NULL) == -ETIMEDOUT);
	deadline_leave(&inner);
	check(fiber_sleep(MS, NULL) == 0);
	deadline_leave(&outer);
}

FIBER_TEST(inner_deadline_never_outlives_the_outer)
{
	struct deadline_scope outer, inner;
	struct waiters w = {};
	struct error err = {};
	uint64_t start = now_ns();

	deadline_enter(&outer, 20 * MS, ERROR_DEADLINE, "the test's time-out of 20 ms");
	deadline_enter(&inner, NS_PER_SEC, ERROR_TIMEOUT, "within's 1 s");
	check(deadline_current() == outer.at_ns);
	check(fiber_wait(&w, 5 * NS_PER_SEC, "the moon", &err) == -ETIMEDOUT);
	check(near_ms(start, 20));
	check(err.kind == ERROR_DEADLINE);
	check_str(err.message, "the test's time-out of 20 ms passed while waiting for the moon");
	deadline_leave(&inner);
	error_clear(&err);
	check(fiber_sleep(MS, &err) == -ETIMEDOUT);
	check(err.kind == ERROR_DEADLINE);
	deadline_leave(&outer);
	check(deadline_current() == NS_FOREVER);
}

FIBER_TEST(own_time_out_is_a_time_out_inside_a_later_deadline)
{
	struct deadline_scope outer;
	struct waiters w = {};
	struct error err = {};

	deadline_enter(&outer, NS_PER_SEC, ERROR_DEADLINE, "the test's");
	check(fiber_wait(&w, 5 * MS, "the moon", &err) == -ETIMEDOUT);
	check(err.kind == ERROR_TIMEOUT);
	deadline_leave(&outer);
}

static int report_deadline(void *userdata)
{
	struct error *err = userdata;

	fiber_yield(); /* the starter leaves its scope meanwhile */
	return fiber_sleep(5 * NS_PER_SEC, err);
}

static void start_in_scope(struct error *err, struct fiber **ret)
{
	struct deadline_scope outer, inner;

	deadline_enter(&outer, 20 * MS, ERROR_DEADLINE, "the test's time-out of 20 ms");
	deadline_enter(&inner, NS_PER_SEC, ERROR_TIMEOUT, "within's 1 s");
	fiber_start("child", report_deadline, err, ret);
	deadline_leave(&inner);
	deadline_leave(&outer);
}

FIBER_TEST(a_child_inherits_a_copy)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	struct error err = {};
	uint64_t start = now_ns();

	start_in_scope(&err, &f);
	check(fiber_join(f, NS_FOREVER, NULL) == 0);
	check(near_ms(start, 20));
	check(fiber_result(f) == -ETIMEDOUT);
	check(err.kind == ERROR_DEADLINE);
	check_str(err.message, "the test's time-out of 20 ms passed while sleeping");
}

FIBER_TEST(deadlines_saturate)
{
	check(deadline_in(NS_FOREVER) == NS_FOREVER);
	check(deadline_in(NS_FOREVER - 1) == NS_FOREVER);
	check(timeout_left(NS_FOREVER) == NS_FOREVER);
	check(timeout_left(1) == 0);
}

/* --- Cancelling ----------------------------------------------------------------------------- */

struct cancelled {
	struct waiters w;
	struct error first, second;
	bool cleaned_up;
};

static int wait_and_clean_up(void *userdata)
{
	struct cancelled *c = userdata;
	struct fiber_shield shield;
	uint64_t start;

	check(fiber_wait(&c->w, NS_FOREVER, "the moon", &c->first) == -ECANCELED);
	check(fiber_sleep(NS_PER_SEC, &c->second) == -ECANCELED);
	start = now_ns();
	fiber_shield_enter(&shield, NS_PER_SEC);
	check(fiber_sleep(10 * MS, NULL) == 0);
	check(near_ms(start, 10));
	fiber_shield_leave(&shield);
	check(fiber_sleep(NS_PER_SEC, NULL) == -ECANCELED);
	c->cleaned_up = true;
	return -ECANCELED;
}

FIBER_TEST(cancel_ends_this_wait_and_every_later_one)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	struct cancelled c = {};

	fiber_start("victim", wait_and_clean_up, &c, &f);
	fiber_yield();
	check(!waiters_empty(&c.w) && !fiber_is_cancelled(f));
	fiber_cancel(f);
	fiber_cancel(f);
	check(waiters_empty(&c.w) && fiber_is_cancelled(f));
	check(fiber_join(f, NS_FOREVER, NULL) == 0);
	check(c.cleaned_up && fiber_result(f) == -ECANCELED);
	check(c.first.kind == ERROR_CANCELLED && c.second.kind == ERROR_CANCELLED);
	check_str(c.first.message, "cancelled while waiting for the moon");
	fiber_cancel(f); /* harmless */
}

FIBER_TEST(cancel_before_the_start)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	struct cancelled c = {};

	fiber_start("victim", wait_and_clean_up, &c, &f);
	fiber_stop(f);
	check(fiber_is_done(f) && c.cleaned_up); /* it ran, as it owns what it was given */
	fiber_stop(f);
}

static int shielded_from_the_start(void *userdata)
{
	struct deadline_scope test;
	struct fiber_shield shield, nested;
	struct error err = {};
	struct waiters w = {};

	deadline_enter(&test, 5 * MS, ERROR_DEADLINE, "the test's");
	fiber_shield_enter(&shield, 60 * MS);
	fiber_shield_enter(&nested, NS_PER_SEC);
	check(fiber_sleep(20 * MS, NULL) == 0); /* neither the deadline nor the cancelling below */
	check(fiber_is_cancelled(fiber_self()));
	fiber_shield_leave(&nested);
	check(fiber_sleep(10 * MS, NULL) == 0);
	check(fiber_wait(&w, NS_FOREVER, "the moon", &err) == -ETIMEDOUT);
	check(err.kind == ERROR_TIMEOUT);
	check_str(err.message,
		  "the clean-up's time-out of 60 ms passed while waiting for the moon");
	fiber_shield_leave(&shield);
	check(fiber_sleep(0, NULL) == -ECANCELED);
	deadline_leave(&test);
	return 0;
}

FIBER_TEST(a_shield_has_a_deadline_of_its_own)
{
	_cleanup_fiber_ struct fiber *f = NULL;

	fiber_start("shielded", shielded_from_the_start, NULL, &f);
	check(fiber_sleep(10 * MS, NULL) == 0);
	fiber_cancel(f);
	check(fiber_join(f, NS_FOREVER, NULL) == 0);
}

FIBER_TEST(a_wake_before_the_cancelling_is_not_lost)
{
	_cleanup_buf_ struct buf log = {};
	_cleanup_fiber_ struct fiber *f = NULL;
	struct letter l = {&log, 'x'};

	fiber_start("woken", pass_gate, &l, &f);
	fiber_yield();
	waiters_wake_one(&gate);
	fiber_cancel(f);
	fiber_stop(f);
	check_str(buf_str(&log), "x");
}

static int sleep_long(void *userdata)
{
	return fiber_sleep(NS_PER_SEC * 10, NULL);
}

FIBER_TEST(join_times_out_without_cancelling)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	struct error err = {};

	fiber_start("sleeper", sleep_long, NULL, &f);
	check(fiber_join(f, 10 * MS, &err) == -ETIMEDOUT);
	check_str(err.message, "timed out after 10 ms waiting for 'sleeper' to end");
	check(!fiber_is_done(f) && !fiber_is_cancelled(f));
	fiber_stop(f);
	check(fiber_result(f) == -ECANCELED);
}

static int stop_other(void *userdata)
{
	fiber_stop(userdata);
	return fiber_sleep(0, NULL);
}

FIBER_TEST(a_cancelled_fiber_can_stop_its_children)
{
	_cleanup_fiber_ struct fiber *child = NULL;
	_cleanup_fiber_ struct fiber *parent = NULL;

	fiber_start("child", sleep_long, NULL, &child);
	fiber_start("parent", stop_other, child, &parent);
	fiber_stop(parent);
	check(fiber_is_done(child) && fiber_result(parent) == -ECANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_is_first_in_first_out),
		cmocka_unit_test(waiters_are_woken_in_order),
		cmocka_unit_test(ten_thousand_one_after_the_other),
		cmocka_unit_test(a_thousand_at_once),
		cmocka_unit_test(fibers_that_nobody_waits_for_end_before_the_loop),
		cmocka_unit_test(what_a_parked_fiber_holds_is_no_leak),
		cmocka_unit_test(sleep_takes_its_time),
		cmocka_unit_test(timed_wait_says_what_it_waited_for),
		cmocka_unit_test(wait_until_names_the_whole_time_out),
		cmocka_unit_test(a_timer_of_an_earlier_wait_does_not_end_a_later_one),
		cmocka_unit_test(a_timer_of_an_earlier_wait_does_not_end_an_endless_one),
		cmocka_unit_test(inner_deadline_counts_when_earlier),
		cmocka_unit_test(inner_deadline_never_outlives_the_outer),
		cmocka_unit_test(own_time_out_is_a_time_out_inside_a_later_deadline),
		cmocka_unit_test(a_child_inherits_a_copy),
		cmocka_unit_test(deadlines_saturate),
		cmocka_unit_test(cancel_ends_this_wait_and_every_later_one),
		cmocka_unit_test(cancel_before_the_start),
		cmocka_unit_test(a_shield_has_a_deadline_of_its_own),
		cmocka_unit_test(a_wake_before_the_cancelling_is_not_lost),
		cmocka_unit_test(join_times_out_without_cancelling),
		cmocka_unit_test(a_cancelled_fiber_can_stop_its_children),
	};

	return cmocka_run_group_tests_name("fiber", tests, NULL, NULL);
}
