/* SPDX-License-Identifier: MIT */
/* Processes that go on beside the test: m:spawn() and its handle. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * A fiber, the pump, reads both streams of each process all the time, so that a guest's daemon
 * never stands still because nobody reads its log; the waits look at what the pump has collected.
 * The pump's deadline is nobody's (it is started inside a shield): it ends with the process, or
 * with the test. The handle in Lua is a pointer to a struct process_handle that the script owns and
 * frees at the end of the test, after that every call raises.
 */
#define PROCESS_META "assay.process"

struct process_handle {
	struct script *script;
	struct handle *machine;
	struct agent_process *process; /* NULL after the end of the test */
	struct fiber *pump;
	struct waiters changed;
	struct buf out, err, both;
	size_t line_at;	 /* read_line(): what is behind it was not read yet */
	size_t match_at; /* wait_for_output() */
	bool ended;	 /* nothing more comes */
	bool waited;
	struct agent_result result; /* out and err stay in the bufs above */
	struct error failure;	    /* why reading ended, if not by the process's end */
	char title[160];
	struct process_handle *next;
};

/* The pump: reads until both streams have ended, then takes the status. */
static int pump_run(void *userdata)
{
	struct process_handle *p = userdata;
	struct buf piece = {};
	int stream, r;

	for (;;) {
		buf_truncate(&piece, 0);
		r = agent_process_read(p->process, &piece, &stream, NS_FOREVER, &p->failure);
		if (r <= 0)
			break;
		buf_append(stream == 2 ? &p->err : &p->out, piece.data, piece.len);
		buf_append(&p->both, piece.data, piece.len);
		/* The whole output is kept for wait(), so it must have a limit. */
		if (p->both.len > AGENT_OUTPUT_MAX_BYTES) {
			r = error_set(&p->failure, ERROR_EXPECT, EFBIG,
				      "process '%s' wrote more than 64 MiB, it was killed",
				      p->title);
			agent_process_kill(p->process, SIGKILL, NULL);
			break;
		}
		waiters_wake_all(&p->changed);
	}
	buf_done(&piece);
	if (r >= 0) {
		r = agent_process_wait(p->process, NS_FOREVER, &p->result, &p->failure);
		if (r >= 0) {
			buf_append(&p->out, p->result.out.data, p->result.out.len);
			buf_append(&p->err, p->result.err.data, p->result.err.len);
			buf_append(&p->both, p->result.out.data, p->result.out.len);
			buf_append(&p->both, p->result.err.data, p->result.err.len);
		}
	}
	p->ended = true;
	waiters_wake_all(&p->changed);
	return 0;
}

/* Kills it if it still runs. Waits for the pump only, which wakes at once when it is cancelled. */
static void process_end(struct process_handle *p)
{
	if (!p->process)
		return;
	if (!p->ended)
		agent_process_kill(p->process, SIGKILL, NULL);
	fiber_stop(p->pump);
	p->pump = fiber_unref(p->pump);
	agent_process_free(p->process);
	p->process = NULL;
	agent_result_done(&p->result);
	buf_done(&p->out);
	buf_done(&p->err);
	buf_done(&p->both);
}

/* The handles themselves live until the state is closed: Lua may still hold one. */
void processes_end(struct script *s)
{
	for (struct process_handle *p = s->processes; p; p = p->next)
		process_end(p);
}

void processes_free(struct script *s)
{
	while (s->processes) {
		struct process_handle *p = s->processes;

		s->processes = p->next;
		free(p);
	}
}

/* --- spawn
 * ---------------------------------------------------------------------------------------- */

static void start_pump(struct process_handle *p)
{
	struct fiber_shield shield;

	fiber_shield_enter(&shield, NS_FOREVER);
	fiber_start("process", pump_run, p, &p->pump);
	fiber_shield_leave(&shield);
}

static int process_spawn_in_guest(lua_State *L)
{
	const char *command;
	struct command_options o;
	struct process_handle *p, **box;
	struct agent_command cmd = {};
	struct call *c;
	int r;

	if (!to_handle(L, 1))
		call_machine(L, "spawn"); /* raises */
	command = check_text(L, 2, "spawn", "the command", NULL);
	lua_settop(L, 3);
	read_command_options(L, 3, "spawn", &o, false);
	c = call_machine(L, "spawn");
	env_of_machine(c);
	env_from_table(L, o.env, "spawn", &c->env);
	call_agent(L, c);
	box = lua_newuserdatauv(L, sizeof(*box), 0);
	*box = NULL;
	luaL_setmetatable(L, PROCESS_META);

	cmd.script = command;
	fill_command(c, &o, &cmd);
	cmd.keep_stdin = !o.stdin_data;
	p = xcalloc(1, sizeof(*p));
	p->script = c->script;
	p->machine = c->handle;
	command_title(p->title, sizeof(p->title), command);
	/* In the list before it is started: if that is cancelled, the end of the test still
	 * finds it. */
	p->next = c->script->processes;
	c->script->processes = p;
	*box = p;
	call_start(c, "%s", p->title);
	r = agent_process_start(c->agent, &cmd, &p->process, &c->err);
	if (r == 0)
		start_pump(p);
	call_end(L, c, r);
	return 1;
}

/* The process at 1; a handle that outlived its test raises. */
static struct call *process_call(lua_State *L, const char *method, struct process_handle **ret)
{
	struct process_handle **box = luaL_testudata(L, 1, PROCESS_META);
	struct call *c;

	if (!box)
		raise_usage(L, "write it with a colon: p:wait()", "%s: a process is wanted",
			    method);
	c = call_new(L, method);
	if (!*box || !(*box)->process)
		raise_usage(L, "a process ends with the test that spawned it",
			    "%s: this process is gone", method);
	*ret = *box;
	c->handle = (*box)->machine;
	c->machine = c->handle->machine;
	return c;
}

/* Waits until the pump has something new; raises when that is not to be. */
static int wait_changed(struct call *c, struct process_handle *p, uint64_t deadline)
{
	return fiber_wait_until(&p->changed, deadline, c->timeout_ns, c->what, &c->err);
}

/* Why the pump stopped, if it was not because the process had ended: the machine died, … */
static int read_failed(struct call *c, struct process_handle *p)
{
	return error_is_set(&p->failure) ? error_propagate(&c->err, &p->failure) : 0;
}

static void add_output(struct call *c, struct process_handle *p)
{
	call_detail(c, "stdout", json_text(p->out.data, p->out.len, TAIL_BYTES));
	call_detail(c, "stderr", json_text(p->err.data, p->err.len, TAIL_BYTES));
}

/* --- methods
 * ----------------------------------------------------------------------------------------- */

static int process_wait_end(lua_State *L)
{
	struct time_options o = {};
	struct process_handle *p;
	uint64_t deadline;
	struct call *c;
	int r = 0;

	lua_settop(L, 2);
	read_options(L, 2, "wait", time_options, &o);
	c = process_call(L, "wait", &p);
	call_timeout(c, &o, DEFAULT_TIMEOUT_NS);
	call_wait_start(c, "process '%s' to end", p->title);
	deadline = deadline_in(c->timeout_ns);
	while (r == 0 && !p->ended)
		r = wait_changed(c, p, deadline);
	if (r == 0)
		r = read_failed(c, p);
	if (r < 0)
		add_output(c, p);
	call_wait_end(L, c, r);
	c->result.code = p->result.code;
	c->result.signal = p->result.signal;
	c->result.ns = p->result.ns;
	buf_append(&c->result.out, p->out.data, p->out.len);
	buf_append(&c->result.err, p->err.data, p->err.len);
	push_result(L, c);
	call_done(c);
	return 1;
}

/* No error for a process that has ended: it is what was wanted. */
static int process_kill_it(lua_State *L)
{
	const char *name =
		lua_isnoneornil(L, 2) ? "TERM" : check_text(L, 2, "kill", "the signal", NULL);
	int sig = signal_from_name(name);
	struct process_handle *p;
	struct call *c = process_call(L, "kill", &p);

	if (sig == 0)
		raise_usage(L, "\"TERM\", \"KILL\", \"HUP\", \"USR1\", or a number",
			    "kill: there is no signal '%.40s'", name);
	call_start(c, "%s to '%s'", name, p->title);
	call_end(L, c, p->ended ? 0 : agent_process_kill(p->process, sig, &c->err));
	return 0;
}

static int process_write(lua_State *L)
{
	size_t len;
	const char *data = check_text(L, 2, "write", "the data", &len);
	struct process_handle *p;
	struct call *c = process_call(L, "write", &p);

	call_timeout(c, NULL, DEFAULT_TIMEOUT_NS);
	if (agent_process_write(p->process, data, len, c->timeout_ns, &c->err) < 0)
		call_raise(L, c);
	return 0;
}

static int process_close_stdin(lua_State *L)
{
	struct process_handle *p;
	struct call *c = process_call(L, "close_stdin", &p);

	if (agent_process_close_stdin(p->process, &c->err) < 0)
		call_raise(L, c);
	return 0;
}

/* Lines of stdout alone. An unfinished line at the end counts as one. */
static int process_read_line(lua_State *L)
{
	struct time_options o = {};
	struct process_handle *p;
	const char *newline = NULL, *start;
	uint64_t deadline;
	struct call *c;
	size_t left;
	int r = 0;

	lua_settop(L, 2);
	read_options(L, 2, "read_line", time_options, &o);
	c = process_call(L, "read_line", &p);
	call_timeout(c, &o, DEFAULT_TIMEOUT_NS);
	(void)snprintf(c->what, sizeof(c->what), "a line of '%.150s'", p->title);
	deadline = deadline_in(c->timeout_ns);
	for (;;) {
		left = p->out.len - p->line_at;
		newline = left ? memchr(p->out.data + p->line_at, '\n', left) : NULL;
		if (newline || p->ended)
			break;
		r = wait_changed(c, p, deadline);
		if (r < 0)
			break;
	}
	if (r == 0 && !newline)
		r = read_failed(c, p);
	if (r < 0) {
		add_output(c, p);
		call_raise(L, c);
	}
	if (left == 0)
		return lua_pushnil(L), 1;
	start = p->out.data + p->line_at;
	p->line_at += newline ? (size_t)(newline - start) + 1 : left;
	lua_pushlstring(L, start, newline ? (size_t)(newline - start) : left);
	return 1;
}

/* Both streams as they came. Matches what is there before it waits, so nothing is missed. */
static int process_wait_for_output(lua_State *L)
{
	const char *pattern = check_text(L, 2, "wait_for_output", "the pattern", NULL);
	struct time_options o = {};
	struct process_handle *p;
	size_t from, end = 0;
	uint64_t deadline;
	struct call *c;
	int r;

	lua_settop(L, 3);
	read_options(L, 3, "wait_for_output", time_options, &o);
	c = process_call(L, "wait_for_output", &p);
	call_timeout(c, &o, DEFAULT_TIMEOUT_NS);
	if (regex_compile(pattern, &c->regex, &c->err) < 0)
		call_raise(L, c);
	call_wait_start(c, "output of '%.80s' that matches /%.80s/", p->title, pattern);
	deadline = deadline_in(c->timeout_ns);
	from = p->match_at;
	for (;;) {
		r = regex_match_growing(c->regex, buf_str(&p->both), p->both.len, &from, &end,
					&c->json, &c->err);
		if (r != 0)
			break;
		if (p->ended) {
			r = read_failed(c, p)
				    ?: error_set(&c->err, ERROR_EXPECT, EPIPE,
						 "process '%s' ended without output that matches "
						 "/%s/",
						 p->title, pattern);
			break;
		}
		r = wait_changed(c, p, deadline);
		if (r < 0)
			break;
	}
	if (r < 0)
		add_output(c, p);
	call_wait_end(L, c, r < 0 ? r : 0);
	p->match_at = end;
	push_captures(L, c->json);
	call_done(c);
	return 1;
}

static int process_pid(lua_State *L)
{
	struct process_handle *p;

	process_call(L, "pid", &p);
	lua_pushinteger(L, agent_process_pid(p->process));
	return 1;
}

/* Names rather than numbers: those differ between architectures, and guests may be of another. */
int signal_from_name(const char *name)
{
	static const char *const names[] = {"HUP",  "INT",  "QUIT", "KILL", "USR1",
					    "USR2", "TERM", "CONT", "STOP", "WINCH"};
	static const int numbers[] = {SIGHUP,  SIGINT,	SIGQUIT, SIGKILL, SIGUSR1,
				      SIGUSR2, SIGTERM, SIGCONT, SIGSTOP, SIGWINCH};
	int number;

	if (parse_int(name, &number) == 0)
		return number > 0 && number < 65 ? number : 0;
	if (str_starts(name, "SIG"))
		name += 3;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (str_eq(names[i], name))
			return numbers[i];
	return 0;
}

const struct binding process_bindings[] = {
	{"machine:spawn", process_spawn_in_guest},
	{"process:wait", process_wait_end},
	{"process:kill", process_kill_it},
	{"process:write", process_write},
	{"process:close_stdin", process_close_stdin},
	{"process:read_line", process_read_line},
	{"process:wait_for_output", process_wait_for_output},
	{"process.pid", process_pid},
	{NULL},
};
