/* SPDX-License-Identifier: MIT */
/* Reading and writing a file of the guest: a child in its root, with the file's bytes on a pipe. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/exec.h"
#include "base/file.h"
#include "base/str.h"

/*
 * In a child, because a file may be anything: a fifo, on a server that is gone, in /proc. A call
 * that is given up is a child that is killed.
 */

#define CHUNK (256 * 1024)

/* --- reading ---------------------------------------------------------------------------------- */

static int read_child(void *userdata)
{
	const struct exec_plan *plan = userdata;
	char *chunk = xmalloc(CHUNK);
	uint64_t total = 0;
	int fd = open(plan->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	ssize_t n;

	if (fd < 0)
		exec_give_up(plan, errno, "cannot open '%s': %s", plan->path, strerror(errno));
	while ((n = read(fd, chunk, CHUNK)) > 0) {
		total += (uint64_t)n;
		if (total > plan->max)
			exec_give_up(plan, EFBIG, "'%s' is larger than %llu bytes", plan->path,
				     (unsigned long long)plan->max);
		if (fd_write_all(STDOUT_FILENO, chunk, (size_t)n) < 0)
			return 1;
	}
	if (n < 0)
		exec_give_up(plan, errno, "cannot read '%s': %s", plan->path, strerror(errno));
	return 0;
}

static void plan_path(const struct wire_fields *in, struct exec_plan *plan)
{
	plan->path = wire_dup_str(in, TAG_PATH, 64 * KIB);
	if (!plan->path)
		plan->path = xstrdup("");
}

static void read_start(struct agent_call *c, const struct wire_fields *in)
{
	struct exec_plan plan = {
		.fn = read_child,
		.script_fd = -EBADF,
		.error_fd = -EBADF,
		.max = UINT64_MAX,
	};

	plan_path(in, &plan);
	wire_get_u64(in, TAG_MAX, &plan.max);
	exec_begin(c, &plan);
}

const struct agent_op agent_op_read_file = {
	.op = WIRE_OP_READ_FILE,
	.name = "read file",
	.start = read_start,
	EXEC_OP_MEMBERS,
};

/* --- writing ---------------------------------------------------------------------------------- */

/* As much as there is, up to a full chunk: files in /proc and /sys want all in one write. */
static ssize_t read_chunk(int fd, char *chunk)
{
	size_t have = 0;

	while (have < CHUNK) {
		ssize_t n = read(fd, chunk + have, CHUNK - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

static int write_child(void *userdata)
{
	const struct exec_plan *plan = userdata;
	char *chunk = xmalloc(CHUNK);
	uid_t uid;
	gid_t gid;
	ssize_t n;
	int fd, r;

	umask(0);
	fd = open(plan->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY,
		  plan->mode ? plan->mode & 0777 : 0644);
	if (fd < 0)
		exec_give_up(plan, errno, "cannot open '%s' for writing: %s", plan->path,
			     strerror(errno));
	while ((n = read_chunk(STDIN_FILENO, chunk)) > 0) {
		r = fd_write_all(fd, chunk, (size_t)n);
		if (r < 0)
			exec_give_up(plan, -r, "cannot write '%s': %s", plan->path, strerror(-r));
	}
	if (plan->owner) {
		if (exec_find_owner(plan->owner, &uid, &gid) < 0)
			exec_give_up(plan, ENOENT, "owner '%s' of '%s' does not exist in the guest",
				     plan->owner, plan->path);
		if (fchown(fd, uid, gid) < 0)
			exec_give_up(plan, errno, "cannot give '%s' to '%s': %s", plan->path,
				     plan->owner, strerror(errno));
	}
	/* Behind the owner: chown takes set-uid bits away. */
	if (plan->mode && fchmod(fd, plan->mode & 07777) < 0)
		exec_give_up(plan, errno, "cannot set the mode of '%s': %s", plan->path,
			     strerror(errno));
	if (close(fd) < 0)
		exec_give_up(plan, errno, "cannot write '%s': %s", plan->path, strerror(errno));
	return 0;
}

static void write_start(struct agent_call *c, const struct wire_fields *in)
{
	struct exec_plan plan = {
		.fn = write_child,
		.script_fd = -EBADF,
		.error_fd = -EBADF,
		.flags = WIRE_EXEC_STDIN,
	};

	plan_path(in, &plan);
	plan.owner = wire_dup_str(in, TAG_OWNER, 256);
	wire_get_u32(in, TAG_MODE, &plan.mode);
	exec_begin(c, &plan);
}

const struct agent_op agent_op_write_file = {
	.op = WIRE_OP_WRITE_FILE,
	.name = "write file",
	.start = write_start,
	EXEC_OP_MEMBERS,
};
