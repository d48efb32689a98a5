/* SPDX-License-Identifier: MIT */
/* What a function is, as a digest: its code and all that it can reach. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "lua/bytecode.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * What setup() leaves behind is kept across runs under a key that must change with everything that
 * setup() consists of, and with nothing else: not with a line added above it, not with the body of
 * a test, not with a helper that only tests call. So its digest is made of
 *
 *	its bytecode, without lines and names
 *	the values of its upvalues, and of the globals that its code names
 *	and so on for each Lua function and table that is met there, metatables included
 *
 * Objects are numbered in the order in which they are met, and described one after the other: no
 * recursion, cycles cost nothing. Keys of tables come sorted. Functions of ours and of Lua's
 * libraries are known by name, machines as well. The table of globals is not met as a whole unless
 * the code uses it as a whole (_G, _ENV[x], load()).
 *
 * What cannot be described in a way that is the same in each process (a coroutine, a table as a
 * key) makes the digest depend on the texts of all files that were loaded: right, if coarse.
 *
 * The same walk, with functions taken for their code alone, tells whether setup() changed a value
 * that tests can see: they run in another process, where it never ran.
 */
#define NATIVES "assay.natives" /* function or object of ours → name */

enum use { USE_FILES = 1 << 0, USE_HOST = 1 << 1, USE_RANDOM = 1 << 2 };

struct walk {
	struct script *script;
	struct sha256 sha;
	struct buf dump;
	bool shallow;  /* Lua functions are their code alone */
	bool is_vague; /* something could not be described */
	unsigned uses; /* enum use */
	char **globals;
	bool whole_globals;
	lua_Integer n_met;
	/* indices on the stack */
	int ids, queue, natives;
	int functions; /* that were met, if shallow */
};

/* --- names of what is not written in Lua -------------------------------------------------------
 */

#define NATIVES_DEPTH 4

static void note_natives(lua_State *L, const char *prefix, int depth);

/* The value on top of the stack, by this name. */
static void note_native(lua_State *L, const char *name, int depth)
{
	int type = lua_type(L, -1);
	bool is_globals;

	luaL_checkstack(L, 12, NULL);
	lua_pushglobaltable(L);
	is_globals = lua_rawequal(L, -1, -2);
	lua_pop(L, 1);
	luaL_getsubtable(L, LUA_REGISTRYINDEX, NATIVES);
	lua_pushvalue(L, -2);
	if ((type == LUA_TFUNCTION || type == LUA_TUSERDATA) && lua_rawget(L, -2) == LUA_TNIL) {
		lua_pushvalue(L, -3);
		lua_pushstring(L, name);
		lua_rawset(L, -4);
	}
	lua_pop(L, 2);
	if (type == LUA_TTABLE && !is_globals && depth < NATIVES_DEPTH)
		note_natives(L, name, depth + 1);
}

/* All in the table on top of the stack, and its metatable. */
static void note_natives(lua_State *L, const char *prefix, int depth)
{
	int table = lua_gettop(L);

	push_sorted_keys(L, table);
	for (lua_Integer i = 1; lua_rawgeti(L, table + 1, i) != LUA_TNIL; i++) {
		const char *key = luaL_tolstring(L, -1, NULL);
		const char *name = lua_pushfstring(L, "%s.%s", prefix, key);

		lua_pushvalue(L, -3);
		lua_rawget(L, table);
		note_native(L, name, depth);
		lua_settop(L, table + 1);
	}
	lua_settop(L, table);
	if (lua_getmetatable(L, table)) {
		const char *name = lua_pushfstring(L, "%s.<metatable>", prefix);

		lua_insert(L, -2);
		note_native(L, name, depth);
		lua_settop(L, table);
	}
}

void digest_open(lua_State *L)
{
	int top = lua_gettop(L);

	for (const struct binding *const *t = all_bindings; *t; t++)
		for (const struct binding *b = *t; b->name; b++) {
			lua_pushcfunction(L, b->fn);
			note_native(L, b->name, NATIVES_DEPTH);
			lua_settop(L, top);
		}
	lua_pushglobaltable(L);
	note_natives(L, "", 0);
	lua_settop(L, top);
}

/* --- the walk ----------------------------------------------------------------------------------
 */

static void feed(struct walk *w, const void *data, size_t len)
{
	sha256_update(&w->sha, data, len);
}

static void feed_text(struct walk *w, char tag, const char *text, size_t len)
{
	uint64_t n = len;

	feed(w, &tag, 1);
	feed(w, &n, sizeof(n));
	feed(w, text, len);
}

static void feed_integer(struct walk *w, char tag, int64_t n)
{
	feed(w, &tag, 1);
	feed(w, &n, sizeof(n));
}

static void on_native(struct walk *w, lua_State *L, const char *name);
static void on_text(const char *text, size_t len, void *userdata);

/* A value: a plain one as it is, an object by its number. May be met for the first time. */
static void feed_value(struct walk *w, lua_State *L, int idx)
{
	struct handle *h;
	const char *text;
	lua_Number number;
	size_t len;

	idx = lua_absindex(L, idx);
	switch (lua_type(L, idx)) {
	case LUA_TNIL:
		feed(w, "n", 1);
		return;
	case LUA_TBOOLEAN:
		feed(w, lua_toboolean(L, idx) ? "1" : "0", 1);
		return;
	case LUA_TSTRING:
		text = lua_tolstring(L, idx, &len);
		feed_text(w, 's', text, len);
		on_text(text, len, w); /* a method's name, maybe: m[name](…) */
		return;
	case LUA_TNUMBER:
		if (lua_isinteger(L, idx)) {
			feed_integer(w, 'i', lua_tointeger(L, idx));
			return;
		}
		number = lua_tonumber(L, idx);
		feed(w, "f", 1);
		feed(w, &number, sizeof(number));
		return;
	case LUA_TLIGHTUSERDATA:
		w->is_vague |= lua_touserdata(L, idx) != NULL; /* NULL is json.null */
		feed(w, "0", 1);
		return;
	}
	h = to_handle(L, idx);
	if (h) {
		feed_text(w, 'm', h->name, strlen(h->name));
		return;
	}
	lua_pushvalue(L, idx);
	if (lua_rawget(L, w->natives) == LUA_TSTRING) {
		text = lua_tolstring(L, -1, &len);
		feed_text(w, 'N', text, len);
		on_native(w, L, text);
		lua_pop(L, 1);
		return;
	}
	lua_pop(L, 1);
	lua_pushvalue(L, idx);
	if (lua_rawget(L, w->ids) == LUA_TNIL) {
		lua_pop(L, 1);
		lua_pushvalue(L, idx);
		lua_pushinteger(L, ++w->n_met);
		lua_rawset(L, w->ids);
		lua_pushvalue(L, idx);
		lua_rawseti(L, w->queue, w->n_met);
		lua_pushinteger(L, w->n_met);
	}
	feed_integer(w, 'o', lua_tointeger(L, -1));
	lua_pop(L, 1);
}

/* Some functions reach what their callers' code does not name. */
static void on_native(struct walk *w, lua_State *L, const char *name)
{
	if (str_eq(name, ".math.random")) {
		w->uses |= USE_RANDOM;
	} else if (str_eq(name, ".host")) {
		w->uses |= USE_HOST;
	} else if (str_eq(name, ".load") && !w->shallow) {
		lua_pushglobaltable(L);
		feed_value(w, L, -1);
		lua_pop(L, 1);
	} else if (str_eq(name, ".require") && !w->shallow) {
		/* Modules that are loaded by now; of others the file is noted when it is read,
		 * and they may look at anything. */
		w->uses |= USE_FILES;
		luaL_getsubtable(L, LUA_REGISTRYINDEX, "assay.modules");
		feed_value(w, L, -1);
		lua_getglobal(L, "params");
		feed_value(w, L, -1);
		lua_pop(L, 2);
	}
}

static void feed_table(struct walk *w, lua_State *L, int table)
{
	int keys;

	feed(w, "T", 1);
	if (lua_getmetatable(L, table))
		feed_value(w, L, -1);
	push_sorted_keys(L, table);
	keys = lua_gettop(L);
	for (lua_Integer i = 1; lua_rawgeti(L, keys, i) != LUA_TNIL; i++) {
		int type = lua_type(L, -1);

		/* Such keys have no order of their own. */
		w->is_vague |= type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TTHREAD ||
			       (type == LUA_TUSERDATA && !to_handle(L, -1));
		feed(w, "k", 1);
		feed_value(w, L, -1);
		lua_rawget(L, table);
		feed_value(w, L, -1);
		lua_settop(L, keys);
	}
	lua_settop(L, table);
}

/* --- functions ----------------------------------------------------------------------------------
 */

static void on_code(const void *data, size_t len, void *userdata)
{
	feed(userdata, data, len);
}

static void on_text(const char *text, size_t len, void *userdata)
{
	static const char *const readers[] = {"copy_from_host", "install", "artifact", NULL};
	struct walk *w = userdata;

	for (const char *const *r = readers; *r; r++)
		if (strlen(*r) == len && memcmp(*r, text, len) == 0)
			w->uses |= USE_FILES;
}

static void on_global(const char *name, size_t len, void *userdata)
{
	struct walk *w = userdata;
	char *copy;

	if (memchr(name, '\0', len)) {
		w->whole_globals = true;
		return;
	}
	copy = xstrndup(name, len);
	if (!strv_contains(w->globals, copy))
		strv_push(&w->globals, copy);
	free(copy);
}

static int on_dump(lua_State *L, const void *data, size_t len, void *userdata)
{
	buf_append(userdata, data, len);
	return 0;
}

/* Index of the upvalue that is the table of globals, from 0; -1: none. */
static int find_env(lua_State *L, int function)
{
	int env = -1;

	for (int i = 1; env < 0 && lua_getupvalue(L, function, i); i++) {
		lua_pushglobaltable(L);
		if (lua_rawequal(L, -1, -2))
			env = i - 1;
		lua_pop(L, 2);
	}
	return env;
}

/* Its code; w->globals, w->whole_globals are what it asks of the environment, which is upvalue
 * *ret_env. */
static void feed_code(struct walk *w, lua_State *L, int function, int *ret_env)
{
	struct bytecode_sink sink = {on_code, on_text, on_global, w};

	strv_free(TAKE_PTR(w->globals));
	w->whole_globals = false;
	*ret_env = find_env(L, function);
	feed(w, "F", 1);
	buf_truncate(&w->dump, 0);
	lua_pushvalue(L, function);
	lua_dump(L, on_dump, &w->dump, 1);
	lua_pop(L, 1);
	if (bytecode_read(w->dump.data, w->dump.len, *ret_env, &sink, &w->whole_globals) < 0)
		w->whole_globals = w->is_vague = true;
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void feed_globals(struct walk *w, lua_State *L)
{
	lua_pushglobaltable(L);
	if (w->whole_globals)
		feed_value(w, L, -1);
	/* It may have what the table has not: setmetatable(_G, { __index = … }). */
	if (lua_getmetatable(L, -1)) {
		feed_value(w, L, -1);
		lua_pop(L, 1);
	}
	if (w->globals)
		qsort(w->globals, strv_len(w->globals), sizeof(*w->globals), compare_texts);
	for (size_t i = 0; w->globals && w->globals[i]; i++) {
		feed_text(w, 'g', w->globals[i], strlen(w->globals[i]));
		lua_pushstring(L, w->globals[i]);
		lua_rawget(L, -2);
		feed_value(w, L, -1);
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
}

/* Each function once, in the list w->functions. */
static void meet_function(struct walk *w, lua_State *L, int function)
{
	function = lua_absindex(L, function);
	lua_pushvalue(L, function);
	if (lua_rawget(L, w->functions) == LUA_TNIL) {
		lua_pushvalue(L, function);
		lua_pushboolean(L, 1);
		lua_rawset(L, w->functions);
		lua_pushvalue(L, function);
		lua_rawseti(L, w->functions, (lua_Integer)lua_rawlen(L, w->functions) + 1);
	}
	lua_pop(L, 1);
}

static void feed_function(struct walk *w, lua_State *L, int function)
{
	int env = -1;

	if (lua_iscfunction(L, function)) {
		feed(w, "C", 1);
		w->is_vague = true;
	} else {
		feed_code(w, L, function, &env);
		if (w->shallow) {
			meet_function(w, L, function);
			return;
		}
	}
	for (int i = 1; lua_getupvalue(L, function, i); i++) {
		if (i - 1 == env)
			feed(w, "E", 1);
		else
			feed_value(w, L, -1);
		lua_pop(L, 1);
	}
	if (env >= 0)
		feed_globals(w, L);
}

static void feed_object(struct walk *w, lua_State *L)
{
	int object = lua_gettop(L);

	switch (lua_type(L, object)) {
	case LUA_TTABLE:
		feed_table(w, L, object);
		break;
	case LUA_TFUNCTION:
		feed_function(w, L, object);
		break;
	default:
		feed_text(w, 'U', luaL_typename(L, object), strlen(luaL_typename(L, object)));
		w->is_vague = true;
	}
}

/* All that it may be made of: the texts of the files, and what these were given. */
static void feed_sources(struct walk *w)
{
	char *params = json_dumps(w->script->params, JSON_SORT_KEYS | JSON_COMPACT);

	for (const struct source *s = w->script->sources; s; s = s->next)
		feed_text(w, 'S', s->text, strlen(s->text));
	feed_text(w, 'P', params ?: "", strlen(params ?: ""));
	free(params);
	w->uses |= USE_FILES | USE_RANDOM;
}

/* The digest of the value at idx. Protected; leaves the stack as it was. */
static void walk_value(struct walk *w, lua_State *L, int idx, char ret[DIGEST_HEX_MAX])
{
	int top = lua_gettop(L);

	idx = lua_absindex(L, idx);
	luaL_checkstack(L, 24, NULL);
	sha256_init(&w->sha);
	w->n_met = 0;
	w->is_vague = false;
	w->ids = top + 1;
	w->queue = top + 2;
	w->natives = top + 3;
	lua_newtable(L);
	lua_newtable(L);
	luaL_getsubtable(L, LUA_REGISTRYINDEX, NATIVES);
	feed_value(w, L, idx);
	/* ("x"):method() names no global. */
	if (!w->shallow) {
		lua_pushliteral(L, "");
		if (luaL_getmetafield(L, -1, "__index") != LUA_TNIL)
			feed_value(w, L, -1);
		lua_settop(L, w->natives);
	}
	for (lua_Integer i = 1; i <= w->n_met; i++) {
		lua_rawgeti(L, w->queue, i);
		feed_object(w, L);
		lua_settop(L, w->natives);
	}
	if (w->is_vague && !w->shallow)
		feed_sources(w);
	sha256_hex(&w->sha, ret);
	lua_settop(L, top);
}

static void walk_done(struct walk *w)
{
	buf_done(&w->dump);
	strv_free(w->globals);
}

/* --- setup()
 * --------------------------------------------------------------------------------------
 */

static json_t *uses_json(unsigned uses)
{
	static const char *const names[] = {"files", "host", "random"};
	json_t *list = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (uses & 1u << i)
			json_array_append_new(list, json_string(names[i]));
	return list;
}

static int digest_setup(lua_State *L)
{
	struct walk *w = lua_touserdata(L, 1);
	struct group *g = lua_touserdata(L, 2);
	char digest[DIGEST_HEX_MAX];

	lua_rawgeti(L, LUA_REGISTRYINDEX, g->setup_ref);
	walk_value(w, L, -1, digest);
	json_object_set_new(g->setup, "digest", json_string(digest));
	json_object_set_new(g->setup, "uses", uses_json(w->uses));
	return 0;
}

int digest_setups(struct script *s)
{
	for (size_t i = 0; i < s->n_groups; i++) {
		struct group *g = s->groups[i];
		struct walk w = {.script = s};
		int status;

		if (g->setup_ref == LUA_NOREF)
			continue;
		lua_pushcfunction(s->L, digest_setup);
		lua_pushlightuserdata(s->L, &w);
		lua_pushlightuserdata(s->L, g);
		status = lua_pcall(s->L, 2, 0, 0);
		walk_done(&w);
		if (status != LUA_OK) {
			lua_pop(s->L, 1);
			return -ENOMEM;
		}
	}
	return 0;
}

/* --- what tests can see --------------------------------------------------------------------------
 */

struct view {
	struct walk walk;
	struct group *group;
	char **globals;
	json_t *values; /* "local 'x' <address>" → digest */
};

/* The value on top of the stack; taken off. */
static void note_value(struct view *v, lua_State *L, const char *kind, const char *name,
		       const void *id)
{
	char digest[DIGEST_HEX_MAX], key[256];

	walk_value(&v->walk, L, -1, digest);
	/* The address tells variables of one name apart. */
	(void)snprintf(key, sizeof(key), "%s '%.150s' %p", kind, name, id);
	json_object_set_new(v->values, key, json_string(digest));
	lua_pop(L, 1);
}

/* The variables that a function names: its upvalues, and globals. */
static void note_function(struct view *v, lua_State *L, int function)
{
	struct walk *w = &v->walk;
	const char *name;
	int env;

	sha256_init(&w->sha);
	feed_code(w, L, function, &env);
	strv_free(v->globals);
	v->globals = TAKE_PTR(w->globals); /* each value's walk uses the other one */
	for (size_t i = 0; v->globals && v->globals[i]; i++) {
		lua_pushglobaltable(L);
		lua_pushstring(L, v->globals[i]);
		lua_rawget(L, -2);
		lua_remove(L, -2);
		note_value(v, L, "global", v->globals[i], NULL);
	}
	for (int i = 1; (name = lua_getupvalue(L, function, i)); i++) {
		if (i - 1 == env)
			lua_pop(L, 1);
		else
			note_value(v, L, "local", name, lua_upvalueid(L, function, i));
	}
}

/* Of each function that the group's tests and its teardown can call. */
static int note_visible(lua_State *L)
{
	struct view *v = lua_touserdata(L, 1);
	struct group *g = v->group;

	lua_settop(L, 1);
	lua_newtable(L);
	v->walk.functions = 2;
	for (size_t i = 0; i < g->n_tests; i++) {
		lua_rawgeti(L, LUA_REGISTRYINDEX, g->tests[i].fn_ref);
		meet_function(&v->walk, L, 3);
		lua_settop(L, 2);
	}
	if (g->teardown_ref != LUA_NOREF) {
		lua_rawgeti(L, LUA_REGISTRYINDEX, g->teardown_ref);
		meet_function(&v->walk, L, 3);
		lua_settop(L, 2);
	}
	for (lua_Integer i = 1; lua_rawgeti(L, 2, i) != LUA_TNIL; i++) {
		note_function(v, L, 3);
		lua_settop(L, 2);
	}
	return 0;
}

json_t *script_visible_values(struct script *s, const char *group)
{
	struct view v = {.walk = {.script = s, .shallow = true}, .group = group_find(s, group)};

	if (!v.group)
		return NULL;
	v.values = json_object();
	lua_pushcfunction(s->L, note_visible);
	lua_pushlightuserdata(s->L, &v);
	if (lua_pcall(s->L, 1, 0, 0) != LUA_OK) {
		lua_pop(s->L, 1);
		json_decref(TAKE_PTR(v.values));
	}
	walk_done(&v.walk);
	strv_free(v.globals);
	return v.values;
}

json_t *script_values_changed(json_t *before, json_t *after)
{
	json_t *names = json_array(), *value;
	const char *key;

	json_object_foreach(before, key, value)
	{
		json_t *now = json_object_get(after, key);

		if (now && !json_equal(value, now))
			json_array_append_new(names,
					      json_stringn(key, (size_t)(strrchr(key, ' ') - key)));
	}
	return names;
}
