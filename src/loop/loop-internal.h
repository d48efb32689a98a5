/* SPDX-License-Identifier: MIT */
/* What the files of src/loop share with each other and with nobody else. */
#pragma once

#include <sys/types.h>

#include "base/error.h"

struct spawn_opts;

/* fiber.c; called by loop_init() and loop_done(). */
int fibers_init(struct error *err);
void fibers_done(void);
/* Cancels every fiber; the loop exits (with code 0) when the last one has ended. */
void fibers_drain(void);

/* Keeps the running fiber from starving the loop when its I/O never has to wait: counts a step,
 * and every so many steps goes to the back of the ready queue. -ECANCELED if it was cancelled,
 * -ETIMEDOUT if an enclosing deadline has passed; `what` as in fiber_wait(). */
int fiber_step(const char *what, struct error *err);

/* process.c: kills and reaps children whose objects were freed while they ran. */
void processes_done(void);

/* spawn.c: starts the child and has it execute argv. 0 only when the exec has happened. */
int spawn_child(char *const *argv, const char *name, const struct spawn_opts *opts, pid_t *ret_pid,
		int *ret_pidfd, struct error *err);
