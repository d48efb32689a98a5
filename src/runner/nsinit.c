/* SPDX-License-Identifier: MIT */
/* `assay ns-init`: the process between runner and worker that leaves nothing behind. */
#include "runner/run.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/str.h"

/*
 * Theory of operation
 *
 *	runner ── outer ── inner (PID 1) ── worker ── VMMs, …		level full
 *	runner ── outer ── worker ── VMMs, …				level nopid
 *
 * Level full: the outer process clones the inner one into new PID, mount and (unless root) user
 * namespaces. The inner one writes its maps, mounts a fresh /proc, starts the worker and reaps
 * whatever is re-parented to it. It ends when the worker has ended, or when the outer one is gone
 * (EOF on the lifeline, whose other end only the outer one holds; inside a PID namespace getppid()
 * says nothing). With it the kernel ends everything in the namespace, whatever that process did.
 *
 * Level nopid: no namespaces. The outer process is a child subreaper: what is orphaned below it
 * comes to it, so that it can kill generation after generation until it has no children.
 *
 * SIGTERM to the outer process means: end everything at once. It is also the signal that the death
 * of the runner sends (PDEATHSIG), so there is one way to die. The other usual signals go to the
 * worker. The exit status, or the deadly signal, of the worker becomes that of the outer process;
 * it travels through a pipe because the exit code of a PID 1 cannot carry a signal.
 *
 * Plain system calls and no event loop: this runs once for each test, and must be cheap.
 */

/* How long to wait for the next of those that were sent a SIGKILL; less than the runner's patience.
 */
#define LEFTOVERS_SECONDS 3

static const int forwarded[] = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT};

struct ns_options {
	enum ns_level level;
	bool probe;
	char **worker; /* argv */
};

/* Tells why on stderr, which the runner keeps; for failures before there is a worker. */
static int complain(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return -1;
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -1;
	if (write(fd, text, strlen(text)) < 0)
		r = -1;
	close(fd);
	return r;
}

/* --- the worker --------------------------------------------------------------------------- */

static void reset_signals(void)
{
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Starts the worker as a child that dies with us. In a PID namespace getppid() of PID 1's child is
 * 1 as long as PID 1 lives, and its death ends the child anyway. */
static pid_t start_worker(char **argv)
{
	pid_t parent = getpid(), pid = fork();

	if (pid != 0)
		return pid;
	reset_signals();
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	execv("/proc/self/exe", argv);
	complain("cannot execute the worker");
	_exit(127);
}

/* Ends as the worker did: same exit code, or the same signal (without a second core dump). */
static _noreturn_ void die_like(int status)
{
	struct rlimit no_core = {0, 0};

	if (WIFSIGNALED(status)) {
		setrlimit(RLIMIT_CORE, &no_core);
		reset_signals();
		raise(WTERMSIG(status));
	}
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

/* Kills those that the kernel lists as our children; returns how many. */
static unsigned kill_listed_children(void)
{
	char path[64], line[4096];
	unsigned killed = 0;
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, line, sizeof(line) - 1);
		close(fd);
	}
	line[MAX(n, 0)] = '\0';
	for (char *p = line, *end; *p; p = end) {
		long pid = strtol(p, &end, 10);

		if (end == p)
			break;
		/* Cut off at the end of the buffer, a number is another process's. */
		if (*end && pid > 1 && kill((pid_t)pid, SIGKILL) == 0)
			killed++;
	}
	return killed;
}

/* The parent of a process; -1 if that cannot be known. */
static pid_t parent_of(const char *pid)
{
	char path[300], text[512];
	int fd, parent = -1;
	const char *p;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%s/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[MAX(n, 0)] = '\0';
	/* The name, in parentheses, may have any character in it. */
	p = strrchr(text, ')');
	return p && sscanf(p + 1, " %*c %d", &parent) == 1 ? parent : -1;
}

/* The same for a kernel without that list (CONFIG_PROC_CHILDREN). False if there is no /proc. */
static bool kill_found_children(void)
{
	DIR *dir = opendir("/proc");
	bool found_self = false;
	struct dirent *d;

	while (dir && (d = readdir(dir))) {
		pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);

		if (pid <= 1)
			continue;
		found_self |= pid == getpid();
		if (parent_of(d->d_name) == getpid())
			kill(pid, SIGKILL);
	}
	if (dir)
		closedir(dir);
	return found_self;
}

/* Kills our children until there are none; those of a dead child come to us (subreaper). SIGCHLD is
 * blocked. */
static void kill_everything_below(void)
{
	const struct timespec patience = {.tv_sec = LEFTOVERS_SECONDS};
	bool can_see = true;
	sigset_t chld;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	do {
		pid_t pid;

		if (kill_listed_children() == 0)
			can_see = kill_found_children();
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (pid < 0)
			return; /* there are none */
				/* When one of them is gone, its orphans have arrived here. */
	} while (sigtimedwait(&chld, NULL, &patience) >= 0 || errno == EINTR);
	fprintf(stderr, "processes that this test has left behind still run: %s\n",
		can_see ? "they do not end, even by SIGKILL, or belong to another user"
			: "/proc cannot be read, so they cannot be found");
}

/* --- waiting ------------------------------------------------------------------------------ */

static int make_signalfd(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	for (size_t i = 0; i < ARRAY_SIZE(forwarded); i++)
		sigaddset(&set, forwarded[i]);
	/* Before any child exists, so that no signal is lost. */
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Reaps whatever has ended. True when child was among it. */
static bool reap(pid_t child, int *ret_status)
{
	bool found = false;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == child) {
			*ret_status = status;
			found = true;
		}
	return found;
}

/* Until the child has ended (true) or everything shall end: SIGTERM, or EOF on the lifeline. */
static bool supervise(int sigfd, int lifeline, pid_t child, int *ret_status)
{
	struct pollfd fds[] = {
		{.fd = sigfd, .events = POLLIN},
		{.fd = lifeline, .events = POLLIN}, /* negative: ignored by poll */
	};

	for (;;) {
		struct signalfd_siginfo si;

		if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
			return false;
		if (fds[1].revents)
			return false;
		while (read(sigfd, &si, sizeof(si)) == sizeof(si)) {
			if (si.ssi_signo == SIGTERM)
				return false;
			if (si.ssi_signo != SIGCHLD)
				kill(child, (int)si.ssi_signo);
		}
		if (reap(child, ret_status))
			return true;
	}
}

/* --- level full --------------------------------------------------------------------------- */

/* Our own uid and gid, unchanged: files belong to the same person on both sides. */
static int write_maps(uid_t uid, gid_t gid)
{
	char text[64];

	if (write_text("/proc/self/setgroups", "deny") < 0 && errno != ENOENT)
		return complain("cannot write /proc/self/setgroups");
	snprintf(text, sizeof(text), "%u %u 1", (unsigned)gid, (unsigned)gid);
	if (write_text("/proc/self/gid_map", text) < 0)
		return complain("cannot write /proc/self/gid_map");
	snprintf(text, sizeof(text), "%u %u 1", (unsigned)uid, (unsigned)uid);
	if (write_text("/proc/self/uid_map", text) < 0)
		return complain("cannot write /proc/self/uid_map");
	return 0;
}

static int set_up_mounts(bool probe)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return complain("cannot make mounts private");
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return complain("cannot mount /proc");
	/* Only to know that it can be done. */
	if (probe && mount("tmpfs", "/proc/fs", "tmpfs", MS_NOSUID | MS_NODEV, "size=64k") < 0)
		return complain("cannot mount a tmpfs");
	return 0;
}

/* PID 1 of the namespace. */
static _noreturn_ void inner(const struct ns_options *o, int lifeline, int result, uid_t uid,
			     gid_t gid)
{
	int sigfd, status = 0;
	pid_t worker;

	prctl(PR_SET_NAME, "assay-init");
	if (uid != 0 && write_maps(uid, gid) < 0)
		_exit(1);
	/* After the change of credentials, which clears it. A parent that died before shows at
	 * the lifeline. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigfd = make_signalfd();
	if (set_up_mounts(o->probe) < 0 || sigfd < 0)
		_exit(1);
	if (o->probe)
		_exit(0);
	worker = start_worker(o->worker);
	if (worker < 0) {
		complain("cannot start the worker");
		_exit(1);
	}
	/* The worker has it now; ours would keep the runner from seeing the end. */
	close(3);
	if (supervise(sigfd, lifeline, worker, &status) &&
	    write(result, &status, sizeof(status)) == (ssize_t)sizeof(status))
		_exit(0);
	_exit(1);
}

static int run_full(const struct ns_options *o)
{
	int lifeline[2], result[2], sigfd, status, wait_status;
	unsigned long flags = CLONE_NEWPID | CLONE_NEWNS | SIGCHLD;
	uid_t uid = geteuid();
	gid_t gid = getegid();
	pid_t child;

	if (uid != 0)
		flags |= CLONE_NEWUSER;
	if (pipe2(lifeline, O_CLOEXEC) < 0 || pipe2(result, O_CLOEXEC) < 0)
		return complain("cannot make a pipe");
	sigfd = make_signalfd();
	if (sigfd < 0)
		return complain("cannot make a signalfd");
	child = (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
	if (child < 0)
		return complain("cannot make namespaces");
	if (child == 0) {
		close(lifeline[1]);
		close(result[0]);
		close(sigfd);
		inner(o, lifeline[0], result[1], uid, gid);
	}
	close(lifeline[0]);
	close(result[1]);
	close(3);
	if (!supervise(sigfd, -1, child, &wait_status)) {
		kill(child, SIGKILL);
		/* Returns when the whole namespace is gone. */
		waitpid(child, &wait_status, 0);
		_exit(128 + SIGTERM);
	}
	if (read(result[0], &status, sizeof(status)) == (ssize_t)sizeof(status))
		die_like(status);
	die_like(wait_status);
}

static int run_nopid(const struct ns_options *o)
{
	int sigfd, status = 0;
	pid_t worker;
	bool ended;

	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return complain("cannot become a child subreaper");
	if (o->probe)
		return 0;
	sigfd = make_signalfd();
	if (sigfd < 0)
		return complain("cannot make a signalfd");
	worker = start_worker(o->worker);
	if (worker < 0)
		return complain("cannot start the worker");
	close(3);
	ended = supervise(sigfd, -1, worker, &status);
	/* By its number, which is still its own, whatever /proc shows. */
	if (!ended)
		kill(worker, SIGKILL);
	kill_everything_below();
	if (ended)
		die_like(status);
	_exit(128 + SIGTERM);
}

/* ns-init LEVEL [--parent PID] (--probe | -- WORKER-ARGV…) */
int ns_init_main(int argc, char **argv)
{
	struct ns_options o = {.level = NS_FULL};
	pid_t parent = 0;
	int i;

	prctl(PR_SET_NAME, "assay-ns");
	for (i = 1; i < argc; i++) {
		if (str_eq(argv[i], "nopid"))
			o.level = NS_NOPID;
		else if (str_eq(argv[i], "--probe"))
			o.probe = true;
		else if (str_eq(argv[i], "--parent") && i + 1 < argc)
			parent = (pid_t)strtol(argv[++i], NULL, 10);
		else if (str_eq(argv[i], "--"))
			break;
	}
	if (i + 1 < argc)
		o.worker = argv + i + 1;
	if (!o.probe && !o.worker) {
		fputs("assay: ns-init is started by the runner, not by hand\n", stderr);
		return EXIT_USAGE;
	}
	/* SIGTERM, which we answer in an orderly way, instead of the SIGKILL that every child of
	 * the runner gets. The parent may have died just before. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (parent && getppid() != parent)
		return 128 + SIGTERM;
	if (o.level == NS_NOPID)
		return run_nopid(&o) < 0 ? 1 : 0;
	return run_full(&o) < 0 ? 1 : 0;
}
