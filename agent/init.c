/* SPDX-License-Identifier: MIT */
/* The agent's first life: init of our initramfs, up to the hand-over to the distribution's init. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/internal.h"
#include "base/file.h"
#include "base/str.h"

/*
 * Theory of operation
 *
 * In this order, each step as early as it can be:
 *
 *	proc, sys, dev → the agent (a child, which looks for its port by itself) → modules →
 *	disks by serial → lower + scratch → overlay → host name, machine id → hand-over
 *
 * The kernel's command line says what to do:
 *
 *	assay.root=SERIAL        read-only root (erofs, squashfs, ext4); none: we stay, see below
 *	assay.scratch=SERIAL     ext4 above it
 *	assay.hostname=NAME      the last of each counts
 *	assay.machine_id=HEX
 *	assay.init=PATH          instead of /sbin/init
 *
 * The socket to the agent is closed by our exec: that is how the agent learns of the new root. A
 * failure is told on the console and through the agent to the host; then the machine is switched
 * off.
 *
 * Without assay.root we are a minimal init for guests that are only a kernel and this initramfs:
 * reaping, and power-off by busybox' signals.
 *
 * In the initramfs: /assay/modules.list, one path of a module a line, in the order of loading; and
 * /assay/mounts.list, see mount_listed().
 */

#define MODULES_LIST	"/assay/modules.list"
#define MOUNTS_LIST	"/assay/mounts.list"
#define DISK_TIMEOUT_MS 10000 /* a disk that is not there by then will not come */
#define TELL_TIMEOUT_MS 5000

#define LOWER	"/lower"
#define SCRATCH "/scratch"
#define NEWROOT "/newroot"

static int agent_fd = -EBADF; /* our end of the socket */
static pid_t agent_pid;
static char *cmdline;

/* --- failing ---------------------------------------------------------------------------------- */

/* Tells everybody, switches off. */
_noreturn_ _printf_(1, 2) static void fail(const char *fmt, ...)
{
	struct pollfd p = {.fd = agent_fd, .events = POLLIN};
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	agent_log("%s", text);
	if (agent_fd >= 0 && send(agent_fd, text, strlen(text), MSG_NOSIGNAL) > 0)
		poll(&p, 1, TELL_TIMEOUT_MS);
	agent_log("switching off");
	power_directly(false);
	/* The machine has no switch: PID 1 must not end. */
	for (;;)
		pause();
}

/* --- signals ---------------------------------------------------------------------------------- */

/* What we are asked by. Blocked from the first moment: PID 1 loses what it does not handle. */
static sigset_t our_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM); /* reboot, as busybox has it */
	sigaddset(&set, SIGINT);  /* Ctrl-Alt-Del */
	sigaddset(&set, SIGUSR2); /* power off */
	return set;
}

static void obey(int sig)
{
	if (sig == SIGTERM || sig == SIGINT)
		power_directly(true);
	if (sig == SIGUSR2)
		power_directly(false);
}

/* Whoever comes after us shall not inherit our mask; what came meanwhile is obeyed. */
static void release_signals(void)
{
	sigset_t set = our_signals();
	struct timespec now = {};
	int sig;

	while ((sig = sigtimedwait(&set, NULL, &now)) > 0)
		obey(sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* --- the kernel's command line ---------------------------------------------------------------- */

/* The value of the last "key=value", malloc'd; NULL if there is none. */
static char *param(const char *key)
{
	_cleanup_strv_ char **words = strv_split(cmdline, " \t\n");
	_cleanup_free_ char *prefix = xasprintf("%s=", key);
	char *value = NULL;

	for (char **w = words; w && *w; w++) {
		if (!str_starts(*w, prefix))
			continue;
		free(value);
		value = xstrdup(*w + strlen(prefix));
	}
	return value;
}

/* --- early mounts, the agent, modules --------------------------------------------------------- */

static void mount_early(const char *type, const char *dir, unsigned long flags, const char *options)
{
	(void)mkdir(dir, 0755);
	if (mount(type, dir, type, flags, options) < 0 && errno != EBUSY)
		agent_log("cannot mount %s on %s: %s", type, dir, strerror(errno));
}

static void setup_stdio(void)
{
	int fd = open("/dev/null", O_RDWR);

	/* The kernel has opened /dev/console for us, if the initramfs has one. */
	while (fd >= 0 && fd < 3)
		fd = dup(fd);
	if (fd >= 3)
		close(fd);
}

static void start_agent(void)
{
	char *argv[] = {"@assay-agent", "--guest", "3", NULL};
	char *envp[] = {NULL};
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		agent_log("cannot make a socket: %s", strerror(errno));
		return;
	}
	agent_fd = ends[0];
	agent_pid = fork();
	if (agent_pid == 0) {
		sigset_t set = our_signals();
		int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

		sigprocmask(SIG_UNBLOCK, &set, NULL);
		setsid();
		for (int i = 0; i < 3 && null_fd >= 0; i++)
			dup2(null_fd, i);
		if (ends[1] == 3)
			fd_set_cloexec(3, false);
		else
			dup2(ends[1], 3);
		execve("/proc/self/exe", argv, envp);
		_exit(127);
	}
	close(ends[1]);
	if (agent_pid < 0)
		agent_log("cannot fork: %s", strerror(errno));
}

static void load_module(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		agent_log("cannot load module %s: %s", path, strerror(errno));
}

static void load_modules(void)
{
	_cleanup_buf_ struct buf b = {};
	_cleanup_strv_ char **paths = NULL;
	int r = buf_read_file(&b, MODULES_LIST, MIB);

	if (r == -ENOENT)
		return; /* all is built in */
	if (r < 0)
		fail("cannot read " MODULES_LIST ": %s", strerror(-r));
	paths = strv_split(buf_str(&b), "\n");
	for (char **p = paths; p && *p; p++)
		load_module(*p);
}

/* "nosuid,nodev,size=1M" → flags, and what is left for the file system. */
static unsigned long mount_flags(const char *options, struct buf *ret_rest)
{
	static const struct {
		const char *name;
		unsigned long flag;
	} known[] = {{"nosuid", MS_NOSUID},	      {"nodev", MS_NODEV},
		     {"noexec", MS_NOEXEC},	      {"ro", MS_RDONLY},
		     {"strictatime", MS_STRICTATIME}, {"noatime", MS_NOATIME}};
	_cleanup_strv_ char **words = strv_split(options, ",");
	unsigned long flags = 0;

	for (char **w = words; w && *w; w++) {
		size_t i = 0;

		while (i < ARRAY_SIZE(known) && !str_eq(*w, known[i].name))
			i++;
		if (i < ARRAY_SIZE(known))
			flags |= known[i].flag;
		else
			buf_printf(ret_rest, "%s%s", ret_rest->len ? "," : "", *w);
	}
	return flags;
}

/* Does the root's systemd mount this by a unit, as its maker left it? */
static bool unit_is_wanted(const char *unit)
{
	_cleanup_free_ char *wants =
		xasprintf(NEWROOT "/usr/lib/systemd/system/local-fs.target.wants/%s", unit);
	_cleanup_free_ char *changed = xasprintf(NEWROOT "/etc/systemd/system/%s", unit);
	struct stat st;

	return lstat(wants, &st) == 0 && lstat(changed, &st) < 0;
}

/*
 * File systems that the image's init would mount by a process for each: "type directory options
 * [unit]"; with a unit only if systemd would mount it, too. /sys and /dev will move to the new
 * root with what is mounted below them. One that this kernel lacks is left to init.
 */
static void mount_listed(void)
{
	_cleanup_buf_ struct buf b = {};
	_cleanup_strv_ char **lines = NULL;

	if (buf_read_file(&b, MOUNTS_LIST, MIB) < 0)
		return;
	lines = strv_split(buf_str(&b), "\n");
	for (char **line = lines; line && *line; line++) {
		_cleanup_strv_ char **words = strv_split(*line, " ");
		_cleanup_free_ char *dir = NULL;
		_cleanup_buf_ struct buf rest = {};
		size_t n = strv_len(words);
		unsigned long flags;
		bool moves;

		if (n < 2 || (n > 3 && !unit_is_wanted(words[3])))
			continue;
		moves = str_starts(words[1], "/sys/") || str_starts(words[1], "/dev/");
		dir = xasprintf("%s%s", moves ? "" : NEWROOT, words[1]);
		flags = mount_flags(words[2] ? words[2] : "", &rest);
		(void)mkdir(dir, 0755);
		(void)mount(words[0], dir, words[0], flags, buf_str(&rest));
	}
}

/* --- disks ------------------------------------------------------------------------------------ */

/* "/dev/vda" by its serial, malloc'd; NULL if there is none. All serials are added to *seen. */
static char *find_disk(const char *serial, char ***seen)
{
	DIR *d = opendir("/sys/block");
	struct dirent *e;
	char *found = NULL;

	while (d && !found && (e = readdir(d))) {
		_cleanup_free_ char *path = xasprintf("/sys/block/%s/serial", e->d_name);
		_cleanup_buf_ struct buf b = {};

		if (e->d_name[0] == '.' || buf_read_file(&b, path, 4096) < 0)
			continue;
		while (b.len > 0 && b.data[b.len - 1] == '\n')
			buf_truncate(&b, b.len - 1);
		strv_pushf(seen, "%s (%s)", buf_str(&b), e->d_name);
		if (str_eq(buf_str(&b), serial))
			found = xasprintf("/dev/%s", e->d_name);
	}
	if (d)
		closedir(d);
	return found;
}

static int uevent_socket(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -errno;
	}
	return fd;
}

/* Waits for it: a driver may find its devices after its module was loaded. */
static char *wait_disk(const char *serial)
{
	_cleanup_close_ int fd = uevent_socket();
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t deadline = agent_now_ns() + DISK_TIMEOUT_MS * NS_PER_MS;
	_cleanup_strv_ char **seen = NULL;
	_cleanup_free_ char *list = NULL;

	for (;;) {
		uint64_t now = agent_now_ns();
		char message[8192];
		char *found;

		strv_free(seen);
		seen = NULL;
		found = find_disk(serial, &seen);
		if (found)
			return found;
		if (now >= deadline || poll(&p, 1, (int)((deadline - now) / NS_PER_MS) + 1) <= 0)
			break;
		(void)!recv(fd, message, sizeof(message), MSG_DONTWAIT);
	}
	list = strv_join(seen, ", ");
	fail("no disk with serial '%s' after %d s (there are: %s)", serial, DISK_TIMEOUT_MS / 1000,
	     list && list[0] ? list : "none");
}

/* --- the root --------------------------------------------------------------------------------- */

static void mount_lower(const char *serial)
{
	static const char *const types[] = {"erofs", "squashfs", "ext4"};
	_cleanup_free_ char *disk = wait_disk(serial);
	int e = 0;

	(void)mkdir(LOWER, 0755);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (mount(disk, LOWER, types[i], MS_RDONLY, NULL) == 0)
			return;
		/* The most telling one: a type that the kernel does not know says ENODEV. */
		if (e == 0 || e == ENODEV)
			e = errno;
	}
	fail("cannot mount %s (%s) as root: %s", disk, serial, strerror(e));
}

static void mount_scratch(const char *serial)
{
	_cleanup_free_ char *disk = NULL;

	if (!serial)
		fail("the command line has assay.root, but no assay.scratch to write to");
	disk = wait_disk(serial);
	(void)mkdir(SCRATCH, 0755);
	if (mount(disk, SCRATCH, "ext4", MS_NOATIME, NULL) < 0)
		fail("cannot mount %s (%s) as the writable layer: %s", disk, serial,
		     strerror(errno));
	/* One may be there without the other: the power can go between the two. */
	if ((mkdir(SCRATCH "/upper", 0755) < 0 && errno != EEXIST) ||
	    (mkdir(SCRATCH "/work", 0755) < 0 && errno != EEXIST))
		fail("cannot prepare the writable layer: %s", strerror(errno));
}

static void mount_root(const char *root, const char *scratch)
{
	mount_lower(root);
	mount_scratch(scratch);
	(void)mkdir(NEWROOT, 0755);
	if (mount("overlay", NEWROOT, "overlay", MS_NOATIME,
		  "lowerdir=" LOWER ",upperdir=" SCRATCH "/upper,workdir=" SCRATCH "/work") < 0)
		fail("cannot mount the overlay of root and writable layer: %s", strerror(errno));
	/* The overlay holds on to them; nobody shall stumble over them in /proc/mounts. */
	(void)umount2(LOWER, MNT_DETACH);
	(void)umount2(SCRATCH, MNT_DETACH);
}

/* --- identity --------------------------------------------------------------------------------- */

static void write_text(const char *path, const char *text, mode_t mode)
{
	_cleanup_close_ int fd =
		open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode);

	if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0)
		agent_log("cannot write %s: %s", path, strerror(errno));
}

/* "127.0.1.1 name" in /etc/hosts, as Debian's installer does, so that the name resolves. */
static void add_host(const char *name)
{
	static const char path[] = NEWROOT "/etc/hosts";
	_cleanup_free_ char *line = xasprintf("127.0.1.1\t%s\n", name);
	_cleanup_buf_ struct buf b = {};

	if (buf_read_file(&b, path, MIB) < 0)
		buf_puts(&b, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
	if (strstr(buf_str(&b), line))
		return; /* this machine was up before */
	if (b.len > 0 && b.data[b.len - 1] != '\n')
		buf_putc(&b, '\n');
	buf_puts(&b, line);
	write_text(path, buf_str(&b), 0644);
}

static void set_identity(void)
{
	_cleanup_free_ char *hostname = param("assay.hostname");
	_cleanup_free_ char *machine_id = param("assay.machine_id");

	if (hostname && hostname[0]) {
		_cleanup_free_ char *line = xasprintf("%s\n", hostname);

		(void)sethostname(hostname, strlen(hostname));
		write_text(NEWROOT "/etc/hostname", line, 0644);
		add_host(hostname);
	}
	if (machine_id && strlen(machine_id) == 32) {
		_cleanup_free_ char *line = xasprintf("%s\n", machine_id);

		write_text(NEWROOT "/etc/machine-id", line, 0444);
	}
}

/* --- the hand-over ---------------------------------------------------------------------------- */

/* Frees the initramfs' memory: everything on its file system, and nothing below another mount. */
static void remove_tree(int dir, dev_t dev)
{
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		struct stat st;

		if (str_eq(e->d_name, ".") || str_eq(e->d_name, "..") ||
		    fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != dev)
			continue;
		if (S_ISDIR(st.st_mode)) {
			_cleanup_close_ int sub = openat(
				dir, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (sub >= 0)
				remove_tree(sub, dev);
		}
		(void)unlinkat(dir, e->d_name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
	}
	if (d)
		closedir(d);
}

static void carry_over(const char *dir)
{
	_cleanup_free_ char *to = xasprintf(NEWROOT "%s", dir);

	(void)mkdir(to, 0755);
	if (mount(dir, to, NULL, MS_MOVE, NULL) < 0)
		fail("cannot move %s to the new root: %s", dir, strerror(errno));
}

static void switch_root(void)
{
	_cleanup_close_ int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	carry_over("/dev");
	carry_over("/sys");
	carry_over("/proc");
	if (old >= 0 && fstat(old, &st) == 0)
		remove_tree(old, st.st_dev);
	if (chdir(NEWROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		fail("cannot switch to the new root: %s", strerror(errno));
}

_noreturn_ static void exec_init(char **argv, char **envp)
{
	static const char *const candidates[] = {"/sbin/init", "/lib/systemd/systemd", "/etc/init",
						 "/bin/init"};
	_cleanup_free_ char *wanted = param("assay.init");

	if (wanted) {
		argv[0] = wanted;
		execve(wanted, argv, envp);
		fail("cannot execute %s (assay.init) in the root: %s", wanted, strerror(errno));
	}
	for (size_t i = 0; i < ARRAY_SIZE(candidates); i++) {
		argv[0] = (char *)candidates[i];
		execve(argv[0], argv, envp);
		if (errno != ENOENT)
			fail("cannot execute %s in the root: %s", argv[0], strerror(errno));
	}
	fail("the root has no init (looked for /sbin/init, /lib/systemd/systemd, /etc/init, "
	     "/bin/init)");
}

/* --- without a root --------------------------------------------------------------------------- */

_noreturn_ static void stay(void)
{
	sigset_t set = our_signals();

	(void)mkdir("/tmp", 01777);
	mount_early("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
	mount_early("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666");
	mount_early("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	for (;;) {
		int sig = sigwaitinfo(&set, NULL);
		pid_t pid;

		obey(sig);
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
			if (pid == agent_pid) {
				agent_fd = (close(agent_fd), -EBADF);
				fail("the agent has ended");
			}
		}
	}
}

void init_main(char **argv, char **envp)
{
	_cleanup_free_ char *root = NULL;
	_cleanup_free_ char *scratch = NULL;
	_cleanup_buf_ struct buf b = {};
	sigset_t set = our_signals();

	sigprocmask(SIG_BLOCK, &set, NULL);
	mount_early("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_early("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_early("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	setup_stdio();
	(void)root_setup(LIFE_GUEST);
	start_agent();
	(void)buf_read_file(&b, "/proc/cmdline", MIB);
	cmdline = buf_steal(&b, NULL);
	load_modules();
	root = param("assay.root");
	if (!root) {
		_cleanup_free_ char *hostname = param("assay.hostname");

		if (hostname)
			(void)sethostname(hostname, strlen(hostname));
		stay();
	}
	scratch = param("assay.scratch");
	mount_root(root, scratch);
	mount_listed();
	set_identity();
	switch_root();
	release_signals();
	exec_init(argv, envp);
}
