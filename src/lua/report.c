/* SPDX-License-Identifier: MIT */
/* What a script tells the reports: log, artifact, metric, breakpoint. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "lua/lua-internal.h"
#include "lua/artifact.h"

/*
 * Theory of operation
 *
 * A script tells the reports by events; it never writes to a terminal. Artifacts are files: they go
 * to the folder `artifacts` of the test's own folder, so that no name that a test chooses can
 * replace what Assay itself writes there (events.jsonl, console-server.log, …), and none leads out
 * of it.
 */

static int report_log(lua_State *L)
{
	int n = lua_gettop(L);
	struct call *c;
	luaL_Buffer b;
	const char *text;
	size_t len;

	luaL_buffinit(L, &b);
	for (int i = 1; i <= n; i++) {
		if (i > 1)
			luaL_addchar(&b, ' ');
		luaL_tolstring(L, i, NULL);
		luaL_addvalue(&b);
	}
	luaL_pushresult(&b);
	text = lua_tolstring(L, -1, &len);
	c = call_new(L, "log");
	emit(c->script, "log", json_pack("{s:o}", "text", json_text(text, len, 0)));
	return 0;
}

/* --- artifacts
 * ------------------------------------------------------------------------------------ */

int artifact_path(struct script *s, const char *name, char **ret, struct error *err)
{
	_cleanup_free_ char *dir = NULL, *parent = NULL;
	_cleanup_strv_ char **parts = strv_split(name, "/");
	const char *dot;
	char *path;

	if (!s->artifact_dir)
		return error_set(err, ERROR_USAGE, EINVAL, "there is no report folder here");
	if (!*name || *name == '/' || strv_contains(parts, "..") || str_ends(name, "/"))
		return error_set(err, ERROR_USAGE, EINVAL,
				 "'%s' is no name for an artifact: a relative path is wanted",
				 name);
	dir = path_join(s->artifact_dir, "artifacts");
	path = path_join(dir, name);
	/* A second one of the same name does not replace the first: name-2.txt. */
	dot = strrchr(path_basename(name), '.');
	for (int i = 2; path_exists(path); i++) {
		int stem =
			dot && dot != path_basename(name) ? (int)(dot - name) : (int)strlen(name);

		free(path);
		path = xasprintf("%s/%.*s-%d%s", dir, stem, name, i, name + stem);
	}
	parent = path_dirname(path);
	if (path_make_dirs(parent, 0755, err) < 0) {
		free(path);
		return -err->code;
	}
	*ret = path;
	return 0;
}

void artifact_emit(struct call *c, const char *path)
{
	const char *relative = path + strlen(c->script->artifact_dir);
	json_t *f;
	struct stat st;

	relative += strspn(relative, "/");
	f = json_pack("{s:o, s:o}", "name",
		      json_text(relative + strlen("artifacts/"),
				strlen(relative + strlen("artifacts/")), 0),
		      "path", json_text(relative, strlen(relative), 0));
	if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
		json_object_set_new(f, "bytes", json_integer((json_int_t)st.st_size));
	if (c->handle)
		json_object_set_new(f, "machine", json_string(c->handle->name));
	emit(c->script, "artifact", f);
}

/* A file of the host, relative to the test file, into the report. */
static int copy_artifact(struct call *c, const char *from)
{
	_cleanup_free_ char *path = path_join(c->script->dir, from);
	int r;

	note_file_read(c->script, path);
	if (path_is_dir(path))
		return error_set(&c->err, ERROR_USAGE, EISDIR, "artifact: '%s' is a folder", path);
	r = file_read(path, GIB, &c->buf, &c->err);
	if (r < 0) {
		c->err.kind = ERROR_USAGE;
		return r;
	}
	r = artifact_path(c->script, path_basename(path), &c->text, &c->err);
	return r < 0 ? r : file_write_atomic(c->text, buf_str(&c->buf), c->buf.len, 0644, &c->err);
}

/* With data: a new file of that name. Without: a copy of the host's file of that path. */
static int report_artifact(lua_State *L)
{
	const char *name = check_text(L, 1, "artifact", "the name", NULL);
	const char *data = NULL;
	struct call *c;
	size_t len = 0;
	int r;

	if (!lua_isnoneornil(L, 2))
		data = check_text(L, 2, "artifact", "the data", &len);
	lua_settop(L, 2);
	c = call_new(L, "artifact");
	if (data) {
		r = artifact_path(c->script, name, &c->text, &c->err);
		if (r == 0)
			r = file_write_atomic(c->text, data, len, 0644, &c->err);
	} else {
		r = copy_artifact(c, name);
	}
	if (r < 0)
		call_raise(L, c);
	artifact_emit(c, c->text);
	lua_pushstring(L, c->text);
	return 1;
}

/* --- metrics
 * ---------------------------------------------------------------------------------------- */

struct metric_options {
	const char *unit, *better;
};
static const struct option metric_options[] = {
	{"unit", OPT_STRING, offsetof(struct metric_options, unit)},
	{"better", OPT_STRING, offsetof(struct metric_options, better)},
	{NULL},
};

/* Each call adds a sample; statistics are the report's. NaN would poison them, so it is refused. */
static int report_metric(lua_State *L)
{
	const char *name = check_text(L, 1, "metric", "the name", NULL);
	struct metric_options o = {};
	struct call *c;
	lua_Number value;
	json_t *f;

	if (lua_type(L, 2) != LUA_TNUMBER)
		raise_usage(L, NULL, "metric '%s': the value must be a number, not %s", name,
			    luaL_typename(L, 2));
	value = lua_tonumber(L, 2);
	if (isnan(value) || isinf(value))
		raise_usage(L, NULL, "metric '%s': the value is no finite number", name);
	lua_settop(L, 3);
	read_options(L, 3, "metric", metric_options, &o);
	if (o.better && !str_eq(o.better, "lower") && !str_eq(o.better, "higher"))
		raise_usage(L, NULL, "metric '%s': better must be \"lower\" or \"higher\"", name);
	c = call_new(L, "metric");
	f = json_pack("{s:o, s:f}", "name", json_text(name, strlen(name), 0), "value", value);
	if (o.unit)
		json_object_set_new(f, "unit", json_text(o.unit, strlen(o.unit), 0));
	if (o.better)
		json_object_set_new(f, "better", json_string(o.better));
	emit(c->script, "metric", f);
	return 0;
}

/* Where a person would look around; without a terminal it is only noted. */
static int report_breakpoint(lua_State *L)
{
	struct call *c = call_new(L, "breakpoint");
	int line = current_line(L, NULL, 0);
	json_t *f = json_object();

	if (line > 0)
		json_object_set_new(f, "line", json_integer(line));
	emit(c->script, "breakpoint", f);
	return 0;
}

const struct binding report_bindings[] = {
	{"log", report_log},
	{"artifact", report_artifact},
	{"metric", report_metric},
	{"breakpoint", report_breakpoint},
	{NULL},
};
