/* SPDX-License-Identifier: MIT */
/* Streams the command lines of processes to the host, each when it is first seen or has changed. */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "agent/agent.h"
#include "base/str.h"

/*
 * The kernel's process events need CONFIG_PROC_EVENTS, which not every kernel has, so /proc is
 * looked through every SCAN_MS. A look is cheap: names only; a command line is read when the
 * process is new, at every look of its first YOUNG_MS (it may exec yet), and of the older ones a
 * few at each look (a process may exec at any age). What is sent are strings with a NUL behind
 * each; which one is meant the host knows.
 */
#define SCAN_MS	       10
#define YOUNG_MS       2000
#define OLD_PER_SCAN   8
#define LINE_MAX_BYTES (32 * KIB)

struct known {
	pid_t pid;
	uint32_t hash; /* of the command line that was sent */
	uint64_t since_ns;
	bool present; /* seen in this look */
};

struct wait_process {
	struct agent_call *call;
	struct agent_timer timer;
	struct known *known; /* by ascending pid */
	size_t n_known;
	size_t next_old; /* which of the older ones is read next */
	struct buf out;
};

static uint32_t hash_of(const struct buf *b)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < b->len; i++)
		h = (h ^ (uint8_t)b->data[i]) * 16777619u;
	return h;
}

static int read_proc(pid_t pid, const char *name, struct buf *ret)
{
	_cleanup_close_ int fd = -EBADF;
	char path[64], data[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "%d/%s", (int)pid, name);
	fd = openat(agent_proc_fd(), path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (ret->len < LINE_MAX_BYTES && (n = read(fd, data, sizeof(data))) > 0)
		buf_append(ret, data, n);
	return 0;
}

/* "[name]" of a process without arguments: a kernel thread. Nothing of a zombie. */
static void bracketed_name(pid_t pid, struct buf *ret)
{
	_cleanup_buf_ struct buf stat = {};
	char *open, *close;

	if (read_proc(pid, "stat", &stat) < 0)
		return;
	open = strchr(buf_str(&stat), '(');
	close = strrchr(buf_str(&stat), ')');
	if (open && close && close > open && close[1] == ' ' && close[2] != 'Z')
		buf_printf(ret, "[%.*s]", (int)(close - open - 1), open + 1);
}

/* Arguments joined by blanks; empty if there is nothing to tell. */
static void command_line(pid_t pid, struct buf *ret)
{
	if (read_proc(pid, "cmdline", ret) < 0)
		return;
	/* Some programs overwrite their arguments with a title and fill the rest with NULs. */
	while (ret->len > 0 && ret->data[ret->len - 1] == 0)
		buf_truncate(ret, ret->len - 1);
	for (size_t i = 0; i < ret->len; i++)
		if (ret->data[i] == 0)
			ret->data[i] = ' ';
	if (ret->len == 0)
		bracketed_name(pid, ret);
}

/* Sends the command line if it is another than the last time. */
static void look_at(struct wait_process *p, struct known *k)
{
	_cleanup_buf_ struct buf line = {};
	uint32_t hash;

	command_line(k->pid, &line);
	hash = hash_of(&line);
	if (line.len == 0 || hash == k->hash)
		return;
	k->hash = hash;
	buf_append(&p->out, buf_str(&line), line.len + 1);
}

/* Where pid is or belongs. */
static size_t place_of(const struct wait_process *p, pid_t pid)
{
	size_t low = 0, high = p->n_known;

	/* /proc is listed in ascending order, so new ones mostly go to the end. */
	if (high > 0 && p->known[high - 1].pid < pid)
		return high;
	while (low < high) {
		size_t mid = (low + high) / 2;

		if (p->known[mid].pid < pid)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* A process is there; a new one is added. */
static void see(struct wait_process *p, pid_t pid, uint64_t now)
{
	size_t i = place_of(p, pid);
	struct known *k;

	if (i < p->n_known && p->known[i].pid == pid) {
		p->known[i].present = true;
		return;
	}
	p->known = xrealloc(p->known, (p->n_known + 1) * sizeof(*p->known));
	k = &p->known[i];
	memmove(k + 1, k, (p->n_known - i) * sizeof(*k));
	p->n_known++;
	*k = (struct known){.pid = pid, .since_ns = now, .present = true};
}

static void list_processes(struct wait_process *p, uint64_t now)
{
	int fd = openat(agent_proc_fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	size_t n = 0;

	if (!dir) {
		cleanup_close(&fd);
		return;
	}
	for (size_t i = 0; i < p->n_known; i++)
		p->known[i].present = false;
	while ((de = readdir(dir)))
		if (isdigit((unsigned char)de->d_name[0]) && atoi(de->d_name) != getpid())
			see(p, atoi(de->d_name), now);
	closedir(dir);
	/* Those that have ended are dropped, so a pid that is used again is a new process. */
	for (size_t i = 0; i < p->n_known; i++)
		if (p->known[i].present)
			p->known[n++] = p->known[i];
	p->n_known = n;
}

/* One look. What is found waits in p->out. */
static void scan(struct wait_process *p)
{
	uint64_t now = agent_now_ns();
	size_t old = 0;

	list_processes(p, now);
	for (size_t i = 0; i < p->n_known; i++)
		if (now - p->known[i].since_ns < YOUNG_MS * NS_PER_MS)
			look_at(p, &p->known[i]);
	for (; old < OLD_PER_SCAN && old < p->n_known; old++) {
		struct known *k = &p->known[p->next_old++ % p->n_known];

		if (now - k->since_ns >= YOUNG_MS * NS_PER_MS)
			look_at(p, k);
	}
}

/* Sends what was found; looks again only when all of it is sent, so that memory is bounded. */
static void send_lines(struct wait_process *p)
{
	size_t max;
	void *place;

	while (p->out.len > 0 && (place = call_data_begin(p->call, WIRE_STREAM_OUT, &max))) {
		size_t n = MIN(max, p->out.len);

		memcpy(place, p->out.data, n);
		call_data_commit(p->call, WIRE_STREAM_OUT, n, false);
		buf_consume(&p->out, n);
	}
	call_want_write(p->call, WIRE_STREAM_OUT, p->out.len > 0);
	if (p->out.len == 0)
		agent_timer_set(&p->timer, agent_now_ns() + SCAN_MS * NS_PER_MS);
}

static void on_timer(struct agent_timer *t)
{
	struct wait_process *p = container_of(t, struct wait_process, timer);

	scan(p);
	send_lines(p);
}

static void on_writable(struct agent_call *c, unsigned stream)
{
	send_lines(call_state(c));
}

static void start(struct agent_call *c, const struct wire_fields *in)
{
	struct wait_process *p = call_state(c);

	p->call = c;
	p->timer.fn = on_timer;
	on_timer(&p->timer);
}

static void on_cancel(struct agent_call *c, enum wire_cancel reason)
{
	struct wait_process *p = call_state(c);

	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "it is none of the %zu processes there",
			 p->n_known);
}

static void end(struct agent_call *c)
{
	struct wait_process *p = call_state(c);

	agent_timer_remove(&p->timer);
	free(p->known);
	buf_done(&p->out);
}

const struct agent_op agent_op_wait_process = {
	.op = WIRE_OP_WAIT_PROCESS,
	.name = "wait-process",
	.size = sizeof(struct wait_process),
	.start = start,
	.on_writable = on_writable,
	.on_cancel = on_cancel,
	.end = end,
};
