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
/* Longer ones are shown in `detail` only, or where they differ. */
#define LONG_TEXT 60
#define LONG_PART 200

/* --- showing values ------------------------------------------------------------------------------
 */

/* As Lua would write it, on one line: a test's output may hold anything, and a terminal shows it.
 */
static void show_bytes(struct buf *b, const char *s, size_t len)
{
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
}

static void show_string(struct buf *b, const char *s, size_t len)
{
	buf_putc(b, '"');
	show_bytes(b, s, len);
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

void show_value(lua_State *L, int idx, struct buf *b)
{
	show(L, lua_absindex(L, idx), b, 0);
}

/* --- differences
 * ----------------------------------------------------------------------------------- */

struct text {
	const char *data;
	size_t len;
};

/* Where two texts part: in bytes, and for people. All from 1. */
struct place {
	size_t byte, line, column, line_start; /* line_start: an offset */
};

static struct place first_difference(const struct text *a, const struct text *b)
{
	struct place p = {.line = 1, .column = 1};
	size_t i = 0, n = MIN(a->len, b->len);

	while (i < n && a->data[i] == b->data[i])
		i++;
	/* Not in the middle of a character. */
	while (i > 0 && i < a->len && ((unsigned char)a->data[i] & 0xc0) == 0x80)
		i--;
	for (size_t k = 0; k < i; k++) {
		p.column += ((unsigned char)a->data[k] & 0xc0) != 0x80;
		if (a->data[k] == '\n') {
			p.line++;
			p.column = 1;
			p.line_start = k + 1;
		}
	}
	p.byte = i + 1;
	return p;
}

/* Continuation bytes of UTF-8 belong to what stands before them. */
static size_t to_character(const struct text *t, size_t i)
{
	while (i > 0 && i < t->len && ((unsigned char)t->data[i] & 0xc0) == 0x80)
		i--;
	return i;
}

#define EXCERPT_BEFORE 40
#define EXCERPT_AFTER  60

/* The line around the place; what is cut is marked. The columns before the place, if wanted. */
static void show_excerpt(struct buf *b, const struct text *t, const struct place *p,
			 size_t *ret_columns)
{
	size_t at = p->byte - 1, mark = b->len;
	size_t from = to_character(t, at > EXCERPT_BEFORE ? at - EXCERPT_BEFORE : 0), to;
	const char *end = at < t->len ? memchr(t->data + at, '\n', t->len - at) : NULL;

	from = MAX(from, p->line_start);
	to = end ? (size_t)(end - t->data) + 1 : t->len;
	buf_puts(b, from > p->line_start ? "…" : "");
	show_bytes(b, t->data + from, at - from);
	for (; ret_columns && mark < b->len; mark++)
		*ret_columns += ((unsigned char)b->data[mark] & 0xc0) != 0x80;
	if (to - at > EXCERPT_AFTER) {
		show_bytes(b, t->data + at, to_character(t, at + EXCERPT_AFTER) - at);
		buf_puts(b, "…");
	} else {
		show_bytes(b, t->data + at, to - at);
	}
}

/* "texts differ at line 3, column 7 …", and the line of both below each other. */
static void diff_texts(struct call *c, const struct text *got, const struct text *want)
{
	struct place p = first_difference(got, want);
	struct buf *b = &c->buf;
	size_t columns = 0;

	call_detail(c, "difference",
		    json_pack("{s:I, s:I, s:I}", "byte", (json_int_t)p.byte, "line",
			      (json_int_t)p.line, "column", (json_int_t)p.column));
	buf_printf(b,
		   "texts differ at line %zu, column %zu (byte %zu; got %zu bytes, wanted %zu)\n"
		   "wanted: ",
		   p.line, p.column, p.byte, got->len, want->len);
	show_excerpt(b, want, &p, &columns);
	buf_puts(b, "\ngot:    ");
	show_excerpt(b, got, &p, NULL);
	buf_printf(b, "\n        %*s^", (int)columns, "");
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

/* Two texts of which one is long or has lines: where they differ says more than both of them. */
static bool texts_to_diff(lua_State *L, struct text *got, struct text *want)
{
	if (lua_type(L, 1) != LUA_TSTRING || lua_type(L, 2) != LUA_TSTRING)
		return false;
	got->data = lua_tolstring(L, 1, &got->len);
	want->data = lua_tolstring(L, 2, &want->len);
	return MAX(got->len, want->len) > LONG_TEXT || memchr(got->data, '\n', got->len) ||
	       memchr(want->data, '\n', want->len);
}

static int assert_equal(lua_State *L)
{
	struct call *c = begin(L, "assert_eq", 3);
	_Static_assert(SHOW_BYTES * 2 > ERROR_MESSAGE_MAX, "messages are cut by struct error");
	struct text got, want;
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
	if (texts_to_diff(L, &got, &want)) {
		diff_texts(c, &got, &want);
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

/* A long text is told in `detail`, once and in its own lines. */
static void show_searched(struct buf *b, const char *s, size_t len)
{
	if (len <= LONG_PART)
		show_string(b, s, len);
	else
		buf_printf(b, "a text of %zu bytes", len);
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
	show_searched(&c->buf, s, len);
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
	show_searched(&c->buf, s, len);
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
