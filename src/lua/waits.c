/* SPDX-License-Identifier: MIT */
/* Waiting for ports, sockets, files, mounts and processes in the guest. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Every wait is one call of the agent, which watches in the guest (netlink, inotify, /proc) and
 * answers the moment the thing is true; here are only the arguments, the words and the events. No
 * tool in the guest is needed. On expiry the agent says what it saw instead, and that is the
 * error's message.
 */
struct port_options {
	struct time_options time;
	const char *address, *protocol;
};
static const struct option port_options[] = {
	TIME_OPTIONS,
	{"address", OPT_STRING, offsetof(struct port_options, address)},
	{"protocol", OPT_STRING, offsetof(struct port_options, protocol)},
	{NULL},
};

/* The machine at 1, what is waited for at 2, options at 3. */
static struct call *wait_call(lua_State *L, const char *method, const struct option *options,
			      struct time_options *o)
{
	struct call *c;

	if (!to_handle(L, 1))
		return call_machine(L, method); /* raises */
	lua_settop(L, 3);
	read_options(L, 3, method, options, o);
	c = call_machine(L, method);
	call_timeout(c, o, DEFAULT_TIMEOUT_NS);
	return c;
}

/* Connects from the machine itself: a firewall between it and others is not what this asks for. */
static int wait_port(lua_State *L, const char *method, bool closed)
{
	struct port_options o = {.address = "localhost", .protocol = "tcp"};
	struct call *c = wait_call(L, method, port_options, &o.time);
	struct agent_socket_wait w = {.closed = closed};
	int is_number;
	lua_Integer port = lua_tointegerx(L, 2, &is_number);

	if (!is_number || port < 1 || port > 65535)
		raise_usage(L, NULL, "%s: %s is no port", method, luaL_tolstring(L, 2, NULL));
	if (!str_eq(o.protocol, "tcp") && !str_eq(o.protocol, "udp"))
		raise_usage(L, NULL, "%s: protocol must be \"tcp\" or \"udp\", not '%s'", method,
			    o.protocol);
	w.type = *o.protocol == 't' ? AGENT_SOCKET_TCP : AGENT_SOCKET_UDP;
	w.address = o.address;
	w.port = (unsigned)port;
	call_agent(L, c);
	call_wait_start(c, "%s port %d of %s to %s", o.protocol, (int)port, o.address,
			closed ? "be closed" : "open");
	call_wait_end(L, c, agent_wait_socket(c->agent, &w, c->timeout_ns, &c->err));
	return 0;
}

static int wait_open_port(lua_State *L)
{
	return wait_port(L, "wait_for_open_port", false);
}

static int wait_closed_port(lua_State *L)
{
	return wait_port(L, "wait_for_closed_port", true);
}

struct unix_options {
	struct time_options time;
	bool datagram;
};
static const struct option unix_options[] = {
	TIME_OPTIONS,
	{"datagram", OPT_BOOL, offsetof(struct unix_options, datagram)},
	{NULL},
};

static int wait_unix_socket(lua_State *L)
{
	struct unix_options o = {};
	struct call *c = wait_call(L, "wait_for_open_unix_socket", unix_options, &o.time);
	struct agent_socket_wait w = {};

	w.address = check_text(L, 2, "wait_for_open_unix_socket", "the path", NULL);
	w.type = o.datagram ? AGENT_SOCKET_UNIX_DGRAM : AGENT_SOCKET_UNIX;
	call_agent(L, c);
	call_wait_start(c, "socket '%s' to open", w.address);
	call_wait_end(L, c, agent_wait_socket(c->agent, &w, c->timeout_ns, &c->err));
	return 0;
}

/* The pattern may be a glob; "gone" means that nothing matches any more. */
static int wait_path(lua_State *L, const char *method, bool gone)
{
	struct time_options o = {};
	struct call *c = wait_call(L, method, time_options, &o);
	const char *path = check_text(L, 2, method, "the path", NULL);

	call_agent(L, c);
	call_wait_start(c, "file '%s'%s", path, gone ? " to be gone" : "");
	call_wait_end(L, c, agent_wait_file(c->agent, path, gone, c->timeout_ns, &c->err));
	return 0;
}

static int wait_file(lua_State *L)
{
	return wait_path(L, "wait_for_file", false);
}

static int wait_no_file(lua_State *L)
{
	return wait_path(L, "wait_for_no_file", true);
}

static int wait_mount(lua_State *L)
{
	struct time_options o = {};
	struct call *c = wait_call(L, "wait_for_mount", time_options, &o);
	const char *path = check_text(L, 2, "wait_for_mount", "the path", NULL);

	call_agent(L, c);
	call_wait_start(c, "mount point '%s'", path);
	call_wait_end(L, c, agent_wait_mount(c->agent, path, c->timeout_ns, &c->err));
	return 0;
}

/* Called on this fiber for each command line that the agent sends; must not raise, and does not. */
static bool process_matches(const char *cmdline, void *userdata)
{
	struct call *c = userdata;

	return regex_match(c->regex, cmdline, strlen(cmdline), 0, NULL, NULL, NULL, NULL) == 1;
}

static int wait_process(lua_State *L)
{
	struct time_options o = {};
	struct call *c = wait_call(L, "wait_for_process", time_options, &o);
	const char *pattern = check_text(L, 2, "wait_for_process", "the pattern", NULL);
	char what[200];

	if (regex_compile(pattern, &c->regex, &c->err) < 0)
		call_raise(L, c);
	call_agent(L, c);
	(void)snprintf(what, sizeof(what), "a process that matches /%.150s/", pattern);
	call_wait_start(c, "%s", what);
	call_wait_end(
		L, c,
		agent_wait_process(c->agent, process_matches, c, what, c->timeout_ns, &c->err));
	call_done(c);
	return 0;
}

const struct binding wait_bindings[] = {
	{"machine:wait_for_open_port", wait_open_port},
	{"machine:wait_for_closed_port", wait_closed_port},
	{"machine:wait_for_open_unix_socket", wait_unix_socket},
	{"machine:wait_for_file", wait_file},
	{"machine:wait_for_no_file", wait_no_file},
	{"machine:wait_for_mount", wait_mount},
	{"machine:wait_for_process", wait_process},
	{NULL},
};
