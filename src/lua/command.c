/* SPDX-License-Identifier: MIT */
/* Commands in the guest: succeed, fail, execute, wait_until_succeeds, wait_until_fails, sleep. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Arguments are read before the machine is touched, so that a typing error never boots anything.
 * Each command is one agent_run(): the agent gives it a shell with strict settings, its own process
 * group, and ends it at its time-out. What is over the time-out or fails becomes an error whose
 * detail has the tails of both outputs; an exit status is an error only for succeed and fail, whose
 * whole point it is.
 *
 * wait_until_… is the one wait that polls: only the guest's own command can say whether what it
 * asks for is true. It polls from here rather than in the guest so that each attempt is a command
 * like any other (user, environment, time-out), at the price of a round trip of a fraction of a
 * millisecond. Attempts do not have events of their own: the wait has.
 */
static const struct option command_options[] = {
	TIME_OPTIONS,
	{"user", OPT_STRING, offsetof(struct command_options, user)},
	{"cwd", OPT_STRING, offsetof(struct command_options, cwd)},
	{"env", OPT_VALUE, offsetof(struct command_options, env)},
	{"stdin", OPT_VALUE, offsetof(struct command_options, stdin_)},
	{"trim", OPT_BOOL, offsetof(struct command_options, trim)},
	{NULL},
};
static const struct option until_options[] = {
	TIME_OPTIONS,
	{"user", OPT_STRING, offsetof(struct command_options, user)},
	{"cwd", OPT_STRING, offsetof(struct command_options, cwd)},
	{"env", OPT_VALUE, offsetof(struct command_options, env)},
	{"stdin", OPT_VALUE, offsetof(struct command_options, stdin_)},
	{"trim", OPT_BOOL, offsetof(struct command_options, trim)},
	{"interval", OPT_DURATION, offsetof(struct command_options, interval_ns)},
	{NULL},
};

void read_command_options(lua_State *L, int idx, const char *what, struct command_options *o,
			  bool waits)
{
	*o = (struct command_options){.trim = true, .interval_ns = 100 * NS_PER_MS};
	read_options(L, idx, what, waits ? until_options : command_options, o);
	if (o->stdin_)
		o->stdin_data = check_text(L, o->stdin_, what, "option 'stdin'", &o->stdin_len);
	if (o->env && !lua_istable(L, o->env))
		raise_usage(L, "env = { LANG = \"C\" }", "%s: option 'env' must be a table", what);
}

/* Sorted, so that what the guest sees does not depend on the order in a Lua table. */
void env_from_table(lua_State *L, int idx, const char *what, char ***ret)
{
	if (!idx)
		return;
	push_sorted_keys(L, idx);
	for (lua_Integer i = 1, keys = lua_gettop(L); lua_rawgeti(L, (int)keys, i); i++) {
		const char *name, *value;

		if (lua_type(L, -1) != LUA_TSTRING)
			raise_usage(L, "env = { LANG = \"C\" }", "%s: option 'env' has no names",
				    what);
		name = lua_tostring(L, -1);
		if (!*name || strchr(name, '='))
			raise_usage(L, NULL, "%s: '%s' is no name of a variable", what, name);
		lua_pushvalue(L, -1);
		lua_rawget(L, idx);
		value = check_text(L, -1, what, "a variable's value", NULL);
		strv_pushf(ret, "%s=%s", name, value);
		lua_pop(L, 2);
	}
	lua_pop(L, 2);
}

/* The definition's `env` first, so that a command's own is laid over it. */
void env_of_machine(struct call *c)
{
	const char *name;
	json_t *value;

	json_object_foreach(json_object_get(c->handle->spec, "env"), name, value)
		strv_pushf(&c->env, "%s=%s", name, json_string_value(value));
}

void fill_command(struct call *c, const struct command_options *o, struct agent_command *cmd)
{
	cmd->user = o->user;
	cmd->cwd = o->cwd;
	cmd->env = c->env;
	cmd->stdin_data = o->stdin_data;
	cmd->stdin_len = o->stdin_len;
}

/* --- what is said about a command
 * ------------------------------------------------------------------ */

/* The first line of a script is what a person recognises it by. */
void command_title(char *buf, size_t len, const char *command)
{
	const size_t max = 120;
	size_t width;
	bool cut;

	command += strspn(command, " \t\n");
	width = strcspn(command, "\n");
	cut = command[width] && command[width + strspn(command + width, " \t\n")];
	if (width > max) {
		for (width = max; width > 0 && (command[width] & 0xc0) == 0x80;)
			width--;
		cut = true;
	}
	(void)snprintf(buf, len, "%.*s%s", (int)width, command, cut ? " …" : "");
}

void describe_end(char *buf, size_t len, const struct agent_result *r)
{
	if (r->signal)
		(void)snprintf(buf, len, "was killed by signal %d (%s)", r->signal,
			       strsignal(r->signal));
	else
		(void)snprintf(buf, len, "failed with exit code %d", r->code);
}

void call_detail_result(struct call *c, const struct agent_result *r)
{
	call_detail(c, "stdout", json_text(r->out.data, r->out.len, TAIL_BYTES));
	call_detail(c, "stderr", json_text(r->err.data, r->err.len, TAIL_BYTES));
	if (r->signal)
		call_detail(c, "signal", json_integer(r->signal));
	else if (!r->timed_out && r->code >= 0) /* below 0: it never ended */
		call_detail(c, "code", json_integer(r->code));
}

static json_t *command_fields(struct call *c, const char *command, const char *phase)
{
	return json_pack("{s:s, s:s, s:o, s:s, s:I}", "machine", c->handle->name, "call", c->method,
			 "text", json_text(command, strlen(command), TAIL_BYTES), "phase", phase,
			 "id", (json_int_t)c->id);
}

/* Outputs are shortened here: events are for looking at, artifacts for keeping. */
static void emit_command_end(struct call *c, const char *command, int r)
{
	const struct agent_result *res = &c->result;
	json_t *f;

	if (!c->script->emit)
		return;
	f = command_fields(c, command, "end");
	json_object_set_new(f, "seconds",
			    json_real((double)(now_ns() - c->start_ns) / (double)NS_PER_SEC));
	if (r == 0 && res->signal)
		json_object_set_new(f, "signal", json_integer(res->signal));
	else if (r == 0)
		json_object_set_new(f, "code", json_integer(res->code));
	if (r < 0)
		json_object_set_new(f, "message",
				    json_text(c->err.message, strlen(c->err.message), 0));
	if (res->out.len)
		json_object_set_new(f, "stdout",
				    json_text(res->out.data, res->out.len, TAIL_BYTES));
	if (res->err.len)
		json_object_set_new(f, "stderr",
				    json_text(res->err.data, res->err.len, TAIL_BYTES));
	emit(c->script, "command", f);
}

/* --- running
 * ------------------------------------------------------------------------------------------ */

/* An error from below in our words: which command it was, as everywhere else. */
static void name_command(struct call *c, const char *title, uint64_t timeout_ns)
{
	char duration[FORMAT_MAX];

	if (c->err.kind == ERROR_TIMEOUT && now_ns() >= c->start_ns + timeout_ns) {
		error_clear(&c->err);
		error_set(&c->err, ERROR_TIMEOUT, ETIMEDOUT,
			  "timed out after %s waiting for command '%s' to end",
			  format_duration(timeout_ns, duration), title);
		return;
	}
	if (!strstr(c->err.message, title))
		error_prefix(&c->err, "command '%s'", title);
}

/* One command into c->result, with its events; a time-out is explained, whatever else too. */
static int run_command(struct call *c, const char *command, const struct command_options *o,
		       uint64_t timeout_ns)
{
	struct agent_command cmd = {.script = command};
	char title[160];
	int r;

	agent_result_done(&c->result);
	fill_command(c, o, &cmd);
	c->id = ++c->script->next_id;
	c->start_ns = now_ns();
	emit(c->script, "command", command_fields(c, command, "start"));
	r = agent_run(c->agent, &cmd, timeout_ns, &c->result, &c->err);
	if (r < 0)
		machine_explain_crash(c->machine, &c->err);
	emit_command_end(c, command, r);
	if (r < 0) {
		command_title(title, sizeof(title), command);
		name_command(c, title, timeout_ns);
		call_detail_result(c, &c->result);
		call_detail(c, "command", json_text(command, strlen(command), TAIL_BYTES));
	}
	return r;
}

int run_plain(struct call *c, const char *script, const char *user, uint64_t timeout_ns)
{
	struct agent_command cmd = {.script = script, .plain_shell = true, .user = user};
	int r;

	agent_result_done(&c->result);
	r = agent_run(c->agent, &cmd, timeout_ns, &c->result, &c->err);
	return r < 0 ? machine_explain_crash(c->machine, &c->err) : r;
}

/* The commands are arguments 2..n; what stands behind them is the table of options. */
static int count_commands(lua_State *L, const char *method)
{
	int n = lua_gettop(L), first = 2;

	if (n >= first && lua_istable(L, n))
		n--;
	else if (n > first && lua_isnil(L, n))
		n--;
	if (n < first)
		raise_usage(L, NULL, "%s: a command is missing", method);
	for (int i = first; i <= n; i++)
		check_text(L, i, method, "the command", NULL);
	return n;
}

/* The common beginning: machine, commands from index 2 to *ret_last, options behind them. */
static struct call *command_call(lua_State *L, const char *method, struct command_options *o,
				 bool waits, int *ret_last)
{
	struct call *c;
	int top;

	if (!to_handle(L, 1))
		return call_machine(L, method); /* raises */
	*ret_last = count_commands(L, method);
	top = lua_gettop(L);
	read_command_options(L, top > *ret_last ? top : top + 1, method, o, waits);
	c = call_machine(L, method);
	env_of_machine(c);
	env_from_table(L, o->env, method, &c->env);
	call_timeout(c, &o->time, DEFAULT_TIMEOUT_NS);
	call_agent(L, c);
	return c;
}

/* "command 'curl -s http://server' failed with exit code 7 (after 0.3 s)" */
static _noreturn_ void raise_command(lua_State *L, struct call *c, const char *command,
				     const char *end)
{
	char title[160], duration[FORMAT_MAX];

	command_title(title, sizeof(title), command);
	error_set(&c->err, ERROR_EXPECT, EPROTO, "command '%s' %s (after %s)", title, end,
		  format_duration(c->result.ns, duration));
	call_detail_result(c, &c->result);
	call_detail(c, "command", json_text(command, strlen(command), TAIL_BYTES));
	call_raise(L, c);
}

static int run_all(lua_State *L, const char *method, bool want_failure)
{
	struct command_options o = {};
	struct call *c;
	int last = 0;

	c = command_call(L, method, &o, false, &last);
	for (int i = 2; i <= last; i++) {
		const char *command = lua_tostring(L, i);
		bool failed;
		char end[80];

		/* For fail() too: a command that hangs has not shown how it fails. */
		if (run_command(c, command, &o, c->timeout_ns) < 0)
			call_raise(L, c);
		failed = c->result.code != 0 || c->result.signal != 0;
		if (failed != want_failure) {
			describe_end(end, sizeof(end), &c->result);
			raise_command(L, c, command, failed ? end : "succeeded, but was to fail");
		}
		buf_append(&c->buf, c->result.out.data, c->result.out.len);
	}
	while (o.trim && c->buf.len > 0 && c->buf.data[c->buf.len - 1] == '\n')
		buf_truncate(&c->buf, c->buf.len - 1);
	lua_pushlstring(L, buf_str(&c->buf), c->buf.len);
	call_done(c);
	return 1;
}

static int command_succeed(lua_State *L)
{
	return run_all(L, "succeed", false);
}

static int command_fail(lua_State *L)
{
	return run_all(L, "fail", true);
}

void push_result(lua_State *L, struct call *c)
{
	const struct agent_result *r = &c->result;

	lua_createtable(L, 0, 5);
	lua_pushinteger(L, r->signal ?: r->code);
	lua_setfield(L, -2, r->signal ? "signal" : "code");
	lua_pushlstring(L, buf_str(&r->out), r->out.len);
	lua_setfield(L, -2, "stdout");
	lua_pushlstring(L, buf_str(&r->err), r->err.len);
	lua_setfield(L, -2, "stderr");
	lua_pushnumber(L, (lua_Number)r->ns / (lua_Number)NS_PER_SEC);
	lua_setfield(L, -2, "seconds");
}

static int command_execute(lua_State *L)
{
	struct command_options o;
	struct call *c;
	int last = 0;

	c = command_call(L, "execute", &o, false, &last);
	if (last != 2)
		raise_usage(L, NULL, "execute: one command is wanted, not %d", last - 1);
	if (run_command(c, lua_tostring(L, 2), &o, c->timeout_ns) < 0)
		call_raise(L, c);
	push_result(L, c);
	call_done(c);
	return 1;
}

/* --- until
 * -----------------------------------------------------------------------------------------------
 */

/* What was wanted, how often it was tried, and what the attempt that counts had to say. */
static _noreturn_ void raise_until(lua_State *L, struct call *c, const char *command,
				   const char *wanted, unsigned attempts)
{
	char title[160], duration[FORMAT_MAX], end[80];

	command_title(title, sizeof(title), command);
	if (c->result.timed_out)
		(void)snprintf(end, sizeof(end), "did not end");
	else if (c->result.signal || c->result.code)
		describe_end(end, sizeof(end), &c->result);
	else
		(void)snprintf(end, sizeof(end), "succeeded");
	error_clear(&c->err);
	error_set(&c->err, ERROR_TIMEOUT, ETIMEDOUT,
		  "timed out after %s waiting for command '%s' to %s: the last of %u attempts %s",
		  format_duration(c->timeout_ns, duration), title, wanted, attempts, end);
	call_detail_result(c, &c->result);
	call_detail(c, "command", json_text(command, strlen(command), TAIL_BYTES));
	call_wait_end(L, c, -ETIMEDOUT);
	abort();
}

/* c->attempt becomes the result that is told. */
static void take_attempt(struct call *c)
{
	agent_result_done(&c->result);
	c->result = c->attempt;
	c->attempt = (struct agent_result){};
}

static int run_until(lua_State *L, const char *method, bool want_failure)
{
	const char *wanted = want_failure ? "fail" : "succeed", *command;
	struct command_options o;
	struct agent_command cmd = {};
	unsigned attempts = 0;
	uint64_t deadline;
	char title[160];
	struct call *c;
	int last = 0, r;

	c = command_call(L, method, &o, true, &last);
	if (last != 2)
		raise_usage(L, NULL, "%s: one command is wanted, not %d", method, last - 1);
	command = lua_tostring(L, 2);
	cmd.script = command;
	fill_command(c, &o, &cmd);
	command_title(title, sizeof(title), command);
	call_wait_start(c, "command '%s' to %s", title, wanted);
	deadline = deadline_in(c->timeout_ns);
	for (;;) {
		uint64_t start = now_ns();

		attempts++;
		r = agent_run(c->agent, &cmd, timeout_left(deadline), &c->attempt, &c->err);
		if (r < 0 && c->err.kind == ERROR_TIMEOUT && timeout_left(deadline) == 0) {
			/* One that was just begun says less than the one before it. */
			if (attempts > 1 && now_ns() - start < NS_PER_SEC)
				attempts--;
			else
				take_attempt(c);
			raise_until(L, c, command, wanted, attempts);
		}
		take_attempt(c);
		if (r < 0)
			call_wait_end(L, c, r);
		if ((c->result.code != 0 || c->result.signal != 0) == want_failure)
			break;
		if (timeout_left(deadline) <= o.interval_ns)
			raise_until(L, c, command, wanted, attempts);
		r = fiber_sleep(o.interval_ns, &c->err);
		if (r < 0)
			call_wait_end(L, c, r);
	}
	call_wait_end(L, c, 0);
	while (o.trim && c->result.out.len > 0 && c->result.out.data[c->result.out.len - 1] == '\n')
		buf_truncate(&c->result.out, c->result.out.len - 1);
	lua_pushlstring(L, buf_str(&c->result.out), c->result.out.len);
	call_done(c);
	return 1;
}

static int command_wait_until_succeeds(lua_State *L)
{
	return run_until(L, "wait_until_succeeds", false);
}

static int command_wait_until_fails(lua_State *L)
{
	return run_until(L, "wait_until_fails", true);
}

/* The guest's clock: a paused machine does not count. Never scaled. */
static int command_sleep(lua_State *L)
{
	uint64_t ns = check_duration(L, 2, "sleep");
	struct call *c = call_machine(L, "sleep");
	struct agent_command cmd = {};
	char number[32], text[FORMAT_MAX];
	char *argv[] = {"sleep", number, NULL};

	(void)snprintf(number, sizeof(number), "%.3f", (double)ns / (double)NS_PER_SEC);
	call_timeout(c, NULL, DEFAULT_TIMEOUT_NS);
	call_agent(L, c);
	cmd.argv = argv;
	/* The guest may be slower than its clock; the time-out comes on top. */
	call_start(c, "%s", format_duration(ns, text));
	call_end(L, c, agent_run(c->agent, &cmd, ns + c->timeout_ns, &c->result, &c->err));
	call_done(c);
	return 0;
}

const struct binding command_bindings[] = {
	{"machine:succeed", command_succeed},
	{"machine:fail", command_fail},
	{"machine:execute", command_execute},
	{"machine:wait_until_succeeds", command_wait_until_succeeds},
	{"machine:wait_until_fails", command_wait_until_fails},
	{"machine:sleep", command_sleep},
	{NULL},
};
