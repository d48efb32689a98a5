/* SPDX-License-Identifier: MIT */
/* Loading of files: the test file and what it requires. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * The text of every file is kept: errors show the line that they speak of, and `assay check` reads
 * the tokens. A module is found by its name beside the test file or in lib/ there and in every
 * folder above, never by a path, evaluated once for each state, with the same globals and the same
 * limits as the test file; it may declare machines and tests as well.
 */
#define FILE_MAX_BYTES (16 * MIB)
#define MODULES	       "assay.modules"

/* What Lua's parser says, with the line that it speaks of. */
static void syntax_error(struct script *s, const char *path, const char *message, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	const char *p = message, *what = message;
	long line = 0;

	/* "name:12: what", where name is the path or its end. */
	while ((p = strchr(p, ':'))) {
		char *end;

		line = strtol(p + 1, &end, 10);
		if (end > p + 1 && end[0] == ':' && end[1] == ' ') {
			what = end + 2;
			break;
		}
		line = 0;
		p++;
	}
	if (line == 0) {
		/* Not the parser's: bytecode, or memory. */
		error_set(err, ERROR_USAGE, EINVAL, "%s: %s", path, what);
		return;
	}
	text = source_line(s, path, (int)line);
	error_set(err, ERROR_USAGE, EINVAL, "%s:%ld: %s\n%5ld | %s", path, line, what, line, text);
}

int load_file(lua_State *L, const char *path, struct error *err)
{
	struct script *s = script_of(L);
	struct buf text = {};
	const char *code;
	char chunk[1024];
	int r;

	note_file_read(s, path);
	r = file_read(path, FILE_MAX_BYTES, &text, err);
	if (r < 0) {
		if (err)
			err->kind = ERROR_USAGE;
		buf_done(&text);
		return r;
	}
	if (text.len && memchr(text.data, '\0', text.len)) {
		buf_done(&text);
		return error_set(err, ERROR_USAGE, EINVAL, "%s: a NUL byte is in this file", path);
	}
	source_add(s, path, buf_str(&text), text.len);
	buf_done(&text);
	/* From here on the script owns the text: what follows may raise. */
	code = s->sources->text;
	if (str_starts(code, "\xef\xbb\xbf"))
		code += 3;
	if (*code == '#') /* an interpreter's line; the line break stays, for the count */
		code = strchrnul(code, '\n');
	(void)snprintf(chunk, sizeof(chunk), "@%s", path);
	if (luaL_loadbufferx(L, code, strlen(code), chunk, "t") == LUA_OK)
		return 0;
	syntax_error(s, path, lua_tostring(L, -1), err);
	lua_pop(L, 1);
	return -EINVAL;
}

static bool module_name_is_valid(const char *name)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";

	return *name && *name != '.' && !strstr(name, "..") && !str_ends(name, ".") &&
	       strspn(name, allowed) == strlen(name);
}

/* Beside the test file, then lib/ there and in every folder above. malloc'd, NULL if not found. */
static char *find_module(struct script *s, const char *name)
{
	_cleanup_free_ char *file = xasprintf("%s.lua", name);
	_cleanup_free_ char *dir = path_absolute(s->dir);
	char *path;

	for (char *p = file; p < file + strlen(name); p++)
		if (*p == '.')
			*p = '/';
	path = path_join(s->dir, file);
	if (path_exists(path))
		return path;
	note_file_read(s, path); /* one there would be taken instead */
	free(path);
	for (;;) {
		char *up;

		up = path_join(dir, "lib");
		path = path_join(up, file);
		free(up);
		if (path_exists(path))
			return path;
		note_file_read(s, path);
		free(path);
		if (str_eq(dir, "/"))
			return NULL;
		up = path_dirname(dir);
		free(dir);
		dir = up;
	}
}

/* The path as a Lua string on the stack; raises if there is none. */
static __attribute__((noinline)) const char *push_module_path(lua_State *L, const char *name)
{
	struct script *s = script_of(L);
	char *path = module_name_is_valid(name) ? find_module(s, name) : NULL;
	char copy[4096];

	if (!path)
		raise_usage(L, "it is looked for beside the test file and in lib/ above it",
			    "module '%s' does not exist", name);
	(void)snprintf(copy, sizeof(copy), "%s", path);
	free(path);
	return lua_pushstring(L, copy);
}

/* An error in its own frame: struct error is large. */
static __attribute__((noinline)) void load_or_raise(lua_State *L, const char *path)
{
	struct error err = {};

	if (load_file(L, path, &err) < 0)
		raise_error(L, &err, NULL);
}

int sandbox_require(lua_State *L)
{
	const char *name = check_text(L, 1, "require", "the name", NULL);
	const char *path;

	lua_settop(L, 1);
	luaL_getsubtable(L, LUA_REGISTRYINDEX, MODULES); /* 2 */
	lua_getfield(L, 2, name);
	if (lua_islightuserdata(L, -1))
		raise_usage(L, NULL, "module '%s' requires itself, maybe through others", name);
	if (!lua_isnil(L, -1))
		return 1;
	path = push_module_path(L, name);
	load_or_raise(L, path);
	lua_pushlightuserdata(L, NULL);
	lua_setfield(L, 2, name);
	lua_pushvalue(L, 1);
	lua_pushstring(L, path);
	/* A module that fails may be tried again. */
	if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
		lua_pushnil(L);
		lua_setfield(L, 2, name);
		return lua_error(L);
	}
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		lua_pushboolean(L, 1);
	}
	lua_pushvalue(L, -1);
	lua_setfield(L, 2, name);
	return 1;
}
