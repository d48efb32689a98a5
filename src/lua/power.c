/* SPDX-License-Identifier: MIT */
/* A machine's power and life: start, shutdown, reboot, panics, boot times. */
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * A thin layer: the machine model (machine/power.c) knows the states, what may follow what, and
 * what to say. Here are the arguments, the time-outs (scaled: a boot under TCG takes its time), and
 * the events around each call. `crash` is another name of `unplug_power`, for tests that come from
 * NixOS.
 */

/* Arguments of a method that takes { timeout } only. */
static struct call *simple(lua_State *L, const char *method, uint64_t default_ns)
{
	struct time_options o = {};
	struct call *c;

	lua_settop(L, 2);
	read_options(L, 2, method, time_options, &o);
	c = call_machine(L, method);
	call_timeout(c, &o, default_ns);
	return c;
}

struct start_options {
	struct time_options time;
	bool wait;
	const char *kernel, *cmdline, *boot;
};
static const struct option start_options[] = {
	TIME_OPTIONS,
	{"wait", OPT_BOOL, offsetof(struct start_options, wait)},
	{"kernel", OPT_STRING, offsetof(struct start_options, kernel)},
	{"cmdline", OPT_STRING, offsetof(struct start_options, cmdline)},
	{"boot", OPT_STRING, offsetof(struct start_options, boot)},
	{NULL},
};

/* Without `wait` it returns when the VMM runs; what the guest does then is somebody else's wait. */
static int power_start(lua_State *L)
{
	struct start_options o = {.wait = true};
	struct machine_start_opts opts = {};
	struct call *c;

	lua_settop(L, 2);
	read_options(L, 2, "start", start_options, &o);
	c = call_machine(L, "start");
	call_timeout(c, &o.time, BOOT_TIMEOUT_NS);
	opts.no_wait = !o.wait;
	opts.kernel = o.kernel;
	opts.cmdline = o.cmdline;
	opts.boot = o.boot;
	call_start(c, "%s%s%s%s", o.wait ? "" : "without waiting", o.kernel ? " kernel " : "",
		   o.kernel ?: "", o.cmdline ? " with a command line of its own" : "");
	call_end(L, c, machine_start(c->machine, &opts, c->timeout_ns, &c->err));
	return 0;
}

static int power_shutdown(lua_State *L)
{
	struct call *c = simple(L, "shutdown", DEFAULT_TIMEOUT_NS);

	call_start(c, "%s", "");
	call_end(L, c, machine_shutdown(c->machine, c->timeout_ns, &c->err));
	return 0;
}

static int power_unplug(lua_State *L)
{
	struct call *c = call_machine(L, "unplug_power");

	call_start(c, "%s", "");
	call_end(L, c, machine_unplug(c->machine, &c->err));
	return 0;
}

static int power_reboot(lua_State *L)
{
	struct call *c = simple(L, "reboot", DEFAULT_TIMEOUT_NS);

	call_start(c, "%s", "");
	call_end(L, c, machine_reboot(c->machine, c->timeout_ns, &c->err));
	return 0;
}

static int power_reset(lua_State *L)
{
	struct call *c = call_machine(L, "reset");

	call_start(c, "%s", "");
	call_end(L, c, machine_reset(c->machine, &c->err));
	return 0;
}

static int power_pause(lua_State *L)
{
	struct call *c = call_machine(L, "pause");

	call_start(c, "%s", "");
	call_end(L, c, machine_pause(c->machine, &c->err));
	return 0;
}

static int power_continue(lua_State *L)
{
	struct call *c = call_machine(L, "continue");

	call_start(c, "%s", "");
	call_end(L, c, machine_continue(c->machine, &c->err));
	return 0;
}

static int power_eject(lua_State *L)
{
	const char *disk = check_text(L, 2, "eject", "the disk's name", NULL);
	struct call *c = call_machine(L, "eject");

	call_start(c, "%s", disk);
	call_end(L, c, machine_eject(c->machine, disk, &c->err));
	return 0;
}

static int power_wait_for_shutdown(lua_State *L)
{
	struct call *c = simple(L, "wait_for_shutdown", DEFAULT_TIMEOUT_NS);

	call_wait_start(c, "the machine to be off");
	call_wait_end(L, c, machine_wait_shutdown(c->machine, c->timeout_ns, &c->err));
	return 0;
}

static int power_wait_for_boot(lua_State *L)
{
	struct call *c = simple(L, "wait_for_boot", BOOT_TIMEOUT_NS);

	call_wait_start(c, "the machine to boot");
	call_wait_end(L, c, machine_wait_boot(c->machine, c->timeout_ns, &c->err));
	return 0;
}

static int power_wait_for_panic(lua_State *L)
{
	struct call *c = simple(L, "wait_for_panic", DEFAULT_TIMEOUT_NS);

	call_wait_start(c, "a kernel panic");
	call_wait_end(L, c, machine_wait_panic(c->machine, c->timeout_ns, &c->json, &c->err));
	push_json(L, c->json);
	call_done(c);
	return 1;
}

/* Runs the function, in which calls of the machine may raise crash; then the panic must be there.
 */
static int power_expect_panic(lua_State *L)
{
	struct time_options o = {};
	struct call *c;
	enum error_kind kind;

	check_function(L, 2, "expect_panic", "the body");
	lua_settop(L, 3);
	read_options(L, 3, "expect_panic", time_options, &o);
	c = call_machine(L, "expect_panic");
	call_timeout(c, &o, DEFAULT_TIMEOUT_NS);
	lua_pushvalue(L, 2);
	if (call_traced(L, 0, 0) != LUA_OK) {
		error_from_lua(L, -1, &c->err);
		kind = c->err.kind;
		error_clear(&c->err);
		/* A crash in the body is what was asked for; anything else is a failure. */
		if (kind != ERROR_CRASH)
			return lua_error(L);
		lua_pop(L, 1);
	}
	call_wait_start(c, "a kernel panic");
	if (machine_wait_panic(c->machine, c->timeout_ns, &c->json, &c->err) < 0) {
		/* What was to happen did not: no matter how long we looked. */
		if (c->err.kind == ERROR_TIMEOUT)
			c->err.kind = ERROR_EXPECT;
		call_wait_end(L, c, -c->err.code);
	}
	call_wait_end(L, c, 0);
	push_json(L, c->json);
	call_done(c);
	return 1;
}

/* These two only look: a machine that is off stays off, one that crashed raises nothing. */
static int power_is_up(lua_State *L)
{
	struct call *c = call_machine(L, "is_up");

	lua_pushboolean(L, machine_is_up(c->machine));
	return 1;
}

static int power_state(lua_State *L)
{
	struct call *c = call_machine(L, "state");

	lua_pushstring(L, machine_state_name(machine_get_state(c->machine)));
	return 1;
}

/* Waits: before userspace has settled there would be numbers of which some are not final. */
static int power_boot_times(lua_State *L)
{
	struct call *c = simple(L, "boot_times", DEFAULT_TIMEOUT_NS);

	call_wait_start(c, "userspace to settle");
	call_wait_end(L, c, machine_boot_times(c->machine, c->timeout_ns, &c->json, &c->err));
	push_json(L, c->json);
	call_done(c);
	return 1;
}

const struct binding power_bindings[] = {
	{"machine:start", power_start},
	{"machine:shutdown", power_shutdown},
	{"machine:unplug_power", power_unplug},
	{"machine:crash", power_unplug},
	{"machine:reboot", power_reboot},
	{"machine:reset", power_reset},
	{"machine:wait_for_shutdown", power_wait_for_shutdown},
	{"machine:wait_for_boot", power_wait_for_boot},
	{"machine:wait_for_panic", power_wait_for_panic},
	{"machine:expect_panic", power_expect_panic},
	{"machine:pause", power_pause},
	{"machine:continue", power_continue},
	{"machine:eject", power_eject},
	{"machine:is_up", power_is_up},
	{"machine:state", power_state},
	{"machine:boot_times", power_boot_times},
	{NULL},
};
