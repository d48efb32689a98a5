/* SPDX-License-Identifier: MIT */
/* A real agent as a child, over a socket pair; shared by the tests of src/channel. */
#pragma once

#include <string.h>
#include <sys/socket.h>

#include "../loop/fiber-test.h"
#include "base/buf.h"
#include "base/str.h"
#include "channel/agent.h"
#include "loop/process.h"

#define S  NS_PER_SEC
#define MS NS_PER_MS

extern const char *agent_program; /* argv[1] of the test */

struct guest {
	struct process *process;
	struct agent *agent;
	unsigned n_hello, n_closed;
	struct error closed;
};

static inline void on_guest_hello(struct agent *a, const struct agent_hello *hello, void *userdata)
{
	((struct guest *)userdata)->n_hello++;
}

static inline void on_guest_closed(struct agent *a, const struct error *err, void *userdata)
{
	struct guest *g = userdata;

	g->n_closed++;
	g->closed = *err;
}

static const struct agent_callbacks guest_callbacks = {
	.on_hello = on_guest_hello,
	.on_closed = on_guest_closed,
};

/* The agent's process alone; returns our end of its stream. */
static inline int guest_spawn(struct guest *g)
{
	char *argv[] = {(char *)agent_program, "--fd", "3", NULL};
	struct spawn_fd fd = {.child = 3};
	struct spawn_opts opts = {.fds = &fd, .n_fds = 1};
	struct error err = {};
	int ends[2];

	*g = (struct guest){};
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	fd.fd = ends[1];
	if (process_spawn(argv, &opts, &g->process, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	close(ends[1]);
	return ends[0];
}

static inline void guest_start(struct guest *g)
{
	int fd = guest_spawn(g);
	struct error err = {};

	g->agent = agent_new(io_new(fd), &guest_callbacks, g);
	if (agent_wait_hello(g->agent, NULL, 10 * S, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
}

static inline void guest_stop(struct guest *g)
{
	agent_free(g->agent);
	process_stop(g->process, 5 * S);
	process_free(g->process);
}

/* The call under test fills `failure`. */
static struct error failure;

#define check_ok(expr)                                                                             \
	do {                                                                                       \
		error_clear(&failure);                                                             \
		if ((expr) < 0) {                                                                  \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expr,              \
				failure.message);                                                  \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* Runs a script, which must succeed in being run. */
static inline struct agent_result run_script(struct guest *g, const char *script)
{
	struct agent_command cmd = {.script = script};
	struct agent_result r;

	check_ok(agent_run(g->agent, &cmd, 60 * S, &r, &failure));
	return r;
}

/* Dead; whether somebody has reaped it is not our business. */
_unused_ static bool is_dead(pid_t pid)
{
	_cleanup_free_ char *path = xasprintf("/proc/%d/stat", (int)pid);
	_cleanup_buf_ struct buf b = {};
	const char *p;

	check(pid > 1);
	if (buf_read_file(&b, path, 4096) < 0)
		return true;
	p = strrchr(buf_str(&b), ')');
	return p && (p[2] == 'Z' || p[2] == 'X');
}

_unused_ static bool is_gone(pid_t pid)
{
	uint64_t deadline = deadline_in(S);

	while (!is_dead(pid)) {
		if (timeout_left(deadline) == 0)
			return false;
		fiber_sleep(2 * MS, NULL);
	}
	return true;
}
