/* SPDX-License-Identifier: MIT */
/* The real agent as a child of the test, over a socket pair. */
#pragma once

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../loop/fiber-test.h"
#include "base/file.h"
#include "base/str.h"
#include "channel/agent.h"
#include "loop/process.h"

extern const char *agent_program; /* argv[1] of the test */

struct fixture {
	struct agent *agent;
	struct process *process;
	char dir[64]; /* empty, of this test */
};

/* What the test itself does on the machine, which is this one. */
_unused_ static void sh(const struct fixture *f, const char *script)
{
	struct run_result result = {};
	struct error err = {};
	char *argv[] = {"sh", "-ec", (char *)script, NULL};
	struct spawn_opts opts = {.cwd = f->dir};
	int rc = process_run(argv, &opts, NULL, 0, MIB, 60 * NS_PER_SEC, &result, &err);

	if (rc < 0 || result.status != 0) {
		fprintf(stderr, "'%s' failed: %s%s\n", script, err.message, buf_str(&result.err));
		abort();
	}
	run_result_done(&result);
}

/* argv_prefix: put in front of the agent's command line, NULL-terminated; or NULL. owns: what of
 * the machine it may change; NULL: nothing. */
_unused_ static void fixture_start_owning(struct fixture *f, char *const *argv_prefix,
					  const char *owns)
{
	struct spawn_fd pass = {.child = 3};
	struct spawn_opts opts = {.fds = &pass, .n_fds = 1};
	_cleanup_strv_ char **argv = strv_copy(argv_prefix);
	struct error err = {};
	int fds[2];

	*f = (struct fixture){.dir = "/tmp/test-agent-XXXXXX"};
	check(mkdtemp(f->dir));
	strv_push(&argv, agent_program);
	strv_push(&argv, "--fd");
	strv_push(&argv, "3");
	if (owns) {
		strv_push(&argv, "--owns");
		strv_push(&argv, owns);
	}
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	pass.fd = fds[1];
	check(process_spawn(argv, &opts, &f->process, &err) == 0);
	close(fds[1]);
	f->agent = agent_new(io_new(fds[0]), NULL, NULL);
	if (agent_wait_hello(f->agent, NULL, 20 * NS_PER_SEC, &err) < 0) {
		fprintf(stderr, "the agent does not answer: %s\n", err.message);
		abort();
	}
}

_unused_ static void fixture_start(struct fixture *f, char *const *argv_prefix)
{
	fixture_start_owning(f, argv_prefix, NULL);
}

_unused_ static void fixture_stop(struct fixture *f)
{
	int status = -1;
	char *argv[] = {"sh", "-c", "chmod -R u+rwx \"$0\"; rm -rf \"$0\"", f->dir, NULL};
	struct run_result result = {};

	/* The stream's end is the agent's end, in good order (LeakSanitizer looks then). */
	agent_free(f->agent);
	check(process_wait(f->process, 20 * NS_PER_SEC, &status, NULL) == 0);
	check(status == 0);
	process_free(f->process);
	process_run(argv, NULL, NULL, 0, MIB, 60 * NS_PER_SEC, &result, NULL);
	run_result_done(&result);
}

_unused_ static char *in_dir(const struct fixture *f, const char *name)
{
	return path_join(f->dir, name);
}

/* --- waits ------------------------------------------------------------------------------------ */

/* A wait in a fiber of its own, so that the test can make true what it waits for. */
struct waiting {
	int (*wait)(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err);
	struct fixture *f;
	const char *arg;
	uint64_t timeout_ns;
	struct fiber *fiber;
	struct error err;
	uint64_t done_ns;
};

_unused_ static int waiting_main(void *userdata)
{
	struct waiting *w = userdata;
	int rc = w->wait(w->f, w->arg, w->timeout_ns, &w->err);

	w->done_ns = now_ns();
	return rc;
}

/* Begins to wait, and gives the agent the time to have looked once: an early answer is an error. */
_unused_ static void waiting_begin(struct waiting *w)
{
	if (w->timeout_ns == 0)
		w->timeout_ns = 20 * NS_PER_SEC;
	fiber_start("waiting", waiting_main, w, &w->fiber);
	fiber_yield();
	/* Calls are handled in order: when this one is answered, the wait has been begun. */
	check(agent_ping(w->f->agent, 20 * NS_PER_SEC, NULL) == 0);
	if (fiber_is_done(w->fiber)) {
		fprintf(stderr, "'%s': the wait ended too early: %s\n", w->arg, w->err.message);
		abort();
	}
}

/* It ends well, and soon (this machine may be busy with other things; bench/ measures how soon). */
_unused_ static void waiting_succeeds(struct waiting *w, uint64_t since_ns)
{
	double late_ms;

	check(fiber_join(w->fiber, 20 * NS_PER_SEC, NULL) == 0);
	if (fiber_result(w->fiber) < 0) {
		fprintf(stderr, "'%s': %s\n", w->arg, w->err.message);
		abort();
	}
	late_ms = w->done_ns > since_ns ? (w->done_ns - since_ns) / 1e6 : 0;
	if (getenv("SHOW_LATENCY") || late_ms > 5000)
		fprintf(stderr, "'%s' was noticed after %.2f ms\n", w->arg, late_ms);
	check(late_ms <= 5000);
	w->fiber = fiber_unref(w->fiber);
}

/* It fails with that kind and text. */
_unused_ static void waiting_fails(struct waiting *w, enum error_kind kind, const char *text)
{
	check(fiber_join(w->fiber, 20 * NS_PER_SEC, NULL) == 0);
	check(fiber_result(w->fiber) < 0);
	if (w->err.kind != kind || !strstr(w->err.message, text)) {
		fprintf(stderr, "'%s': got %s '%s', wanted %s '%s'\n", w->arg,
			error_kind_name(w->err.kind), w->err.message, error_kind_name(kind), text);
		abort();
	}
	w->fiber = fiber_unref(w->fiber);
}
