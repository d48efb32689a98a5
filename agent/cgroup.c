/* SPDX-License-Identifier: MIT */
/* All the processes of a command: its cgroup, or at least its session. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "agent/internal.h"
#include "base/str.h"

/*
 * The cgroups are /sys/fs/cgroup/assay/<number>, beside systemd's slices: the root cgroup may
 * hold processes and children alike, and systemd leaves alone what it has not made. A cgroup in
 * which a background process lives on cannot be removed; its number is remembered and tried again
 * when later ones are made.
 */

#define CGROUP2_MAGIC 0x63677270
#define LEFTOVERS_MAX 64
#define LEFTOVERS_TRY 4

static uint32_t leftovers[LEFTOVERS_MAX]; /* 0: free */
static size_t leftovers_next;

/* The directory of our cgroups; made if need be. */
static int open_base(void)
{
	static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		_cleanup_close_ int fd = agent_openat_root(places[i], O_RDONLY | O_DIRECTORY, 0);
		struct statfs fs;
		int base;

		if (fd < 0 || fstatfs(fd, &fs) < 0 || (uint32_t)fs.f_type != CGROUP2_MAGIC)
			continue;
		if (mkdirat(fd, "assay", 0755) < 0 && errno != EEXIST)
			return -errno;
		base = openat(fd, "assay", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		return base < 0 ? -errno : base;
	}
	return -ENOENT;
}

static void try_leftovers(int base)
{
	for (size_t i = 0; i < LEFTOVERS_TRY; i++) {
		uint32_t *n = &leftovers[leftovers_next++ % LEFTOVERS_MAX];
		char name[16];

		snprintf(name, sizeof(name), "%u", *n);
		if (*n && (unlinkat(base, name, AT_REMOVEDIR) == 0 || errno == ENOENT))
			*n = 0;
	}
}

int cgroup_make(char ret_name[32])
{
	static uint32_t number;
	_cleanup_close_ int base = open_base();
	int fd;

	if (base < 0)
		return base;
	try_leftovers(base);
	/* Numbers of an earlier agent in the same boot may be taken. */
	do
		snprintf(ret_name, 32, "%u", ++number);
	while (mkdirat(base, ret_name, 0755) < 0 && errno == EEXIST);
	fd = openat(base, ret_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

void cgroup_remove(const char *name)
{
	_cleanup_close_ int base = open_base();

	if (base < 0 || unlinkat(base, name, AT_REMOVEDIR) == 0 || errno != EBUSY)
		return;
	for (size_t i = 0; i < LEFTOVERS_MAX; i++) {
		if (leftovers[i] == 0) {
			leftovers[i] = (uint32_t)strtoul(name, NULL, 10);
			return;
		}
	}
}

void cgroup_signal(int cgroup_fd, int sig)
{
	_cleanup_close_ int fd = -EBADF;
	_cleanup_buf_ struct buf b = {};
	_cleanup_strv_ char **pids = NULL;

	if (sig == SIGKILL) {
		_cleanup_close_ int kill_fd =
			openat(cgroup_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);

		if (kill_fd >= 0 && write(kill_fd, "1", 1) == 1)
			return;
	}
	fd = openat(cgroup_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || buf_read_fd(&b, fd, MIB) < 0)
		return;
	pids = strv_split(buf_str(&b), "\n");
	for (char **p = pids; p && *p; p++) {
		pid_t pid = (pid_t)strtol(*p, NULL, 10);

		if (pid > 0)
			kill(pid, sig);
	}
}

/* The session of a process: the fourth field behind the name's closing parenthesis. */
static pid_t session_of(const char *pid)
{
	char path[64], text[512];
	_cleanup_close_ int fd = -EBADF;
	const char *p;
	int session = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/stat", pid);
	fd = openat(agent_proc_fd(), path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	p = strrchr(text, ')');
	if (!p || sscanf(p + 1, " %*c %*d %*d %d", &session) != 1)
		return -1;
	return session;
}

void session_signal(pid_t pid, int sig)
{
	int fd = openat(agent_proc_fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	/* At least its group, whatever /proc shows us. */
	kill(-pid, sig);
	while (d && (e = readdir(d))) {
		pid_t other = (pid_t)strtol(e->d_name, NULL, 10);

		if (other > 1 && other != getpid() && session_of(e->d_name) == pid)
			kill(other, sig);
	}
	if (d)
		closedir(d);
}
