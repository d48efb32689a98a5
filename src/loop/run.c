/* SPDX-License-Identifier: MIT */
/* process_run(): a command from start to end, with its output. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/io.h"
#include "loop/loop-internal.h"
#include "loop/process.h"

/*
 * Theory of operation.
 *
 * Input is a memory file, so nothing has to be fed while the command runs. Each output pipe has a
 * fiber that reads it (one for both would let a full second pipe block the command). The command
 * is over when its process is: then the readers are stopped, and what is in the pipes at that
 * moment is taken without waiting. A background process that still holds them is not waited for.
 */

/* How long a command that overstays has after SIGTERM. */
#define STOP_GRACE_NS (2 * NS_PER_SEC)
#define READ_BYTES    (64 * KIB)

struct collector {
	struct io *io; /* NULL: this output goes elsewhere */
	struct fiber *fiber;
	struct buf text;
	size_t max_bytes;
	uint64_t dropped;
};

static void collector_done(struct collector *c)
{
	fiber_stop(c->fiber);
	fiber_unref(c->fiber);
	io_free(c->io);
	buf_done(&c->text);
}

/* Reads to the back of the text, or to nowhere when it is full. Returns as read(2). */
static ssize_t take(struct collector *c, const char *chunk, ssize_t n)
{
	size_t keep = MIN((size_t)n, c->max_bytes - c->text.len);

	buf_append(&c->text, chunk, keep);
	c->dropped += (size_t)n - keep;
	return n;
}

static int collect(void *userdata)
{
	_cleanup_free_ char *chunk = xmalloc(READ_BYTES);
	struct collector *c = userdata;
	ssize_t n;

	while ((n = io_read(c->io, chunk, READ_BYTES, NS_FOREVER, NULL)) > 0)
		(void)take(c, chunk, n);
	return (int)n;
}

/* Makes the pipe and its reader; the writing end goes to the child. */
static int collector_start(struct collector *c, size_t max_bytes, int *ret_child_fd,
			   struct error *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a pipe");
	c->max_bytes = max_bytes;
	c->io = io_new(fds[0]);
	*ret_child_fd = fds[1];
	return 0;
}

static void collector_finish(struct collector *c, struct buf *ret)
{
	_cleanup_free_ char *chunk = NULL;
	ssize_t n, left;

	if (!c->io)
		return;
	fiber_stop(c->fiber);
	/* Everything the command wrote is in the pipe now; one pipe's worth bounds this even if
	 * somebody goes on writing. */
	chunk = xmalloc(READ_BYTES);
	left = fcntl(io_fd(c->io), F_GETPIPE_SZ);
	while (left > 0 && (n = read(io_fd(c->io), chunk, READ_BYTES)) > 0)
		left -= take(c, chunk, n);
	if (c->dropped > 0)
		buf_printf(&c->text, "\n[%llu more bytes were dropped]\n",
			   (unsigned long long)c->dropped);
	*ret = c->text;
	c->text = (struct buf){};
}

void run_result_done(struct run_result *r)
{
	buf_done(&r->out);
	buf_done(&r->err);
}

/* The last line on stderr is often the reason why a command did not end. */
static void hint_last_line(const struct collector *c, struct error *err)
{
	const char *text = buf_str(&c->text), *start;
	size_t n = c->text.len;

	while (n > 0 && text[n - 1] == '\n')
		n--;
	start = n > 0 ? memrchr(text, '\n', n) : NULL;
	start = start ? start + 1 : text;
	n -= (size_t)(start - text);
	if (n > 0)
		error_hint(err, "the last line that it wrote to stderr: %.*s", (int)MIN(n, 300),
			   start);
}

int process_run(char *const *argv, const struct spawn_opts *opts, const void *input,
		size_t input_len, size_t max_bytes, uint64_t timeout_ns, struct run_result *ret,
		struct error *err)
{
	_cleanup_(collector_done) struct collector out = {};
	_cleanup_(collector_done) struct collector errors = {};
	_cleanup_close_ int input_fd = -EBADF;
	_cleanup_close_ int out_fd = -EBADF;
	_cleanup_close_ int err_fd = -EBADF;
	_cleanup_process_ struct process *p = NULL;
	struct spawn_opts o = opts ? *opts : (struct spawn_opts){};
	int r;

	*ret = (struct run_result){};
	if (input) {
		input_fd = memfd_from_data("input", input, input_len, err);
		if (input_fd < 0)
			return input_fd;
		o.stdin_fd = input_fd;
	}
	if (!o.stdout_fd) {
		r = collector_start(&out, max_bytes, &out_fd, err);
		if (r < 0)
			return r;
		o.stdout_fd = out_fd;
	}
	if (!o.stderr_fd) {
		r = collector_start(&errors, max_bytes, &err_fd, err);
		if (r < 0)
			return r;
		o.stderr_fd = err_fd;
	}
	r = process_spawn(argv, &o, &p, err);
	if (r < 0)
		return r;
	if (out.io)
		fiber_start("stdout", collect, &out, &out.fiber);
	if (errors.io)
		fiber_start("stderr", collect, &errors, &errors.fiber);
	r = process_wait(p, timeout_ns, &ret->status, err);
	if (r < 0) {
		process_stop(p, STOP_GRACE_NS);
		hint_last_line(&errors, err);
		return r;
	}
	collector_finish(&out, &ret->out);
	collector_finish(&errors, &ret->err);
	return 0;
}
