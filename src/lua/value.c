/* SPDX-License-Identifier: MIT */
/* Values between Lua and JSON, and texts made fit for JSON. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Values cross between Lua and JSON in four places: declarations, what setup() returns, QMP, and
 * json.encode/decode. A Lua table does not say whether it is a list or an object: keys 1…n without
 * a gap make a list; an empty one is an object, unless it came from JSON as a list (its metatable
 * "assay.list" remembers that). null is json.null, a light userdata, because nil cannot be held by
 * a table.
 *
 * json_from_lua() never raises, so its caller may own things: it uses only functions of the Lua API
 * that cannot fail (raw access, no conversion in place). push_json() may raise, when memory runs
 * out.
 *
 * A key's order in a Lua table depends on a seed that is another one in each process. Wherever an
 * order can be seen (declarations, messages, pairs() of the sandbox) it is that of
 * push_sorted_keys().
 */
#define DEPTH_MAX 100

/* --- texts -------------------------------------------------------------------------------------
 */

/* Length of the valid UTF-8 sequence at p, 0 if there is none (RFC 3629: no overlong forms, no
 * surrogates). NUL counts as invalid: readers of our JSON take strings for C strings. */
static size_t utf8_sequence(const unsigned char *p, size_t left)
{
	size_t n = p[0] < 0x80	 ? 1
		   : p[0] < 0xc2 ? 0
		   : p[0] < 0xe0 ? 2
		   : p[0] < 0xf0 ? 3
		   : p[0] < 0xf5 ? 4
				 : 0;

	if (n == 0 || n > left || p[0] == 0)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

static bool is_utf8(const char *data, size_t len)
{
	for (size_t i = 0; i < len;) {
		size_t n = data[i] ? utf8_sequence((const unsigned char *)data + i, len - i) : 1;

		if (n == 0)
			return false;
		i += n;
	}
	return true;
}

char *text_tail(const char *data, size_t len, size_t max)
{
	size_t cut;
	char size[FORMAT_MAX];

	if (max == 0 || len <= max)
		return xstrndup(data ?: "", len);
	cut = len - max;
	/* From the beginning of a line on, if one is near. */
	for (size_t i = cut; i < len && i < cut + 200; i++)
		if (data[i] == '\n') {
			cut = i + 1;
			break;
		}
	return xasprintf("… %s left out …\n%.*s", format_size(cut, size), (int)(len - cut),
			 data + cut);
}

json_t *json_text(const char *data, size_t len, size_t max)
{
	_cleanup_buf_ struct buf clean = {};
	_cleanup_free_ char *tail = NULL;

	if (max && len > max) {
		data = tail = text_tail(data, len, max);
		len = strlen(tail);
	}
	for (size_t i = 0; i < len;) {
		size_t n = utf8_sequence((const unsigned char *)data + i, len - i);

		if (n)
			buf_append(&clean, data + i, n);
		else
			buf_puts(&clean, "\xef\xbf\xbd");
		i += n ?: 1;
	}
	return json_stringn(buf_str(&clean), clean.len);
}

/* --- keys in a fixed order -----------------------------------------------------------------------
 */

struct key {
	int rank; /* numbers, texts, booleans, the rest */
	lua_Number number;
	const char *text;
	size_t len;
	lua_Integer at; /* position in the list, for the rest */
};

/* Machines sort by name: as keys of a table they are as good as texts. */
static void key_read(lua_State *L, int idx, lua_Integer at, struct key *k)
{
	struct handle *h;

	*k = (struct key){.rank = 3, .at = at};
	switch (lua_type(L, idx)) {
	case LUA_TNUMBER:
		k->rank = 0;
		k->number = lua_tonumber(L, idx);
		break;
	case LUA_TSTRING:
		k->rank = 1;
		k->text = lua_tolstring(L, idx, &k->len);
		break;
	case LUA_TBOOLEAN:
		k->rank = 2;
		k->number = lua_toboolean(L, idx);
		break;
	case LUA_TUSERDATA:
		h = to_handle(L, idx);
		if (h) {
			k->text = h->name;
			k->len = strlen(h->name);
		}
		break;
	}
}

/* Numbers, texts (by bytes), booleans, machines, then the rest as it was found. */
static int key_compare(const void *pa, const void *pb)
{
	const struct key *a = pa, *b = pb;

	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	if (a->text && b->text) {
		int r = memcmp(a->text, b->text, MIN(a->len, b->len));

		if (r == 0 && a->len != b->len)
			r = a->len < b->len ? -1 : 1;
		if (r)
			return r;
	}
	if (a->number != b->number)
		return a->number < b->number ? -1 : 1;
	return a->at < b->at ? -1 : a->at > b->at;
}

int keys_compare(lua_State *L, int a, int b)
{
	struct key ka, kb;

	key_read(L, a, 0, &ka);
	key_read(L, b, 0, &kb);
	return key_compare(&ka, &kb);
}

void push_sorted_keys(lua_State *L, int idx)
{
	lua_Integer n = 0, i = 0;
	struct key *keys;

	idx = lua_absindex(L, idx);
	luaL_checkstack(L, 8, NULL);
	for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1))
		n++;
	lua_createtable(L, (int)MIN(n, 1 << 20), 0); /* as found */
	lua_createtable(L, (int)MIN(n, 1 << 20), 0); /* sorted */
	keys = lua_newuserdatauv(L, (size_t)n * sizeof(*keys) + 1, 0);
	for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
		key_read(L, -2, i, &keys[i]);
		lua_pushvalue(L, -2);
		lua_rawseti(L, -6, ++i);
	}
	qsort(keys, (size_t)n, sizeof(*keys), key_compare);
	for (i = 0; i < n; i++) {
		lua_rawgeti(L, -3, keys[i].at + 1);
		lua_rawseti(L, -3, i + 1);
	}
	lua_pop(L, 1);
	lua_remove(L, -2);
}

/* --- Lua to JSON ---------------------------------------------------------------------------------
 */

static json_t *value_to_json(lua_State *L, int idx, int depth, struct error *err);

/* The path to what is wrong, but not a hundred times when a table contains itself. */
#define say_where(err, ...)                                                                        \
	do {                                                                                       \
		if ((err) && (err)->code != ELOOP)                                                 \
			error_prefix(err, __VA_ARGS__);                                            \
	} while (0)

/* 1..n without a gap: n; else -1. An empty table is no list. */
static lua_Integer list_length(lua_State *L, int idx)
{
	lua_Integer n = 0, max = 0;

	for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
		lua_Integer k = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : 0;

		if (k < 1) {
			lua_pop(L, 2);
			return -1;
		}
		max = MAX(max, k);
		n++;
	}
	return n > 0 && n == max ? n : -1;
}

static json_t *list_to_json(lua_State *L, int idx, lua_Integer n, int depth, struct error *err)
{
	json_t *list = json_array();

	for (lua_Integer i = 1; i <= n; i++) {
		json_t *item;

		lua_rawgeti(L, idx, i);
		item = value_to_json(L, lua_gettop(L), depth + 1, err);
		lua_pop(L, 1);
		if (!item) {
			say_where(err, "[%lld]", (long long)i);
			json_decref(list);
			return NULL;
		}
		json_array_append_new(list, item);
	}
	return list;
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Key at -2, value at -1. */
static bool pair_to_json(lua_State *L, json_t *object, int depth, struct error *err)
{
	char number[32];
	const char *key;
	json_t *value;

	if (lua_type(L, -2) == LUA_TSTRING) {
		size_t len;

		key = lua_tolstring(L, -2, &len);
		if (!is_utf8(key, len) || strlen(key) != len) {
			error_set(err, ERROR_USAGE, EINVAL, "a key is not UTF-8 text");
			return false;
		}
	} else if (lua_isinteger(L, -2)) {
		(void)snprintf(number, sizeof(number), "%lld", (long long)lua_tointeger(L, -2));
		key = number;
	} else {
		error_set(err, ERROR_USAGE, EINVAL, "a key is a %s, not text",
			  luaL_typename(L, -2));
		return false;
	}
	value = value_to_json(L, lua_gettop(L), depth + 1, err);
	if (!value) {
		say_where(err, "'%s'", key);
		return false;
	}
	json_object_set_new(object, key, value);
	return true;
}

/* Keys sorted: the order in a Lua table is another one in each process. */
static json_t *object_to_json(lua_State *L, int idx, int depth, struct error *err)
{
	json_t *object = json_object(), *sorted;
	_cleanup_free_ const char **keys = NULL;
	const char *key;
	json_t *value;
	size_t n = 0;

	for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1))
		if (!pair_to_json(L, object, depth, err)) {
			lua_pop(L, 2);
			json_decref(object);
			return NULL;
		}
	keys = xcalloc(json_object_size(object) + 1, sizeof(*keys));
	json_object_foreach(object, key, value) keys[n++] = key;
	qsort(keys, n, sizeof(*keys), compare_keys);
	sorted = json_object();
	for (size_t i = 0; i < n; i++)
		json_object_set(sorted, keys[i], json_object_get(object, keys[i]));
	json_decref(object);
	return sorted;
}

/* Integers stay integers: 2^53 + 1 must not become a float. */
static json_t *number_to_json(lua_State *L, int idx, struct error *err)
{
	lua_Number n = lua_tonumber(L, idx);

	if (lua_isinteger(L, idx))
		return json_integer(lua_tointeger(L, idx));
	if (isnan(n) || isinf(n)) {
		error_set(err, ERROR_USAGE, EINVAL, "JSON has no number %s",
			  isnan(n) ? "nan" : "inf");
		return NULL;
	}
	return json_real(n);
}

/* A table that came from a JSON list, maybe an empty one. */
static bool is_json_list(lua_State *L, int idx)
{
	bool same;

	if (!lua_getmetatable(L, idx))
		return false;
	lua_getfield(L, LUA_REGISTRYINDEX, "assay.list");
	same = lua_rawequal(L, -1, -2);
	lua_pop(L, 2);
	return same;
}

static json_t *table_to_json(lua_State *L, int idx, int depth, struct error *err)
{
	lua_Integer n;

	if (depth > DEPTH_MAX || !lua_checkstack(L, 8)) {
		error_set(err, ERROR_USAGE, ELOOP,
			  "tables within tables, deeper than %d: does one contain itself?",
			  DEPTH_MAX);
		return NULL;
	}
	n = list_length(L, idx);
	if (n < 0 && is_json_list(L, idx))
		n = (lua_Integer)lua_rawlen(L, idx);
	return n >= 0 ? list_to_json(L, idx, n, depth, err) : object_to_json(L, idx, depth, err);
}

static json_t *value_to_json(lua_State *L, int idx, int depth, struct error *err)
{
	struct handle *h;
	const char *text;
	size_t len;

	switch (lua_type(L, idx)) {
	case LUA_TNIL:
		return json_null();
	case LUA_TBOOLEAN:
		return json_boolean(lua_toboolean(L, idx));
	case LUA_TNUMBER:
		return number_to_json(L, idx, err);
	case LUA_TSTRING:
		text = lua_tolstring(L, idx, &len);
		if (is_utf8(text, len))
			return json_stringn(text, len);
		error_set(err, ERROR_USAGE, EILSEQ, "a string is not UTF-8");
		error_hint(err, "base64.encode() makes text of any bytes");
		return NULL;
	case LUA_TTABLE:
		return table_to_json(L, idx, depth, err);
	case LUA_TLIGHTUSERDATA:
		if (!lua_touserdata(L, idx))
			return json_null();
		break;
	case LUA_TUSERDATA:
		h = to_handle(L, idx);
		if (h)
			return json_string(h->name);
		break;
	}
	error_set(err, ERROR_USAGE, EINVAL, "a %s cannot be stored as JSON",
		  lua_typename(L, lua_type(L, idx)));
	return NULL;
}

json_t *json_from_lua(lua_State *L, int idx, struct error *err)
{
	if (!lua_checkstack(L, 8)) {
		error_set(err, ERROR_USAGE, ENOMEM, "the script's stack is full");
		return NULL;
	}
	return value_to_json(L, lua_absindex(L, idx), 0, err);
}

/* --- JSON to Lua ---------------------------------------------------------------------------------
 */

void push_json(lua_State *L, json_t *j)
{
	const char *key;
	json_t *value;
	size_t i;

	luaL_checkstack(L, 8, "JSON nested too deeply");
	switch (j ? json_typeof(j) : JSON_NULL) {
	case JSON_NULL:
		lua_pushlightuserdata(L, NULL);
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		lua_pushboolean(L, json_is_true(j));
		break;
	case JSON_INTEGER:
		lua_pushinteger(L, json_integer_value(j));
		break;
	case JSON_REAL:
		lua_pushnumber(L, json_real_value(j));
		break;
	case JSON_STRING:
		lua_pushlstring(L, json_string_value(j), json_string_length(j));
		break;
	case JSON_ARRAY:
		lua_createtable(L, (int)json_array_size(j), 0);
		json_array_foreach(j, i, value)
		{
			push_json(L, value);
			lua_rawseti(L, -2, (lua_Integer)i + 1);
		}
		luaL_setmetatable(L, "assay.list");
		break;
	case JSON_OBJECT:
		lua_createtable(L, 0, (int)json_object_size(j));
		json_object_foreach(j, key, value)
		{
			lua_pushstring(L, key);
			push_json(L, value);
			lua_rawset(L, -3);
		}
		break;
	}
}

void push_captures(lua_State *L, json_t *captures)
{
	const char *key;
	json_t *value;

	lua_createtable(L, 4, 4);
	json_object_foreach(captures, key, value)
	{
		char *end;
		long n = strtol(key, &end, 10);

		if (json_is_null(value)) /* a group that took no part */
			continue;
		push_json(L, value);
		if (*key && !*end)
			lua_rawseti(L, -2, n);
		else
			lua_setfield(L, -2, key);
	}
}
