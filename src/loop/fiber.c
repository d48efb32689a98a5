/* SPDX-License-Identifier: MIT */
/* Fibers: switching, waiting, deadlines, cancelling. */
#include "loop/fiber.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include "base/log.h"
#include "base/str.h"
#include "loop/fiber-stack.h"
#include "loop/loop-internal.h"
#include "loop/loop.h"

/*
 * Theory of operation.
 *
 * All fibers live on one thread. The main stack runs sd-event; its callbacks only mark fibers
 * ready. One deferred event source (`ready_source`) runs what is ready, first in, first out; what
 * becomes ready meanwhile has its turn in the next round, after the other event sources had
 * theirs. So a fiber is entered from the main stack only, and leaves to the main stack only.
 *
 *	         fiber_start            dispatch               fn returns
 *	(none) --------------> READY ---------------> RUNNING --------------> DONE
 *	                         ^                      |
 *	                         |   wake, time-out,    | fiber_wait
 *	                         +---- cancel ------ WAITING
 *
 * A waiting fiber is on at most one `struct waiters` (a doubly linked list through the fiber) and
 * has at most one armed timer. Whatever ends the wait first takes it off the list, disarms the
 * timer, and notes the cause; later causes are ignored. So a wake is never lost: a fiber that was
 * woken and is cancelled before it runs sees the wake now and the cancellation at its next wait.
 *
 * Deadlines: the scopes of a fiber are a list through structs on its own stack; the outermost one
 * is `inherited`, in the fiber itself, because the starter's scopes may be gone before the child
 * ends. A shield cuts the list (its scope has no outer one) until it is left.
 *
 * Memory: the scheduler owns one reference from start to end; the stack is given back when the
 * function has returned, by the main stack, as nobody can free the stack he stands on.
 *
 * Limits: FIBER_STACK_BYTES for each stack, a guard page below. No longjmp across stacks.
 */

/* Steps of I/O that need not wait before a fiber lets the others run. */
#define STEPS_PER_TURN 32

enum fiber_state { FIBER_READY, FIBER_RUNNING, FIBER_WAITING, FIBER_DONE };
enum wake_cause { WAKE_NONE, WAKE_WOKEN, WAKE_TIMEOUT, WAKE_CANCELLED };

struct fiber {
	unsigned n_ref;
	enum fiber_state state;
	enum wake_cause cause;
	bool cancelled;
	bool cancel_masked; /* inside a shield */
	unsigned steps;
	int result;
	fiber_fn fn;
	void *userdata;
	char *name;

	struct fiber_stack *stack; /* NULL before the first run and after the end */
	ucontext_t context;

	struct waiters *queue; /* the one it waits on */
	struct fiber *queue_prev, *queue_next;
	struct fiber *ready_next;
	struct fiber *all_prev, *all_next;
	sd_event_source *timer; /* made at the first timed wait, then reused */

	struct deadline_scope *scopes; /* innermost first */
	struct deadline_scope inherited;
	struct waiters joiners;
};

static struct {
	sd_event_source *ready_source;
	struct fiber *ready_first, *ready_last;
	size_t n_ready;
	struct fiber *all; /* started and not yet ended */
	struct fiber *current;
	ucontext_t main_context;
	struct stack_bounds main_bounds;
	bool draining;
} sched;

struct fiber *fiber_self(void)
{
	return sched.current;
}

const char *fiber_name(const struct fiber *f)
{
	return f->name;
}

struct fiber *fiber_ref(struct fiber *f)
{
	assert(f->n_ref > 0);
	f->n_ref++;
	return f;
}

struct fiber *fiber_unref(struct fiber *f)
{
	if (!f)
		return NULL;
	assert(f->n_ref > 0);
	if (--f->n_ref > 0)
		return NULL;
	assert(f->state == FIBER_DONE && !f->stack);
	sd_event_source_disable_unref(f->timer);
	free(f->name);
	free(f);
	return NULL;
}

void cleanup_fiber(struct fiber **f)
{
	fiber_unref(*f);
}

bool fiber_is_done(const struct fiber *f)
{
	return f->state == FIBER_DONE;
}

int fiber_result(const struct fiber *f)
{
	assert(f->state == FIBER_DONE);
	return f->result;
}

bool fiber_is_cancelled(const struct fiber *f)
{
	return f->cancelled;
}

/* --- The ready queue and the switch --------------------------------------------------------- */

static void make_ready(struct fiber *f)
{
	f->state = FIBER_READY;
	f->ready_next = NULL;
	if (sched.ready_last)
		sched.ready_last->ready_next = f;
	else
		sched.ready_first = f;
	sched.ready_last = f;
	if (sched.n_ready++ == 0)
		(void)sd_event_source_set_enabled(sched.ready_source, SD_EVENT_ONESHOT);
}

static struct fiber *take_ready(void)
{
	struct fiber *f = sched.ready_first;

	sched.ready_first = f->ready_next;
	if (!sched.ready_first)
		sched.ready_last = NULL;
	sched.n_ready--;
	return f;
}

/*
 * As swapcontext(3), in two halves: ASan's interceptor for that one prints a warning, and wipes the
 * shadow of the whole stack at each switch, which our own annotations make unnecessary.
 */
static __attribute__((noinline)) void switch_context(ucontext_t *from, const ucontext_t *to)
{
	volatile bool is_back = false;

	(void)getcontext(from); /* returns a second time when somebody resumes it */
	if (is_back)
		return;
	is_back = true;
	(void)setcontext(to);
	abort();
}

/* Leaves the running fiber for the main stack; returns when it is resumed. */
static void switch_to_main(struct fiber *f)
{
	void *fake_stack = NULL;

	/* An ending fiber has no use for its fake stack any more: NULL has ASan free it. */
	switch_begin(f->state == FIBER_DONE ? NULL : &fake_stack, &sched.main_bounds);
	switch_context(&f->context, &sched.main_context);
	switch_end(fake_stack, NULL);
}

static void fiber_entry(void)
{
	struct fiber *f = sched.current;

	switch_end(NULL, &sched.main_bounds);
	f->result = f->fn(f->userdata);
	assert(f->scopes == &f->inherited); /* each scope that was entered was left */
	f->state = FIBER_DONE;
	switch_to_main(f);
	abort(); /* nobody resumes what is done */
}

static void finish(struct fiber *f)
{
	stack_release(TAKE_PTR(f->stack));
	f->timer = sd_event_source_disable_unref(f->timer);
	if (f->all_prev)
		f->all_prev->all_next = f->all_next;
	else
		sched.all = f->all_next;
	if (f->all_next)
		f->all_next->all_prev = f->all_prev;
	waiters_wake_all(&f->joiners);
	fiber_unref(f);
	if (sched.draining && !sched.all)
		loop_exit(0);
}

static void resume(struct fiber *f)
{
	void *fake_stack = NULL;

	assert(!sched.current);
	if (!f->stack) {
		f->stack = stack_acquire();
		getcontext(&f->context);
		f->context.uc_stack.ss_sp = f->stack->bounds.bottom;
		f->context.uc_stack.ss_size = f->stack->bounds.size;
		f->context.uc_link = NULL;
		makecontext(&f->context, fiber_entry, 0);
	}
	f->state = FIBER_RUNNING;
	f->steps = 0;
	sched.current = f;
	switch_begin(&fake_stack, &f->stack->bounds);
	switch_context(&sched.main_context, &f->context);
	switch_end(fake_stack, NULL);
	sched.current = NULL;
	if (f->state == FIBER_DONE)
		finish(f);
}

static int on_ready(sd_event_source *source, void *userdata)
{
	/* Only those that were ready before: the loop looks at its other sources in between. */
	for (size_t n = sched.n_ready; n > 0; n--)
		resume(take_ready());
	if (sched.n_ready > 0)
		(void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	return 0;
}

int fibers_init(struct error *err)
{
	int r = sd_event_add_defer(loop_event(), &sched.ready_source, on_ready, NULL);

	/* Behind everything else. A deferred source counts as pending since it was made (so
	 * in systemd 252), which among sources of one priority makes it first for ever: fibers that
	 * are always ready would starve timers and I/O. The other way round nothing starves: all
	 * our other sources fall silent until a fiber has run. */
	if (r >= 0)
		r = sd_event_source_set_priority(sched.ready_source, SD_EVENT_PRIORITY_NORMAL + 1);
	if (r >= 0)
		r = sd_event_source_set_enabled(sched.ready_source, SD_EVENT_OFF);
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot prepare the ready queue");
	return 0;
}

void fibers_drain(void)
{
	if (!sched.all)
		return;
	sched.draining = true;
	for (struct fiber *f = sched.all; f; f = f->all_next) {
		log_debug("fiber '%s' is still there at the end, cancelling it", f->name);
		fiber_cancel(f);
	}
	(void)loop_run();
	sched.draining = false;
}

void fibers_done(void)
{
	assert(!sched.current);
	while (sched.n_ready > 0) {
		struct fiber *f = take_ready();

		assert(!f->stack); /* a fiber in mid-work at the end of the loop is our bug */
		f->state = FIBER_DONE;
		f->result = -ECANCELED;
		finish(f);
	}
	assert(!sched.all);
	sched.ready_source = sd_event_source_disable_unref(sched.ready_source);
	stack_pool_done();
}

void fiber_start(const char *name, fiber_fn fn, void *userdata, struct fiber **ret)
{
	struct fiber *self = sched.current;
	struct fiber *f = xcalloc(1, sizeof(*f));

	f->n_ref = ret ? 2 : 1;
	f->cancelled = sched.draining; /* nothing new begins at the end */
	f->fn = fn;
	f->userdata = userdata;
	f->name = xstrdup(name ? name : "fiber");
	f->inherited.at_ns = NS_FOREVER;
	f->scopes = &f->inherited;
	if (self) {
		const struct deadline_scope *s = self->scopes, *earliest = s;

		assert(s); /* the innermost, "inherited", is always there */
		for (; s; s = s->outer)
			if (s->at_ns <= earliest->at_ns)
				earliest = s;
		f->inherited = *earliest;
		f->inherited.outer = NULL;
	}
	f->all_next = sched.all;
	if (sched.all)
		sched.all->all_prev = f;
	sched.all = f;
	make_ready(f);
	if (ret)
		*ret = f;
}

/* --- Waiting -------------------------------------------------------------------------------- */

static void queue_push(struct waiters *w, struct fiber *f)
{
	f->queue = w;
	f->queue_prev = w->last;
	f->queue_next = NULL;
	if (w->last)
		w->last->queue_next = f;
	else
		w->first = f;
	w->last = f;
}

static void queue_remove(struct fiber *f)
{
	struct waiters *w = f->queue;

	if (!w)
		return;
	if (f->queue_prev)
		f->queue_prev->queue_next = f->queue_next;
	else
		w->first = f->queue_next;
	if (f->queue_next)
		f->queue_next->queue_prev = f->queue_prev;
	else
		w->last = f->queue_prev;
	f->queue = NULL;
	f->queue_prev = f->queue_next = NULL;
}

/* Ends the wait of f. Only the first cause has an effect. */
static void end_wait(struct fiber *f, enum wake_cause cause)
{
	if (f->state != FIBER_WAITING)
		return;
	f->cause = cause;
	queue_remove(f);
	if (f->timer)
		(void)sd_event_source_set_enabled(f->timer, SD_EVENT_OFF);
	make_ready(f);
}

static int on_wait_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	end_wait(userdata, WAKE_TIMEOUT);
	return 0;
}

static void arm_timer(struct fiber *f, uint64_t at_ns)
{
	/* Upwards, so that the time has really passed when the timer says so. */
	uint64_t usec = at_ns / NS_PER_US + (at_ns % NS_PER_US != 0);
	int r;

	if (!f->timer) {
		r = sd_event_add_time(loop_event(), &f->timer, CLOCK_MONOTONIC, usec, 1,
				      on_wait_timer, f);
		assert(r >= 0);
		return;
	}
	r = sd_event_source_set_time(f->timer, usec);
	assert(r >= 0);
	r = sd_event_source_set_enabled(f->timer, SD_EVENT_ONESHOT);
	assert(r >= 0);
}

/* The scope that counts for f: the earliest; of equals the outermost. */
static const struct deadline_scope *effective_scope(const struct fiber *f)
{
	const struct deadline_scope *earliest = f->scopes;

	for (const struct deadline_scope *s = f->scopes; s; s = s->outer)
		if (s->at_ns <= earliest->at_ns)
			earliest = s;
	return earliest;
}

static int fail_cancelled(const char *what, struct error *err)
{
	return error_set(err, ERROR_CANCELLED, ECANCELED, "cancelled while waiting for %s", what);
}

static int fail_scope(const struct deadline_scope *scope, const char *what, struct error *err)
{
	return error_set(err, scope->kind, ETIMEDOUT, "%s passed while waiting for %s", scope->what,
			 what);
}

static int fail_own(uint64_t timeout_ns, const char *what, struct error *err)
{
	char duration[FORMAT_MAX];

	return error_set(err, ERROR_TIMEOUT, ETIMEDOUT, "timed out after %s waiting for %s",
			 format_duration(timeout_ns, duration), what);
}

/*
 * The one place where fibers wait. Parks the running fiber on w (NULL: only time and cancelling
 * end the wait) until at_ns or the effective scope's time, whichever is earlier. Sets *ret_scope
 * to that scope if it was the one that ended the wait.
 */
static enum wake_cause park(struct waiters *w, uint64_t at_ns,
			    const struct deadline_scope **ret_scope)
{
	struct fiber *f = sched.current;
	const struct deadline_scope *scope;
	uint64_t until;

	assert(f && f->state == FIBER_RUNNING); /* only fibers wait, never the main stack */
	*ret_scope = NULL;
	if (f->cancelled && !f->cancel_masked)
		return WAKE_CANCELLED;
	scope = effective_scope(f);
	until = MIN(at_ns, scope->at_ns);
	if (until == NS_FOREVER || until > now_ns()) {
		f->state = FIBER_WAITING;
		f->cause = WAKE_NONE;
		if (w)
			queue_push(w, f);
		if (until != NS_FOREVER)
			arm_timer(f, until);
		switch_to_main(f);
	} else {
		f->cause = WAKE_TIMEOUT;
	}
	if (f->cause == WAKE_TIMEOUT && scope->at_ns < at_ns)
		*ret_scope = scope;
	return f->cause;
}

int fiber_wait_until(struct waiters *w, uint64_t deadline_ns, uint64_t timeout_ns, const char *what,
		     struct error *err)
{
	const struct deadline_scope *scope;

	/* `what` may live in an object that goes away meanwhile, so the message needs a copy. */
	char copy[256];

	(void)snprintf(copy, sizeof(copy), "%s", what);
	switch (park(w, deadline_ns, &scope)) {
	case WAKE_CANCELLED:
		return fail_cancelled(copy, err);
	case WAKE_TIMEOUT:
		return scope ? fail_scope(scope, copy, err) : fail_own(timeout_ns, copy, err);
	default:
		return 0;
	}
}

int fiber_wait(struct waiters *w, uint64_t timeout_ns, const char *what, struct error *err)
{
	return fiber_wait_until(w, deadline_in(timeout_ns), timeout_ns, what, err);
}

int fiber_sleep(uint64_t ns, struct error *err)
{
	const struct deadline_scope *scope;

	switch (park(NULL, deadline_in(ns), &scope)) {
	case WAKE_CANCELLED:
		return error_set(err, ERROR_CANCELLED, ECANCELED, "cancelled while sleeping");
	case WAKE_TIMEOUT:
		if (scope)
			return error_set(err, scope->kind, ETIMEDOUT, "%s passed while sleeping",
					 scope->what);
		return 0;
	default:
		return 0;
	}
}

void fiber_yield(void)
{
	struct fiber *f = sched.current;

	assert(f);
	make_ready(f);
	switch_to_main(f);
}

int fiber_step(const char *what, struct error *err)
{
	struct fiber *f = sched.current;

	assert(f);
	if (++f->steps >= STEPS_PER_TURN) {
		const struct deadline_scope *scope;

		fiber_yield();
		scope = effective_scope(f);
		if (scope->at_ns != NS_FOREVER && scope->at_ns <= now_ns())
			return fail_scope(scope, what, err);
	}
	if (f->cancelled && !f->cancel_masked)
		return fail_cancelled(what, err);
	return 0;
}

void waiters_wake_one(struct waiters *w)
{
	if (w->first)
		end_wait(w->first, WAKE_WOKEN);
}

void waiters_wake_all(struct waiters *w)
{
	while (w->first)
		end_wait(w->first, WAKE_WOKEN);
}

bool waiters_empty(const struct waiters *w)
{
	return !w->first;
}

/* --- Cancelling and joining ----------------------------------------------------------------- */

void fiber_cancel(struct fiber *f)
{
	if (!f || f->state == FIBER_DONE || f->cancelled)
		return;
	f->cancelled = true;
	if (!f->cancel_masked)
		end_wait(f, WAKE_CANCELLED);
}

int fiber_join(struct fiber *f, uint64_t timeout_ns, struct error *err)
{
	_cleanup_fiber_ struct fiber *ref = NULL;
	uint64_t deadline = deadline_in(timeout_ns);
	char what[128];
	int r;

	assert(f != sched.current);
	if (f->state == FIBER_DONE)
		return 0;
	ref = fiber_ref(f);
	(void)snprintf(what, sizeof(what), "'%s' to end", f->name);
	while (f->state != FIBER_DONE) {
		r = fiber_wait_until(&f->joiners, deadline, timeout_ns, what, err);
		if (r < 0)
			return r;
	}
	return 0;
}

void fiber_stop(struct fiber *f)
{
	struct fiber_shield shield;

	if (!f || f->state == FIBER_DONE)
		return;
	fiber_cancel(f);
	/* Without a limit: every wait of a cancelled fiber ends at once, or has a shield's limit.
	 */
	fiber_shield_enter(&shield, NS_FOREVER);
	(void)fiber_join(f, NS_FOREVER, NULL);
	fiber_shield_leave(&shield);
}

/* --- Deadlines ------------------------------------------------------------------------------ */

uint64_t deadline_in(uint64_t timeout_ns)
{
	uint64_t at;

	if (__builtin_add_overflow(now_ns(), timeout_ns, &at))
		return NS_FOREVER;
	return at;
}

uint64_t timeout_left(uint64_t deadline_ns)
{
	uint64_t now;

	if (deadline_ns == NS_FOREVER)
		return NS_FOREVER;
	now = now_ns();
	return deadline_ns > now ? deadline_ns - now : 0;
}

void deadline_enter(struct deadline_scope *s, uint64_t timeout_ns, enum error_kind kind,
		    const char *what)
{
	struct fiber *f = sched.current;

	assert(f);
	s->at_ns = deadline_in(timeout_ns);
	s->kind = kind;
	(void)snprintf(s->what, sizeof(s->what), "%s", what);
	s->outer = f->scopes;
	f->scopes = s;
}

void deadline_leave(struct deadline_scope *s)
{
	struct fiber *f = sched.current;

	assert(f && f->scopes == s);
	f->scopes = s->outer;
}

uint64_t deadline_current(void)
{
	return sched.current ? effective_scope(sched.current)->at_ns : NS_FOREVER;
}

void fiber_shield_enter(struct fiber_shield *s, uint64_t timeout_ns)
{
	struct fiber *f = sched.current;
	char duration[FORMAT_MAX];
	char what[64];

	assert(f);
	(void)snprintf(what, sizeof(what), "the clean-up's time-out of %s",
		       format_duration(timeout_ns, duration));
	deadline_enter(&s->scope, timeout_ns, ERROR_TIMEOUT, what);
	s->shielded = TAKE_PTR(s->scope.outer);
	s->was_cancelled_masked = f->cancel_masked;
	f->cancel_masked = true;
}

void fiber_shield_leave(struct fiber_shield *s)
{
	struct fiber *f = sched.current;

	deadline_leave(&s->scope);
	f->scopes = s->shielded;
	f->cancel_masked = s->was_cancelled_masked;
}
