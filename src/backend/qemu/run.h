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

/* After qemu_run_start(): waits until it takes commands. On failure QEMU has ended, *slot is NULL,
 * on_exit was not called, and err says what QEMU said. */
int qemu_run_greet(struct qemu_run **slot, struct error *err);

/* A migration stream to start from, for a QEMU that was started with -incoming defer. */
struct qemu_incoming {
	int devices_fd;	     /* at its beginning, not used otherwise meanwhile */
	bool without_memory; /* the memory is the file that was given to QEMU */
};
/* Greets, if that was not done; loads `from` (NULL: a cold boot); lets the vCPUs run. On failure as
 * qemu_run_greet(). */
int qemu_run_boot(struct qemu_run **slot, const struct qemu_incoming *from, struct error *err);
/* The owner's pointer moves. */
void qemu_run_move(struct qemu_run **from, struct qemu_run **to);

/* From now on the vCPUs' stopping and going on is our own affair, not told as an event (false: it
 * is again). */
void qemu_run_set_quiet(struct qemu_run *run, bool quiet);
/* Whether the vCPUs stand still. */
bool qemu_run_is_stopped(const struct qemu_run *run);
/* Writes the stream of a machine that stands still to the file. On failure, if QEMU still runs, it
 * can go on. run may be gone afterwards. */
int qemu_run_save(struct qemu_run *run, int devices_fd, bool without_memory, struct error *err);

/* SIGKILL; returns when on_exit was called and *slot is NULL. */
void qemu_run_kill(struct qemu_run **slot);

/* ERROR_CRASH when nothing runs. */
int qemu_run_call(struct qemu_run *run, const char *command, json_t *args, uint64_t timeout_ns,
		  json_t **ret, struct error *err);

/* With a descriptor (borrowed). */
int qemu_run_call_fd(struct qemu_run *run, const char *command, json_t *args, int fd,
		     uint64_t timeout_ns, json_t **ret, struct error *err);

pid_t qemu_run_pid(const struct qemu_run *run);
