/* SPDX-License-Identifier: MIT */
/* Puts every function where the script finds it: globals, library tables, methods of handles. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Functions come in tables of struct binding, by the names that they have in api_docs:
 *
 *	"retry"			a global
 *	"re.match"		a member of the global table `re`
 *	"machine:succeed"	a method of the class `machine`
 *	"process.pid"		a field of the class `process`: a function that computes it
 *
 * A class is a locked metatable "assay.<class>" whose __index looks for methods, then for fields,
 * and raises for anything else: a misspelt method should be told by name, not as a nil that is
 * called. What api_docs has with built = false gets a function that raises the standard error, so a
 * test file can name it, and be skipped.
 */
#define MACHINE_META "assay.machine"
#define HANDLES	     "assay.handles"

/* --- classes ------------------------------------------------------------------------------------
 */

/* A method or field that is not there: the nearest one of the class. */
static _noreturn_ void raise_no_method(lua_State *L, const char *class, const char *name)
{
	const char *names[192];
	size_t n = 0, len = strlen(class);

	for (const struct api_doc *d = api_docs; d->name && n < ARRAY_SIZE(names) - 1; d++)
		if (strncmp(d->name, class, len) == 0 &&
		    (d->name[len] == ':' || d->name[len] == '.'))
			names[n++] = d->name + len + 1;
	names[n] = NULL;
	if (!nearest_name(name, names)) {
		char hint[64];

		(void)snprintf(hint, sizeof(hint), "'assay doc' lists what a %s has", class);
		raise_usage(L, hint, "a %s has no '%.64s'", class, name);
	}
	raise_unknown(L, "method", name, class, names);
}

/* Upvalue 1: methods; 2: the class; 3: functions that compute fields. */
static int class_index(lua_State *L)
{
	const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?";

	lua_pushvalue(L, 2);
	if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
		return 1;
	lua_pushvalue(L, 2);
	if (lua_rawget(L, lua_upvalueindex(3)) != LUA_TNIL) {
		lua_pushvalue(L, 1);
		lua_call(L, 1, 1);
		return 1;
	}
	raise_no_method(L, lua_tostring(L, lua_upvalueindex(2)), key);
}

static int class_newindex(lua_State *L)
{
	raise_usage(L, "a local table can hold what belongs to it", "a %s cannot be given fields",
		    lua_tostring(L, lua_upvalueindex(1)));
}

static int class_tostring(lua_State *L)
{
	struct handle *h = to_handle(L, 1);

	if (h)
		lua_pushfstring(L, "machine '%s'", h->name);
	else
		lua_pushvalue(L, lua_upvalueindex(1));
	return 1;
}

void class_open(lua_State *L, const char *class, lua_CFunction gc)
{
	char meta[64];

	(void)snprintf(meta, sizeof(meta), "assay.%s", class);
	luaL_newmetatable(L, meta);
	lua_newtable(L);
	lua_pushvalue(L, -1);
	lua_setfield(L, -3, "methods");
	lua_pushstring(L, class);
	lua_newtable(L);
	lua_pushvalue(L, -1);
	lua_setfield(L, -5, "fields");
	lua_pushcclosure(L, class_index, 3);
	lua_setfield(L, -2, "__index");
	lua_pushstring(L, class);
	lua_pushcclosure(L, class_newindex, 1);
	lua_setfield(L, -2, "__newindex");
	lua_pushstring(L, class);
	lua_pushcclosure(L, class_tostring, 1);
	lua_setfield(L, -2, "__tostring");
	lua_pushstring(L, class);
	lua_setfield(L, -2, "__metatable");
	if (gc) {
		lua_pushcfunction(L, gc);
		lua_setfield(L, -2, "__gc");
	}
	lua_pop(L, 1);
}

/* --- machine handles
 * ------------------------------------------------------------------------------- */

struct handle *to_handle(lua_State *L, int idx)
{
	struct handle **box;
	bool same;

	if (lua_type(L, idx) != LUA_TUSERDATA || !lua_checkstack(L, 2) || !lua_getmetatable(L, idx))
		return NULL;
	lua_getfield(L, LUA_REGISTRYINDEX, MACHINE_META);
	same = lua_rawequal(L, -1, -2);
	lua_pop(L, 2);
	box = lua_touserdata(L, idx);
	return same ? *box : NULL;
}

/* One userdata for each handle, so that `==` and table keys work. */
void push_handle(lua_State *L, struct handle *h)
{
	struct handle **box;

	luaL_getsubtable(L, LUA_REGISTRYINDEX, HANDLES);
	if (lua_rawgetp(L, -1, h) == LUA_TNIL) {
		lua_pop(L, 1);
		box = lua_newuserdatauv(L, sizeof(*box), 0);
		*box = h;
		luaL_setmetatable(L, MACHINE_META);
		lua_pushvalue(L, -1);
		lua_rawsetp(L, -3, h);
	}
	lua_remove(L, -2);
}

static int machine_field_name(lua_State *L)
{
	struct handle *h = to_handle(L, 1);

	lua_pushstring(L, h ? h->name : "");
	return 1;
}

static int machine_field_dir(lua_State *L)
{
	lua_pushstring(L, script_of(L)->artifact_dir ?: ".");
	return 1;
}

static const struct binding field_bindings[] = {
	{"machine.name", machine_field_name},
	{"machine.dir", machine_field_dir},
	{NULL},
};

/* --- registration
 * ---------------------------------------------------------------------------------- */

const struct binding *const all_bindings[] = {
	declare_bindings,
	control_bindings,
	fiber_bindings,
	report_bindings,
	assert_bindings,
	helper_bindings,
	power_bindings,
	command_bindings,
	process_bindings,
	unit_bindings,
	wait_bindings,
	file_bindings,
	console_bindings,
	qmp_bindings,
	result_bindings,
	snapshot_bindings,
	field_bindings,
	journal_bindings,
	NULL,
};

static int not_built(lua_State *L)
{
	raise_unsupported(L, lua_tostring(L, lua_upvalueindex(1)));
}

/* Sets what is on top of the stack, and takes it off, under a name as in api_docs. */
static void set_by_name(lua_State *L, const char *name)
{
	const char *mark = strpbrk(name, ":.");
	char first[64];

	if (!mark) {
		lua_setglobal(L, name);
		return;
	}
	(void)snprintf(first, sizeof(first), "assay.%.*s", (int)(mark - name), name);
	if (luaL_getmetatable(L, first) == LUA_TTABLE) {
		lua_getfield(L, -1, *mark == ':' ? "methods" : "fields");
		lua_remove(L, -2);
	} else {
		lua_pop(L, 1);
		(void)snprintf(first, sizeof(first), "%.*s", (int)(mark - name), name);
		if (lua_getglobal(L, first) != LUA_TTABLE) {
			lua_pop(L, 1);
			lua_newtable(L);
			lua_pushvalue(L, -1);
			lua_setglobal(L, first);
		}
	}
	lua_insert(L, -2);
	lua_setfield(L, -2, mark + 1);
	lua_pop(L, 1);
}

void bindings_open(lua_State *L)
{
	static const char *const classes[] = {"machine", "condition", "network", "capture", "host"};

	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		class_open(L, classes[i], NULL);
	class_open(L, "process", NULL);
	snapshot_open(L);
	for (const struct binding *const *t = all_bindings; *t; t++)
		for (const struct binding *b = *t; b->name; b++) {
			lua_pushcfunction(L, b->fn);
			set_by_name(L, b->name);
		}
	for (const struct api_doc *d = api_docs; d->name; d++) {
		if (d->built)
			continue;
		lua_pushstring(L, d->name);
		lua_pushcclosure(L, not_built, 1);
		set_by_name(L, d->name);
	}
	lua_newuserdatauv(L, 1, 0);
	luaL_setmetatable(L, "assay.host");
	lua_setglobal(L, "host");
	push_json(L, script_of(L)->params);
	lua_setglobal(L, "params");
	lua_pushlightuserdata(L, NULL);
	set_by_name(L, "json.null");
}
