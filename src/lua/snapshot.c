/* SPDX-License-Identifier: MIT */
/* Snapshots within a test: of a machine, of all machines at one instant. */
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"
#include "machine/saved.h"

/*
 * Theory of operation
 *
 * A snapshot is a userdata that holds saved states (machine/saved.h), one for each machine, with
 * the machines' handles. It lives as long as somebody holds it; what it takes on disk goes with it.
 *
 * The userdata is made, empty, before the core is called: it owns what comes back at once.
 */
#define SNAPSHOT_META	   "assay.snapshot"
#define SNAPSHOT_ALL_META  "assay.snapshots"
#define SNAPSHOT_TITLE_MAX 80

struct snapshot {
	struct group *group; /* of all; else NULL */
	size_t n;
	char title[SNAPSHOT_TITLE_MAX];
	struct {
		struct handle *handle;
		struct saved *saved; /* NULL: it did not come to that */
	} parts[];
};

static int snapshot_gc(lua_State *L)
{
	struct snapshot *s = lua_touserdata(L, 1);

	for (size_t i = 0; i < s->n; i++)
		s->parts[i].saved = saved_unref(s->parts[i].saved);
	return 0;
}

void snapshot_open(lua_State *L)
{
	class_open(L, "snapshot", snapshot_gc);
	class_open(L, "snapshots", snapshot_gc);
}

/* Empty, on the stack. */
static struct snapshot *push_snapshot(lua_State *L, const char *meta, size_t n, const char *title)
{
	size_t size = sizeof(struct snapshot) + n * sizeof(((struct snapshot *)0)->parts[0]);
	struct snapshot *s = lua_newuserdatauv(L, size, 0);

	memset(s, 0, size);
	s->n = n;
	(void)snprintf(s->title, sizeof(s->title), "%s", title ?: "");
	luaL_setmetatable(L, meta);
	return s;
}

/* A snapshot is some words to Lua, and memory, disk and descriptors to the host: those that nobody
 * holds any more go before there is another. */
static void drop_unheld(lua_State *L)
{
	lua_gc(L, LUA_GCCOLLECT, 0);
}

/* The name is for people: it is in the events and in the report. */
static const char *title_at(lua_State *L, int idx, const char *function)
{
	return lua_isnoneornil(L, idx) ? NULL
				       : check_text(L, idx, function, "the snapshot's name", NULL);
}

static int snapshot_take(lua_State *L)
{
	const char *title;
	struct snapshot *s;
	struct call *c;

	lua_settop(L, 2);
	title = title_at(L, 2, "snapshot");
	c = call_machine(L, "snapshot");
	drop_unheld(L);
	s = push_snapshot(L, SNAPSHOT_META, 1, title);
	s->parts[0].handle = c->handle;
	call_timeout(c, NULL, DEFAULT_TIMEOUT_NS);
	call_start(c, "%s", s->title);
	call_end(L, c, machine_save(c->machine, true, c->timeout_ns, &s->parts[0].saved, &c->err));
	return 1;
}

static struct snapshot *check_snapshot(lua_State *L, int idx, const char *meta,
				       const char *function, const char *maker)
{
	struct snapshot *s = luaL_testudata(L, idx, meta);
	char hint[64];

	if (s)
		return s;
	(void)snprintf(hint, sizeof(hint), "it is what %s() has returned", maker);
	raise_usage(L, hint, "%s: a snapshot is wanted, not %s", function,
		    lua_isnoneornil(L, idx) ? "nothing" : luaL_typename(L, idx));
}

static int snapshot_restore(lua_State *L)
{
	struct snapshot *s;
	struct call *c;

	lua_settop(L, 2);
	c = call_machine(L, "restore");
	s = check_snapshot(L, 2, SNAPSHOT_META, "restore", "m:snapshot");
	if (s->parts[0].handle != c->handle)
		raise_usage(L, NULL, "restore: this is a snapshot of machine '%s', not of '%s'",
			    s->parts[0].handle->name, c->handle->name);
	call_timeout(c, NULL, DEFAULT_TIMEOUT_NS);
	call_start(c, "%s", s->title);
	call_end(L, c,
		 machine_restore(c->machine, s->parts[0].saved, NULL, c->timeout_ns, &c->err));
	return 0;
}

/* --- all machines --------------------------------------------------------------------------- */

static struct machine **machines_of(const struct snapshot *s)
{
	struct machine **ret = xcalloc(s->n + 1, sizeof(*ret));

	for (size_t i = 0; i < s->n; i++)
		ret[i] = s->parts[i].handle->machine;
	return ret;
}

static int save_all(struct snapshot *s, struct call *c)
{
	_cleanup_free_ struct machine **machines = machines_of(s);
	_cleanup_free_ struct saved **saved = xcalloc(s->n + 1, sizeof(struct saved *));
	int r = machine_save_all(machines, s->n, true, c->timeout_ns, saved, &c->err);

	for (size_t i = 0; i < s->n; i++)
		s->parts[i].saved = saved[i];
	return r;
}

static int restore_all(struct snapshot *s, struct call *c)
{
	_cleanup_free_ struct machine **machines = machines_of(s);
	_cleanup_free_ struct saved **saved = xcalloc(s->n + 1, sizeof(struct saved *));

	for (size_t i = 0; i < s->n; i++)
		saved[i] = s->parts[i].saved;
	return machine_restore_all(machines, saved, s->n, NULL, c->timeout_ns, &c->err);
}

/* The machines of the group that runs, but those that this run leaves out. */
static size_t count_bound(const struct group *g)
{
	size_t n = 0;

	for (size_t i = 0; i < g->n_machines; i++)
		n += g->machines[i]->machine != NULL;
	return n;
}

static int snapshot_take_all(lua_State *L)
{
	const char *title;
	struct snapshot *s;
	struct group *g;
	struct call *c;
	size_t n = 0;

	lua_settop(L, 1);
	title = title_at(L, 1, "snapshot_all");
	c = call_new(L, "snapshot_all");
	g = c->script->running;
	drop_unheld(L);
	s = push_snapshot(L, SNAPSHOT_ALL_META, count_bound(g), title);
	s->group = g;
	for (size_t i = 0; i < g->n_machines; i++)
		if (g->machines[i]->machine)
			s->parts[n++].handle = g->machines[i];
	call_timeout(c, NULL, DEFAULT_TIMEOUT_NS);
	call_start(c, "%s", s->title);
	call_end(L, c, save_all(s, c));
	return 1;
}

static int snapshot_restore_all(lua_State *L)
{
	struct snapshot *s;
	struct call *c;

	lua_settop(L, 1);
	c = call_new(L, "restore_all");
	s = check_snapshot(L, 1, SNAPSHOT_ALL_META, "restore_all", "snapshot_all");
	if (s->group != c->script->running)
		raise_usage(L, "a group has machines of its own",
			    "restore_all: this is a snapshot of another group's machines");
	call_timeout(c, NULL, DEFAULT_TIMEOUT_NS);
	call_start(c, "%s", s->title);
	call_end(L, c, restore_all(s, c));
	return 0;
}

const struct binding snapshot_bindings[] = {
	{"machine:snapshot", snapshot_take},
	{"machine:restore", snapshot_restore},
	{"snapshot_all", snapshot_take_all},
	{"restore_all", snapshot_restore_all},
	{NULL},
};
