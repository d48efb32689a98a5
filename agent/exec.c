/* SPDX-License-Identifier: MIT */
/* Running a command: pipes, credit, the end of the process, and the end of all its processes. */
#include <assert.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "agent/exec.h"
#include "agent/internal.h"
#include "base/file.h"
#include "base/str.h"

/*
 * Theory of operation
 *
 *	STARTING --error pipe EOF--> RUNNING --SIGCHLD--> DRAINING --pipes empty--> reply
 *	    |                           |                    ^
 *	    +--sentence in it--> reply  +--CANCEL--> KILLING-+
 *
 * The command is over when its process is: what is in the pipes at that moment is sent (FIONREAD
 *tells how much), their end is not waited for. Background processes that hold them live on; our
 *ends of the pipes become sinks, which read and forget, so that a daemon is not killed by SIGPIPE
 *for a line in its log.
 *
 * KILLING: SIGTERM to all processes of the command (its cgroup, else its session), KILL_GRACE for
 * them to end, SIGKILL, and KILL_LAST for the kernel to take them down. The reply comes when the
 * cgroup is empty (cgroup.events tells), so nothing that it did goes on after it. The leader is
 * not reaped before they were signalled, so its number cannot be somebody else's.
 *
 * Reading from a pipe stops while the session has no room or the stream no credit, which is
 * felt by the command as a full pipe.
 */

#define KILL_GRACE_NS  (2 * NS_PER_SEC)
#define KILL_LAST_NS   (3 * NS_PER_SEC) /* after SIGKILL, for a process that sits in the kernel */
#define PIPE_BYTES     (512 * 1024)
#define SCRIPT_ARG_MAX (100 * 1024) /* Linux: 128 KiB for one argument */
#define ARGS_MAX       1000000
#define INPUT_PIECE    (WIRE_WINDOW / 2)
#define SINKS_MAX      256

struct output {
	struct exec *exec;
	unsigned stream;
	int fd;
	struct agent_source source;
	size_t drain; /* DRAINING: bytes still to be sent */
};

struct exec {
	struct agent_call *call;
	struct agent_child child;
	struct output out[2];
	int in_fd;
	struct agent_source in_source;
	struct buf in; /* not yet written; WIRE_WINDOW at most */
	size_t in_start;
	bool in_fin, tty;
	int error_fd;
	struct agent_source error_source;
	struct agent_timer kill_timer;
	int cgroup_fd, events_fd;
	char cgroup[32];
	struct agent_source events_source;
	uint64_t start_ns, end_ns;
	bool running, exited, killing, killed;
	int status;
};

/* --- sinks ------------------------------------------------------------------------------------ */

struct sink {
	struct agent_source source;
	struct sink *next;
};
static struct sink *sinks;
static size_t n_sinks;

static void sink_free(struct sink *s)
{
	for (struct sink **p = &sinks; *p; p = &(*p)->next) {
		if (*p == s) {
			*p = s->next;
			n_sinks--;
			break;
		}
	}
	agent_source_remove(&s->source);
	close(s->source.fd);
	free(s);
}

static void on_sink(struct agent_source *source, short revents)
{
	static char trash[64 * 1024];
	ssize_t n = read(source->fd, trash, sizeof(trash));

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		sink_free(container_of(source, struct sink, source));
}

static void sink_add(int fd)
{
	struct sink *s;

	/* The list's last is the oldest. Someone who leaves that many behind cannot want them all.
	 */
	if (n_sinks == SINKS_MAX) {
		s = sinks;
		while (s->next)
			s = s->next;
		sink_free(s);
	}
	s = xcalloc(1, sizeof(*s));
	s->source = (struct agent_source){.fd = fd, .events = POLLIN, .fn = on_sink};
	s->next = sinks;
	sinks = s;
	n_sinks++;
	agent_source_add(&s->source);
}

/* --- the end ---------------------------------------------------------------------------------- */

void exec_end(struct agent_call *c)
{
	struct exec *x = call_state(c);

	if (x->child.active) {
		/* The host is gone, or the protocol was violated. */
		if (x->cgroup_fd >= 0)
			cgroup_signal(x->cgroup_fd, SIGKILL);
		else
			session_signal(x->child.pid, SIGKILL);
	}
	agent_child_remove(&x->child);
	agent_timer_remove(&x->kill_timer);
	for (size_t i = 0; i < ARRAY_SIZE(x->out); i++) {
		agent_source_remove(&x->out[i].source);
		if (x->out[i].fd < 0)
			continue;
		if (x->exited && !x->killing)
			sink_add(TAKE_FD(x->out[i].fd));
		else
			close(x->out[i].fd);
	}
	agent_source_remove(&x->in_source);
	/* A pty's one descriptor is out[0]'s. */
	if (x->in_fd >= 0 && !x->tty)
		close(x->in_fd);
	buf_done(&x->in);
	agent_source_remove(&x->error_source);
	if (x->error_fd >= 0)
		close(x->error_fd);
	agent_source_remove(&x->events_source);
	if (x->events_fd >= 0)
		close(x->events_fd);
	if (x->cgroup_fd >= 0) {
		close(x->cgroup_fd);
		cgroup_remove(x->cgroup);
	}
}

static bool cgroup_is_populated(const struct exec *x)
{
	char text[256];
	ssize_t n;

	if (x->events_fd < 0)
		return false;
	n = pread(x->events_fd, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return false;
	text[n] = '\0';
	return strstr(text, "populated 1") != NULL;
}

/* Replies if there is nothing left to wait for. True if it did: the call must not be touched. */
static bool exec_finish(struct exec *x)
{
	_cleanup_buf_ struct buf b = {};

	if (!x->exited)
		return false;
	if (x->killing && cgroup_is_populated(x))
		return false;
	if (x->out[0].drain > 0 || x->out[1].drain > 0)
		return false;
	if (WIFSIGNALED(x->status))
		wire_put_u32(&b, TAG_SIGNAL, (uint32_t)WTERMSIG(x->status));
	else
		wire_put_u32(&b, TAG_EXIT_CODE, (uint32_t)WEXITSTATUS(x->status));
	wire_put_u64(&b, TAG_WALL_NS, x->end_ns - x->start_ns);
	call_reply(x->call, &b);
	return true;
}

static void output_close(struct output *o)
{
	agent_source_remove(&o->source);
	if (o->fd >= 0)
		close(o->fd);
	o->fd = -EBADF;
	o->drain = 0;
	if (o->exec->tty)
		o->exec->in_fd = -EBADF;
}

/* --- stdout and stderr ------------------------------------------------------------------------ */

/* What is in the pipe to the stream. False: nothing more there, no room, or the end. */
static bool output_pump(struct output *o)
{
	struct agent_call *c = o->exec->call;
	bool exited = o->exec->exited;
	ssize_t n;

	/* All of it is sent, and the other stream is still waited for. The pipe may have been
	 * closed by then, which poll() would tell again and again. */
	if (exited && o->drain == 0) {
		agent_source_remove(&o->source);
		return false;
	}
	n = call_data_read(c, o->stream, o->fd, exited ? o->drain : SIZE_MAX);
	if (n == -EBUSY) {
		o->source.events = 0;
		call_want_write(c, o->stream, true);
		return false;
	}
	if (n == -EINTR)
		return true;
	if (n == -EAGAIN) {
		o->drain = 0;
		return false;
	}
	/* EIO is a pty's way to say that nobody has the other side open. */
	if (n <= 0) {
		output_close(o);
		return false;
	}
	if (exited)
		o->drain -= (size_t)n;
	return exited && o->drain > 0;
}

static void output_pump_turn(struct output *o)
{
	struct exec *x = o->exec;

	while (o->fd >= 0 && output_pump(o))
		;
	exec_finish(x);
}

static void on_output(struct agent_source *s, short revents)
{
	output_pump_turn(container_of(s, struct output, source));
}

void exec_on_writable(struct agent_call *c, unsigned stream)
{
	struct exec *x = call_state(c);
	struct output *o = &x->out[stream - WIRE_STREAM_OUT];

	call_want_write(c, stream, false);
	if (o->fd < 0)
		return;
	o->source.events = POLLIN;
	output_pump_turn(o);
}

/* --- stdin ------------------------------------------------------------------------------------ */

static void input_close(struct exec *x)
{
	agent_source_remove(&x->in_source);
	if (x->in_fd < 0)
		return;
	if (x->tty)
		(void)!write(x->in_fd, "\004", 1); /* VEOF */
	else
		close(x->in_fd);
	x->in_fd = -EBADF;
}

/* Writes what is there; grants as much as went away. */
static void input_flush(struct exec *x)
{
	size_t done = 0;

	while (x->in_start < x->in.len) {
		ssize_t n = -1;

		errno = EPIPE;
		if (x->in_fd >= 0)
			n = write(x->in_fd, x->in.data + x->in_start, x->in.len - x->in_start);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		/* The command does not read on: what still comes goes nowhere, as in a shell's
		 * pipe. */
		if (n < 0) {
			input_close(x);
			n = (ssize_t)(x->in.len - x->in_start);
		}
		x->in_start += (size_t)n;
		done += (size_t)n;
	}
	if (x->in_start == x->in.len) {
		buf_truncate(&x->in, 0);
		x->in_start = 0;
		x->in_source.events = 0;
		if (x->in_fin)
			input_close(x);
	} else {
		x->in_source.events = POLLOUT;
	}
	if (done > 0)
		call_grant(x->call, WIRE_STREAM_IN, done);
}

static void on_input_room(struct agent_source *s, short revents)
{
	input_flush(container_of(s, struct exec, in_source));
}

void exec_on_data(struct agent_call *c, unsigned stream, const uint8_t *data, size_t len, bool fin)
{
	struct exec *x = call_state(c);

	/* Bounded by the window: what was granted is what has gone. */
	if (x->in_start > x->in.len / 2) {
		buf_consume(&x->in, x->in_start);
		x->in_start = 0;
	}
	buf_append(&x->in, data, len);
	x->in_fin = x->in_fin || fin;
	/* Much at once: one write, one wake-up of the command. The window is larger than the piece,
	 * so what is on its way can come. */
	if (call_more_follows(c) && x->in.len < INPUT_PIECE && x->in_fd >= 0)
		return;
	/* At the loop's next turn, together with what else has come. */
	if (x->in_fd >= 0 && x->in.len > 0)
		x->in_source.events = POLLOUT;
	else
		input_flush(x);
}

/* --- signals, the process's end --------------------------------------------------------------- */

static void exec_signal_all(struct exec *x, int sig)
{
	if (x->cgroup_fd >= 0)
		cgroup_signal(x->cgroup_fd, sig);
	else if (x->child.active)
		session_signal(x->child.pid, sig);
}

static void on_kill_timer(struct agent_timer *t)
{
	struct exec *x = container_of(t, struct exec, kill_timer);

	if (!x->killed) {
		x->killed = true;
		exec_signal_all(x, SIGKILL);
		agent_timer_set(&x->kill_timer, agent_now_ns() + KILL_LAST_NS);
		exec_finish(x);
		return;
	}
	/* Reads without credit are the host's business; it has given up as well. */
	if (x->exited && !cgroup_is_populated(x))
		call_reply_error(x->call, ERROR_TIMEOUT, ETIMEDOUT, "killed");
	else if (x->exited)
		call_reply_error(x->call, ERROR_TIMEOUT, ETIMEDOUT,
				 "one of its processes does not end, even by SIGKILL");
	else
		call_reply_error(x->call, ERROR_TIMEOUT, ETIMEDOUT,
				 "process %d does not end, even by SIGKILL", (int)x->child.pid);
}

static void on_cgroup_events(struct agent_source *s, short revents)
{
	struct exec *x = container_of(s, struct exec, events_source);

	(void)cgroup_is_populated(x); /* reading it is what rearms the event */
	exec_finish(x);
}

void exec_on_cancel(struct agent_call *c, enum wire_cancel reason)
{
	struct exec *x = call_state(c);

	if (x->killing)
		return;
	x->killing = true;
	if (x->cgroup_fd >= 0) {
		x->events_fd = openat(x->cgroup_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
		x->events_source = (struct agent_source){
			.fd = x->events_fd,
			.events = POLLPRI,
			.fn = on_cgroup_events,
		};
		if (x->events_fd >= 0)
			agent_source_add(&x->events_source);
	}
	x->kill_timer.fn = on_kill_timer;
	agent_timer_set(&x->kill_timer, agent_now_ns() + KILL_GRACE_NS);
	exec_signal_all(x, SIGTERM);
	/* A stopped process has its SIGTERM only when it goes on. */
	exec_signal_all(x, SIGCONT);
}

void exec_on_message(struct agent_call *c, const struct wire_fields *in)
{
	struct exec *x = call_state(c);
	uint32_t sig;

	if (!wire_get_u32(in, TAG_SIGNAL, &sig) || sig >= NSIG || !x->child.active)
		return;
	if (sig == SIGKILL)
		exec_signal_all(x, SIGKILL);
	else
		kill(-x->child.pid, (int)sig);
}

/* How much is in the pipe at this moment. */
static void output_measure(struct output *o)
{
	int n = 0;

	if (o->fd < 0)
		return;
	/* A pty does not tell what is on its way through the line discipline: up to its end, or
	 * until nothing comes. Its buffers are small. */
	if (o->exec->tty)
		o->drain = MIB;
	else if (ioctl(o->fd, FIONREAD, &n) == 0 && n > 0)
		o->drain = (size_t)n;
	if (o->drain == 0)
		agent_source_remove(&o->source);
}

static void on_child_exit(struct agent_child *child, int status)
{
	struct exec *x = container_of(child, struct exec, child);

	x->exited = true;
	x->status = status;
	x->end_ns = agent_now_ns();
	/* Without a cgroup nobody tells when the others are gone: they have had their chance. The
	 * number is nobody else's as long as one of them has it as its session. */
	if (x->killing && !x->killed && x->cgroup_fd < 0) {
		x->killed = true;
		session_signal(child->pid, SIGKILL);
	}
	/* The command may have failed to start: then error_source replies, and it comes for
	 * certain. */
	if (!x->running)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(x->out); i++)
		output_measure(&x->out[i]);
	for (size_t i = 0; i < ARRAY_SIZE(x->out); i++) {
		struct output *o = &x->out[i];

		while (o->fd >= 0 && o->drain > 0 && output_pump(o))
			;
	}
	exec_finish(x);
}

/* The error pipe: its end says that the command was executed, a sentence that it was not. */
static void on_error_pipe(struct agent_source *s, short revents)
{
	struct exec *x = container_of(s, struct exec, error_source);
	_cleanup_buf_ struct buf b = {};
	char text[1024];
	ssize_t n = read(x->error_fd, text, sizeof(text) - 1);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		char *sentence;
		long code;

		text[n] = '\0';
		code = strtol(text, &sentence, 10);
		while (*sentence == ' ')
			sentence++;
		call_reply_error(x->call, ERROR_EXPECT, code > 0 ? (int)code : EIO, "%s", sentence);
		return;
	}
	agent_source_remove(&x->error_source);
	x->error_fd = (close(x->error_fd), -EBADF);
	x->running = true;
	wire_put_u32(&b, TAG_PID, (uint32_t)x->child.pid);
	call_message(x->call, &b);
	if (x->exited)
		on_child_exit(&x->child, x->status);
}

/* --- the start -------------------------------------------------------------------------------- */

static int make_pipe(int ends[2], bool we_read)
{
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	/* Fewer wake-ups for the same bytes; the default does, too. */
	(void)fcntl(ends[0], F_SETPIPE_SZ, PIPE_BYTES);
	return fd_set_nonblock(ends[we_read ? 0 : 1], true);
}

/* A terminal of the guest's own: *ret_peer is for the child. */
static int make_pty(int *ret_peer)
{
	struct winsize ws = {.ws_row = 24, .ws_col = 80};
	_cleanup_close_ int fd = agent_openat_root("/dev/ptmx", O_RDWR | O_NOCTTY, 0);
	int unlock = 0;

	if (fd < 0)
		return fd;
	if (ioctl(fd, TIOCSPTLCK, &unlock) < 0)
		return -errno;
	*ret_peer = ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*ret_peer < 0)
		return -errno;
	(void)ioctl(fd, TIOCSWINSZ, &ws);
	(void)fd_set_nonblock(fd, true);
	return TAKE_FD(fd);
}

static void output_init(struct exec *x, unsigned i, int fd)
{
	struct output *o = &x->out[i];

	o->fd = fd;
	o->source = (struct agent_source){.fd = fd, .events = POLLIN, .fn = on_output};
	agent_source_add(&o->source);
}

/* Our ends into x, the child's into fds. */
static int make_stdio(struct exec *x, const struct exec_plan *plan, int fds[3])
{
	int ends[2], r;

	if (plan->flags & WIRE_EXEC_TTY) {
		r = make_pty(&fds[0]);
		if (r < 0)
			return r;
		output_init(x, 0, r);
		x->in_fd = r;
		for (int i = 1; i < 3; i++) {
			fds[i] = fcntl(fds[0], F_DUPFD_CLOEXEC, 3);
			if (fds[i] < 0)
				return -errno;
		}
	} else {
		for (unsigned i = 0; i < 2; i++) {
			r = make_pipe(ends, true);
			if (r < 0)
				return r;
			output_init(x, i, ends[0]);
			fds[1 + i] = ends[1];
		}
		if (!(plan->flags & WIRE_EXEC_STDIN))
			return 0;
		r = make_pipe(ends, false);
		if (r < 0)
			return r;
		x->in_fd = ends[1];
		fds[0] = ends[0];
	}
	x->in_source = (struct agent_source){.fd = x->in_fd, .fn = on_input_room};
	agent_source_add(&x->in_source);
	return 0;
}

static void plan_done(struct exec_plan *plan)
{
	strv_free(plan->argv);
	strv_free(plan->env);
	free(plan->script);
	free(plan->user);
	free(plan->cwd);
	free(plan->path);
	free(plan->owner);
	if (plan->script_fd >= 0)
		close(plan->script_fd);
	if (plan->error_fd >= 0)
		close(plan->error_fd);
}

static int plan_parse(const struct wire_fields *in, struct exec_plan *plan, struct error *err)
{
	wire_get_u32(in, TAG_EXEC_FLAGS, &plan->flags);
	plan->script = wire_dup_str(in, TAG_SCRIPT, WIRE_CALL_MAX);
	plan->user = wire_dup_str(in, TAG_USER, 256);
	plan->cwd = wire_dup_str(in, TAG_CWD, 64 * KIB);
	if (!wire_dup_strv(in, TAG_ARG, ARGS_MAX, &plan->argv) ||
	    !wire_dup_strv(in, TAG_ENV, ARGS_MAX, &plan->env))
		return error_set(
			err, ERROR_USAGE, EINVAL,
			"an argument or variable has a NUL byte in it, or there are too many");
	if (strv_len(plan->argv) == 0) {
		strv_free(plan->argv);
		plan->argv = NULL;
	}
	if (!plan->argv && !plan->script)
		return error_set(err, ERROR_USAGE, EINVAL,
				 "no command to execute (empty, or with a NUL byte in it)");
	if (plan->argv || strlen(plan->script) <= SCRIPT_ARG_MAX)
		return 0;
	plan->script_fd = memfd_create("script", MFD_CLOEXEC);
	if (plan->script_fd < 0 ||
	    fd_write_all(plan->script_fd, plan->script, strlen(plan->script)) < 0)
		return error_set_errno(err, ERROR_INFRA, errno,
				       "cannot keep the script in the guest's memory");
	lseek(plan->script_fd, 0, SEEK_SET);
	return 0;
}

static int exec_fork(struct exec *x, struct exec_plan *plan, struct error *err)
{
	struct agent_fork_opts opts = {.fds = {-1, -1, -1}, .cgroup_fd = -1};
	int error_pipe[2], r;

	r = make_stdio(x, plan, opts.fds);
	if (r >= 0)
		r = pipe2(error_pipe, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
	if (r < 0) {
		for (int i = 0; i < 3; i++)
			if (opts.fds[i] >= 0)
				close(opts.fds[i]);
		return error_set_errno(err, ERROR_INFRA, -r, "cannot make the command's %s",
				       plan->flags & WIRE_EXEC_TTY ? "terminal" : "pipes");
	}
	x->error_fd = error_pipe[0];
	opts.error_fd = plan->error_fd = error_pipe[1];
	x->error_source = (struct agent_source){
		.fd = x->error_fd,
		.events = POLLIN,
		.fn = on_error_pipe,
	};
	agent_source_add(&x->error_source);
	if (plan->script_fd >= 0)
		opts.keep[opts.n_keep++] = plan->script_fd;
	x->cgroup_fd = cgroup_make(x->cgroup);
	opts.cgroup_fd = x->cgroup_fd;
	x->start_ns = agent_now_ns();
	x->child.pid = agent_fork(&opts, plan->fn, plan);
	x->child.fn = on_child_exit;
	for (int i = 0; i < 3; i++)
		if (opts.fds[i] >= 0)
			close(opts.fds[i]);
	if (x->child.pid < 0)
		return error_set_errno(err, ERROR_INFRA, -x->child.pid, "cannot fork in the guest");
	agent_child_add(&x->child);
	return 0;
}

static void exec_init(struct exec *x, struct agent_call *c)
{
	x->call = c;
	x->in_fd = x->error_fd = x->events_fd = x->cgroup_fd = -EBADF;
	for (unsigned i = 0; i < ARRAY_SIZE(x->out); i++) {
		x->out[i].exec = x;
		x->out[i].stream = WIRE_STREAM_OUT + i;
		x->out[i].fd = -EBADF;
	}
}

void exec_begin(struct agent_call *c, struct exec_plan *plan)
{
	struct exec *x = call_state(c);
	struct error err = {};

	exec_init(x, c);
	x->tty = plan->flags & WIRE_EXEC_TTY;
	if (exec_fork(x, plan, &err) < 0)
		call_reply_err(c, &err);
	plan_done(plan);
}

static void exec_start(struct agent_call *c, const struct wire_fields *in)
{
	struct exec_plan plan = {.fn = exec_child, .script_fd = -EBADF, .error_fd = -EBADF};
	struct error err = {};

	if (plan_parse(in, &plan, &err) < 0) {
		plan_done(&plan);
		exec_init(call_state(c), c); /* for exec_end() */
		call_reply_err(c, &err);
		return;
	}
	exec_begin(c, &plan);
}

_Static_assert(sizeof(struct exec) <= EXEC_STATE_BYTES, "EXEC_STATE_BYTES is too small");

const struct agent_op agent_op_exec = {
	.op = WIRE_OP_EXEC,
	.name = "exec",
	.lives_on = true,
	.start = exec_start,
	EXEC_OP_MEMBERS,
};
