/* SPDX-License-Identifier: MIT */
/* Helpers for texts: re, json, trim, lines, shell, base64, time. */
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * These are pure functions: they may be called at the top level too. A compiled expression belongs
 * to a struct call, which a gmatch iterator keeps as an upvalue. All matching is bounded by the
 * match limit of regex_match(), so an expression that backtracks for ever is an error, which Lua's
 * own patterns cannot promise: the hook does not run inside of one C call.
 */

/* --- regular expressions -------------------------------------------------------------------------
 */

/* Text at 1, expression at 2; the call with the compiled expression is left on the stack. */
static struct call *compile(lua_State *L, const char *function, const char **ret_s, size_t *ret_len)
{
	const char *pattern;
	struct call *c;

	*ret_s = check_text(L, 1, function, "the text", ret_len);
	pattern = check_text(L, 2, function, "the pattern", NULL);
	c = call_push(L, function);
	if (regex_compile(pattern, &c->regex, &c->err) < 0)
		call_raise(L, c);
	return c;
}

static int re_match(lua_State *L)
{
	const char *s;
	size_t len, start, end;
	struct call *c;
	int r;

	lua_settop(L, 2);
	c = compile(L, "re.match", &s, &len);
	r = regex_match(c->regex, s, len, 0, &start, &end, &c->json, &c->err);
	if (r < 0)
		call_raise(L, c);
	if (r == 0)
		return lua_pushnil(L), 1;
	push_captures(L, c->json);
	call_done(c);
	return 1;
}

/* Upvalues: the text, the call with its regex, the offset. */
static int gmatch_next(lua_State *L)
{
	size_t len, start, end, from = (size_t)lua_tointeger(L, lua_upvalueindex(3));
	const char *s = lua_tolstring(L, lua_upvalueindex(1), &len);
	struct call *c = lua_touserdata(L, lua_upvalueindex(2));
	int r;

	if (from > len)
		return 0;
	json_decref(c->json);
	c->json = NULL;
	r = regex_match(c->regex, s, len, from, &start, &end, &c->json, &c->err);
	if (r < 0)
		call_raise(L, c);
	if (r == 0)
		return 0;
	/* An empty match must not be found for ever. */
	lua_pushinteger(L, (lua_Integer)(end > start ? end : end + 1));
	lua_replace(L, lua_upvalueindex(3));
	push_captures(L, c->json);
	return 1;
}

static int re_gmatch(lua_State *L)
{
	const char *s;
	size_t len;

	lua_settop(L, 2);
	compile(L, "re.gmatch", &s, &len);
	lua_pushvalue(L, 1);
	lua_tostring(L, -1); /* a number becomes text */
	lua_insert(L, -2);
	lua_pushinteger(L, 0);
	lua_pushcclosure(L, gmatch_next, 3);
	return 1;
}

/* "%1" and "%0" are captures, "%%" a percent sign. */
static void expand(struct buf *b, const char *replacement, size_t len, json_t *captures)
{
	for (size_t i = 0; i < len; i++) {
		char key[2] = {i + 1 < len ? replacement[i + 1] : '\0', '\0'};
		json_t *value;

		if (replacement[i] != '%' || !strchr("%0123456789", *key) || !*key) {
			buf_putc(b, replacement[i]);
			continue;
		}
		i++;
		value = *key == '%' ? NULL : json_object_get(captures, key);
		if (*key == '%')
			buf_putc(b, '%');
		else if (json_is_string(value))
			buf_append(b, json_string_value(value), json_string_length(value));
	}
}

/* The replacement of one match, appended to c->buf. A function or table may say nil or false: the
 * match stays. */
static void replace_one(lua_State *L, struct call *c, const char *match, size_t match_len)
{
	const char *text;
	size_t len;

	if (!lua_isfunction(L, 3) && !lua_istable(L, 3)) {
		text = lua_tolstring(L, 3, &len);
		expand(&c->buf, text, len, c->json);
		return;
	}
	if (lua_isfunction(L, 3)) {
		lua_pushvalue(L, 3);
		push_captures(L, c->json);
		lua_call(L, 1, 1);
	} else {
		push_captures(L, c->json);
		if (lua_rawgeti(L, -1, 1) == LUA_TNIL)
			lua_rawgeti(L, -2, 0);
		lua_gettable(L, 3);
	}
	if (lua_toboolean(L, -1)) {
		text = check_text(L, -1, "re.gsub", "a replacement", &len);
		buf_append(&c->buf, text, len);
	} else {
		buf_append(&c->buf, match, match_len);
	}
}

static int re_gsub(lua_State *L)
{
	size_t len, from = 0, start = 0, end = 0;
	lua_Integer n = 0, max;
	const char *s;
	struct call *c;
	int r, top;

	lua_settop(L, 4);
	max = luaL_optinteger(L, 4, LUA_MAXINTEGER);
	if (!lua_isfunction(L, 3) && !lua_istable(L, 3))
		check_text(L, 3, "re.gsub", "the replacement", NULL);
	c = compile(L, "re.gsub", &s, &len);
	top = lua_gettop(L);
	while (n < max && from <= len) {
		json_decref(c->json);
		c->json = NULL;
		r = regex_match(c->regex, s, len, from, &start, &end, &c->json, &c->err);
		if (r < 0)
			call_raise(L, c);
		if (r == 0)
			break;
		buf_append(&c->buf, s + from, start - from);
		replace_one(L, c, s + start, end - start);
		lua_settop(L, top);
		n++;
		if (end == start && end < len)
			buf_putc(&c->buf, s[end]);
		from = end > start ? end : end + 1;
	}
	if (from < len)
		buf_append(&c->buf, s + from, len - from);
	lua_pushlstring(L, buf_str(&c->buf), c->buf.len);
	lua_pushinteger(L, n);
	call_done(c);
	return 2;
}

/* --- json ----------------------------------------------------------------------------------------
 */

/* A text from a guest that is no JSON is the guest's failure, hence `expect`. */
static int helper_json_decode(lua_State *L)
{
	size_t len;
	const char *text = check_text(L, 1, "json.decode", "the text", &len);
	struct call *c = call_push(L, "json.decode");
	json_error_t e;

	c->json = json_loadb(text, len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL,
			     &e);
	if (!c->json) {
		error_set(&c->err, ERROR_EXPECT, EINVAL, "json.decode: line %d, column %d: %s",
			  e.line, e.column, e.text);
		call_detail(c, "text", json_text(text, len, TAIL_BYTES));
		call_raise(L, c);
	}
	push_json(L, c->json);
	call_done(c);
	return 1;
}

static int helper_json_encode(lua_State *L)
{
	struct call *c;

	luaL_checkany(L, 1);
	lua_settop(L, 1);
	c = call_push(L, "json.encode");
	c->json = json_from_lua(L, 1, &c->err);
	if (!c->json) {
		error_prefix(&c->err, "json.encode");
		call_raise(L, c);
	}
	/* 15 digits: 0.1 stays 0.1, and what a test measures has no more. */
	c->text = json_dumps(c->json, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
	lua_pushstring(L, c->text ?: "null");
	call_done(c);
	return 1;
}

/* --- texts
 * ---------------------------------------------------------------------------------------- */

/* White space as isspace(3) has it in the C locale, whatever the locale here is. */
static int helper_trim(lua_State *L)
{
	static const char blanks[] = " \t\r\n\v\f";
	size_t len;
	const char *s = check_text(L, 1, "trim", "the text", &len);

	while (len > 0 && s[len - 1] && strchr(blanks, s[len - 1]))
		len--;
	while (len > 0 && *s && strchr(blanks, *s)) {
		s++;
		len--;
	}
	lua_pushlstring(L, s, len);
	return 1;
}

/* Without line ends ("\n" or "\r\n"); the one at the end of the text begins no further line. */
static int helper_lines(lua_State *L)
{
	size_t len;
	const char *s = check_text(L, 1, "lines", "the text", &len);
	const char *end = s + len;
	lua_Integer n = 0;

	lua_newtable(L);
	while (s < end) {
		const char *newline = memchr(s, '\n', (size_t)(end - s)) ?: end;
		size_t width = (size_t)(newline - s);

		if (width > 0 && newline < end && newline[-1] == '\r')
			width--;
		lua_pushlstring(L, s, width);
		lua_rawseti(L, -2, ++n);
		s = newline + 1;
	}
	return 1;
}

static int helper_shell_quote(lua_State *L)
{
	const char *s = check_text(L, 1, "shell.quote", "the text", NULL);
	struct call *c = call_push(L, "shell.quote");

	c->text = shell_quote(s);
	lua_pushstring(L, c->text);
	call_done(c);
	return 1;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int helper_base64_encode(lua_State *L)
{
	size_t len;
	const unsigned char *s =
		(const unsigned char *)check_text(L, 1, "base64.encode", "the data", &len);
	luaL_Buffer b;

	luaL_buffinit(L, &b);
	for (size_t i = 0; i < len; i += 3) {
		unsigned v = (unsigned)s[i] << 16 | (i + 1 < len ? (unsigned)s[i + 1] << 8 : 0) |
			     (i + 2 < len ? s[i + 2] : 0);

		luaL_addchar(&b, alphabet[v >> 18]);
		luaL_addchar(&b, alphabet[v >> 12 & 63]);
		luaL_addchar(&b, i + 1 < len ? alphabet[v >> 6 & 63] : '=');
		luaL_addchar(&b, i + 2 < len ? alphabet[v & 63] : '=');
	}
	luaL_pushresult(&b);
	return 1;
}

/* Strict: base64 that is cut off or damaged must not become other bytes silently. */
static int helper_base64_decode(lua_State *L)
{
	size_t len;
	const char *s = check_text(L, 1, "base64.decode", "the text", &len);
	unsigned v = 0, bits = 0;
	size_t padding = 0;
	luaL_Buffer b;

	luaL_buffinit(L, &b);
	for (size_t i = 0; i < len; i++) {
		const char *at = s[i] ? strchr(alphabet, s[i]) : NULL;

		if (s[i] == '\n' || s[i] == '\r')
			continue;
		if (s[i] == '=' && padding < 2) {
			padding++;
			continue;
		}
		if (!at || padding)
			raise_usage(L, NULL, "base64.decode: byte %zu is not base64", i + 1);
		v = v << 6 | (unsigned)(at - alphabet);
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			luaL_addchar(&b, (char)(v >> bits & 0xff));
		}
	}
	if (bits >= 6)
		raise_usage(L, NULL, "base64.decode: the text ends in the middle of a byte");
	luaL_pushresult(&b);
	return 1;
}

/* Stands still while a file is evaluated, so that its declarations are the same each time. */
static int helper_time_now(lua_State *L)
{
	bool fixed = script_of(L)->phase == PHASE_LOAD;

	lua_pushnumber(L, fixed ? 0 : (lua_Number)now_ns() / (lua_Number)NS_PER_SEC);
	return 1;
}

const struct binding helper_bindings[] = {
	{"re.match", re_match},
	{"re.gmatch", re_gmatch},
	{"re.gsub", re_gsub},
	{"json.decode", helper_json_decode},
	{"json.encode", helper_json_encode},
	{"trim", helper_trim},
	{"lines", helper_lines},
	{"shell.quote", helper_shell_quote},
	{"base64.encode", helper_base64_encode},
	{"base64.decode", helper_base64_decode},
	{"time.now", helper_time_now},
	{NULL},
};
