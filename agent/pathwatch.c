/* SPDX-License-Identifier: MIT */
/* Looks for paths in the guest's root, with a watch on everything that was looked at. */
#include "agent/pathwatch.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "agent/internal.h"
#include "base/str.h"

/*
 * The kernel could resolve a path in one step, but an event is wanted for each place where the
 * answer may change, so the walk is made here, one component at a time. It starts anew at every
 * event: what there was before proves nothing, and a look costs a few system calls for each
 * component.
 */

#define LINKS_MAX 40 /* as in the kernel */
void fd_path_enter(int fd, char path[FD_PATH_MAX])
{
	/* Not "/proc/self/fd": our own root may have no /proc any more. */
	if (fchdir(agent_proc_fd()) < 0)
		agent_log("cannot enter procfs: %s", strerror(errno));
	snprintf(path, FD_PATH_MAX, "self/fd/%d", fd);
}

void fd_path_leave(void)
{
	if (chdir("/") < 0)
		agent_log("cannot return to '/': %s", strerror(errno));
}

int mountinfo_open(void)
{
	/* With --stdio we may have been started in a mount namespace that is not PID 1's. */
	const char *name = life_is_guest() ? "1/mountinfo" : "self/mountinfo";
	int fd = openat(agent_proc_fd(), name, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* --- events -------------------------------------------------------------------------------- */

/* Might the event change what a look finds? What it was does not matter: what is there now does. */
static bool concerns_us(const struct path_watch *w, const struct inotify_event *e)
{
	if (e->len == 0 || e->wd < 0)
		return true; /* of the directory itself, or a lost event */
	for (size_t i = 0; i < w->n_dirs; i++)
		if (w->dirs[i].wd == e->wd &&
		    (!w->dirs[i].name || str_eq(w->dirs[i].name, e->name)))
			return true;
	return false;
}

static void on_inotify(struct agent_source *s, short revents)
{
	struct path_watch *w = container_of(s, struct path_watch, inotify);
	char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	bool concerned = false;
	ssize_t n;

	while ((n = read(s->fd, events, sizeof(events))) > 0) {
		const struct inotify_event *e;

		for (char *p = events; p < events + n && !concerned; p += sizeof(*e) + e->len) {
			e = (const struct inotify_event *)p;
			concerned = concerns_us(w, e);
		}
	}
	if (concerned)
		w->fn(w);
}

static void on_mounts(struct agent_source *s, short revents)
{
	struct path_watch *w = container_of(s, struct path_watch, mounts);

	/* Every poll(2) that reports a change also takes it back. */
	w->fn(w);
}

static void on_poll(struct agent_timer *t)
{
	struct path_watch *w = container_of(t, struct path_watch, poll);

	w->fn(w);
}

void path_watch_init(struct path_watch *w, void (*fn)(struct path_watch *w))
{
	*w = (struct path_watch){
		.fn = fn,
		.inotify = {.fd = -EBADF, .events = POLLIN, .fn = on_inotify},
		.mounts = {.fd = -EBADF, .events = POLLPRI, .fn = on_mounts},
		.poll = {.fn = on_poll},
	};
}

static void close_source(struct agent_source *s)
{
	agent_source_remove(s);
	cleanup_close(&s->fd);
	s->fd = -EBADF;
}

static void forget_dirs(struct path_watch *w)
{
	for (size_t i = 0; i < w->n_dirs; i++)
		free(w->dirs[i].name);
	w->n_dirs = 0;
}

void path_watch_done(struct path_watch *w)
{
	if (!w->fn)
		return;
	close_source(&w->inotify);
	close_source(&w->mounts);
	agent_timer_remove(&w->poll);
	forget_dirs(w);
	free(w->dirs);
	w->dirs = NULL;
}

/* Makes what is needed to be told of changes; before the look, so that none is missed. */
static int watch_open(struct path_watch *w)
{
	/* Those of former looks pile up when the pattern's way changes; begin anew then. */
	if (w->n_dirs >= PATH_WATCH_MAX) {
		close_source(&w->inotify);
		forget_dirs(w);
	}
	if (w->inotify.fd < 0) {
		w->inotify.fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
		if (w->inotify.fd < 0)
			return -errno;
		agent_source_add(&w->inotify);
	}
	if (w->mounts.fd < 0) {
		w->mounts.fd = mountinfo_open();
		if (w->mounts.fd >= 0)
			agent_source_add(&w->mounts);
	}
	return 0;
}

/* --- walking ------------------------------------------------------------------------------- */

struct walk {
	struct path_watch *w;
	bool literal;
	int root;
	int found, enough;
	int *ret_fd;
	unsigned links;
};

/* Entries that the kernel, or another machine, makes by itself are no events to inotify. */
static bool tells_inotify(int dir)
{
	struct statfs fs;

	if (fstatfs(dir, &fs) < 0)
		return true;
	switch ((unsigned)fs.f_type) {
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case CGROUP2_SUPER_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case NFS_SUPER_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case 0x62656570: /* configfs */
	case V9FS_MAGIC:
	case FUSE_SUPER_MAGIC:
	case CIFS_SUPER_MAGIC:
	case SMB2_SUPER_MAGIC:
	case CEPH_SUPER_MAGIC:
		return false;
	default:
		return true;
	}
}

/* Watches a directory for one entry of it, or (name NULL) for any. */
static void watch_dir(struct path_watch *w, int dir, const char *name)
{
	uint32_t mask = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF |
			IN_MOVE_SELF | IN_ONLYDIR;
	char path[FD_PATH_MAX];
	int wd;

	if (w->attributes)
		mask |= IN_ATTRIB;
	/* Adding a watch that there is already gives its number again. */
	fd_path_enter(dir, path);
	wd = inotify_add_watch(w->inotify.fd, path, mask);
	fd_path_leave();
	/* Without a watch (the user's limit of them is reached) looking often is what is left. */
	if (wd < 0 || !tells_inotify(dir))
		w->must_poll = true;
	for (size_t i = 0; i < w->n_dirs; i++)
		if (w->dirs[i].wd == wd && str_eq(w->dirs[i].name, name))
			return;
	w->dirs = xrealloc(w->dirs, (w->n_dirs + 1) * sizeof(*w->dirs));
	w->dirs[w->n_dirs++] = (struct path_watched){wd, name ? xstrdup(name) : NULL};
}

/* Counts a match; only the first one's descriptor is of interest. */
static void found(struct walk *k, int fd)
{
	if (k->found++ == 0 && k->ret_fd)
		*k->ret_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static void walk_dir(struct walk *k, int dir, const char *rest);

/* A link's target is text, not a pattern: its wildcards are escaped. */
static char *splice_link(const struct walk *k, const char *target, const char *rest)
{
	struct buf b = {};

	for (const char *p = target; *p; p++) {
		if (!k->literal && strchr("*?[\\", *p))
			buf_putc(&b, '\\');
		buf_putc(&b, *p);
	}
	if (*rest)
		buf_printf(&b, "/%s", rest);
	return buf_steal(&b, NULL);
}

/* A link is replaced by its target in what is left of the pattern. */
static void walk_link(struct walk *k, int dir, int link, const char *rest)
{
	_cleanup_free_ char *path = NULL;
	char target[PATH_MAX];
	ssize_t n = readlinkat(link, "", target, sizeof(target) - 1);

	if (n <= 0 || k->links >= LINKS_MAX)
		return;
	target[n] = 0;
	path = splice_link(k, target, rest);
	k->links++;
	walk_dir(k, target[0] == '/' ? k->root : dir, path);
	k->links--;
}

static bool is_same_dir(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

/* One entry of dir; rest is what follows it in the pattern. */
static void walk_entry(struct walk *k, int dir, const char *name, const char *rest)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	/* Nothing is above the guest's root, even if it lies in a tree of ours. */
	if (str_eq(name, "..") && is_same_dir(dir, k->root))
		name = ".";
	fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	if (S_ISLNK(st.st_mode))
		walk_link(k, dir, fd, rest);
	else if (!*rest)
		found(k, fd);
	else if (S_ISDIR(st.st_mode))
		walk_dir(k, fd, rest);
}

static void walk_wildcard(struct walk *k, int dir, const char *pattern, const char *rest)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!d) {
		cleanup_close(&fd);
		return;
	}
	while (k->found < k->enough && (de = readdir(d)))
		if (!str_eq(de->d_name, ".") && !str_eq(de->d_name, "..") &&
		    fnmatch(pattern, de->d_name, FNM_PERIOD) == 0)
			walk_entry(k, dir, de->d_name, rest);
	closedir(d);
}

static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (*s == '\\' && s[1])
			s++;
		*to++ = *s;
	}
	*to = 0;
}

/* What is left of the pattern, from this directory on. */
static void walk_dir(struct walk *k, int dir, const char *rest)
{
	_cleanup_free_ char *name = NULL;
	const char *end;

	while (*rest == '/')
		rest++;
	if (!*rest) {
		found(k, dir);
		return;
	}
	end = strchrnul(rest, '/');
	name = xstrndup(rest, end - rest);
	while (*end == '/')
		end++;
	if (!k->literal && strpbrk(name, "*?[")) {
		watch_dir(k->w, dir, NULL);
		walk_wildcard(k, dir, name, end);
		return;
	}
	if (!k->literal)
		unescape(name);
	watch_dir(k->w, dir, name);
	walk_entry(k, dir, name, end);
}

int path_watch_look(struct path_watch *w, const char *pattern, bool literal, int enough,
		    int *ret_fd)
{
	_cleanup_close_ int root = agent_root_open();
	struct walk k = {
		.w = w,
		.literal = literal,
		.root = root,
		.enough = enough,
		.ret_fd = ret_fd,
	};
	int rc;

	if (root < 0)
		return root;
	rc = watch_open(w);
	if (rc < 0)
		return rc;
	w->must_poll = false;
	walk_dir(&k, root, pattern);
	agent_timer_remove(&w->poll);
	if (w->must_poll)
		agent_timer_set(&w->poll, agent_now_ns() + PATH_WATCH_POLL_MS * NS_PER_MS);
	return k.found;
}

static bool exists(const char *path)
{
	int fd = agent_openat_root(path, O_PATH, 0);

	cleanup_close(&fd);
	return fd >= 0;
}

void path_describe_missing(const char *path, char *ret, size_t size)
{
	_cleanup_free_ char *dir = xstrdup(path), *name = NULL;

	/* The deepest part that is there, and the first that is not. */
	while (*dir && !exists(dir)) {
		char *slash = strrchr(dir, '/');

		free(name);
		name = xstrdup(slash ? slash + 1 : dir);
		*(slash ? slash : dir) = 0;
	}
	if (!name)
		snprintf(ret, size, "'%s' exists", path);
	else if (!*dir)
		snprintf(ret, size, "'/%s' does not exist", name);
	else
		snprintf(ret, size, "'%s' exists, '%s' in it does not", dir, name);
}
