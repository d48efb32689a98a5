/* SPDX-License-Identifier: MIT */
/* A worker as the runner sees it: a process, a control socket, a tail of what it prints. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/str.h"
#include "runner/internal.h"

#define TAIL_BYTES	 (8 * KIB)
#define KILL_PATIENCE_NS (5 * NS_PER_SEC)

static void keep_tail(struct child *c, const char *data, size_t len)
{
	buf_append(&c->tail, data, len);
	c->output_bytes += len;
	if (c->tail.len > 2 * TAIL_BYTES)
		buf_consume(&c->tail, c->tail.len - TAIL_BYTES);
}

static int output_fiber(void *userdata)
{
	struct child *c = userdata;
	char chunk[4096];
	ssize_t n;

	while ((n = io_read(c->output, chunk, sizeof(chunk), NS_FOREVER, NULL)) > 0)
		keep_tail(c, chunk, (size_t)n);
	return 0;
}

/* Nothing that outlives the worker may keep us waiting for the end of its socket: what is
 * queued can still be read, then it ends. */
static void on_exit_of(struct process *p, void *userdata)
{
	struct child *c = userdata;

	shutdown(io_fd(c->control), SHUT_RDWR);
}

static int spawn(struct child *c, const char *name, const struct ns_verdict *ns, int control,
		 int output, struct error *err)
{
	char parent[16];
	const char *argv[10];
	struct spawn_fd fd = {.fd = control, .child = WIRE_CONTROL_FD};
	struct spawn_opts opts = {
		.name = name,
		.stdout_fd = output,
		.stderr_fd = output,
		.fds = &fd,
		.n_fds = 1,
	};
	size_t n = 0;

	argv[n++] = "/proc/self/exe";
	if (ns && ns->level != NS_NONE) {
		snprintf(parent, sizeof(parent), "%d", (int)getpid());
		argv[n++] = "ns-init";
		argv[n++] = ns_level_name(ns->level);
		argv[n++] = "--parent";
		argv[n++] = parent;
		argv[n++] = "--";
		argv[n++] = "assay";
	}
	argv[n++] = "worker";
	argv[n] = NULL;
	return process_spawn((char *const *)argv, &opts, &c->process, err);
}

int child_start(struct child *c, const char *name, const struct ns_verdict *ns, struct error *err)
{
	int sockets[2], pipes[2], r;

	*c = (struct child){};
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a socket pair");
	if (pipe2(pipes, O_CLOEXEC) < 0) {
		r = error_set_errno(err, ERROR_INFRA, errno, "cannot make a pipe");
		close(sockets[0]);
		close(sockets[1]);
		return r;
	}
	r = spawn(c, name, ns, sockets[1], pipes[1], err);
	close(sockets[1]);
	close(pipes[1]);
	if (r < 0) {
		close(sockets[0]);
		close(pipes[0]);
		return r;
	}
	c->control = io_new(sockets[0]);
	c->output = io_new(pipes[0]);
	c->reader = (struct wire_reader){.io = c->control, .max = WIRE_EVENT_MAX_BYTES};
	process_on_exit(c->process, on_exit_of, c);
	fiber_start(name, output_fiber, c, &c->output_fiber);
	return 0;
}

static void on_kill_late(void *userdata)
{
	struct child *c = userdata;

	process_kill(c->process, SIGKILL);
}

void child_kill(struct child *c, const struct ns_verdict *ns)
{
	if (!c->process || process_is_done(c->process))
		return;
	if (!ns || ns->level == NS_NONE) {
		process_kill_group(c->process, SIGKILL);
		process_kill(c->process, SIGKILL);
		return;
	}
	/* ns-init ends everything below it, then itself. */
	process_kill(c->process, SIGTERM);
	if (!c->late)
		c->late = timer_start(deadline_in(KILL_PATIENCE_NS), on_kill_late, c);
}

void child_settle(struct child *c)
{
	char chunk[4096];
	ssize_t n;

	if (!c->output)
		return;
	fiber_stop(c->output_fiber);
	c->output_fiber = fiber_unref(c->output_fiber);
	/* The descriptor does not block: only what is there already. */
	while ((n = read(io_fd(c->output), chunk, sizeof(chunk))) > 0)
		keep_tail(c, chunk, (size_t)n);
	io_free(TAKE_PTR(c->output));
	if (c->tail.len > TAIL_BYTES)
		buf_consume(&c->tail, c->tail.len - TAIL_BYTES);
}

void child_done(struct child *c)
{
	child_settle(c);
	timer_free(c->late);
	process_free(c->process);
	io_free(c->control);
	wire_reader_done(&c->reader);
	buf_done(&c->tail);
	*c = (struct child){};
}
