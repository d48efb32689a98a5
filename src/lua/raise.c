/* SPDX-License-Identifier: MIT */
/* Errors between C and Lua: error tables, traces, hints, failures. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * What our functions raise is a table { kind, message, hint, detail, trace } with one of two
 * metatables, both locked, so that a script can neither make nor change one: ERROR_META, which
 * pcall() gives to the script, and FINAL_META, which the sandbox's pcall, xpcall and coroutine
 * functions raise again (a deadline, a cancellation, skip()).
 *
 * What Lua itself raises, or error("…") in the script, is a string. It stays one as long as only
 * the script sees it; on_error(), the message handler at the root of every protected call of ours,
 * makes a table of it while the stack is still there to be told as a trace. Messages of Lua's own
 * ("attempt to call a nil value") mean that the test file is wrong: kind usage. All others are
 * somebody's judgement about what he saw: kind expect.
 */
#define ERROR_META "assay.error"
#define FINAL_META "assay.final"
#define TRACE_MAX  16
/* In the registry: where a table of the script's own was raised; the table is the weak key. */
#define TRACES "assay.traces"

static bool kind_is_final(enum error_kind kind)
{
	return kind == ERROR_DEADLINE || kind == ERROR_CANCELLED || kind == ERROR_SKIP;
}

/* tostring(e): the message, and the hint on a line of its own. */
static int error_tostring(lua_State *L)
{
	lua_getfield(L, 1, "message");
	luaL_tolstring(L, -1, NULL);
	if (lua_getfield(L, 1, "hint") == LUA_TSTRING) {
		lua_pushfstring(L, "%s\n  hint: %s", lua_tostring(L, -2), lua_tostring(L, -1));
		return 1;
	}
	lua_pop(L, 1);
	return 1;
}

void raise_init(lua_State *L)
{
	static const char *const metas[] = {ERROR_META, FINAL_META};

	lua_newtable(L);
	lua_newtable(L);
	lua_pushliteral(L, "k");
	lua_setfield(L, -2, "__mode");
	lua_setmetatable(L, -2);
	lua_setfield(L, LUA_REGISTRYINDEX, TRACES);
	for (size_t i = 0; i < ARRAY_SIZE(metas); i++) {
		luaL_newmetatable(L, metas[i]);
		lua_pushcfunction(L, error_tostring);
		lua_setfield(L, -2, "__tostring");
		lua_pushliteral(L, "error");
		lua_setfield(L, -2, "__metatable");
		lua_pop(L, 1);
	}
}

/* Metatables cannot be taken for one another: only the registry's own is equal to itself. */
static bool has_meta(lua_State *L, int idx, const char *name)
{
	bool same;

	if (!lua_checkstack(L, 2) || !lua_getmetatable(L, idx))
		return false;
	lua_getfield(L, LUA_REGISTRYINDEX, name);
	same = lua_rawequal(L, -1, -2);
	lua_pop(L, 2);
	return same;
}

bool error_is_final(lua_State *L, int idx)
{
	return lua_istable(L, idx) && has_meta(L, lua_absindex(L, idx), FINAL_META);
}

/* --- traces ---------------------------------------------------------------------------------- */

/* Appends the frames of L, innermost first, to the list on top of the stack. */
static void append_frames(lua_State *L)
{
	lua_Integer n = luaL_len(L, -1);
	lua_Debug ar;

	for (int level = 0; n < TRACE_MAX && lua_getstack(L, level, &ar); level++) {
		if (!lua_getinfo(L, "Sln", &ar) || ar.currentline <= 0 || *ar.source != '@')
			continue;
		lua_createtable(L, 0, 3);
		lua_pushstring(L, ar.source + 1);
		lua_setfield(L, -2, "file");
		lua_pushinteger(L, ar.currentline);
		lua_setfield(L, -2, "line");
		if (ar.name) {
			lua_pushstring(L, ar.name);
			lua_setfield(L, -2, "function");
		}
		lua_rawseti(L, -2, ++n);
	}
}

void error_extend_trace(lua_State *L, int idx)
{
	idx = lua_absindex(L, idx);
	if (!lua_istable(L, idx))
		return;
	lua_pushliteral(L, "trace");
	if (lua_rawget(L, idx) == LUA_TTABLE)
		append_frames(L);
	lua_pop(L, 1);
}

int current_line(lua_State *L, char *file, size_t len)
{
	lua_Debug ar;

	for (int level = 0; lua_getstack(L, level, &ar); level++)
		if (lua_getinfo(L, "Sl", &ar) && ar.currentline > 0 && *ar.source == '@') {
			if (file)
				(void)snprintf(file, len, "%s", ar.source + 1);
			return ar.currentline;
		}
	if (file && len)
		*file = '\0';
	return 0;
}

void source_add(struct script *s, const char *path, const char *text, size_t len)
{
	struct source *src = xcalloc(1, sizeof(*src));

	src->path = xstrdup(path);
	src->text = xstrndup(text, len);
	src->next = s->sources;
	s->sources = src;
}

char *source_line(struct script *s, const char *file, int line)
{
	const char *p = NULL, *end;

	for (struct source *src = s->sources; src && !p; src = src->next)
		if (str_eq(src->path, file))
			p = src->text;
	for (; p && line > 1; line--) {
		p = strchr(p, '\n');
		p = p ? p + 1 : NULL;
	}
	if (!p || line < 1)
		return xstrdup("");
	end = strchrnul(p, '\n');
	while (p < end && (*p == ' ' || *p == '\t'))
		p++;
	while (end > p && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
		end--;
	return xstrndup(p, (size_t)(end - p));
}

/* --- raising --------------------------------------------------------------------------------- */

static void push_error(lua_State *L, enum error_kind kind, const char *message, const char *hint,
		       json_t *detail)
{
	lua_createtable(L, 0, 5);
	lua_pushstring(L, error_kind_name(kind));
	lua_setfield(L, -2, "kind");
	lua_pushstring(L, message);
	lua_setfield(L, -2, "message");
	if (hint && *hint) {
		lua_pushstring(L, hint);
		lua_setfield(L, -2, "hint");
	}
	if (detail) {
		push_json(L, detail);
		lua_setfield(L, -2, "detail");
	}
	lua_newtable(L);
	append_frames(L);
	lua_setfield(L, -2, "trace");
	luaL_setmetatable(L, kind_is_final(kind) ? FINAL_META : ERROR_META);
}

void raise_error(lua_State *L, const struct error *err, json_t *detail)
{
	luaL_checkstack(L, 20, NULL);
	push_error(L, err->kind, err->message, err->hint, detail);
	lua_error(L);
	abort();
}

/* The texts are made on the Lua stack: a struct error here would cost 2.5 KiB in each of 200
 * nested calls. */
void raise_usage(lua_State *L, const char *hint, const char *fmt, ...)
{
	char message[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	luaL_checkstack(L, 20, NULL);
	push_error(L, ERROR_USAGE, message, hint, NULL);
	lua_error(L);
	abort();
}

void raise_unsupported(lua_State *L, const char *name)
{
	char message[128];

	(void)snprintf(message, sizeof(message), "%s is not built yet", name);
	luaL_checkstack(L, 20, NULL);
	push_error(L, ERROR_UNSUPPORTED, message,
		   "it is in the specification; this version of Assay does not have it", NULL);
	lua_error(L);
	abort();
}

/* --- what Lua itself raises --------------------------------------------------------------------
 */

/* Behind "file:12: ", if that is what the message begins with. */
static const char *skip_position(const char *message)
{
	const char *p = message;

	while ((p = strchr(p, ':'))) {
		size_t digits = strspn(p + 1, "0123456789");

		if (digits > 0 && p[1 + digits] == ':' && p[2 + digits] == ' ')
			return p + 3 + digits;
		if (memchr(message, '\n', (size_t)(p - message)))
			break;
		p++;
	}
	return message;
}

/* Messages of the interpreter about the program, not of the program about the world. */
static bool is_own_message(const char *m)
{
	static const char *const starts[] = {"attempt to ",	 "bad argument #",
					     "stack overflow",	 "C stack overflow",
					     "'for' ",		 "not enough memory",
					     "number has no",	 "string length overflow",
					     "table index is ",	 "invalid option ",
					     "error in error",	 "malformed pattern",
					     "invalid pattern ", "wrong number of args",
					     "pattern too ",	 "table overflow",
					     "cannot resume ",	 "invalid order function"};

	for (size_t i = 0; i < ARRAY_SIZE(starts); i++)
		if (str_starts(m, starts[i]))
			return true;
	return false;
}

/* "… (global 'asert_eq')": the word between the quotes, if what stands before it is `kind`. */
static bool nil_name(const char *m, const char *kind, char *ret, size_t len)
{
	char open[32];
	const char *p, *end;

	(void)snprintf(open, sizeof(open), "a nil value (%s '", kind);
	p = strstr(m, open);
	if (!p)
		return false;
	p += strlen(open);
	end = strchr(p, '\'');
	if (!end || (size_t)(end - p) >= len)
		return false;
	memcpy(ret, p, (size_t)(end - p));
	ret[end - p] = '\0';
	return true;
}

/* The global (or the function in one of our tables) that was probably meant; "" if none. */
static void nearest_known(lua_State *L, const char *name, bool global, char *ret, size_t len)
{
	_cleanup_free_ const char **names = NULL;
	const char *near;
	size_t n = 0, cap = 512;

	*ret = '\0';
	names = xcalloc(cap + 1, sizeof(*names));
	if (global) {
		lua_pushglobaltable(L);
		for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
			if (lua_type(L, -2) == LUA_TSTRING && n < cap)
				names[n++] = lua_tostring(L, -2);
	} else {
		for (const struct api_doc *d = api_docs; d->name && n < cap; d++)
			if (strpbrk(d->name, ".:"))
				names[n++] = strpbrk(d->name, ".:") + 1;
	}
	near = nearest_name(name, names);
	if (near)
		(void)snprintf(ret, len, "did you mean '%s'?", near);
	if (global)
		lua_pop(L, 1);
}

/* For "attempt to call a nil value (global 'asert_eq')". */
static void nil_hint(lua_State *L, const char *message, char *ret, size_t len)
{
	static const char *const kinds[] = {"global", "method", "field"};
	/* A field that is indexed is the script's own; one that is called may be ours. */
	size_t n = str_starts(message, "attempt to call ") ? 3 : 1;
	char name[64];

	*ret = '\0';
	for (size_t i = 0; i < n; i++)
		if (nil_name(message, kinds[i], name, sizeof(name)))
			nearest_known(L, name, i == 0, ret, len);
}

/* The table at 1 is the script's own and stays as it is, so where it was raised is kept beside it.
 * Passed on by subtest() and the like it comes by again: the first place is the one. */
static void remember_trace(lua_State *L)
{
	lua_getfield(L, LUA_REGISTRYINDEX, TRACES);
	lua_pushvalue(L, 1);
	if (lua_rawget(L, -2) == LUA_TNIL) {
		lua_pushvalue(L, 1);
		lua_newtable(L);
		append_frames(L);
		lua_rawset(L, -4);
	}
	lua_pop(L, 2);
}

/* error(), error(false), error(42). */
static void push_strange(lua_State *L, const char *text)
{
	if (lua_isnil(L, 1))
		lua_pushliteral(L, "error() was called without a message");
	else
		lua_pushfstring(L, "error() was called with a %s: %s", luaL_typename(L, 1), text);
	push_error(L, ERROR_EXPECT, lua_tostring(L, -1), NULL, NULL);
}

int on_error(lua_State *L)
{
	const char *text, *message;
	char hint[96];
	bool own;

	if (!lua_checkstack(L, 20))
		return 1;
	if (lua_istable(L, 1)) { /* ours, or one of the script's own: as it is */
		if (!has_meta(L, 1, ERROR_META) && !has_meta(L, 1, FINAL_META))
			remember_trace(L);
		return 1;
	}
	text = luaL_tolstring(L, 1, NULL);
	if (lua_type(L, 1) != LUA_TSTRING) {
		push_strange(L, text);
		return 1;
	}
	message = skip_position(text);
	own = is_own_message(message);
	hint[0] = '\0';
	if (own)
		nil_hint(L, message, hint, sizeof(hint));
	push_error(L, own ? ERROR_USAGE : ERROR_EXPECT, message, hint, NULL);
	return 1;
}

int call_traced(lua_State *L, int n, int n_results)
{
	int status, base = lua_gettop(L) - n;

	lua_pushcfunction(L, on_error);
	lua_insert(L, base);
	status = lua_pcall(L, n, n_results, base);
	lua_remove(L, base);
	return status;
}

/* --- from Lua to C -----------------------------------------------------------------------------
 */

/* A text field, read without metamethods: the table may be the script's. NULL if there is none. */
static const char *field_text(lua_State *L, int idx, const char *name)
{
	const char *s;

	lua_pushstring(L, name);
	s = lua_rawget(L, idx) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
	lua_pop(L, 1); /* the table still holds it */
	return s;
}

struct failure_box {
	struct error *error;
	json_t **detail, **trace;
};

/* What was raised, in words; on the stack. A table without a text of its own is shown. */
static const char *raised_text(lua_State *L)
{
	struct call *c;

	if (!lua_istable(L, 1) || luaL_getmetafield(L, 1, "__tostring") != LUA_TNIL ||
	    luaL_getmetafield(L, 1, "__name") != LUA_TNIL)
		return luaL_tolstring(L, 1, NULL);
	c = call_push(L, "error");
	buf_puts(&c->buf, "error() was called with a table: ");
	show_value(L, 1, &c->buf);
	return lua_pushstring(L, buf_str(&c->buf));
}

/* Protected: making strings may run out of memory. */
static int read_failure(lua_State *L)
{
	struct failure_box *box = lua_touserdata(L, 2);
	enum error_kind kind = ERROR_NONE;
	const char *message = NULL, *hint = NULL;

	if (lua_istable(L, 1)) {
		const char *name = field_text(L, 1, "kind");

		kind = name ? error_kind_from_name(name) : ERROR_NONE;
		message = field_text(L, 1, "message");
		hint = field_text(L, 1, "hint");
		/* A table of the script's own cannot pass for what nobody may catch. */
		if (kind_is_final(kind) && !has_meta(L, 1, FINAL_META))
			kind = ERROR_EXPECT;
	}
	if (!message)
		message = raised_text(L);
	error_set(box->error, kind == ERROR_NONE ? ERROR_EXPECT : kind,
		  kind == ERROR_TIMEOUT || kind == ERROR_DEADLINE ? ETIMEDOUT : EPROTO, "%s",
		  message);
	if (hint)
		error_hint(box->error, "%s", hint);
	if (!box->detail || !lua_istable(L, 1))
		return 0;
	lua_pushliteral(L, "detail");
	if (lua_rawget(L, 1) == LUA_TTABLE)
		*box->detail = json_from_lua(L, -1, NULL);
	lua_pushliteral(L, "trace");
	if (lua_rawget(L, 1) != LUA_TTABLE) {
		lua_getfield(L, LUA_REGISTRYINDEX, TRACES);
		lua_pushvalue(L, 1);
		lua_rawget(L, -2);
	}
	if (lua_istable(L, -1))
		*box->trace = json_from_lua(L, -1, NULL);
	return 0;
}

/* Never raises. When not even the message can be made, memory is what is missing. */
static void read_protected(lua_State *L, int idx, struct failure_box *box)
{
	idx = lua_absindex(L, idx);
	if (!lua_checkstack(L, 20)) {
		error_set(box->error, ERROR_USAGE, ENOMEM, "the script's stack is full");
		return;
	}
	lua_pushcfunction(L, read_failure);
	lua_pushvalue(L, idx);
	lua_pushlightuserdata(L, box);
	if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
		if (!error_is_set(box->error))
			error_set(box->error, ERROR_USAGE, ENOMEM,
				  "the script ran out of memory (its limit is %zu MiB)",
				  script_of(L)->memory_limit / (size_t)MIB);
		lua_pop(L, 1);
	}
}

void error_from_lua(lua_State *L, int idx, struct error *ret)
{
	struct failure_box box = {.error = ret};

	read_protected(L, idx, &box);
}

void failure_from_lua(lua_State *L, int idx, struct script_failure *ret)
{
	struct failure_box box = {&ret->error, &ret->detail, &ret->trace};
	json_t *frame;
	size_t i;

	read_protected(L, idx, &box);
	json_array_foreach(ret->trace, i, frame)
	{
		_cleanup_free_ char *line = source_line(
			script_of(L), json_string_value(json_object_get(frame, "file")) ?: "",
			(int)json_integer_value(json_object_get(frame, "line")));

		json_object_set_new(frame, "source", json_text(line, strlen(line), 0));
	}
}

void script_failure_done(struct script_failure *f)
{
	json_decref(f->detail);
	json_decref(f->trace);
	f->detail = f->trace = NULL;
}
