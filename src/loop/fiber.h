/* SPDX-License-Identifier: MIT */
/* Fibers: functions with a stack of their own that look blocking and are not. */
#pragma once

#include "base/error.h"

/*
 * A fiber runs until it waits; then the loop goes on. All waiting goes through fiber_wait(), so
 * every wait has a deadline, can be cancelled, and says what it waited for.
 *
 * Deadlines nest: a fiber has a stack of them (deadline_enter/leave), and each wait has its own
 * time-out. The earliest counts. If the wait's own time-out expires, the error is ERROR_TIMEOUT;
 * if an enclosing one does, it is of the kind which that scope was entered with
 * (ERROR_TIMEOUT, or ERROR_DEADLINE for a test's own, which nobody can catch). If both are at the
 * same instant, the wait's own counts.
 *
 * Cancelling: fiber_cancel() makes the current wait, and every later one, return -ECANCELED
 * (ERROR_CANCELLED), until the fiber has ended. Clean-up that must wait runs under
 * fiber_shield_enter/leave with a deadline of its own.
 */

/* Address space; of memory a fiber takes what it touches. Lua lets 200 C calls nest
 * (LUAI_MAXCCALLS), each of up to 2 KiB in Lua 5.4's own string.gsub: 413 KiB were measured, and
 * our own functions are among such calls (tests/unit/lua/test-call.c). */
#define FIBER_STACK_BYTES (1024 * 1024)

struct fiber;
struct fiber_queue; /* fibers that wait for one thing */

typedef int (*fiber_fn)(void *userdata);

/* Starts a fiber; it first runs in the next round of the loop. The caller gets a reference if
 * ret is not NULL, else nobody waits for it. A child inherits the starter's deadlines. */
void fiber_start(const char *name, fiber_fn fn, void *userdata, struct fiber **ret);
struct fiber *fiber_self(void); /* NULL on the main stack */
const char *fiber_name(const struct fiber *f);
struct fiber *fiber_ref(struct fiber *f);
struct fiber *fiber_unref(struct fiber *f); /* returns NULL */
void cleanup_fiber(struct fiber **f);
#define _cleanup_fiber_ _cleanup_(cleanup_fiber)
bool fiber_is_done(const struct fiber *f);
int fiber_result(const struct fiber *f); /* what fn returned; only when done */

void fiber_cancel(struct fiber *f); /* idempotent; harmless when done */
bool fiber_is_cancelled(const struct fiber *f);
/* Waits until f has ended (not cancelled by an expiry of this wait). 0 when it has. */
int fiber_join(struct fiber *f, uint64_t timeout_ns, struct error *err);
/* Cancels and waits, shielded; for clean-up. */
void fiber_stop(struct fiber *f);

/* A thing to wait for. Embed it; zero is initialised. */
struct waiters {
	struct fiber *first, *last;
};
/* Parks the calling fiber on w until woken. `timeout_ns` is relative, NS_FOREVER for none;
 * `what` completes "waiting for …" in the time-out's message and is copied.
 * 0, -ETIMEDOUT, -ECANCELED. A wake says only "look again": callers loop on their condition:
 *
 *	while (!p->exited) {
 *		r = fiber_wait(&p->waiters, timeout_left(deadline), "process to end", err);
 *		if (r < 0)
 *			return r;
 *	}
 */
int fiber_wait(struct waiters *w, uint64_t timeout_ns, const char *what, struct error *err);
/* The same for loops like the one above: the deadline is absolute, and `timeout_ns` is what the
 * user gave, for the message (else it would tell what was left at the last look). */
int fiber_wait_until(struct waiters *w, uint64_t deadline_ns, uint64_t timeout_ns, const char *what,
		     struct error *err);
void waiters_wake_one(struct waiters *w);
void waiters_wake_all(struct waiters *w);
bool waiters_empty(const struct waiters *w);

int fiber_sleep(uint64_t ns, struct error *err);
void fiber_yield(void); /* to the back of the ready queue */

/* An absolute deadline from a relative time-out; saturates at NS_FOREVER. */
uint64_t deadline_in(uint64_t timeout_ns);
/* What is left until an absolute deadline: 0 if passed, NS_FOREVER if none. */
uint64_t timeout_left(uint64_t deadline_ns);

struct deadline_scope {
	uint64_t at_ns;
	enum error_kind kind;
	char what[64]; /* "the test's time-out of 10 min" */
	struct deadline_scope *outer;
};
/* Bounds every wait of the calling fiber, and of the fibers that it starts, until left. */
void deadline_enter(struct deadline_scope *s, uint64_t timeout_ns, enum error_kind kind,
		    const char *what);
void deadline_leave(struct deadline_scope *s);
/* The effective deadline of the calling fiber (absolute ns; NS_FOREVER if none). */
uint64_t deadline_current(void);

/* Clean-up: outer deadlines and cancellation do not apply inside, this one does. */
struct fiber_shield {
	struct deadline_scope scope;
	struct deadline_scope *shielded; /* the scopes that do not apply inside */
	bool was_cancelled_masked;
};
void fiber_shield_enter(struct fiber_shield *s, uint64_t timeout_ns);
void fiber_shield_leave(struct fiber_shield *s);
