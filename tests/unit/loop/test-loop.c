/* SPDX-License-Identifier: MIT */
/* The loop's life and its timers. */
#include "loop/loop.h"

#include "fiber-test.h"
#include "loop/fiber.h"

static struct timer *timer;
static int fired;

static void on_fire(void *userdata)
{
	fired++;
	timer_free(timer); /* from its own callback */
	timer = NULL;
	loop_exit(*(int *)userdata);
}

static void timer_fires_on_the_main_stack(void **state)
{
	int code = 5;
	uint64_t start = now_ns();

	assert_int_equal(loop_init(NULL), 0);
	timer = timer_start(deadline_in(10 * NS_PER_MS), on_fire, &code);
	fired = 0;
	assert_int_equal(loop_run(), 5);
	assert_int_equal(fired, 1);
	assert_true(now_ns() - start >= 10 * NS_PER_MS);
	loop_done();
}

static void a_loop_can_run_again(void **state)
{
	int code = 1;

	assert_int_equal(loop_init(NULL), 0);
	for (int i = 0; i < 3; i++) {
		timer = timer_start(0, on_fire, &code);
		assert_int_equal(loop_run(), 1);
	}
	loop_done();
}

static void freed_timer_does_not_fire(void **state)
{
	int code = 0;
	struct timer *t;

	assert_int_equal(loop_init(NULL), 0);
	fired = 0;
	t = timer_start(deadline_in(NS_PER_MS), on_fire, &code);
	timer_free(t);
	timer_free(NULL);
	timer_free(timer_start(NS_FOREVER, on_fire, &code));
	code = 3;
	timer = timer_start(deadline_in(5 * NS_PER_MS), on_fire, &code);
	assert_int_equal(loop_run(), 3);
	assert_int_equal(fired, 1);
	loop_done();
}

static int set_flag(void *userdata)
{
	*(bool *)userdata = true;
	return 0;
}

static void unrun_fibers_are_dropped(void **state)
{
	bool ran = false;
	struct fiber *f;

	assert_int_equal(loop_init(NULL), 0);
	fiber_start("unrun", set_flag, &ran, &f);
	loop_done();
	assert_true(fiber_is_done(f));
	assert_int_equal(fiber_result(f), -ECANCELED);
	assert_false(ran);
	fiber_unref(f);
	loop_done(); /* harmless */
}

static int say_nine(void *userdata)
{
	return 9;
}

static void loop_main_returns_what_the_fiber_did(void **state)
{
	assert_int_equal(loop_main("nine", say_nine, NULL), 9);
	assert_null(fiber_self());
	assert_int_equal(deadline_current(), NS_FOREVER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timer_fires_on_the_main_stack),
		cmocka_unit_test(a_loop_can_run_again),
		cmocka_unit_test(freed_timer_does_not_fire),
		cmocka_unit_test(unrun_fibers_are_dropped),
		cmocka_unit_test(loop_main_returns_what_the_fiber_did),
	};

	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
