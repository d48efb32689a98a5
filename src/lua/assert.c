/* SPDX-License-Identifier: MIT */
/* Assertions, and how values look in their messages. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * An assertion compares, and only when it fails it shows: values are written into the buffer of a
 * `struct call` (showing may raise, so nothing may be owned by a C frame meanwhile), once for the
 * message, which is cut to what a struct error holds, and once for `detail`, which reports may
 * show in full. Tables are compared and shown in the order of push_sorted_keys(), so the same
 * failure has the same text in each run.
 *
 * They may be called at the top level of a file as well (call_push() instead of call_new()): a file
 * may check its parameters.
 */
#define SHOW_DEPTH 6
#define SHOW_BYTES 4000
#define DEEP_MAX   100

/* --- showing values ------------------------------------------------------------------------------
 */

/* As Lua would write it, on one line: a test's output may hold anything, and a terminal shows it.
 */
static void show_string(struct buf *b, const char *s, size_t len)
{
	buf_putc(b, '"');
	for (size_t i = 0; i < len && b->len < SHOW_BYTES; i++) {
		unsigned char ch = (unsigned char)s[i];

		if (ch == '\n')
			buf_puts(b, "\\n");
		else if (ch == '\t')
			buf_puts(b, "\\t");
		else if (ch == '"' || ch == '\\')
			buf_printf(b, "\\%c", ch);
		else if (ch < 0x20 || ch == 0x7f)
			buf_printf(b, "\\x%02x", ch);
		else
			buf_putc(b, (char)ch);
	}
	buf_puts(b, b->len < SHOW_BYTES ? "\"" : "…\"");
}

/* Whether a key can be written as `key =` instead of `["key"] =`. */
static bool is_identifier(const char *s)
{
	return (*s == '_' || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z')) &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") ==
		       strlen(s);
}

static void show(lua_State *L, int idx, struct buf *b, int depth);

/* May raise (push_sorted_keys): b belongs to a call. */
static void show_table(lua_State *L, int idx, struct buf *b, int depth)
{
	lua_Integer next = 1;
	bool first = true;

	if (depth >= SHOW_DEPTH) {
		buf_puts(b, "{…}");
		return;
	}
	push_sorted_keys(L, idx);
	buf_putc(b, '{');
	for (lua_Integer i = 1, keys = lua_gettop(L); lua_rawgeti(L, (int)keys, i); i++) {
		if (b->len > SHOW_BYTES) {
			buf_puts(b, " …");
			lua_pop(L, 1);
			break;
		}
		buf_puts(b, first ? " " : ", ");
		first = false;
		if (lua_isinteger(L, -1) && lua_tointeger(L, -1) == next) {
			next++;
		} else if (lua_type(L, -1) == LUA_TSTRING && is_identifier(lua_tostring(L, -1))) {
			buf_printf(b, "%s = ", lua_tostring(L, -1));
		} else {
			buf_putc(b, '[');
			show(L, lua_gettop(L), b, depth + 1);
			buf_puts(b, "] = ");
		}
		lua_rawget(L, idx);
		show(L, lua_gettop(L), b, depth + 1);
		lua_pop(L, 1);
	}
	buf_puts(b, first ? "}" : " }");
}

/* Appends the value at idx (absolute); leaves the stack as it was. May raise: __tostring is the
 * script's. */
static void show(lua_State *L, int idx, struct buf *b, int depth)
{
	int top = lua_gettop(L);
	const char *s;
	size_t len;

	luaL_checkstack(L, 12, NULL);
	switch (lua_type(L, idx)) {
	case LUA_TSTRING:
		s = lua_tolstring(L, idx, &len);
		show_string(b, s, len);
		break;
	case LUA_TTABLE:
		show_table(L, idx, b, depth);
		break;
	default:
		s = luaL_tolstring(L, idx, &len);
		buf_append(b, s, len);
		break;
	}
	lua_settop(L, top);
}

/* --- differences
 * ----------------------------------------------------------------------------------- */

/* Line by line: the first one that differs, with what stands around it. */
static void diff_lines(struct buf *b, const char *got, const char *want)
{
	_cleanup_strv_ char **g = NULL, **w = NULL;
	size_t i = 0;

	for (const char *p = got; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		strv_push_take(&g, xstrndup(p, strcspn(p, "\n")));
	for (const char *p = want; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		strv_push_take(&w, xstrndup(p, strcspn(p, "\n")));
	while (i < strv_len(g) && i < strv_len(w) && str_eq(g[i], w[i]))
		i++;
	buf_printf(b, "first difference in line %zu:", i + 1);
	if (i > 0)
		buf_printf(b, "\n    %s", g[i - 1]);
	for (size_t k = i; k < i + 3 && k < strv_len(w); k++)
		buf_printf(b, "\n  - %s", w[k]);
	for (size_t k = i; k < i + 3 && k < strv_len(g); k++)
		buf_printf(b, "\n  + %s", g[k]);
}

/* Where two tables differ first: ".a[2]" is appended to path. True if equal. */
static bool deep_equal(lua_State *L, int a, int b, int depth, struct buf *path)
{
	size_t mark = path->len;
	int top = lua_gettop(L);

	/* __eq of the script counts; what it denies may still be equal by its contents. */
	if (lua_compare(L, a, b, LUA_OPEQ))
		return true;
	if (!lua_istable(L, a) || !lua_istable(L, b))
		return false;
	if (depth > DEEP_MAX)
		raise_usage(L, NULL, "assert_eq: tables nested deeper than %d", DEEP_MAX);
	luaL_checkstack(L, 12, NULL);
	/* The keys of both: one that only one side has is a difference, too. */
	for (int side = 0; side < 2; side++) {
		push_sorted_keys(L, side ? b : a);
		for (lua_Integer i = 1, keys = lua_gettop(L); lua_rawgeti(L, (int)keys, i); i++) {
			int key = lua_gettop(L);

			lua_pushvalue(L, key);
			lua_rawget(L, a);
			lua_pushvalue(L, key);
			lua_rawget(L, b);
			if (lua_type(L, key) == LUA_TSTRING)
				buf_printf(path, ".%s", lua_tostring(L, key));
			else
				buf_printf(path, "[%s]", luaL_tolstring(L, key, NULL));
			lua_settop(L, key + 2);
			if (!deep_equal(L, key + 1, key + 2, depth + 1, path))
				return lua_settop(L, top), false;
			buf_truncate(path, mark);
			lua_settop(L, (int)keys);
		}
		lua_settop(L, top);
	}
	return true;
}

/* --- raising
 * ------------------------------------------------------------------------------------------ */

/* With the user's own message in front, if argument `idx` is one; 0: there is none. */
static _noreturn_ void fail(lua_State *L, struct call *c, int idx)
{
	const char *own = idx == 0 || lua_isnoneornil(L, idx) ? NULL : luaL_tolstring(L, idx, NULL);

	error_set(&c->err, ERROR_EXPECT, EPROTO, "%s%s%s", own ?: "", own ? ": " : "",
		  buf_str(&c->buf));
	call_raise(L, c);
}

/* The assertions may be called anywhere, also at the top level. */
static struct call *begin(lua_State *L, const char *name, int n_args)
{
	lua_settop(L, n_args);
	return call_push(L, name);
}

static int assert_equal(lua_State *L)
{
	struct call *c = begin(L, "assert_eq", 3);
	_Static_assert(SHOW_BYTES * 2 > ERROR_MESSAGE_MAX, "messages are cut by struct error");
	char where[128];

	if (deep_equal(L, 1, 2, 0, &c->buf))
		return 0;
	(void)snprintf(where, sizeof(where), "%s", buf_str(&c->buf));
	buf_truncate(&c->buf, 0);
	show(L, 1, &c->buf, 0);
	call_detail(c, "got", json_text(c->buf.data, c->buf.len, 0));
	buf_truncate(&c->buf, 0);
	show(L, 2, &c->buf, 0);
	call_detail(c, "want", json_text(c->buf.data, c->buf.len, 0));
	buf_truncate(&c->buf, 0);
	if (lua_type(L, 1) == LUA_TSTRING && lua_type(L, 2) == LUA_TSTRING &&
	    (strchr(lua_tostring(L, 1), '\n') || strchr(lua_tostring(L, 2), '\n'))) {
		buf_puts(&c->buf, "texts differ, ");
		diff_lines(&c->buf, lua_tostring(L, 1), lua_tostring(L, 2));
		fail(L, c, 3);
	}
	buf_puts(&c->buf, "got ");
	show(L, 1, &c->buf, 0);
	buf_puts(&c->buf, ", wanted ");
	show(L, 2, &c->buf, 0);
	if (*where)
		buf_printf(&c->buf, " (they differ at %s)", where + (*where == '.'));
	fail(L, c, 3);
}

static int assert_not_equal(lua_State *L)
{
	struct call *c = begin(L, "assert_ne", 3);

	if (!deep_equal(L, 1, 2, 0, &c->buf))
		return 0;
	buf_truncate(&c->buf, 0);
	buf_puts(&c->buf, "got ");
	show(L, 1, &c->buf, 0);
	buf_puts(&c->buf, ", wanted anything else");
	fail(L, c, 3);
}

/* Truth is Lua's: 0 and "" are true. */
static int assert_truth(lua_State *L, const char *name, bool want)
{
	struct call *c = begin(L, name, 2);

	if (lua_toboolean(L, 1) == want)
		return 0;
	buf_puts(&c->buf, "got ");
	show(L, 1, &c->buf, 0);
	buf_printf(&c->buf, ", wanted %s", want ? "something true" : "false or nil");
	fail(L, c, 2);
}

static int assert_true(lua_State *L)
{
	return assert_truth(L, "assert_true", true);
}

static int assert_false(lua_State *L)
{
	return assert_truth(L, "assert_false", false);
}

/* Bytes, not patterns: who wants those has assert_matches. */
static int assert_part(lua_State *L, const char *name, bool want)
{
	size_t len, part_len;
	const char *s = check_text(L, 1, name, "the first argument", &len);
	const char *part = check_text(L, 2, name, "the second argument", &part_len);
	struct call *c = begin(L, name, 3);

	if ((memmem(s, len, part, part_len) != NULL) == want)
		return 0;
	show_string(&c->buf, part, part_len);
	buf_puts(&c->buf, want ? " is not contained in " : " is contained in ");
	show(L, 1, &c->buf, 0);
	call_detail(c, "got", json_text(s, len, TAIL_BYTES * 4));
	fail(L, c, 3);
}

static int assert_contains(lua_State *L)
{
	return assert_part(L, "assert_contains", true);
}

static int assert_not_contains(lua_State *L)
{
	return assert_part(L, "assert_not_contains", false);
}

static int assert_matches(lua_State *L)
{
	size_t len;
	const char *s = check_text(L, 1, "assert_matches", "the first argument", &len);
	const char *pattern = check_text(L, 2, "assert_matches", "the pattern", NULL);
	struct call *c = begin(L, "assert_matches", 3);
	size_t start, end;
	int r = regex_compile(pattern, &c->regex, &c->err);

	if (r == 0)
		r = regex_match(c->regex, s, len, 0, &start, &end, &c->json, &c->err);
	if (r < 0)
		call_raise(L, c);
	if (r == 1) {
		push_captures(L, c->json);
		call_done(c);
		return 1;
	}
	buf_printf(&c->buf, "/%s/ does not match ", pattern);
	show(L, 1, &c->buf, 0);
	call_detail(c, "got", json_text(s, len, TAIL_BYTES * 4));
	fail(L, c, 3);
}

/* The error's text is returned, so that more can be said about it. */
static int assert_error(lua_State *L)
{
	const char *pattern, *text;
	struct call *c;
	size_t len;
	int r;

	check_function(L, 1, "assert_error", "the first argument");
	pattern = lua_isnoneornil(L, 2) ? NULL
					: check_text(L, 2, "assert_error", "the pattern", NULL);
	c = begin(L, "assert_error", 2);
	lua_pushvalue(L, 1);
	if (call_traced(L, 0, 0) == LUA_OK) {
		buf_puts(&c->buf, "no error was raised");
		fail(L, c, 0);
	}
	if (error_is_final(L, -1))
		return lua_error(L);
	if (!pattern)
		return 1;
	text = luaL_tolstring(L, -1, &len);
	r = regex_compile(pattern, &c->regex, &c->err);
	if (r == 0)
		r = regex_match(c->regex, text, len, 0, NULL, NULL, NULL, &c->err);
	if (r < 0)
		call_raise(L, c);
	lua_pop(L, 1);
	if (r == 1)
		return 1;
	error_set(&c->err, ERROR_EXPECT, EPROTO, "the error does not match /%s/: %s", pattern,
		  text);
	call_raise(L, c);
}

/* Numbers with numbers, texts with texts: anything else is the test file's mistake, not the
 * guest's. */
static int assert_order(lua_State *L, const char *name, const char *sign, int op, bool swap)
{
	struct call *c = begin(L, name, 3);

	if (lua_type(L, 1) != lua_type(L, 2) ||
	    (lua_type(L, 1) != LUA_TNUMBER && lua_type(L, 1) != LUA_TSTRING))
		raise_usage(L, NULL, "%s: two numbers or two texts are wanted, not %s and %s", name,
			    luaL_typename(L, 1), luaL_typename(L, 2));
	if (lua_compare(L, swap ? 2 : 1, swap ? 1 : 2, op))
		return 0;
	buf_puts(&c->buf, "got ");
	show(L, 1, &c->buf, 0);
	buf_printf(&c->buf, ", wanted %s ", sign);
	show(L, 2, &c->buf, 0);
	fail(L, c, 3);
}

static int assert_lt(lua_State *L)
{
	return assert_order(L, "assert_lt", "<", LUA_OPLT, false);
}

static int assert_le(lua_State *L)
{
	return assert_order(L, "assert_le", "<=", LUA_OPLE, false);
}

static int assert_gt(lua_State *L)
{
	return assert_order(L, "assert_gt", ">", LUA_OPLT, true);
}

static int assert_ge(lua_State *L)
{
	return assert_order(L, "assert_ge", ">=", LUA_OPLE, true);
}

const struct binding assert_bindings[] = {
	{"assert_eq", assert_equal},
	{"assert_ne", assert_not_equal},
	{"assert_true", assert_true},
	{"assert_false", assert_false},
	{"assert_contains", assert_contains},
	{"assert_not_contains", assert_not_contains},
	{"assert_matches", assert_matches},
	{"assert_error", assert_error},
	{"assert_lt", assert_lt},
	{"assert_le", assert_le},
	{"assert_gt", assert_gt},
	{"assert_ge", assert_ge},
	{NULL},
};
