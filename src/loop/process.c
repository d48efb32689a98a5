/* SPDX-License-Identifier: MIT */
/* Children: waiting for their end, signals, and reaping. */
#include "loop/process.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/loop-internal.h"
#include "loop/loop.h"

/*
 * Theory of operation.
 *
 * Each child has a pidfd on the loop. When it turns readable the child is a zombie: it is reaped
 * with waitpid() for this one number, its waiters are woken and on_exit is called. (sd-event's own
 * child sources would want SIGCHLD blocked in the whole process, also in what libraries fork.)
 *
 *	RUNNING --pidfd readable--> reaped, done --process_free--> gone
 *	   \--process_free--> SIGKILL, orphaned --pidfd readable--> reaped, gone
 *
 * Orphaned objects belong to the list `orphans`; loop_done() waits for what is left there.
 *
 * The number of a process group outlives its leader only while somebody is in it. So a group is
 * only ever signalled before its leader is reaped: a zombie leader still reserves the number.
 * What process_stop() and process_free() must end is killed once more at that moment, because a
 * leader may leave others behind.
 */

struct process {
	pid_t pid;
	int pidfd;
	int status;
	bool done;
	bool orphaned;	     /* process_free() was called */
	bool kill_leftovers; /* SIGKILL for the group when the leader ends */
	unsigned n_users;    /* fibers in process_wait() */
	char *name;
	sd_event_source *source;
	struct waiters waiters;
	void (*on_exit)(struct process *p, void *userdata);
	void *on_exit_data;
	struct process *prev, *next; /* in orphans */
};

static struct process *orphans;

static void process_destroy(struct process *p)
{
	sd_event_source_disable_unref(p->source);
	cleanup_close(&p->pidfd);
	free(p->name);
	free(p);
}

static void orphans_add(struct process *p)
{
	p->next = orphans;
	if (orphans)
		orphans->prev = p;
	orphans = p;
}

static void orphans_remove(struct process *p)
{
	if (p->prev)
		p->prev->next = p->next;
	else
		orphans = p->next;
	if (p->next)
		p->next->prev = p->prev;
}

/* Frees what nobody holds any more: not its owner, not the kernel, not a waiting fiber. */
static void release_if_unused(struct process *p)
{
	if (p->orphaned && p->done && p->n_users == 0)
		process_destroy(p);
}

/* Reaps a child that has ended (or is about to: then it waits). */
static void reap(struct process *p)
{
	pid_t r;

	if (p->kill_leftovers)
		(void)kill(-p->pid, SIGKILL);
	do
		r = waitpid(p->pid, &p->status, 0);
	while (r < 0 && errno == EINTR);
	assert(r == p->pid);
	p->done = true;
	p->source = sd_event_source_disable_unref(p->source);
	if (p->orphaned)
		orphans_remove(p);
}

static int on_pidfd(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct process *p = userdata;

	reap(p);
	waiters_wake_all(&p->waiters);
	if (p->orphaned) {
		release_if_unused(p);
		return 0;
	}
	if (p->on_exit)
		p->on_exit(p, p->on_exit_data); /* may free p */
	return 0;
}

int process_spawn(char *const *argv, const struct spawn_opts *opts, struct process **ret,
		  struct error *err)
{
	static const struct spawn_opts no_opts = {};
	struct process *p;
	const char *name;
	int pidfd = -EBADF;
	pid_t pid;
	int r;

	assert(argv && argv[0]);
	if (!opts)
		opts = &no_opts;
	name = opts->name ? opts->name : path_basename(argv[0]);
	r = spawn_child(argv, name, opts, &pid, &pidfd, err);
	if (r < 0)
		return r;
	p = xcalloc(1, sizeof(*p));
	p->pid = pid;
	p->pidfd = pidfd;
	p->name = xstrdup(name);
	r = sd_event_add_io(loop_event(), &p->source, pidfd, EPOLLIN, on_pidfd, p);
	if (r < 0) {
		r = error_set_errno(err, ERROR_INFRA, -r, "cannot watch '%s'", name);
		p->kill_leftovers = true;
		reap(p);
		process_destroy(p);
		return r;
	}
	*ret = p;
	return 0;
}

pid_t process_pid(const struct process *p)
{
	return p->pid;
}

const char *process_name(const struct process *p)
{
	return p->name;
}

bool process_is_done(const struct process *p)
{
	return p->done;
}

int process_status(const struct process *p)
{
	assert(p->done);
	return p->status;
}

static void process_leave(struct process **p)
{
	(*p)->n_users--;
	release_if_unused(*p);
}

int process_wait(struct process *p, uint64_t timeout_ns, int *ret_status, struct error *err)
{
	_cleanup_(process_leave) struct process *use = p;
	uint64_t deadline = deadline_in(timeout_ns);
	char what[128];
	int r;

	use->n_users++;
	(void)snprintf(what, sizeof(what), "process '%s' to end", p->name);
	while (!p->done) {
		r = fiber_wait_until(&p->waiters, deadline, timeout_ns, what, err);
		if (r < 0)
			return r;
		if (p->orphaned)
			return error_set(err, ERROR_INFRA, EBADF, "process '%s' was given up",
					 p->name);
	}
	if (ret_status)
		*ret_status = p->status;
	return 0;
}

void process_kill(struct process *p, int sig)
{
	if (!p->done)
		(void)syscall(SYS_pidfd_send_signal, p->pidfd, sig, NULL, 0);
}

void process_kill_group(struct process *p, int sig)
{
	if (!p->done)
		(void)kill(-p->pid, sig);
}

void process_stop(struct process *p, uint64_t grace_ns)
{
	_cleanup_(process_leave) struct process *use = p;
	struct fiber_shield shield;

	use->n_users++; /* between the waits, too: somebody may free it meanwhile */
	if (p->done)
		return;
	/* The grace bounds the wait below; SIGKILL then ends everything but a stuck kernel. */
	fiber_shield_enter(&shield, NS_FOREVER);
	p->kill_leftovers = true;
	process_kill_group(p, SIGTERM);
	process_kill_group(p, SIGCONT); /* a stopped process would not notice */
	if (process_wait(p, grace_ns, NULL, NULL) < 0) {
		process_kill_group(p, SIGKILL);
		(void)process_wait(p, NS_FOREVER, NULL, NULL);
	}
	fiber_shield_leave(&shield);
}

void process_free(struct process *p)
{
	if (!p)
		return;
	assert(!p->orphaned);
	p->orphaned = true;
	p->on_exit = NULL;
	if (!p->done) {
		p->kill_leftovers = true;
		process_kill_group(p, SIGKILL);
		orphans_add(p);
		waiters_wake_all(&p->waiters);
	}
	release_if_unused(p);
}

void cleanup_process(struct process **p)
{
	process_free(*p);
}

void process_on_exit(struct process *p, void (*fn)(struct process *p, void *userdata),
		     void *userdata)
{
	p->on_exit = fn;
	p->on_exit_data = userdata;
}

void processes_done(void)
{
	while (orphans) {
		struct process *p = orphans;

		(void)kill(-p->pid, SIGKILL);
		reap(p);
		assert(orphans != p);
		release_if_unused(p);
	}
}

char *process_describe_status(int status)
{
	if (WIFSIGNALED(status)) {
		int sig = WTERMSIG(status);

		return xasprintf("was killed by signal %d (%s)%s", sig, strsignal(sig),
				 WCOREDUMP(status) ? " and dumped core" : "");
	}
	return xasprintf("exited with status %d", WEXITSTATUS(status));
}
