/* SPDX-License-Identifier: MIT */
/* The serial console from a script: its text, typing at it, a login, commands at a shell's prompt.
 */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * The console works without an agent, so none of this may ask for one; a machine that is off is
 * started and its VMM is all that is waited for. Text is matched from a cursor that the machine
 * keeps: waits that follow each other find texts that follow each other.
 *
 * A command at a prompt has neither an exit status nor an end of its own. It is typed as one line
 * with a mark printed before and after it, the second with `$?`; what stands between the marks is
 * its output. The marks are numbered, so that an answer that comes late is not taken for the next
 * command's.
 */
struct console_options {
	struct time_options time;
	const char *from;
};
static const struct option console_options[] = {
	TIME_OPTIONS,
	{"from", OPT_STRING, offsetof(struct console_options, from)},
	{NULL},
};

/* The machine and its console; a machine that is off is started (its VMM: no agent is needed). */
static struct call *console_call(lua_State *L, const char *method, int at,
				 struct console_options *o)
{
	struct machine_start_opts opts = {.no_wait = true};
	struct call *c;

	if (!to_handle(L, 1))
		return call_machine(L, method); /* raises */
	lua_settop(L, at);
	read_options(L, at, method, o ? console_options : time_options, o);
	c = call_machine(L, method);
	call_timeout(c, o ? &o->time : NULL, DEFAULT_TIMEOUT_NS);
	if (!machine_console(c->machine)) {
		error_set(&c->err, ERROR_UNSUPPORTED, ENOTSUP, "machine '%s' has no console",
			  c->handle->name);
		call_raise(L, c);
	}
	if (machine_get_state(c->machine) == MACHINE_OFF &&
	    machine_start(c->machine, &opts, c->timeout_ns, &c->err) < 0)
		call_raise(L, c);
	return c;
}

static int serial_wait_for_text(lua_State *L)
{
	struct console_options o = {.from = "cursor"};
	struct call *c = console_call(L, "wait_for_console_text", 3, &o);
	const char *pattern = check_text(L, 2, "wait_for_console_text", "the pattern", NULL);
	bool from_boot = str_eq(o.from, "boot");

	if (!from_boot && !str_eq(o.from, "cursor"))
		raise_usage(L, NULL,
			    "wait_for_console_text: from must be \"cursor\" or \"boot\", not '%s'",
			    o.from);
	call_wait_start(c, "console text that matches /%.150s/", pattern);
	call_wait_end(L, c,
		      console_wait_text(machine_console(c->machine), pattern, from_boot,
					c->timeout_ns, &c->json, &c->err));
	push_captures(L, c->json);
	call_done(c);
	return 1;
}

static int serial_send(lua_State *L)
{
	struct console_options o = {};
	struct call *c = console_call(L, "send_console", 3, &o);
	size_t len;
	const char *data = check_text(L, 2, "send_console", "the text", &len);

	call_start(c, "%.150s", data);
	call_end(L, c,
		 console_send(machine_console(c->machine), data, len, c->timeout_ns, &c->err));
	return 0;
}

/* Types a line. */
static int type_line(struct call *c, const char *line, uint64_t deadline)
{
	_cleanup_free_ char *text = xasprintf("%s\n", line);

	return console_send(machine_console(c->machine), text, strlen(text), timeout_left(deadline),
			    &c->err);
}

/* The captures are in c->json until the next one. */
static int expect(struct call *c, const char *pattern, uint64_t deadline)
{
	json_decref(c->json);
	c->json = NULL;
	return console_wait_text(machine_console(c->machine), pattern, false,
				 timeout_left(deadline), &c->json, &c->err);
}

/* The command as one line: over several ones the guest's output would come between their echoes. */
static char *one_line(const char *command)
{
	_cleanup_buf_ struct buf b = {};
	_cleanup_free_ char *quoted = NULL;

	if (!strchr(command, '\n')) {
		quoted = shell_quote(command);
		return xasprintf("eval %s", quoted);
	}
	for (const char *p = command; *p; p++)
		if (*p == '\\')
			buf_puts(&b, "\\\\");
		else if (*p == '\n')
			buf_puts(&b, "\\n");
		else
			buf_putc(&b, *p);
	quoted = shell_quote(buf_str(&b));
	return xasprintf("eval \"$(printf '%%b' %s)\"", quoted);
}

/*
 * What is typed is echoed, so the marks in the answer are not what is typed: printf puts them
 * together in the guest. What may run at the prompt is any POSIX shell.
 */
static int run_at_prompt(struct call *c, const char *command, uint64_t deadline)
{
	_cleanup_free_ char *typed = one_line(command), *line = NULL, *pattern = NULL;
	long long id = ++c->script->next_id;
	int r;

	line = xasprintf("printf '%%s%%s\\n' @@begin- %lld; %s; printf '\\n%%s%%s:%%d@@\\n' "
			 "@@end- %lld $?",
			 id, typed, id);
	pattern = xasprintf("(?s)@@begin-%lld\n(.*?)\n@@end-%lld:(\\d+)@@", id, id);
	r = type_line(c, line, deadline);
	return r < 0 ? r : expect(c, pattern, deadline);
}

/* Prompts are looked for at the very end of what there is (\\z): words like "login:" occur in the
 * boot's messages too. */
static int log_in(struct call *c, const char *user, const char *password, uint64_t deadline)
{
	int r = expect(c, "[Ll]ogin: *\\z", deadline);

	if (r == 0)
		r = type_line(c, user, deadline);
	if (r == 0 && password) {
		r = expect(c, "[Pp]assword: *\\z", deadline);
		if (r == 0)
			r = type_line(c, password, deadline);
	}
	if (r == 0)
		r = expect(c, "([Ll]ogin incorrect)|[#$%>] *\\z", deadline);
	if (r == 0 && json_is_string(json_object_get(c->json, "1")))
		return error_set(&c->err, ERROR_EXPECT, EACCES, "login of '%s' was refused", user);
	/* A shell answers, and not only something that ends like a prompt. */
	return r < 0 ? r : run_at_prompt(c, "true", deadline);
}

static int serial_login(lua_State *L)
{
	struct console_options o = {};
	struct call *c = console_call(L, "console_login", 4, &o);
	const char *user = check_text(L, 2, "console_login", "the user", NULL);
	const char *password =
		lua_isnil(L, 3) ? NULL : check_text(L, 3, "console_login", "the password", NULL);

	call_start(c, "%s", user);
	call_end(L, c, log_in(c, user, password, deadline_in(c->timeout_ns)));
	return 0;
}

static int serial_succeed(lua_State *L)
{
	struct console_options o = {};
	struct call *c = console_call(L, "console_succeed", 3, &o);
	const char *command = check_text(L, 2, "console_succeed", "the command", NULL), *status;
	const char *output;
	char title[160];
	size_t len;
	int r;

	command_title(title, sizeof(title), command);
	call_start(c, "%s", title);
	r = run_at_prompt(c, command, deadline_in(c->timeout_ns));
	if (r < 0)
		call_end(L, c, r);
	output = json_string_value(json_object_get(c->json, "1")) ?: "";
	status = json_string_value(json_object_get(c->json, "2")) ?: "";
	if (!str_eq(status, "0")) {
		error_set(&c->err, ERROR_EXPECT, EPROTO,
			  "command '%s' at the console failed with exit code %s", title, status);
		call_detail(c, "output", json_text(output, strlen(output), TAIL_BYTES));
		call_end(L, c, -EPROTO);
	}
	call_end(L, c, 0);
	for (len = strlen(output); len > 0 && output[len - 1] == '\n';)
		len--;
	lua_pushlstring(L, output, len);
	call_done(c);
	return 1;
}

/* Never starts the machine: one that was never on has an empty log. */
static int serial_log(lua_State *L)
{
	struct call *c = call_machine(L, "get_console_log");

	if (machine_console(c->machine))
		c->text = console_text(machine_console(c->machine));
	lua_pushstring(L, c->text ?: "");
	call_done(c);
	return 1;
}

const struct binding console_bindings[] = {
	{"machine:wait_for_console_text", serial_wait_for_text},
	{"machine:send_console", serial_send},
	{"machine:console_login", serial_login},
	{"machine:console_succeed", serial_succeed},
	{"machine:get_console_log", serial_log},
	{NULL},
};
