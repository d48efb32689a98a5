/* SPDX-License-Identifier: MIT */
/* Arguments: option tables with known keys, durations, texts. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Every function that takes options has a table of them: name, type, place in a struct. One reader
 * checks keys and types and says what is wrong in the same words everywhere. "A table is copied at
 * the call": texts are pointers into Lua strings, which the reader leaves on the Lua stack, so that
 * they live as long as the call even if another fiber changes the table meanwhile.
 *
 * Numbers are accepted where text is; nothing else is converted. An unknown key is always an
 * error: an option that is silently ignored is a test that tests something else.
 */
#define OPTIONS_MAX 32

const struct option time_options[] = {TIME_OPTIONS, {NULL}};

void raise_unknown(lua_State *L, const char *kind, const char *name, const char *where,
		   const char *const *names)
{
	const char *near = nearest_name(name, names);
	char hint[256];
	size_t n = 0;

	if (near) {
		(void)snprintf(hint, sizeof(hint), "did you mean '%s'?", near);
	} else {
		n = (size_t)snprintf(hint, sizeof(hint), "known here:");
		for (; *names && n < sizeof(hint); names++)
			n += (size_t)snprintf(hint + n, sizeof(hint) - n, " %s", *names);
	}
	raise_usage(L, hint, "unknown %s '%.64s' for %s", kind, name, where);
}

uint64_t check_duration(lua_State *L, int idx, const char *what)
{
	uint64_t ns;

	/* 1e9 seconds are 30 years: beyond that somebody mixed up his units. */
	if (lua_type(L, idx) == LUA_TNUMBER) {
		lua_Number n = lua_tonumber(L, idx);

		if (isnan(n) || n < 0 || n > 1e9)
			raise_usage(L, NULL, "%s: %.14g is no duration in seconds", what,
				    (double)n);
		return (uint64_t)(n * (double)NS_PER_SEC);
	}
	if (lua_type(L, idx) == LUA_TSTRING) {
		if (parse_duration(lua_tostring(L, idx), &ns) < 0)
			raise_usage(L, "write a number of seconds, or \"250ms\", \"90s\", \"5m\"",
				    "%s: '%.40s' is no duration", what, lua_tostring(L, idx));
		return ns;
	}
	raise_usage(L, "write a number of seconds, or \"250ms\", \"90s\", \"5m\"",
		    "%s: a duration is wanted, not a %s", what, luaL_typename(L, idx));
}

const char *check_text(lua_State *L, int idx, const char *function, const char *argument,
		       size_t *ret_len)
{
	const char *s;

	if (lua_type(L, idx) != LUA_TSTRING && lua_type(L, idx) != LUA_TNUMBER)
		raise_usage(L, NULL, "%s: %s must be text, not %s", function, argument,
			    lua_isnoneornil(L, idx) ? "nil" : luaL_typename(L, idx));
	s = lua_tolstring(L, idx, ret_len);
	/* Who takes no length takes a C string: a NUL would cut it silently. */
	if (!ret_len && strlen(s) != lua_rawlen(L, idx))
		raise_usage(L, NULL, "%s: %s must not hold a NUL byte", function, argument);
	return s;
}

void check_function(lua_State *L, int idx, const char *function, const char *argument)
{
	if (!lua_isfunction(L, idx))
		raise_usage(L, NULL, "%s: %s must be a function, not %s", function, argument,
			    lua_isnoneornil(L, idx) ? "nil" : luaL_typename(L, idx));
}

/* Raises with the nearest known name. */
static const struct option *find_option(lua_State *L, const char *name, const char *what,
					const struct option *options)
{
	const char *names[OPTIONS_MAX + 1];
	size_t n = 0;

	for (const struct option *o = options; o->name; o++) {
		if (str_eq(o->name, name))
			return o;
		if (n < OPTIONS_MAX)
			names[n++] = o->name;
	}
	names[n] = NULL;
	raise_unknown(L, "option", name, what, names);
}

static void bad_option(lua_State *L, const char *what, const struct option *o, const char *wanted)
{
	raise_usage(L, NULL, "%s: option '%s' must be %s, not %s", what, o->name, wanted,
		    luaL_typename(L, -1));
}

/* The value is on top of the stack and stays there. */
static void read_value(lua_State *L, const char *what, const struct option *o, void *ret)
{
	void *at = (char *)ret + o->offset;
	char label[96];
	int is_number;

	switch (o->type) {
	case OPT_STRING:
		if (lua_type(L, -1) != LUA_TSTRING && lua_type(L, -1) != LUA_TNUMBER)
			bad_option(L, what, o, "text");
		*(const char **)at = lua_tostring(L, -1);
		break;
	case OPT_DURATION:
		(void)snprintf(label, sizeof(label), "%s: option '%s'", what, o->name);
		*(uint64_t *)at = MAX(check_duration(L, -1, label), 1); /* 0: not given */
		break;
	case OPT_BOOL:
		if (!lua_isboolean(L, -1))
			bad_option(L, what, o, "true or false");
		*(bool *)at = lua_toboolean(L, -1);
		break;
	case OPT_INT:
		*(int64_t *)at = lua_tointegerx(L, -1, &is_number);
		if (!is_number)
			bad_option(L, what, o, "a whole number");
		break;
	case OPT_NUMBER:
		*(double *)at = lua_tonumberx(L, -1, &is_number);
		if (!is_number)
			bad_option(L, what, o, "a number");
		break;
	case OPT_FUNCTION:
		if (!lua_isfunction(L, -1))
			bad_option(L, what, o, "a function");
		*(int *)at = lua_gettop(L);
		break;
	case OPT_VALUE:
		*(int *)at = lua_gettop(L);
		break;
	}
}

void read_options(lua_State *L, int idx, const char *what, const struct option *options, void *ret)
{
	if (lua_isnoneornil(L, idx))
		return;
	if (!lua_istable(L, idx))
		raise_usage(L, "options are one table: { timeout = \"30s\" }",
			    "%s: options must be a table, not %s", what, luaL_typename(L, idx));
	idx = lua_absindex(L, idx);
	luaL_checkstack(L, OPTIONS_MAX + 8, NULL);
	/* In the order of the keys, so that of two mistakes the same one is told each time. */
	push_sorted_keys(L, idx);
	for (lua_Integer i = 1, keys = lua_gettop(L); lua_rawgeti(L, (int)keys, i); i++) {
		const struct option *o;

		if (lua_type(L, -1) != LUA_TSTRING)
			raise_usage(L, NULL, "%s: an option has no name: %s", what,
				    luaL_tolstring(L, -1, NULL));
		o = find_option(L, lua_tostring(L, -1), what, options);
		lua_rawget(L, idx);
		read_value(L, what, o, ret);
	}
	lua_pop(L, 1);
}
