/* SPDX-License-Identifier: MIT */
/* systemd units of the guest: waiting for them, asking about them, explaining them. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Waiting for a unit is the agent's work (it listens to systemd on D-Bus); questions are
 * `systemctl`, which every guest with systemd has and whose words people know. A wait or a job that
 * fails is explained before it is raised: status and journal of the unit and the list of failed
 * units, read under a grace deadline of their own, because the time-out that just ran out must not
 * keep us from saying why. A machine that is dead is not asked.
 */
#define JOURNAL_LINES 30

/* --- systemctl ----------------------------------------------------------------------------------
 */

/* The user's own manager is reached through his runtime directory. */
#define USER_PREFIX "export XDG_RUNTIME_DIR=/run/user/$(id -u); "

/* `systemctl <args>`, of the system or of a user, into c->result. */
static int systemctl(struct call *c, const char *args, const char *user, uint64_t timeout_ns)
{
	_cleanup_free_ char *script =
		xasprintf("%ssystemctl %s%s", user ? USER_PREFIX : "", user ? "--user " : "", args);

	return run_plain(c, script, user, timeout_ns);
}

/* ".service" may be left out, as for systemctl itself. */
static char *full_name(const char *unit)
{
	static const char *const suffixes[] = {".service", ".socket", ".target",   ".mount",
					       ".timer",   ".path",   ".device",   ".swap",
					       ".slice",   ".scope",  ".automount"};

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++)
		if (str_ends(unit, suffixes[i]))
			return xstrdup(unit);
	return xasprintf("%s.service", unit);
}

/* --- diagnosis
 * -------------------------------------------------------------------------------------- */

/* What cannot be read is left out: an explanation must never replace the error that it explains. */
static void add_output_of(struct call *c, const char *key, const char *script, const char *user)
{
	struct error first = c->err;

	error_clear(&c->err);
	if (run_plain(c, script, user, 5 * NS_PER_SEC) == 0 && c->result.out.len > 0)
		call_detail(c, key, json_text(c->result.out.data, c->result.out.len, TAIL_BYTES));
	c->err = first;
}

void diagnose_unit(struct call *c, const char *unit, const char *user)
{
	_cleanup_free_ char *name = full_name(unit), *quoted = shell_quote(name);
	_cleanup_free_ char *status = NULL, *journal = NULL;
	const char *prefix = user ? USER_PREFIX : "", *option = user ? "--user " : "";
	struct fiber_shield shield;

	if (c->err.kind == ERROR_CRASH || c->err.kind == ERROR_UNSUPPORTED ||
	    c->err.kind == ERROR_USAGE || c->err.kind == ERROR_CANCELLED || !c->agent)
		return;
	status = xasprintf("%ssystemctl %sstatus --no-pager --full --lines=0 %s", prefix, option,
			   quoted);
	journal = xasprintf("%sjournalctl %s--no-pager --boot --lines=%d --unit=%s", prefix, option,
			    JOURNAL_LINES, quoted);
	fiber_shield_enter(&shield, GRACE_NS);
	add_output_of(c, "unit_status", status, user);
	add_output_of(c, "journal", journal, user);
	add_output_of(c, "failed_units",
		      "systemctl --failed --no-legend --plain --no-pager | cut -d' ' -f1", NULL);
	fiber_shield_leave(&shield);
}

/* --- wait_for_unit
 * ------------------------------------------------------------------------------------ */

struct unit_options {
	struct time_options time;
	const char *user, *state;
};
static const struct option unit_options[] = {
	TIME_OPTIONS,
	{"user", OPT_STRING, offsetof(struct unit_options, user)},
	{"state", OPT_STRING, offsetof(struct unit_options, state)},
	{NULL},
};
static const struct option user_options[] = {
	TIME_OPTIONS,
	{"user", OPT_STRING, offsetof(struct unit_options, user)},
	{NULL},
};

/* The machine, the unit at 2, options at `at`; the agent is there. */
static struct call *unit_call(lua_State *L, const char *method, int at,
			      const struct option *options, struct unit_options *o)
{
	struct call *c;

	if (!to_handle(L, 1))
		return call_machine(L, method); /* raises */
	lua_settop(L, at);
	read_options(L, at, method, options, o);
	c = call_machine(L, method);
	call_timeout(c, &o->time, DEFAULT_TIMEOUT_NS);
	return c;
}

/*
 * A oneshot that nothing refers to is unloaded the moment it has finished, and with it all that
 * systemd knows of its run: it looks as if it had never been started. The journal knows better:
 * systemd's own message has the job's type and result as fields.
 */
static bool has_finished_before(struct call *c, const struct agent_unit_wait *w)
{
	struct error why = c->err;
	_cleanup_free_ char *name = full_name(w->unit), *unit = shell_quote(name), *script = NULL;
	bool finished;

	if (c->err.kind != ERROR_EXPECT || w->user || (w->state && !str_eq(w->state, "active")))
		return false;
	script = xasprintf(
		"u=%s; [ \"$(systemctl show -P Type -P ActiveState \"$u\" | tr '\\n' ' ')\" "
		"= 'oneshot inactive ' ] && journalctl --sync && journalctl --boot "
		"--quiet --output=cat --lines=1 _PID=1 \"UNIT=$u\" JOB_TYPE=start "
		"JOB_RESULT=done",
		unit);
	finished = run_plain(c, script, NULL, GRACE_NS) == 0 && c->result.out.len > 0;
	agent_result_done(&c->result);
	c->err = why;
	return finished;
}

static int unit_wait_for(lua_State *L)
{
	const char *unit =
		to_handle(L, 1) ? check_text(L, 2, "wait_for_unit", "the unit", NULL) : "";
	struct agent_unit_wait w = {.unit = unit};
	struct unit_options o = {};
	struct call *c = unit_call(L, "wait_for_unit", 3, unit_options, &o);
	int r;

	w.user = o.user;
	w.state = o.state;
	call_agent(L, c);
	call_wait_start(c, "unit '%s' to be %s", unit, o.state ?: "active");
	r = agent_wait_unit(c->agent, &w, c->timeout_ns, &c->err);
	if (r < 0 && has_finished_before(c, &w)) {
		error_clear(&c->err);
		r = 0;
	}
	if (r < 0)
		diagnose_unit(c, unit, o.user);
	call_wait_end(L, c, r);
	return 0;
}

/* --- what a unit is
 * --------------------------------------------------------------------------------------- */

/* `systemctl show` of the unit at 2 into c->result; raises if there is no such unit. */
static void show_unit(lua_State *L, struct call *c, const char *unit, const char *user,
		      const char *property)
{
	_cleanup_free_ char *name = NULL, *quoted = NULL, *which = NULL, *args = NULL;
	int r;

	name = full_name(unit);
	quoted = shell_quote(name);
	which = property ? shell_quote(property) : NULL;
	args = xasprintf("show --no-pager %s%s %s", which ? "--property=LoadState --property=" : "",
			 which ?: "", quoted);
	r = systemctl(c, args, user, c->timeout_ns);
	if (r == 0 && c->result.code != 0)
		r = error_set(&c->err, ERROR_EXPECT, EPROTO, "systemctl show %s failed: %.*s", name,
			      (int)c->result.err.len, buf_str(&c->result.err));
	if (r == 0 && strstr(buf_str(&c->result.out), "LoadState=not-found"))
		r = error_set(&c->err, ERROR_EXPECT, ENOENT, "unit '%s' does not exist", name);
	if (r < 0) {
		/* The clean-ups of this function must run before the jump. */
		free(TAKE_PTR(name));
		free(TAKE_PTR(quoted));
		free(TAKE_PTR(which));
		free(TAKE_PTR(args));
		call_raise(L, c);
	}
}

/* "Key=value" lines as a table. */
static void push_properties(lua_State *L, const struct buf *text)
{
	const char *p = buf_str(text);

	lua_newtable(L);
	while (*p) {
		const char *end = strchrnul(p, '\n');
		const char *eq = memchr(p, '=', (size_t)(end - p));

		if (eq) {
			lua_pushlstring(L, p, (size_t)(eq - p));
			lua_pushlstring(L, eq + 1, (size_t)(end - eq - 1));
			lua_rawset(L, -3);
		}
		p = *end ? end + 1 : end;
	}
}

static int unit_info(lua_State *L)
{
	struct unit_options o = {};
	struct call *c = unit_call(L, "get_unit_info", 3, user_options, &o);
	const char *unit = check_text(L, 2, "get_unit_info", "the unit", NULL);

	call_agent(L, c);
	show_unit(L, c, unit, o.user, NULL);
	push_properties(L, &c->result.out);
	call_done(c);
	return 1;
}

/* The value of a property; raises if the unit has none of that name. */
static void push_property(lua_State *L, struct call *c, const char *unit, const char *property,
			  const char *user)
{
	show_unit(L, c, unit, user, property);
	push_properties(L, &c->result.out);
	lua_pushstring(L, property);
	if (lua_rawget(L, -2) != LUA_TNIL)
		return;
	error_set(&c->err, ERROR_EXPECT, ENOENT, "unit '%s' has no property '%s'", unit, property);
	error_hint(&c->err, "names are as in 'systemctl show': ActiveState, MainPID, …");
	call_raise(L, c);
}

static int unit_property(lua_State *L)
{
	struct unit_options o = {};
	struct call *c = unit_call(L, "get_unit_property", 4, user_options, &o);
	const char *unit = check_text(L, 2, "get_unit_property", "the unit", NULL);
	const char *property = check_text(L, 3, "get_unit_property", "the property", NULL);

	call_agent(L, c);
	push_property(L, c, unit, property, o.user);
	return 1;
}

/* Now, without waiting: for what must not have changed. */
static int unit_require_state(lua_State *L)
{
	struct unit_options o = {};
	struct call *c = unit_call(L, "require_unit_state", 4, user_options, &o);
	const char *unit = check_text(L, 2, "require_unit_state", "the unit", NULL);
	const char *want = lua_isnil(L, 3)
				   ? "active"
				   : check_text(L, 3, "require_unit_state", "the state", NULL);
	const char *found;

	call_agent(L, c);
	push_property(L, c, unit, "ActiveState", o.user);
	found = lua_tostring(L, -1);
	if (str_eq(found, want))
		return 0;
	error_set(&c->err, ERROR_EXPECT, EPROTO, "unit '%s' is %s, not %s", unit, found, want);
	diagnose_unit(c, unit, o.user);
	call_raise(L, c);
}

/* --- systemctl, jobs
 * ------------------------------------------------------------------------------------------ */

static int unit_systemctl(lua_State *L)
{
	struct unit_options o = {};
	struct call *c = unit_call(L, "systemctl", 3, user_options, &o);

	if (lua_istable(L, 2)) {
		luaL_Buffer b;
		lua_Integer n = luaL_len(L, 2);

		luaL_buffinit(L, &b);
		for (lua_Integer i = 1; i <= n; i++) {
			lua_getglobal(L, "shell");
			lua_getfield(L, -1, "quote");
			lua_remove(L, -2);
			lua_rawgeti(L, 2, i);
			lua_call(L, 1, 1);
			luaL_addvalue(&b);
			luaL_addchar(&b, ' ');
		}
		luaL_pushresult(&b);
		lua_replace(L, 2);
	}
	check_text(L, 2, "systemctl", "the arguments", NULL);
	call_agent(L, c);
	call_start(c, "%.150s", lua_tostring(L, 2));
	call_end(L, c, systemctl(c, lua_tostring(L, 2), o.user, c->timeout_ns));
	push_result(L, c);
	call_done(c);
	return 1;
}

/* `systemctl start` waits for its job by itself, and says on stderr what went wrong. */
static int run_job(lua_State *L, const char *method, const char *verb)
{
	struct unit_options o = {};
	struct call *c = unit_call(L, method, 3, user_options, &o);
	const char *unit = check_text(L, 2, method, "the unit", NULL);
	int r;

	call_agent(L, c);
	call_start(c, "%s", unit);
	c->text = full_name(unit);
	buf_printf(&c->buf, "%s ", verb);
	strv_push_take(&c->env, shell_quote(c->text));
	buf_puts(&c->buf, c->env[0]);
	r = systemctl(c, buf_str(&c->buf), o.user, c->timeout_ns);
	if (r == 0 && c->result.code != 0) {
		r = error_set(&c->err, ERROR_EXPECT, EPROTO,
			      "systemctl %s %s failed with exit code %d", verb, c->text,
			      c->result.code);
		call_detail_result(c, &c->result);
	}
	if (r < 0)
		diagnose_unit(c, unit, o.user);
	call_end(L, c, r);
	call_done(c);
	return 0;
}

static int unit_start_job(lua_State *L)
{
	return run_job(L, "start_job", "start");
}

static int unit_stop_job(lua_State *L)
{
	return run_job(L, "stop_job", "stop");
}

const struct binding unit_bindings[] = {
	{"machine:wait_for_unit", unit_wait_for},
	{"machine:require_unit_state", unit_require_state},
	{"machine:get_unit_info", unit_info},
	{"machine:get_unit_property", unit_property},
	{"machine:systemctl", unit_systemctl},
	{"machine:start_job", unit_start_job},
	{"machine:stop_job", unit_stop_job},
	{NULL},
};
