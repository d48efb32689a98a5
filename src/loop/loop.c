/* SPDX-License-Identifier: MIT */
/* The one event loop: start, run, exit, timers. */
#include "loop/loop.h"

#include <assert.h>
#include <signal.h>
#include <time.h>

#include "base/str.h"
#include "loop/fiber.h"
#include "loop/loop-internal.h"

static struct {
	sd_event *event;
	bool running;
	bool exit_requested;
	int exit_code;
} loop;

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

int loop_init(struct error *err)
{
	int r;

	assert(!loop.event);
	/* A closed pipe is an errno for us, never a death. */
	signal(SIGPIPE, SIG_IGN);
	/* Inherited as ignored (some supervisors do that), the kernel would reap our children. */
	signal(SIGCHLD, SIG_DFL);
	r = sd_event_new(&loop.event);
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot make the event loop");
	r = fibers_init(err);
	if (r < 0)
		loop.event = sd_event_unref(loop.event);
	return r;
}

void loop_done(void)
{
	if (!loop.event)
		return;
	assert(!loop.running);
	fibers_done();
	processes_done();
	loop.event = sd_event_unref(loop.event);
}

sd_event *loop_event(void)
{
	assert(loop.event);
	return loop.event;
}

int loop_run(void)
{
	assert(loop.event && !loop.running);
	assert(!fiber_self());
	loop.running = true;
	/* Not sd_event_loop(): what went through sd_event_exit() cannot be run a second time. */
	while (!loop.exit_requested) {
		int r = sd_event_run(loop.event, UINT64_MAX);

		/* -ESTALE: somebody called sd_event_exit() on the event itself. */
		if (r < 0 && r != -EINTR) {
			loop.exit_code = r;
			break;
		}
	}
	loop.running = false;
	loop.exit_requested = false;
	return loop.exit_code;
}

void loop_exit(int code)
{
	assert(loop.event);
	if (loop.exit_requested)
		return; /* the first reason counts */
	loop.exit_requested = true;
	loop.exit_code = code;
}

struct main_call {
	int (*fn)(void *userdata);
	void *userdata;
	int result;
};

static int run_main_fiber(void *userdata)
{
	struct main_call *call = userdata;

	call->result = call->fn(call->userdata);
	loop_exit(0);
	return call->result;
}

int loop_main(const char *name, int (*fn)(void *userdata), void *userdata)
{
	struct main_call call = {.fn = fn, .userdata = userdata};
	struct error err = {};
	int r = loop_init(&err);

	if (r < 0)
		return r;
	fiber_start(name, run_main_fiber, &call, NULL);
	(void)loop_run();
	/* Fibers that nobody waits for own things as well: they end before the loop does. */
	fibers_drain();
	loop_done();
	return call.result;
}

struct timer {
	sd_event_source *source;
	void (*fn)(void *userdata);
	void *userdata;
};

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct timer *t = userdata;

	t->fn(t->userdata); /* may free t */
	return 0;
}

struct timer *timer_start(uint64_t deadline_ns, void (*fn)(void *userdata), void *userdata)
{
	struct timer *t = xcalloc(1, sizeof(*t));
	uint64_t usec = deadline_ns / NS_PER_US + (deadline_ns % NS_PER_US != 0);
	int r;

	t->fn = fn;
	t->userdata = userdata;
	if (deadline_ns == NS_FOREVER)
		return t;
	r = sd_event_add_time(loop_event(), &t->source, CLOCK_MONOTONIC, usec, 1, on_timer, t);
	assert(r >= 0);
	return t;
}

void timer_free(struct timer *t)
{
	if (!t)
		return;
	sd_event_source_disable_unref(t->source);
	free(t);
}
