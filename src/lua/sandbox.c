/* SPDX-License-Identifier: MIT */
/* The sandbox: Lua's libraries without what reaches the host, and nothing that can swallow a
 * deadline. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Gone: io, os.execute and its kin, package, loadfile, dofile, bytecode, debug (but for traceback),
 * __gc of user tables. Changed: pcall, xpcall, coroutine.resume and .close raise again what nobody
 * may catch (error_is_final); pairs and next have a fixed order; while declaring, time stands
 * still.
 *
 * A runaway script is stopped by on_count(), a hook that runs every COUNT_STEP instructions, in
 * each coroutine too (a new thread inherits the hook of its creator). What it cannot reach is one
 * long call of a C function: patterns that backtrack for hours. For those there is the runner's
 * SIGKILL.
 */
#define COUNT_STEP	  10000
#define YIELD_INTERVAL_NS (10 * NS_PER_MS)
/* The date that stands still at the top level: 2025-01-01 00:00 UTC. */
#define DECLARING_TIME 1735689600

void on_count(lua_State *L, lua_Debug *ar)
{
	struct script *s = script_of(L);
	struct error err = {};
	uint64_t now;
	char *at;

	if (!fiber_self())
		return;
	/* Does not wait, but says if the fiber was cancelled or a deadline has passed. */
	if (fiber_sleep(0, &err) < 0) {
		at = strstr(err.message, "while sleeping");
		if (at)
			(void)snprintf(at, sizeof(err.message) - (size_t)(at - err.message),
				       "while the script was computing");
		raise_error(L, &err, NULL);
	}
	now = now_ns();
	if (now - s->last_yield_ns > YIELD_INTERVAL_NS) {
		fiber_yield(); /* signals, consoles, other fibers */
		s->last_yield_ns = now_ns();
	}
}

/* --- protected calls ----------------------------------------------------------------------------
 */

/* Also the continuation after a yield: user coroutines may yield across pcall, as in plain Lua. */
static int finish_pcall(lua_State *L, int status, lua_KContext extra)
{
	if (status != LUA_OK && status != LUA_YIELD) {
		if (error_is_final(L, -1))
			return lua_error(L);
		lua_pushboolean(L, 0);
		lua_pushvalue(L, -2);
		return 2;
	}
	return lua_gettop(L) - (int)extra;
}

static int sandbox_pcall(lua_State *L)
{
	int status;

	luaL_checkany(L, 1);
	lua_pushboolean(L, 1); /* first result if no errors */
	lua_insert(L, 1);
	status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, finish_pcall);
	return finish_pcall(L, status, 0);
}

/* The user's handler sees what he may catch; it is the upvalue. */
static int call_handler(lua_State *L)
{
	if (error_is_final(L, 1))
		return 1;
	lua_settop(L, 1);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, 1, 1);
	return 1;
}

static int sandbox_xpcall(lua_State *L)
{
	int n = lua_gettop(L);
	int status;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_pushvalue(L, 2);
	lua_pushcclosure(L, call_handler, 1);
	lua_replace(L, 2);
	lua_pushboolean(L, 1);
	lua_pushvalue(L, 1);
	lua_rotate(L, 3, 2); /* f, handler, true, f, arguments */
	status = lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, finish_pcall);
	return finish_pcall(L, status, 2);
}

/* coroutine.resume and coroutine.close: false and an error value are results there. */
static int resume_checked(lua_State *L)
{
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
	if (lua_gettop(L) >= 2 && lua_isboolean(L, 1) && !lua_toboolean(L, 1) &&
	    error_is_final(L, 2)) {
		lua_settop(L, 2);
		return lua_error(L);
	}
	return lua_gettop(L);
}

/* --- changed functions
 * ---------------------------------------------------------------------------- */

static int sandbox_load(lua_State *L)
{
	const char *mode = luaL_optstring(L, 3, "t");

	if (!strchr(mode, 't'))
		raise_usage(L, NULL, "load: there is no bytecode in test files, only text");
	if (lua_gettop(L) < 3)
		lua_settop(L, 3);
	lua_pushliteral(L, "t");
	lua_replace(L, 3);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
	/* An error of a function that reads the text is a result here. */
	if (lua_gettop(L) == 2 && error_is_final(L, 2))
		return lua_error(L);
	return lua_gettop(L);
}

/* Without __gc: a finalizer would run at any time, on any stack, and outlive the test. */
static int sandbox_setmetatable(lua_State *L)
{
	if (lua_istable(L, 2)) {
		lua_pushliteral(L, "__gc");
		lua_pushnil(L);
		lua_rawset(L, 2);
	}
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, 1);
	return 1;
}

/* Without the options that stop or tune the collector: the memory limit counts on it. */
static int sandbox_collectgarbage(lua_State *L)
{
	static const char *const options[] = {"collect", "count", "step", NULL};

	switch (luaL_checkoption(L, 1, "collect", options)) {
	case 1:
		lua_pushnumber(L, (lua_Number)lua_gc(L, LUA_GCCOUNT) +
					  (lua_Number)lua_gc(L, LUA_GCCOUNTB) / 1024);
		return 1;
	case 2:
		lua_pushboolean(L, lua_gc(L, LUA_GCSTEP, 0));
		return 1;
	default:
		lua_pushinteger(L, lua_gc(L, LUA_GCCOLLECT));
		return 1;
	}
}

/* To the test's log; at the top level nowhere, for the file is evaluated several times. */
static int sandbox_print(lua_State *L)
{
	int n = lua_gettop(L);
	luaL_Buffer b;
	size_t len;
	const char *text;

	luaL_buffinit(L, &b);
	for (int i = 1; i <= n; i++) {
		if (i > 1)
			luaL_addchar(&b, '\t');
		luaL_tolstring(L, i, NULL);
		luaL_addvalue(&b);
	}
	luaL_pushresult(&b);
	text = lua_tolstring(L, -1, &len);
	if (script_of(L)->phase != PHASE_LOAD)
		emit(script_of(L), "log", json_pack("{s:o}", "text", json_text(text, len, 0)));
	return 0;
}

/* --- order
 * ----------------------------------------------------------------------------------------- */

/* Upvalues: the table, its sorted keys, the position. */
static int pairs_next(lua_State *L)
{
	lua_Integer i = lua_tointeger(L, lua_upvalueindex(3));

	for (;;) {
		lua_settop(L, 0);
		if (lua_rawgeti(L, lua_upvalueindex(2), ++i) == LUA_TNIL)
			break;
		lua_pushvalue(L, 1);
		/* What was removed meanwhile is left out, as Lua's own next() does. */
		if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
			break;
	}
	lua_pushinteger(L, i);
	lua_replace(L, lua_upvalueindex(3));
	return lua_gettop(L);
}

/* Always sorted, not only at the top level: a test that fails should fail again the same way. */
static int sandbox_pairs(lua_State *L)
{
	luaL_checkany(L, 1);
	if (luaL_getmetafield(L, 1, "__pairs") != LUA_TNIL) {
		lua_pushvalue(L, 1);
		lua_call(L, 1, 3);
		return 3;
	}
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	lua_pushvalue(L, 1);
	push_sorted_keys(L, 1);
	lua_pushinteger(L, 0);
	lua_pushcclosure(L, pairs_next, 3);
	lua_pushvalue(L, 1);
	lua_pushnil(L);
	return 3;
}

/* The smallest key behind the given one; looks at all of them, which is for small tables. While
 * a test runs it is Lua's own. */
static int sandbox_next(lua_State *L)
{
	bool found = false;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 2);
	if (script_of(L)->phase != PHASE_LOAD)
		return lua_next(L, 1) ? 2 : (lua_pushnil(L), 1);
	lua_pushnil(L); /* 3: the best so far */
	lua_pushnil(L);
	while (lua_next(L, 1)) {
		lua_pop(L, 1);
		if ((lua_isnil(L, 2) || keys_compare(L, 4, 2) > 0) &&
		    (!found || keys_compare(L, 4, 3) < 0)) {
			lua_pushvalue(L, 4);
			lua_replace(L, 3);
			found = true;
		}
	}
	if (!found)
		return lua_pushnil(L), 1;
	lua_settop(L, 3);
	lua_pushvalue(L, 3);
	lua_rawget(L, 1);
	return 2;
}

/* --- time and chance
 * --------------------------------------------------------------------------------- */

static int sandbox_time(lua_State *L)
{
	if (lua_isnoneornil(L, 1) && script_of(L)->phase == PHASE_LOAD) {
		lua_pushinteger(L, DECLARING_TIME);
		return 1;
	}
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, 1);
	return 1;
}

static int sandbox_date(lua_State *L)
{
	if (lua_isnoneornil(L, 2) && script_of(L)->phase == PHASE_LOAD) {
		const char *format = luaL_optstring(L, 1, "%c");

		/* UTC: the same on each host. */
		lua_settop(L, 0);
		lua_pushfstring(L, "%s%s", *format == '!' ? "" : "!", format);
		lua_pushinteger(L, DECLARING_TIME);
	}
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, 1);
	return 1;
}

static int sandbox_clock(lua_State *L)
{
	bool fixed = script_of(L)->phase == PHASE_LOAD;

	lua_pushnumber(L, fixed ? 0 : (lua_Number)clock() / CLOCKS_PER_SEC);
	return 1;
}

/* Without arguments Lua would take the time and an address. */
static int sandbox_randomseed(lua_State *L)
{
	if (lua_gettop(L) == 0) {
		lua_pushinteger(L, (lua_Integer)script_of(L)->seed);
		lua_pushinteger(L, 0);
	}
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, 0);
	return 0;
}

/* Each test begins with random numbers of its own, which are the same again for the same --seed. */
void sandbox_reseed(lua_State *L, const char *id)
{
	uint64_t hash = 14695981039346656037ULL; /* FNV-1a */

	for (; *id; id++)
		hash = (hash ^ (unsigned char)*id) * 1099511628211ULL;
	lua_getglobal(L, "math");
	lua_getfield(L, -1, "randomseed");
	lua_pushinteger(L, (lua_Integer)script_of(L)->seed);
	lua_pushinteger(L, (lua_Integer)hash);
	lua_call(L, 2, 0);
	lua_pop(L, 1);
}

/* --- what is not there
 * ---------------------------------------------------------------------------------- */

/* Upvalue 1: the library's name; 2: what to use instead. */
static int absent_member(lua_State *L)
{
	raise_usage(L, lua_tostring(L, lua_upvalueindex(2)),
		    "'%s.%s' is not available in test files", lua_tostring(L, lua_upvalueindex(1)),
		    luaL_tolstring(L, 2, NULL));
}

static int absent_function(lua_State *L)
{
	raise_usage(L, lua_tostring(L, lua_upvalueindex(2)), "'%s' is not available in test files",
		    lua_tostring(L, lua_upvalueindex(1)));
}

/* Reading any other member of the table on top of the stack raises. */
static void close_library(lua_State *L, const char *name, const char *instead)
{
	lua_createtable(L, 0, 2);
	lua_pushstring(L, name);
	lua_pushstring(L, instead);
	lua_pushcclosure(L, absent_member, 2);
	lua_setfield(L, -2, "__index");
	lua_pushboolean(L, 0);
	lua_setfield(L, -2, "__metatable");
	lua_setmetatable(L, -2);
}

static const struct {
	const char *name, *instead;
} absent[] = {
	{"dofile", "require() loads a file beside the test or in lib/ above it"},
	{"loadfile", "require() loads a file beside the test or in lib/ above it"},
};

static const struct {
	const char *name, *instead;
} closed[] = {
	{"io", "m:read_file() and m:write_file() reach a machine's files, artifact() the report"},
	{"package", "require() looks beside the test file and in lib/ above it"},
	{"debug", "debug.traceback() is all there is"},
	{"os", "m:succeed() runs commands on a machine; params has what the command line gave"},
};

/* Wraps field `name` of the table on top: fn with the original as its upvalue. */
static void wrap(lua_State *L, const char *name, lua_CFunction fn)
{
	lua_getfield(L, -1, name);
	lua_pushcclosure(L, fn, 1);
	lua_setfield(L, -2, name);
}

/* A new table with these members takes the library's place; the old one is not reachable. */
static void keep_only(lua_State *L, const char *library, const char *const *names)
{
	lua_createtable(L, 0, 8);
	lua_getglobal(L, library);
	for (; *names; names++) {
		lua_getfield(L, -1, *names);
		lua_setfield(L, -3, *names);
	}
	lua_pop(L, 1);
	lua_setglobal(L, library);
}

static void set_functions(lua_State *L)
{
	static const luaL_Reg globals[] = {
		{"pcall", sandbox_pcall},     {"xpcall", sandbox_xpcall},
		{"print", sandbox_print},     {"pairs", sandbox_pairs},
		{"next", sandbox_next},	      {"collectgarbage", sandbox_collectgarbage},
		{"require", sandbox_require}, {NULL, NULL},
	};

	lua_pushglobaltable(L);
	luaL_setfuncs(L, globals, 0);
	wrap(L, "load", sandbox_load);
	wrap(L, "setmetatable", sandbox_setmetatable);
	lua_pushnil(L);
	lua_setfield(L, -2, "warn");
	for (size_t i = 0; i < ARRAY_SIZE(absent); i++) {
		lua_pushstring(L, absent[i].name);
		lua_pushstring(L, absent[i].instead);
		lua_pushcclosure(L, absent_function, 2);
		lua_setfield(L, -2, absent[i].name);
	}
	lua_pop(L, 1);
}

void sandbox_open(lua_State *L)
{
	static const char *const os_names[] = {"time", "date", "difftime", NULL};
	static const char *const debug_names[] = {"traceback", NULL};
	static const luaL_Reg libs[] = {
		{LUA_GNAME, luaopen_base},	 {LUA_COLIBNAME, luaopen_coroutine},
		{LUA_TABLIBNAME, luaopen_table}, {LUA_STRLIBNAME, luaopen_string},
		{LUA_MATHLIBNAME, luaopen_math}, {LUA_UTF8LIBNAME, luaopen_utf8},
		{LUA_OSLIBNAME, luaopen_os},	 {LUA_DBLIBNAME, luaopen_debug},
	};

	for (size_t i = 0; i < ARRAY_SIZE(libs); i++) {
		luaL_requiref(L, libs[i].name, libs[i].func, 1);
		lua_pop(L, 1);
	}
	keep_only(L, "os", os_names);
	keep_only(L, "debug", debug_names);
	set_functions(L);

	lua_getglobal(L, "os");
	wrap(L, "time", sandbox_time);
	wrap(L, "date", sandbox_date);
	lua_pushcfunction(L, sandbox_clock);
	lua_setfield(L, -2, "clock");
	lua_getglobal(L, "coroutine");
	wrap(L, "resume", resume_checked);
	wrap(L, "close", resume_checked);
	lua_getglobal(L, "math");
	wrap(L, "randomseed", sandbox_randomseed);
	lua_getglobal(L, "string");
	lua_pushnil(L);
	lua_setfield(L, -2, "dump");
	lua_pop(L, 4);

	for (size_t i = 0; i < ARRAY_SIZE(closed); i++) {
		if (lua_getglobal(L, closed[i].name) != LUA_TTABLE)
			lua_newtable(L);
		close_library(L, closed[i].name, closed[i].instead);
		lua_setglobal(L, closed[i].name);
	}
	/* luaL_requiref() noted the original tables there. */
	lua_pushnil(L);
	lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
	sandbox_reseed(L, "");
	lua_sethook(L, on_count, LUA_MASKCOUNT, COUNT_STEP);
}
