/* SPDX-License-Identifier: MIT */
/* Waits until something is mounted at a path. */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/pathwatch.h"
#include "base/file.h"
#include "base/str.h"

/*
 * The kernel marks mountinfo(5) as changed (POLLPRI) at each mount and umount in the namespace.
 * A path that leads through links is compared as PID 1 would resolve it, at each look anew.
 */

struct wait_mount {
	struct agent_call *call;
	struct agent_source source;
	char *path;
};

/* mountinfo writes blank, tab, newline and backslash as \ooo. */
static void unescape_octal(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
		    s[3] >= '0' && s[3] <= '7') {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = 0;
}

/* The fifth field of a line is the mount point. Lines are cut at their ends. */
static bool line_is_mount_of(char *line, const char *path)
{
	char *save = NULL, *field = strtok_r(line, " ", &save);

	/* ID, parent, device, root; then where it is mounted. */
	for (int i = 0; i < 4 && field; i++)
		field = strtok_r(NULL, " ", &save);
	if (!field)
		return false;
	unescape_octal(field);
	return str_eq(field, path);
}

/* The path as it is without links in it; a copy of the path itself where that cannot be told. */
static char *resolve(const char *path)
{
	int fd = agent_openat_root(path, O_PATH, 0);
	char link[64], real[PATH_MAX];
	ssize_t n;

	if (fd < 0)
		return xstrdup(path);
	snprintf(link, sizeof(link), "self/fd/%d", fd);
	n = readlinkat(agent_proc_fd(), link, real, sizeof(real) - 1);
	close(fd);
	return n > 0 && real[0] == '/' ? xstrndup(real, n) : xstrdup(path);
}

static bool is_mounted(struct wait_mount *m, const char *table)
{
	_cleanup_free_ char *copy = xstrdup(table), *real = resolve(m->path);
	char *save = NULL;

	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		_cleanup_free_ char *again = xstrdup(line);

		if (line_is_mount_of(line, m->path) || line_is_mount_of(again, real))
			return true;
	}
	return false;
}

static void look(struct agent_source *s, short revents)
{
	struct wait_mount *m = container_of(s, struct wait_mount, source);
	_cleanup_buf_ struct buf table = {};
	int rc = lseek(s->fd, 0, SEEK_SET) < 0 ? -errno : buf_read_fd(&table, s->fd, 16 * MIB);

	if (rc < 0)
		call_reply_error(m->call, ERROR_INFRA, -rc,
				 "cannot read the machine's mount table: %s", strerror(-rc));
	else if (is_mounted(m, buf_str(&table)))
		call_reply(m->call, NULL);
}

static void start(struct agent_call *c, const struct wire_fields *in)
{
	struct wait_mount *m = call_state(c);
	_cleanup_free_ char *path = wire_dup_str(in, TAG_PATH, PATH_MAX - 1);

	m->call = c;
	m->source.fd = -EBADF;
	if (!path || path[0] != '/') {
		call_reply_error(c, ERROR_USAGE, EINVAL,
				 "a mount point is an absolute path, not '%s'", path ? path : "");
		return;
	}
	m->path = path_absolute(path); /* no trailing slash, no "." */
	m->source = (struct agent_source){
		.fd = mountinfo_open(),
		.events = POLLPRI,
		.fn = look,
	};
	if (m->source.fd < 0) {
		call_reply_error(c, ERROR_INFRA, -m->source.fd,
				 "cannot open the machine's mount table: %s",
				 strerror(-m->source.fd));
		return;
	}
	agent_source_add(&m->source);
	look(&m->source, 0);
}

static void on_cancel(struct agent_call *c, enum wire_cancel reason)
{
	struct wait_mount *m = call_state(c);
	char seen[PATH_MAX + 64];

	path_describe_missing(m->path, seen, sizeof(seen));
	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "nothing is mounted there (%s)", seen);
}

static void end(struct agent_call *c)
{
	struct wait_mount *m = call_state(c);

	if (m->source.fd >= 0) {
		agent_source_remove(&m->source);
		close(m->source.fd);
	}
	free(m->path);
}

const struct agent_op agent_op_wait_mount = {
	.op = WIRE_OP_WAIT_MOUNT,
	.name = "wait-mount",
	.size = sizeof(struct wait_mount),
	.start = start,
	.on_cancel = on_cancel,
	.end = end,
};
