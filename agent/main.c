/* SPDX-License-Identifier: MIT */
/* assay-agent: which of its three lives this is. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/build-id.h"
#include "agent/internal.h"
#include "base/file.h"
#include "base/str.h"

/*
 *	PID 1                init of the initramfs (init.c); forks the next one, then becomes the
 *	                     distribution's init
 *	--guest FD           the agent of a machine: speaks over the virtio-serial port. FD is a
 *	                     socket to init, which closes it when it executes the real one
 *	--stdio, --fd FD     uploaded (or under test): speaks over that stream, to its end. With
 *	                     --owns LIST it may change the machine when that goes on after a
 *	                     save (agent_set_owned()); else clock and timers are somebody else's
 */

static void on_stream_end(void)
{
	session_close();
	loop_quit(0);
}

/* --- the agent of a machine ------------------------------------------------------------------- */

static struct agent_source init_source;
static struct agent_timer failed_timer;

/* Init waits for this byte before it powers off: what it said must have left. */
static void on_failed_timer(struct agent_timer *t)
{
	if (session_output_is_empty())
		(void)!write(init_source.fd, "", 1);
	else
		agent_timer_set(t, agent_now_ns() + NS_PER_MS);
}

static void on_init(struct agent_source *s, short revents)
{
	char text[1024];
	ssize_t n = read(s->fd, text, sizeof(text) - 1);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		text[n] = '\0';
		session_set_phase(PHASE_FAILED, text);
		failed_timer.fn = on_failed_timer;
		agent_timer_set(&failed_timer, agent_now_ns());
		return;
	}
	/* Init has executed the next one, or died; then so does the kernel. */
	agent_source_remove(s);
	close(s->fd);
	if (root_is_final())
		session_set_phase(PHASE_SYSTEM, NULL);
}

static int run_in_guest(int init_fd)
{
	int r = root_setup(LIFE_GUEST);

	if (r < 0) {
		agent_log("cannot open /proc: %s", strerror(-r));
		return 1;
	}
	/* Never swapped out or stuck behind a full disk's page cache, and the last to be killed. */
	(void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
	r = openat(agent_proc_fd(), "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (r >= 0) {
		(void)!write(r, "-1000", 5);
		close(r);
	}
	fd_set_nonblock(init_fd, true);
	fd_set_cloexec(init_fd, true);
	init_source = (struct agent_source){.fd = init_fd, .events = POLLIN, .fn = on_init};
	agent_source_add(&init_source);
	r = loop_setup();
	if (r >= 0)
		r = port_setup();
	if (r < 0) {
		agent_log("cannot start: %s", strerror(-r));
		return 1;
	}
	return loop_loop();
}

/* --- uploaded --------------------------------------------------------------------------------- */

static int run_on_stream(int in_fd, int out_fd)
{
	int r = root_setup(LIFE_STDIO);

	if (r >= 0)
		r = loop_setup();
	if (r < 0) {
		fprintf(stderr, "assay-agent: cannot start: %s\n", strerror(-r));
		return 1;
	}
	fd_set_nonblock(in_fd, true);
	fd_set_nonblock(out_fd, true);
	session_on_eof = on_stream_end;
	session_set_phase(PHASE_SYSTEM, NULL);
	session_open(in_fd, out_fd);
	return loop_loop();
}

/* Out of the way of what children have as 0 and 1. */
static int run_on_stdio(void)
{
	int in_fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	int out_fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (in_fd < 0 || out_fd < 0 || null_fd < 0) {
		fprintf(stderr, "assay-agent: cannot use stdin and stdout: %s\n", strerror(errno));
		return 1;
	}
	dup2(null_fd, STDIN_FILENO);
	dup2(null_fd, STDOUT_FILENO);
	close(null_fd);
	return run_on_stream(in_fd, out_fd);
}

int main(int argc, char **argv, char **envp)
{
	int fd;

	agent_argv = argv;
	if (getpid() == 1)
		init_main(argv, envp);
	if (argc == 2 && str_eq(argv[1], "--stdio"))
		return run_on_stdio();
	if (argc == 2 && str_eq(argv[1], "--version")) {
		printf("assay-agent %s (protocol %d, build %s)\n", ASSAY_VERSION, WIRE_VERSION,
		       agent_build_id());
		return 0;
	}
	if (argc == 5 && str_eq(argv[3], "--owns") && agent_set_owned(argv[4]) >= 0)
		argc = 3;
	if (argc == 3 && parse_int(argv[2], &fd) >= 0 && fd >= 3) {
		if (str_eq(argv[1], "--guest"))
			return run_in_guest(fd);
		if (str_eq(argv[1], "--fd")) {
			fd_set_cloexec(fd, true);
			return run_on_stream(fd, fd);
		}
	}
	fprintf(stderr, "usage: assay-agent --stdio | --fd N [--owns PROPERTY,…] | --version\n"
			"(or as /init of an initramfs)\n");
	return 2;
}
