/* SPDX-License-Identifier: MIT */
/* One run of QEMU: from its exec to its reaping, and what it says in between. */
#pragma once

#include "backend/qemu/qmp.h"
#include "loop/process.h"
#include "machine/backend.h"

/*
 * A run has a fiber that outlives everybody else's interest in it, the undertaker: it waits for the
 * process to end, reads what is left in QMP and on stderr, fails the calls under way with the
 * reason, reports on_exit, and frees the run. So there is one place where a run ends, whoever or
 * whatever ended the process.
 *
 * The owner's pointer to the run (`slot`) is cleared by the undertaker right before on_exit. A
 * fiber that waits in between holds no pointer to the run, only the undertaker's fiber.
 */
struct qemu_run;

struct qemu_run_opts {
	char *const *argv;
	const struct spawn_fd *fds;
	size_t n_fds;
	const char *hint_args; /* the user's own arguments, as text for a hint; NULL: none */
	/* The firmware resets the machine again after each reset (see argv.c): what follows a reset
	 * within RESET_ECHO_NS is that, and not reported. */
	bool resets_echo;
	const struct vm_events *events;
	void *userdata;
};

/* Takes the socket qmp_fd (our end) in any case. *slot must live until it is cleared. */
int qemu_run_start(const struct qemu_run_opts *opts, int qmp_fd, struct qemu_run **slot,
		   struct error *err);

/* After qemu_run_start(): greets and lets the vCPUs run. On failure QEMU has ended, *slot is
 * NULL, on_exit was not called, and err says what QEMU said. */
int qemu_run_boot(struct qemu_run **slot, struct error *err);

/* SIGKILL; returns when on_exit was called and *slot is NULL. */
void qemu_run_kill(struct qemu_run **slot);

/* ERROR_CRASH when nothing runs. */
int qemu_run_call(struct qemu_run *run, const char *command, json_t *args, uint64_t timeout_ns,
		  json_t **ret, struct error *err);

pid_t qemu_run_pid(const struct qemu_run *run);
