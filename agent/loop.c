/* SPDX-License-Identifier: MIT */
/* The agent's poll loop: descriptors, timers, children. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "agent/agent.h"
#include "agent/internal.h"
#include "base/str.h"

/*
 * Theory of operation
 *
 * The lists are short (a few entries for each call under way), so each round builds the array for
 * poll(2) anew and nothing must be kept in step. Callbacks may add and remove anything, their own
 * entry too: during a round a removed source is only marked, the list is swept afterwards, and an
 * entry added meanwhile waits for the next round.
 *
 * Children: SIGCHLD writes one byte to a pipe; the round after it reaps all that have ended. Our
 * own children only, unless we are PID 1's stand-in: nobody else's children come to us.
 */

static struct {
	struct agent_source *sources;
	struct agent_timer *timers;
	struct agent_child *children;
	struct pollfd *fds;
	struct agent_source **order; /* of fds; NULL: removed in this round */
	size_t n, cap;
	int sigchld[2];
	bool quit;
	int code;
} loop = {.sigchld = {-EBADF, -EBADF}};

uint64_t agent_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* --- sources ---------------------------------------------------------------------------------- */

void agent_source_add(struct agent_source *s)
{
	if (s->active)
		return;
	s->active = true;
	s->next = loop.sources;
	loop.sources = s;
}

void agent_source_remove(struct agent_source *s)
{
	if (!s->active)
		return;
	s->active = false;
	for (struct agent_source **p = &loop.sources; *p; p = &(*p)->next) {
		if (*p == s) {
			*p = s->next;
			break;
		}
	}
	for (size_t i = 0; i < loop.n; i++) {
		if (loop.order[i] == s)
			loop.order[i] = NULL;
	}
}

static void collect_sources(void)
{
	loop.n = 0;
	for (struct agent_source *s = loop.sources; s; s = s->next) {
		if (s->events == 0)
			continue;
		if (loop.n == loop.cap) {
			loop.cap = loop.cap ? loop.cap * 2 : 32;
			loop.fds = xrealloc(loop.fds, loop.cap * sizeof(*loop.fds));
			loop.order = xrealloc(loop.order, loop.cap * sizeof(*loop.order));
		}
		loop.fds[loop.n] = (struct pollfd){.fd = s->fd, .events = s->events};
		loop.order[loop.n++] = s;
	}
}

/* --- timers ----------------------------------------------------------------------------------- */

void agent_timer_remove(struct agent_timer *t)
{
	if (!t->active)
		return;
	t->active = false;
	for (struct agent_timer **p = &loop.timers; *p; p = &(*p)->next) {
		if (*p == t) {
			*p = t->next;
			return;
		}
	}
}

/* Sorted, the earliest first. */
void agent_timer_set(struct agent_timer *t, uint64_t at_ns)
{
	struct agent_timer **p = &loop.timers;

	agent_timer_remove(t);
	t->at_ns = at_ns;
	t->active = true;
	while (*p && (*p)->at_ns <= at_ns)
		p = &(*p)->next;
	t->next = *p;
	*p = t;
}

static int next_timeout_ms(void)
{
	uint64_t now;

	if (!loop.timers)
		return -1;
	now = agent_now_ns();
	if (loop.timers->at_ns <= now)
		return 0;
	/* Rounded up: one round at the right time rather than two. */
	return (int)MIN((loop.timers->at_ns - now + NS_PER_MS - 1) / NS_PER_MS, 3600000);
}

static void run_timers(void)
{
	uint64_t now = agent_now_ns();

	while (loop.timers && loop.timers->at_ns <= now) {
		struct agent_timer *t = loop.timers;

		agent_timer_remove(t);
		t->fn(t);
	}
}

/* --- children --------------------------------------------------------------------------------- */

void agent_child_add(struct agent_child *c)
{
	c->active = true;
	c->next = loop.children;
	loop.children = c;
}

void agent_child_remove(struct agent_child *c)
{
	if (!c->active)
		return;
	c->active = false;
	for (struct agent_child **p = &loop.children; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			return;
		}
	}
}

static void on_signal(int sig)
{
	int e = errno;

	/* A full pipe has already said what this byte would say. */
	(void)!write(loop.sigchld[1], "", 1);
	errno = e;
}

static void on_sigchld(struct agent_source *s, short revents)
{
	char drain[64];
	int status;
	pid_t pid;

	while (read(s->fd, drain, sizeof(drain)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct agent_child *c = loop.children;

		while (c && c->pid != pid)
			c = c->next;
		if (!c)
			continue; /* given up by who started it */
		agent_child_remove(c);
		c->fn(c, status);
	}
}

/* --- running ---------------------------------------------------------------------------------- */

int loop_setup(void)
{
	static struct agent_source source = {.events = POLLIN, .fn = on_sigchld};
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_NOCLDSTOP | SA_RESTART};

	if (pipe2(loop.sigchld, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	sigaction(SIGCHLD, &sa, NULL);
	sa.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &sa, NULL);
	source.fd = loop.sigchld[0];
	agent_source_add(&source);
	return 0;
}

void loop_quit(int code)
{
	loop.quit = true;
	loop.code = code;
}

int loop_loop(void)
{
	while (!loop.quit) {
		int n;

		session_flush();
		collect_sources();
		n = poll(loop.fds, loop.n, session_is_busy() ? 0 : next_timeout_ms());
		if (n < 0 && errno != EINTR) {
			agent_log("poll: %s", strerror(errno));
			return 1;
		}
		for (size_t i = 0; n > 0 && i < loop.n; i++) {
			struct agent_source *s = loop.order[i];

			if (s && loop.fds[i].revents)
				s->fn(s, loop.fds[i].revents);
		}
		loop.n = 0;
		run_timers();
		session_run_writers();
	}
	return loop.code;
}
