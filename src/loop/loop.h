/* SPDX-License-Identifier: MIT */
/* The event loop: one per process, libsystemd's sd-event underneath. */
#pragma once

#include <systemd/sd-event.h>

#include "base/error.h"

/*
 * One loop, on the main stack. Code outside src/loop uses fibers, `struct io`, `process` and
 * timers; sd-event itself is only for signals and special sources (loop_event()).
 * Callbacks never resume a fiber: they mark it ready (fiber_wake), and one deferred source runs
 * the ready fibers first in, first out, so that the order is reproducible.
 */

int loop_init(struct error *err);
void loop_done(
	void); /* every fiber must have ended or is destroyed unrun; asserts none is running */
sd_event *loop_event(void);
/* Runs until loop_exit(); returns its code. Main stack only. */
int loop_run(void);
void loop_exit(int code);
/* The convenience that most programs are: init, one fiber running fn, run until it ends, done.
 * Returns what fn returned. */
int loop_main(const char *name, int (*fn)(void *userdata), void *userdata);

/* CLOCK_MONOTONIC, nanoseconds. */
uint64_t now_ns(void);

/* One-shot timer calling back on the main stack; for fibers use fiber_sleep. */
struct timer;
struct timer *timer_start(uint64_t deadline_ns, void (*fn)(void *userdata), void *userdata);
void timer_free(struct timer *t); /* NULL is fine; may be called from its own callback */
