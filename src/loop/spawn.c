/* SPDX-License-Identifier: MIT */
/* From fork to exec: the child's descriptors, group, namespaces and death signal. */
#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/loop-internal.h"
#include "loop/process.h"

/*
 * Theory of operation.
 *
 * Everything that can be prepared is prepared in the parent (`struct plan`): the path of the
 * program, the environment, the table of descriptors. Between fork and exec the child makes
 * system calls only; no malloc, no stdio.
 *
 * A pipe that exec closes reports failure: the child writes (stage, errno) and exits; end of file
 * without a report means that the program runs. It also tells the child that the parent is alive:
 * only the parent has its reading end. Looking at getppid() after PR_SET_PDEATHSIG, as one usually
 * does, says nothing in a new PID namespace (it is 0 there); a pipe without a reader says the same
 * everywhere. (The kernel closes a dying process's descriptors before it sends death signals, so
 * one of the two always reaches the child.)
 *
 * Descriptors: a wanted number may be the present number of another one, so all are first
 * duplicated above every number that is wanted, then put in their places; all else is closed.
 */

enum stage {
	STAGE_SESSION,
	STAGE_NETNS,
	STAGE_CWD,
	STAGE_FDS,
	STAGE_DEATH_SIGNAL,
	STAGE_EXEC,
};

/* Each completes "cannot start 'x': cannot …". */
static const char *const stage_words[] = {
	[STAGE_SESSION] = "become a process group of its own",
	[STAGE_NETNS] = "enter the network namespace",
	[STAGE_CWD] = "change to the working directory",
	[STAGE_FDS] = "arrange the descriptors",
	[STAGE_DEATH_SIGNAL] = "set the death signal",
	[STAGE_EXEC] = "execute",
};

struct report {
	int stage;
	int code;
};

struct move {
	int from;
	int to;
};

struct plan {
	const struct spawn_opts *opts;
	char *const *argv;
	char *path;
	char **env;
	struct move *moves; /* sorted by `to`, each number once */
	size_t n_moves;
	int high; /* above every wanted number */
	int report_fds[2];
};

static void plan_done(struct plan *p)
{
	free(p->path);
	strv_free(p->env);
	free(p->moves);
	cleanup_close(&p->report_fds[0]);
	cleanup_close(&p->report_fds[1]);
}

static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static int find_program(const char *word, char **ret, struct error *err)
{
	const char *path = getenv("PATH");
	_cleanup_strv_ char **dirs = NULL;
	_cleanup_free_ char *blocked = NULL;
	int r;

	if (strchr(word, '/')) { /* relative to the child's working directory, so exec judges */
		*ret = xstrdup(word);
		return 0;
	}
	dirs = strv_split(path && *path ? path : "/usr/local/bin:/usr/bin:/bin", ":");
	for (size_t i = 0; *word && dirs && dirs[i]; i++) {
		_cleanup_free_ char *full = path_join(dirs[i], word);

		if (is_program(full)) {
			*ret = TAKE_PTR(full);
			return 0;
		}
		if (!blocked && path_exists(full) && !path_is_dir(full))
			blocked = TAKE_PTR(full);
	}
	if (blocked)
		return error_set(err, ERROR_INFRA, EACCES, "program '%s' cannot be executed",
				 blocked);
	r = error_set(err, ERROR_INFRA, ENOENT, "program '%s' was not found in PATH", word);
	error_hint(err, "install it, or add its directory to PATH");
	return r;
}

/* Ours with opts->env laid over it. */
static char **make_environment(const struct spawn_opts *opts)
{
	char **env = NULL;

	for (char **e = environ; !opts->clear_env && e && *e; e++) {
		size_t n = strcspn(*e, "=") + 1;
		bool replaced = false;

		for (char *const *o = opts->env; o && *o; o++)
			replaced = replaced || strncmp(*o, *e, n) == 0;
		if (!replaced)
			strv_push(&env, *e);
	}
	for (char *const *o = opts->env; o && *o; o++)
		strv_push(&env, *o);
	if (!env)
		env = xcalloc(1, sizeof(*env));
	return env;
}

/* A later entry for the same number replaces an earlier one. */
static void add_move(struct plan *p, int from, int to)
{
	size_t i = 0;

	assert(from >= 0 && to >= 0);
	while (i < p->n_moves && p->moves[i].to < to)
		i++;
	if (i == p->n_moves || p->moves[i].to != to) {
		memmove(p->moves + i + 1, p->moves + i, (p->n_moves - i) * sizeof(*p->moves));
		p->n_moves++;
	}
	p->moves[i] = (struct move){.from = from, .to = to};
	p->high = MAX(p->high, to + 1);
}

static void plan_descriptors(struct plan *p, int null_fd)
{
	const struct spawn_opts *o = p->opts;

	p->moves = xcalloc(o->n_fds + 3, sizeof(*p->moves));
	p->high = 3;
	add_move(p, o->stdin_fd > 0 ? o->stdin_fd : null_fd, 0);
	add_move(p, o->stdout_fd > 0 ? o->stdout_fd : STDOUT_FILENO, 1);
	add_move(p, o->stderr_fd > 0 ? o->stderr_fd : STDERR_FILENO, 2);
	for (size_t i = 0; i < o->n_fds; i++)
		add_move(p, o->fds[i].fd, o->fds[i].child < 0 ? o->fds[i].fd : o->fds[i].child);
}

/* --- In the child --------------------------------------------------------------------------- */

static _noreturn_ void child_fail(const struct plan *p, enum stage stage)
{
	struct report report = {.stage = stage, .code = errno};

	(void)!write(p->report_fds[1], &report, sizeof(report));
	_exit(127);
}

static void child_reset_signals(void)
{
	struct sigaction sa = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		(void)sigaction(sig, &sa, NULL); /* fails for SIGKILL and SIGSTOP, rightly */
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void close_from_to(unsigned first, unsigned last)
{
	long limit;

	if (first > last || close_range(first, last, 0) == 0)
		return;
	/* Kernels before 5.9, and valgrind. */
	limit = sysconf(_SC_OPEN_MAX);
	for (unsigned fd = first; fd <= last && (long)fd < limit; fd++)
		close((int)fd);
}

static int child_arrange_fds(struct plan *p)
{
	unsigned next = 0;
	int report_fd;

	report_fd = fcntl(p->report_fds[1], F_DUPFD_CLOEXEC, p->high);
	if (report_fd < 0)
		return -errno;
	p->report_fds[1] = report_fd;
	for (size_t i = 0; i < p->n_moves; i++) {
		int from = fcntl(p->moves[i].from, F_DUPFD_CLOEXEC, p->high);

		/* Our own output may be closed; then so is the child's. */
		if (from < 0 && errno == EBADF && p->moves[i].from == p->moves[i].to &&
		    p->moves[i].to <= STDERR_FILENO)
			p->moves[i].from = -EBADF;
		else if (from < 0)
			return -errno;
		else
			p->moves[i].from = from;
	}
	for (size_t i = 0; i < p->n_moves; i++)
		if (p->moves[i].from >= 0 && dup2(p->moves[i].from, p->moves[i].to) < 0)
			return -errno;
	for (size_t i = 0; i < p->n_moves; i++) {
		unsigned to = (unsigned)p->moves[i].to;

		if (to > next)
			close_from_to(next, to - 1);
		next = to + 1;
	}
	if ((unsigned)report_fd > next)
		close_from_to(next, (unsigned)report_fd - 1);
	close_from_to((unsigned)report_fd + 1, UINT_MAX);
	return 0;
}

static bool parent_is_gone(const struct plan *p)
{
	struct pollfd fd = {.fd = p->report_fds[1], .events = 0};

	return poll(&fd, 1, 0) > 0 && fd.revents & POLLERR;
}

static _noreturn_ void child_run(struct plan *p)
{
	const struct spawn_opts *o = p->opts;
	int r;

	/* Ours is the only copy that may tell whether the parent is alive. */
	close(p->report_fds[0]);
	child_reset_signals();
	if (o->new_session ? setsid() < 0 : setpgid(0, 0) < 0)
		child_fail(p, STAGE_SESSION);
	if (o->netns_fd > 0 && setns(o->netns_fd, CLONE_NEWNET) < 0)
		child_fail(p, STAGE_NETNS);
	if (o->cwd && chdir(o->cwd) < 0)
		child_fail(p, STAGE_CWD);
	r = child_arrange_fds(p);
	if (r < 0) {
		errno = -r;
		child_fail(p, STAGE_FDS);
	}
	if (!o->detached) {
		/* Last: changes of credentials clear it. */
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
			child_fail(p, STAGE_DEATH_SIGNAL);
		if (parent_is_gone(p))
			_exit(127);
	}
	execve(p->path, p->argv, p->env);
	child_fail(p, STAGE_EXEC);
}

/* --- In the parent -------------------------------------------------------------------------- */

/* With namespaces by the bare system call, which glibc does not wrap in a fork-like form. */
static pid_t do_fork(unsigned long clone_flags)
{
	if (clone_flags == 0)
		return fork();
	return (pid_t)syscall(SYS_clone, clone_flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

static int wait_for_exec(const struct plan *p, struct report *ret)
{
	ssize_t n;

	do
		n = read(p->report_fds[0], ret, sizeof(*ret));
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(*ret) ? -ECHILD : 0;
}

static int fail_start(const struct plan *p, const char *name, const struct report *report,
		      struct error *err)
{
	const char *object = report->stage == STAGE_EXEC  ? p->path
			     : report->stage == STAGE_CWD ? p->opts->cwd
							  : NULL;

	return error_set_errno(err, ERROR_INFRA, report->code, "cannot start '%s': cannot %s%s%s%s",
			       name, stage_words[report->stage], object ? " '" : "",
			       object ? object : "", object ? "'" : "");
}

int spawn_child(char *const *argv, const char *name, const struct spawn_opts *opts, pid_t *ret_pid,
		int *ret_pidfd, struct error *err)
{
	_cleanup_(plan_done) struct plan p = {
		.opts = opts,
		.argv = argv,
		.report_fds = {-EBADF, -EBADF},
	};
	_cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct report report = {};
	sigset_t all, saved;
	int r, saved_errno;
	pid_t pid;

	r = find_program(argv[0], &p.path, err);
	if (r < 0)
		return r;
	if (null_fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot open '/dev/null'");
	if (pipe2(p.report_fds, O_CLOEXEC) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot start '%s'", name);
	p.env = make_environment(opts);
	plan_descriptors(&p, null_fd);

	/* No handler of ours may run in the child. */
	sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, &saved);
	pid = do_fork(opts->clone_flags);
	if (pid == 0)
		child_run(&p);
	saved_errno = errno;
	(void)sigprocmask(SIG_SETMASK, &saved, NULL);
	if (pid < 0)
		return error_set_errno(err, ERROR_INFRA, saved_errno,
				       "cannot make a process for '%s'", name);

	close(TAKE_FD(p.report_fds[1]));
	if (wait_for_exec(&p, &report) < 0) {
		(void)waitpid(pid, NULL, 0);
		return fail_start(&p, name, &report, err);
	}
	/* Nobody else reaps our children, so the number still means this one. */
	*ret_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (*ret_pidfd < 0) {
		r = error_set_errno(err, ERROR_INFRA, errno, "cannot watch '%s'", name);
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		return r;
	}
	*ret_pid = pid;
	return 0;
}
