/* SPDX-License-Identifier: MIT */
/* Commands in the guest: run to the end and collect, or a process to talk to. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "channel/session.h"
#include "loop/loop.h"

/* --- what is common --------------------------------------------------------------------------- */

void agent_result_done(struct agent_result *r)
{
	buf_done(&r->out);
	buf_done(&r->err);
}

/* "command 'make test'", cut to a line. */
static void describe(const struct agent_command *cmd, char *ret, size_t size)
{
	_cleanup_free_ char *text = cmd->argv ? shell_quote_argv(cmd->argv) : xstrdup(cmd->script);
	const char *start = text + strspn(text, " \t\n");
	int len = (int)strcspn(start, "\n");
	const char *more = start[len] || len > 100 ? " …" : "";

	len = MIN(len, 100);
	/* Not in the middle of a character. */
	while (len > 0 && ((unsigned char)start[len] & 0xc0) == 0x80)
		len--;
	(void)snprintf(ret, size, "command '%.*s%s' to end", len, start, more);
}

static void put_command(struct buf *b, const struct agent_command *cmd)
{
	uint32_t flags = 0;

	assert(cmd->argv || cmd->script);
	for (char *const *arg = cmd->argv; arg && *arg; arg++)
		wire_put_str(b, TAG_ARG, *arg);
	if (!cmd->argv)
		wire_put_str(b, TAG_SCRIPT, cmd->script);
	wire_put_str(b, TAG_USER, cmd->user);
	wire_put_str(b, TAG_CWD, cmd->cwd);
	for (char *const *e = cmd->env; e && *e; e++)
		wire_put_str(b, TAG_ENV, *e);
	if (cmd->plain_shell)
		flags |= WIRE_EXEC_PLAIN_SHELL;
	if (cmd->stdin_data || cmd->keep_stdin)
		flags |= WIRE_EXEC_STDIN;
	if (cmd->want_tty)
		flags |= WIRE_EXEC_TTY;
	wire_put_u32(b, TAG_EXEC_FLAGS, flags);
}

static int start_command(struct agent *a, const struct agent_command *cmd, uint64_t deadline_ns,
			 struct agent_call **ret, struct error *err)
{
	_cleanup_buf_ struct buf body = {};
	char what[160];

	describe(cmd, what, sizeof(what));
	put_command(&body, cmd);
	return agent_call_start(a, WIRE_OP_EXEC, &body, what, deadline_ns, ret, err);
}

static void parse_reply(const struct agent_call *c, struct agent_result *ret)
{
	struct wire_fields f = {.data = (const uint8_t *)c->reply.data, .len = c->reply.len};
	uint32_t n;

	ret->code = -1;
	if (wire_get_u32(&f, TAG_EXIT_CODE, &n))
		ret->code = (int)n;
	if (wire_get_u32(&f, TAG_SIGNAL, &n))
		ret->signal = (int)n;
	wire_get_u64(&f, TAG_WALL_NS, &ret->ns);
}

/* --- collecting ------------------------------------------------------------------------------- */

struct collector {
	struct agent_call *call;
	const uint8_t *in; /* what is still to be written to its stdin */
	size_t in_len;
	bool in_fin;
	size_t max;
	bool too_much; /* one stream exceeded max */
	const char *which;
	struct agent_result *ret;
};

static void collect_stream(struct collector *k, unsigned stream, struct buf *to, const char *name)
{
	const uint8_t *data;
	size_t n;

	while ((n = call_peek_now(k->call, stream, &data)) > 0) {
		size_t part = MIN(n, k->max - MIN(to->len, k->max));

		if (part < n && !k->too_much) {
			k->too_much = true;
			k->which = name;
		}
		buf_append(to, data, part);
		agent_call_consume(k->call, stream, n);
	}
}

/* Everything that is possible without waiting. */
static void collect(void *userdata)
{
	struct collector *k = userdata;
	bool fin_sent;
	size_t n;

	collect_stream(k, WIRE_STREAM_OUT, &k->ret->out, "stdout");
	collect_stream(k, WIRE_STREAM_ERR, &k->ret->err, "stderr");
	if (k->in_len > 0 || k->in_fin) {
		n = call_send_some(k->call, k->in, k->in_len, k->in_fin, &fin_sent);
		k->in += n;
		k->in_len -= n;
		if (fin_sent)
			k->in_fin = false;
	}
}

static int fail_too_much(struct collector *k, struct error *err)
{
	char limit[FORMAT_MAX];

	call_wind_up(k->call, NULL, NULL);
	error_set(err, ERROR_EXPECT, EMSGSIZE, "the command wrote more than %s to its %s",
		  format_size(k->max, limit), k->which);
	error_hint(err, "raise the limit, redirect the output to a file in the guest, or read it "
			"piece by piece");
	return -EMSGSIZE;
}

/* Runs the call to its end; `ret` is filled as far as known whatever happens. */
static int collect_all(struct collector *k, uint64_t deadline_ns, uint64_t timeout_ns,
		       struct error *err)
{
	struct agent_call *c = k->call;
	struct error local = {};
	int r = 0;

	k->ret->code = -1;
	for (;;) {
		collect(k);
		if (k->too_much)
			return fail_too_much(k, err);
		if (c->done)
			break;
		r = fiber_wait_until(&c->waiters, deadline_ns, timeout_ns, c->what, &local);
		if (r < 0)
			break;
	}
	if (r < 0) {
		if (local.kind == ERROR_TIMEOUT || local.kind == ERROR_DEADLINE) {
			k->ret->timed_out = true;
			k->in_len = 0;
			k->in_fin = false;
			call_wind_up(c, collect, k);
			parse_reply(c, k->ret);
			call_explain_timeout(c, &local);
		}
		return error_propagate(err, &local);
	}
	if (error_is_set(&c->error))
		return error_propagate(err, &c->error);
	parse_reply(c, k->ret);
	return 0;
}

int agent_run(struct agent *a, const struct agent_command *cmd, uint64_t timeout_ns,
	      struct agent_result *ret, struct error *err)
{
	_cleanup_agent_call_ struct agent_call *c = NULL;
	uint64_t deadline = deadline_in(timeout_ns);
	struct collector k = {
		.in = cmd->stdin_data,
		.in_len = cmd->stdin_data ? cmd->stdin_len : 0,
		.in_fin = cmd->stdin_data || cmd->keep_stdin,
		.max = cmd->max_output ? cmd->max_output : AGENT_OUTPUT_MAX_BYTES,
		.ret = ret,
	};
	int r;

	*ret = (struct agent_result){.code = -1};
	r = start_command(a, cmd, deadline, &c, err);
	if (r < 0) {
		ret->timed_out = r == -ETIMEDOUT;
		return r;
	}
	k.call = c;
	return collect_all(&k, deadline, timeout_ns, err);
}

/* --- processes -------------------------------------------------------------------------------- */

struct agent_process {
	struct agent_call *call;
	size_t max;
	bool stdin_open;
};

int agent_process_start(struct agent *a, const struct agent_command *cmd,
			struct agent_process **ret, struct error *err)
{
	_cleanup_agent_call_ struct agent_call *c = NULL;
	struct agent_process *p;
	int r;

	r = start_command(a, cmd, NS_FOREVER, &c, err);
	if (r < 0)
		return r;
	/* Up to its exec, so that a command that does not exist is an error of the start. */
	while (!c->done && c->pid == 0) {
		r = fiber_wait(&c->waiters, NS_FOREVER, "a command to start", err);
		if (r < 0)
			return r;
	}
	if (error_is_set(&c->error))
		return error_propagate(err, &c->error);
	if (cmd->stdin_data) {
		r = agent_call_write(c, WIRE_STREAM_IN, cmd->stdin_data, cmd->stdin_len,
				     !cmd->keep_stdin, NS_FOREVER, NS_FOREVER, err);
		/* That it does not read all of it is its own business. */
		if (r < 0 && r != -EPIPE)
			return r;
	}
	p = xcalloc(1, sizeof(*p));
	p->call = TAKE_PTR(c);
	p->max = cmd->max_output ? cmd->max_output : AGENT_OUTPUT_MAX_BYTES;
	p->stdin_open = cmd->keep_stdin;
	*ret = p;
	return 0;
}

int agent_process_pid(const struct agent_process *p)
{
	return p->call->pid;
}

bool agent_process_is_done(const struct agent_process *p)
{
	return p->call->done;
}

int agent_process_read(struct agent_process *p, struct buf *ret, int *ret_stream,
		       uint64_t timeout_ns, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	struct agent_call *c = p->call;

	for (;;) {
		int r;

		for (unsigned i = WIRE_STREAM_OUT; i <= WIRE_STREAM_ERR; i++) {
			const uint8_t *data;
			size_t n = call_peek_now(c, i, &data);

			if (n == 0)
				continue;
			buf_append(ret, data, n);
			agent_call_consume(c, i, n);
			*ret_stream = (int)i;
			return (int)MIN(n, (size_t)INT32_MAX);
		}
		if (c->done)
			return error_is_set(&c->error) ? error_propagate(err, &c->error) : 0;
		r = fiber_wait_until(&c->waiters, deadline, timeout_ns, "output of a command", err);
		if (r < 0)
			return r;
	}
}

int agent_process_write(struct agent_process *p, const void *data, size_t len, uint64_t timeout_ns,
			struct error *err)
{
	if (!p->stdin_open)
		return error_set(err, ERROR_USAGE, EBADF,
				 "the command's stdin is closed, or was not asked for");
	return agent_call_write(p->call, WIRE_STREAM_IN, data, len, false, deadline_in(timeout_ns),
				timeout_ns, err);
}

int agent_process_close_stdin(struct agent_process *p, struct error *err)
{
	int r;

	if (!p->stdin_open)
		return 0;
	r = agent_call_write(p->call, WIRE_STREAM_IN, NULL, 0, true, NS_FOREVER, NS_FOREVER, err);
	if (r < 0 && r != -EPIPE)
		return r;
	p->stdin_open = false;
	return 0;
}

int agent_process_kill(struct agent_process *p, int sig, struct error *err)
{
	_cleanup_buf_ struct buf b = {};

	wire_put_u32(&b, TAG_SIGNAL, (uint32_t)sig);
	return agent_call_message(p->call, &b, err);
}

int agent_process_wait(struct agent_process *p, uint64_t timeout_ns, struct agent_result *ret,
		       struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	struct collector k = {.call = p->call, .max = p->max, .ret = ret};
	int r = 0;

	*ret = (struct agent_result){.code = -1};
	for (;;) {
		collect(&k);
		if (k.too_much)
			return fail_too_much(&k, err);
		if (p->call->done)
			break;
		/* Unlike agent_run(): a wait that expires leaves the process alone. */
		r = fiber_wait_until(&p->call->waiters, deadline, timeout_ns, p->call->what, err);
		if (r < 0)
			break;
	}
	ret->timed_out = r == -ETIMEDOUT;
	if (r < 0)
		return r;
	if (error_is_set(&p->call->error))
		return error_propagate(err, &p->call->error);
	parse_reply(p->call, ret);
	return 0;
}

void agent_process_free(struct agent_process *p)
{
	if (!p)
		return;
	agent_call_free(p->call);
	free(p);
}
