/* SPDX-License-Identifier: MIT */
/* The guest's root as PID 1 has it now, and children that live in it. */
#include <assert.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/internal.h"
#include "base/file.h"
#include "base/str.h"

static enum agent_life life;
static unsigned owned; /* enum agent_property */
static int proc_fd = -EBADF;
/* The kernel's log reaches the console in every phase of a guest's life, keeps the order with the
 * kernel's own lines, and the journal picks it up. */
static int kmsg_fd = -EBADF;
char **agent_argv;

/*
 * A procfs that is mounted nowhere: it cannot be covered, moved or unmounted by anybody, and keeps
 * nothing busy. Before Linux 5.2, and for an ordinary user, the mounted one has to do.
 */
static int open_proc(void)
{
#ifdef SYS_fsopen
	int fs = (int)syscall(SYS_fsopen, "proc", 1 /* FSOPEN_CLOEXEC */);

	if (fs >= 0) {
		int fd = -1;

		if (syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) == 0)
			fd = (int)syscall(SYS_fsmount, fs, 1 /* FSMOUNT_CLOEXEC */, 0);
		close(fs);
		if (fd >= 0)
			return fd;
	}
#endif
	return open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int root_setup(enum agent_life which)
{
	life = which;
	if (life == LIFE_GUEST) {
		kmsg_fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NOCTTY);
		proc_fd = open_proc();
	} else {
		proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	return proc_fd < 0 ? -errno : 0;
}

bool life_is_guest(void)
{
	return life == LIFE_GUEST;
}

bool agent_owns(enum agent_property what)
{
	return life == LIFE_GUEST || (owned & what);
}

int agent_set_owned(const char *list)
{
	static const struct {
		const char *name;
		enum agent_property property;
	} names[] = {
		{"clock", OWNS_CLOCK},
		{"entropy", OWNS_ENTROPY},
		{"machine-id", OWNS_MACHINE_ID},
		{"timers", OWNS_TIMERS},
	};
	_cleanup_strv_ char **words = strv_split(list, ",");

	for (char **w = words; w && *w; w++) {
		size_t i = 0;

		while (i < ARRAY_SIZE(names) && !str_eq(*w, names[i].name))
			i++;
		if (i == ARRAY_SIZE(names))
			return -EINVAL;
		owned |= names[i].property;
	}
	return 0;
}

int agent_proc_fd(void)
{
	return proc_fd;
}

int agent_root_open(void)
{
	int fd = life == LIFE_GUEST ? openat(proc_fd, "1/root", O_PATH | O_DIRECTORY | O_CLOEXEC)
				    : open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

bool root_is_final(void)
{
	struct stat ours, theirs;

	if (life == LIFE_STDIO)
		return true;
	return stat("/", &ours) == 0 && fstatat(proc_fd, "1/root/.", &theirs, 0) == 0 &&
	       (ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino);
}

int agent_openat_root(const char *path, int flags, mode_t mode)
{
	_cleanup_close_ int root = agent_root_open();
	struct open_how how = {
		.flags = (unsigned)flags | O_CLOEXEC,
		.mode = (flags & (O_CREAT | O_TMPFILE)) ? mode : 0,
		.resolve = RESOLVE_IN_ROOT,
	};
	int fd;

	if (root < 0)
		return root;
	/* With a root of our own there is nothing to be kept inside of, and magic links work. */
	if (life == LIFE_STDIO)
		fd = open(path, flags | O_CLOEXEC, mode);
	else
		fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

int root_enter(void)
{
	_cleanup_close_ int root = -EBADF;

	if (life == LIFE_STDIO)
		return chdir("/") < 0 ? -errno : 0;
	root = agent_root_open();
	if (root < 0)
		return root;
	if (fchdir(root) < 0 || chroot(".") < 0)
		return -errno;
	return 0;
}

bool agent_is_systemd(void)
{
	_cleanup_close_ int fd = agent_openat_root("/run/systemd/system", O_PATH | O_DIRECTORY, 0);

	return fd >= 0;
}

/* --- children --------------------------------------------------------------------------------- */

static pid_t fork_and_move(int cgroup_fd)
{
	pid_t pid = fork();

	if (pid == 0 && cgroup_fd >= 0) {
		_cleanup_close_ int fd = openat(cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);

		if (fd >= 0)
			(void)!write(fd, "0", 1);
	}
	return pid;
}

pid_t fork_into(int cgroup_fd)
{
#if defined(SYS_clone3) && defined(CLONE_INTO_CGROUP)
	if (cgroup_fd >= 0) {
		struct clone_args args = {
			.flags = CLONE_INTO_CGROUP,
			.exit_signal = SIGCHLD,
			.cgroup = (uint64_t)cgroup_fd,
		};
		/* As fork(), as far as a program with one thread can tell. */
		pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

		if (pid >= 0)
			return pid;
	}
#endif
	return fork_and_move(cgroup_fd);
}

void child_reset(void)
{
	_cleanup_close_ int fd = -EBADF;
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Only the agent itself is spared by systemd's last killing spree, not its children. */
	if (agent_argv && agent_argv[0][0] == '@')
		agent_argv[0][0] = '-';
	if (life != LIFE_GUEST)
		return;
	fd = openat(proc_fd, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		(void)!write(fd, "0", 1);
}

/* Moves the wanted descriptors out of the way, closes all others, brings them to their places. */
static int arrange_fds(const struct agent_fork_opts *opts)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; i < 3; i++) {
		int from = opts->fds[i] >= 0 ? opts->fds[i] : null_fd;

		/* The initramfs may have no devices; then a closed descriptor says so to who uses
		 * it. */
		if (from >= 0 && dup2(from, i) < 0)
			return -errno;
		if (from < 0)
			close(i);
	}
	for (int fd = 3; fd < 1024; fd++) {
		bool wanted = fd == proc_fd || (opts->error_fd > 0 && fd == opts->error_fd);

		for (size_t i = 0; i < opts->n_keep; i++)
			wanted = wanted || opts->keep[i] == fd;
		if (!wanted)
			close(fd);
	}
	return 0;
}

pid_t agent_fork(const struct agent_fork_opts *opts, int (*fn)(void *userdata), void *userdata)
{
	pid_t pid = fork_into(opts->cgroup_fd);
	int r;

	if (pid < 0)
		return -errno;
	if (pid > 0)
		return pid;
	child_reset();
	setsid();
	r = root_enter();
	if (r < 0 && opts->error_fd > 0)
		dprintf(opts->error_fd, "cannot enter the guest's root: %s", strerror(-r));
	if (r >= 0)
		r = arrange_fds(opts);
	_exit(r < 0 ? 127 : fn(userdata));
}

/* --- words for people ------------------------------------------------------------------------- */

void agent_log(const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ char *line = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = xvasprintf(fmt, ap);
	va_end(ap);
	line = xasprintf("assay-agent: %s\n", text);
	if (kmsg_fd >= 0) {
		_cleanup_free_ char *record = xasprintf("<3>%s", line);

		(void)!write(kmsg_fd, record, strlen(record));
		return;
	}
	(void)!write(STDERR_FILENO, line, strlen(line));
}
