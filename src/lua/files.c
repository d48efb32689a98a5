/* SPDX-License-Identifier: MIT */
/* Files of the guest: copied both ways, read, written; packages installed. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "lua/artifact.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Paths of the host are relative to the test file, those of the guest absolute; what comes from the
 * guest lands among the test's artifacts and nowhere else, since the guest chooses its bytes and a
 * test file should not be able to write all over the host. A host file that is missing is `usage`
 * (the test file is wrong), a guest file that is missing is `expect`.
 */
#define READ_MAX_BYTES (256 * MIB)

/* A machine's method with options at index `at`; shorter calls are filled up with nil. */
static struct call *file_call(lua_State *L, const char *method, int at,
			      const struct option *options, struct time_options *o)
{
	struct call *c;

	if (!to_handle(L, 1))
		return call_machine(L, method); /* raises */
	lua_settop(L, at);
	read_options(L, at, method, options, o);
	c = call_machine(L, method);
	call_timeout(c, o, DEFAULT_TIMEOUT_NS);
	return c;
}

/* The host's side is looked at first: no machine is booted for a file that is not there. */
static int file_copy_from_host(lua_State *L)
{
	struct time_options o = {};
	struct call *c = file_call(L, "copy_from_host", 4, time_options, &o);
	const char *src = check_text(L, 2, "copy_from_host", "the source", NULL);
	const char *dst = check_text(L, 3, "copy_from_host", "the destination", NULL);

	c->text = path_join(c->script->dir, src);
	note_file_read(c->script, c->text);
	if (!path_exists(c->text)) {
		error_set(&c->err, ERROR_USAGE, ENOENT, "'%s' does not exist on the host", c->text);
		error_hint(&c->err, "relative paths are relative to the test file");
		call_raise(L, c);
	}
	call_agent(L, c);
	call_start(c, "%.80s to %.80s", src, dst);
	call_end(L, c, agent_copy_in(c->agent, c->text, dst, c->timeout_ns, &c->err));
	call_done(c);
	return 0;
}

/* A folder of the guest becomes a folder among the artifacts. */
static int file_copy_to_host(lua_State *L)
{
	struct time_options o = {};
	struct call *c = file_call(L, "copy_to_host", 4, time_options, &o);
	const char *src = check_text(L, 2, "copy_to_host", "the source", NULL);
	const char *name = lua_isnil(L, 3) ? path_basename(src)
					   : check_text(L, 3, "copy_to_host", "the name", NULL);
	int r;

	if (artifact_path(c->script, name, &c->text, &c->err) < 0)
		call_raise(L, c);
	call_agent(L, c);
	call_start(c, "%.150s", src);
	r = agent_copy_out(c->agent, src, c->text, c->timeout_ns, &c->err);
	call_end(L, c, r);
	artifact_emit(c, c->text);
	lua_pushstring(L, c->text);
	call_done(c);
	return 1;
}

static int file_read_guest(lua_State *L)
{
	struct time_options o = {};
	struct call *c = file_call(L, "read_file", 3, time_options, &o);
	const char *path = check_text(L, 2, "read_file", "the path", NULL);
	int r;

	call_agent(L, c);
	call_start(c, "%.150s", path);
	r = agent_read_file(c->agent, path, READ_MAX_BYTES, c->timeout_ns, &c->buf, &c->err);
	call_end(L, c, r);
	lua_pushlstring(L, buf_str(&c->buf), c->buf.len);
	call_done(c);
	return 1;
}

struct write_options {
	struct time_options time;
	const char *owner, *mode;
};
static const struct option write_options[] = {
	TIME_OPTIONS,
	{"owner", OPT_STRING, offsetof(struct write_options, owner)},
	{"mode", OPT_STRING, offsetof(struct write_options, mode)},
	{NULL},
};

/* Octal digits as for chmod(1), "0644" or 644: Lua has no octal numbers. */
static mode_t parse_mode(lua_State *L, const char *text)
{
	char *end;
	unsigned long mode;

	if (!text)
		return 0;
	mode = strtoul(text, &end, 8);
	if (*end || !*text || *text == '-' || mode > 07777)
		raise_usage(L, NULL, "write_file: mode must be octal digits as for chmod, not '%s'",
			    text);
	return (mode_t)mode;
}

static int file_write_guest(lua_State *L)
{
	struct write_options o = {};
	struct call *c = file_call(L, "write_file", 4, write_options, &o.time);
	const char *path = check_text(L, 2, "write_file", "the path", NULL);
	mode_t mode = parse_mode(L, o.mode);
	size_t len;
	const char *data = check_text(L, 3, "write_file", "the data", &len);

	call_agent(L, c);
	call_start(c, "%.120s, %zu bytes", path, len);
	call_end(
		L, c,
		agent_write_file(c->agent, path, data, len, mode, o.owner, c->timeout_ns, &c->err));
	return 0;
}

/* --- install
 * ----------------------------------------------------------------------------------------- */

#define INSTALL_DIR "/var/tmp/assay-install"

static bool is_package_file(const char *name)
{
	return str_ends(name, ".deb");
}

/* A .deb goes to the guest first; c->buf becomes the list of what apt-get shall install. */
static int send_package(struct call *c, const char *name)
{
	_cleanup_free_ char *quoted = NULL, *to = NULL;
	int r;

	if (!is_package_file(name)) {
		quoted = shell_quote(name);
		buf_printf(&c->buf, " %s", quoted);
		return 0;
	}
	free(c->text);
	c->text = path_join(c->script->dir, name);
	note_file_read(c->script, c->text);
	if (!path_exists(c->text))
		return error_set(&c->err, ERROR_USAGE, ENOENT, "'%s' does not exist on the host",
				 c->text);
	to = xasprintf(INSTALL_DIR "/%s", path_basename(name));
	quoted = shell_quote(to);
	buf_printf(&c->buf, " %s", quoted);
	r = agent_copy_in(c->agent, c->text, to, c->timeout_ns, &c->err);
	return r;
}

/* Everything is one script, so that the package manager's lock is taken once. */
static int install_sent(struct call *c, bool only_files)
{
	_cleanup_free_ char *script = NULL;
	struct agent_command cmd = {};
	int r;

	/* With files alone dpkg does without a list of packages and without a network, if what
	 * they need is there. */
	script = xasprintf("export DEBIAN_FRONTEND=noninteractive\n"
			   "%s\n"
			   "apt-get install -y --no-install-recommends%s\n"
			   "rm -rf " INSTALL_DIR "\n",
			   only_files ? "" : "apt-get update", buf_str(&c->buf));
	if (only_files) {
		free(script);
		script = xasprintf("export DEBIAN_FRONTEND=noninteractive\n"
				   "dpkg -i%s || apt-get install -f -y --no-install-recommends\n"
				   "rm -rf " INSTALL_DIR "\n",
				   buf_str(&c->buf));
	}
	cmd.script = script;
	r = agent_run(c->agent, &cmd, c->timeout_ns, &c->result, &c->err);
	if (r == 0 && c->result.code != 0) {
		r = error_set(&c->err, ERROR_EXPECT, EPROTO,
			      "installing%s failed with exit code %d", buf_str(&c->buf),
			      c->result.code);
		if (!only_files)
			error_hint(&c->err, "names need internet = true; packages = { … } of the "
					    "machine's definition does without");
	}
	if (r < 0)
		call_detail_result(c, &c->result);
	return r;
}

static int file_install(lua_State *L)
{
	struct time_options o = {};
	bool only_files = true;
	struct call *c = file_call(L, "install", 3, time_options, &o);
	int r = 0;

	if (!lua_istable(L, 2)) {
		check_text(L, 2, "install", "the package", NULL);
		lua_createtable(L, 1, 0);
		lua_pushvalue(L, 2);
		lua_rawseti(L, -2, 1);
		lua_replace(L, 2);
	}
	call_agent(L, c);
	for (lua_Integer i = 1; lua_rawgeti(L, 2, i) != LUA_TNIL; i++) {
		const char *name = check_text(L, -1, "install", "a package", NULL);

		only_files = only_files && is_package_file(name);
		r = send_package(c, name);
		if (r < 0)
			call_raise(L, c);
		lua_pop(L, 1);
	}
	if (c->buf.len == 0)
		return 0;
	call_start(c, "%.180s", c->buf.data + 1);
	call_end(L, c, install_sent(c, only_files));
	call_done(c);
	return 0;
}

const struct binding file_bindings[] = {
	{"machine:copy_from_host", file_copy_from_host},
	{"machine:copy_to_host", file_copy_to_host},
	{"machine:copy_from_machine", file_copy_to_host},
	{"machine:read_file", file_read_guest},
	{"machine:write_file", file_write_guest},
	{"machine:install", file_install},
	{NULL},
};
