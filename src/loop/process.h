/* SPDX-License-Identifier: MIT */
/* The one spawn() of the tree: a child with a pidfd, a known set of fds and a parent to die with.
 */
#pragma once

#include <signal.h>

#include "base/buf.h"
#include "base/error.h"
#include "loop/fiber.h"

/*
 * The child starts with: its own process group, default signal dispositions, an empty signal mask,
 * PR_SET_PDEATHSIG SIGKILL (unless detached), stdin from /dev/null unless given, and of the other
 * descriptors only those listed in `pass_fds` (same numbers in the child, close-on-exec cleared
 * there only). A failed exec is reported as an error of process_spawn itself, never as a status.
 */
struct spawn_fd {
	int fd;	   /* ours */
	int child; /* number in the child; -1: the same number */
};

struct spawn_opts {
	const char *name; /* for messages; default argv[0]'s last part */
	char *const *env; /* NULL: ours. "K=V" entries laid over ours if !clear_env */
	bool clear_env;
	const char *cwd;
	int stdin_fd, stdout_fd, stderr_fd; /* 0: not given (/dev/null in; ours out); borrowed */
	const struct spawn_fd *fds;
	size_t n_fds;
	int netns_fd;  /* entered before exec; 0: none */
	bool detached; /* no death signal (only `--keep`) */
	bool new_session;
	unsigned long clone_flags; /* CLONE_NEWPID and friends; 0: none (see runner/nsinit) */
};

struct process;

/* argv[0] is searched in our PATH. The error of a missing program is ENOENT and names it.
 * With clone_flags that have CLONE_NEWPID the child is PID 1 of its namespace. */
int process_spawn(char *const *argv, const struct spawn_opts *opts, struct process **ret,
		  struct error *err);
pid_t process_pid(const struct process *p);
const char *process_name(const struct process *p);
/* True once it was reaped. */
bool process_is_done(const struct process *p);
/* Exit status as from waitpid(2) once done; use WIFEXITED and friends. */
int process_status(const struct process *p);
/* Waits for its end. The status goes to ret_status if that is not NULL. */
int process_wait(struct process *p, uint64_t timeout_ns, int *ret_status, struct error *err);
/* Both do nothing once the process is done: its number may be somebody else's by then. */
void process_kill(struct process *p, int sig);	     /* the process */
void process_kill_group(struct process *p, int sig); /* its group */
/* SIGTERM to the group, up to grace_ns for it to end, SIGKILL, reap. Shielded. Frees nothing. */
void process_stop(struct process *p, uint64_t grace_ns);
/* Kills (SIGKILL, group) what still runs; reaping goes on in the loop. NULL is fine. */
void process_free(struct process *p);
void cleanup_process(struct process **p);
#define _cleanup_process_ _cleanup_(cleanup_process)
/* Called on the main stack when the child was reaped. One at most. */
void process_on_exit(struct process *p, void (*fn)(struct process *p, void *userdata),
		     void *userdata);
/* "exited with status 3", "was killed by signal 9 (Killed)". */
char *process_describe_status(int status);

/* Runs to the end and collects stdout and stderr (each at most max_bytes; more is dropped and
 * said so at the end of the text). A non-zero end is not an error here. input may be NULL.
 * It ends with the process, not with its pipes: a background child that keeps them open does not
 * count. If the wait fails, the process group is stopped and *ret stays empty. A stdout_fd or
 * stderr_fd in opts is used instead of collecting. */
struct run_result {
	int status;
	struct buf out, err;
};
void run_result_done(struct run_result *r);
int process_run(char *const *argv, const struct spawn_opts *opts, const void *input,
		size_t input_len, size_t max_bytes, uint64_t timeout_ns, struct run_result *ret,
		struct error *err);
