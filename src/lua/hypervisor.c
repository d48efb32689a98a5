/* SPDX-License-Identifier: MIT */
/* The hypervisor from a script: QMP commands and events. */
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * QMP commands pass as they are, both ways: table to JSON, JSON to table. An error reply is
 * `expect`, since a test may ask on purpose for what must not work. Events are kept by the machine
 * from its start on, so a wait can also find one that has been.
 */

static int hypervisor_qmp(lua_State *L)
{
	const char *command;
	json_t *reply = NULL;
	struct call *c;
	int r;

	lua_settop(L, 3);
	c = call_machine(L, "qmp");
	command = check_text(L, 2, "qmp", "the command", NULL);
	if (!lua_isnoneornil(L, 3)) {
		luaL_checktype(L, 3, LUA_TTABLE);
		c->json = json_from_lua(L, 3, &c->err);
		if (!c->json) {
			error_prefix(&c->err, "qmp");
			call_raise(L, c);
		}
	}
	call_timeout(c, NULL, DEFAULT_TIMEOUT_NS);
	call_start(c, "%.150s", command);
	r = machine_qmp(c->machine, command, c->json, c->timeout_ns, &reply, &c->err);
	json_decref(c->json);
	c->json = reply;
	call_end(L, c, r);
	push_json(L, c->json);
	call_done(c);
	return 1;
}

/*
 * `match` of the script runs between the waits, not inside of one: the core may look at an event on
 * another stack. So each wait takes the first event behind those that were looked at.
 */
struct event_search {
	size_t skip, seen;
	bool count_only;
};

static bool look(json_t *data, void *userdata)
{
	struct event_search *s = userdata;

	s->seen++;
	return !s->count_only && s->seen > s->skip;
}

struct event_options {
	struct time_options time;
	int match;
	const char *since;
};
static const struct option event_options[] = {
	TIME_OPTIONS,
	{"match", OPT_FUNCTION, offsetof(struct event_options, match)},
	{"since", OPT_STRING, offsetof(struct event_options, since)},
	{NULL},
};

/* How many of that name there have been: they are looked at without waiting. */
static size_t count_past(struct call *c, const char *name)
{
	struct event_search s = {.count_only = true};

	(void)machine_wait_qmp_event(c->machine, name, look, &s, true, 0, NULL, NULL);
	return s.seen;
}

static int hypervisor_wait_event(lua_State *L)
{
	struct event_options o = {.since = "start"};
	const char *name;
	size_t looked_at;
	uint64_t deadline;
	struct call *c;
	int r;

	if (!to_handle(L, 1))
		call_machine(L, "wait_for_qmp_event"); /* raises */
	name = check_text(L, 2, "wait_for_qmp_event", "the event", NULL);
	lua_settop(L, 3);
	read_options(L, 3, "wait_for_qmp_event", event_options, &o);
	if (!str_eq(o.since, "now") && !str_eq(o.since, "start"))
		raise_usage(L, NULL, "wait_for_qmp_event: since must be \"start\" or \"now\"");
	c = call_machine(L, "wait_for_qmp_event");
	call_timeout(c, &o.time, DEFAULT_TIMEOUT_NS);
	deadline = deadline_in(c->timeout_ns);
	looked_at = str_eq(o.since, "now") ? count_past(c, name) : 0;
	call_wait_start(c, "event %s", name);
	/* The deadline is one for all events that are looked at, not one for each. */
	for (;; looked_at++) {
		struct event_search s = {.skip = looked_at};

		json_decref(c->json);
		c->json = NULL;
		r = machine_wait_qmp_event(c->machine, name, look, &s, true, timeout_left(deadline),
					   &c->json, &c->err);
		if (r < 0)
			break;
		push_json(L, c->json);
		if (!o.match)
			break;
		lua_pushvalue(L, o.match);
		if (json_is_object(json_object_get(c->json, "data")))
			push_json(L, json_object_get(c->json, "data"));
		else
			lua_newtable(L);
		lua_call(L, 1, 1);
		if (lua_toboolean(L, -1)) {
			lua_pop(L, 1);
			break;
		}
		lua_pop(L, 2);
	}
	call_wait_end(L, c, r);
	return 1;
}

/* What was declared, not what the guest made of it: that is `systemd-creds` in the guest. */
static int hypervisor_credential(lua_State *L)
{
	struct call *c;
	const char *name;
	json_t *value;

	lua_settop(L, 2);
	c = call_machine(L, "credential");
	name = check_text(L, 2, "credential", "the name", NULL);
	value = json_object_get(machine_get_spec(c->machine)->credentials, name);

	if (!value)
		raise_usage(L, "the option 'credentials' of a machine has them by name",
			    "machine '%s' was given no credential '%.64s'", c->handle->name, name);
	push_json(L, value);
	return 1;
}

const struct binding qmp_bindings[] = {
	{"machine:credential", hypervisor_credential},
	{"machine:qmp", hypervisor_qmp},
	{"machine:wait_for_qmp_event", hypervisor_wait_event},
	{NULL},
};
