/* SPDX-License-Identifier: MIT */
/* Lua functions side by side: parallel, wait_all, start_all, polling_condition. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Each function runs on a fiber and a Lua thread of its own. The threads stay on the stack of the
 * function that started them (so the collector keeps them), which never returns before all of its
 * fibers have ended. That function's memory, a userdata, holds what the fibers point to.
 *
 *	parallel(): lua_newthread ×n ─ fiber_start ×n ─ wait for `changed` ─┬─ all done: results
 *	                                 │                                  └─ one failed, or we are
 *	                                 └► lua_pcall, note, wake            cancelled: cancel the
 *	                                                                     rest, join, raise
 *
 * An error value moves to the waiting thread by lua_xmove; its trace grows by that thread's frames.
 */
struct branch {
	struct crew *crew;
	lua_State *L; /* on it: the handler, the function, its arguments */
	int n_args;
	struct fiber *fiber;
	bool done;
	int status;
};

struct crew {
	struct script *script;
	struct waiters changed;
	size_t n, n_done;
	struct branch *failed; /* the first */
	struct branch branches[];
};

/* By then all fibers have ended: the function that owned the crew joined them. */
static int crew_gc(lua_State *L)
{
	struct crew *crew = lua_touserdata(L, 1);

	for (size_t i = 0; i < crew->n; i++)
		crew->branches[i].fiber = fiber_unref(crew->branches[i].fiber);
	return 0;
}

/* Pushes the crew and, above it, n threads. Nothing runs yet. */
static struct crew *crew_new(lua_State *L, size_t n)
{
	struct script *s = script_of(L);
	size_t size = sizeof(struct crew) + n * sizeof(struct branch);
	struct crew *crew;

	if (s->n_fibers + n > FIBERS_MAX)
		raise_usage(L, "does parallel() call itself without an end?",
			    "more than %d functions at the same time", FIBERS_MAX);
	luaL_checkstack(L, (int)n + 40, "too many functions");
	crew = lua_newuserdatauv(L, size, 0);
	memset(crew, 0, size);
	crew->script = s;
	if (luaL_newmetatable(L, "assay.crew")) {
		lua_pushcfunction(L, crew_gc);
		lua_setfield(L, -2, "__gc");
	}
	lua_setmetatable(L, -2);
	for (size_t i = 0; i < n; i++) {
		struct branch *b = &crew->branches[i];

		b->crew = crew;
		b->L = lua_newthread(L);
		lua_pushcfunction(b->L, on_error);
	}
	crew->n = n;
	return crew;
}

/* Gives a branch its function: what is on top of L, with n_args below it moved as well. */
static void branch_give(lua_State *L, struct branch *b, int n_args)
{
	lua_xmove(L, b->L, 1 + n_args);
	b->n_args = n_args;
}

static int branch_run(void *userdata)
{
	struct branch *b = userdata;

	b->status = lua_pcall(b->L, b->n_args, LUA_MULTRET, 1);
	b->done = true;
	b->crew->n_done++;
	b->crew->script->n_fibers--;
	if (b->status != LUA_OK && !b->crew->failed)
		b->crew->failed = b;
	waiters_wake_all(&b->crew->changed);
	return 0;
}

static void branch_start(struct branch *b, const char *name)
{
	b->crew->script->n_fibers++;
	fiber_start(name, branch_run, b, &b->fiber);
}

/* Cancels first and joins then, so that they end at the same time. */
static void crew_stop(struct crew *crew)
{
	for (size_t i = 0; i < crew->n; i++)
		fiber_cancel(crew->branches[i].fiber);
	for (size_t i = 0; i < crew->n; i++)
		if (crew->branches[i].fiber)
			fiber_stop(crew->branches[i].fiber);
	assert(crew->n_done == crew->n);
}

/* Until all have ended or one has failed; raises then. The others are gone in either case. */
static void crew_join(lua_State *L, struct crew *crew, struct call *c, const char *what)
{
	int r = 0;

	while (r == 0 && !crew->failed && crew->n_done < crew->n)
		r = fiber_wait(&crew->changed, NS_FOREVER, what, &c->err);
	if (r < 0 || crew->failed) {
		struct branch *b = crew->failed;

		crew_stop(crew);
		if (!b)
			call_raise(L, c);
		lua_xmove(b->L, L, 1);
		error_extend_trace(L, -1);
		lua_error(L);
	}
	/* The fibers have noted their end, and take the last step of it now. */
	for (size_t i = 0; i < crew->n; i++)
		fiber_stop(crew->branches[i].fiber);
}

/* A list of each function's first result. */
static void push_results(lua_State *L, struct crew *crew)
{
	lua_createtable(L, (int)crew->n, 1);
	for (size_t i = 0; i < crew->n; i++) {
		lua_State *from = crew->branches[i].L;

		if (lua_gettop(from) < 2)
			continue;
		lua_settop(from, 2);
		lua_xmove(from, L, 1);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	lua_pushinteger(L, (lua_Integer)crew->n);
	lua_setfield(L, -2, "n");
}

static int fiber_parallel(lua_State *L)
{
	int n = lua_gettop(L);
	struct call *c;
	struct crew *crew;

	for (int i = 1; i <= n; i++)
		check_function(L, i, "parallel", "each argument");
	c = call_new(L, "parallel");
	crew = crew_new(L, (size_t)n);
	for (int i = 0; i < n; i++) {
		lua_pushvalue(L, i + 1);
		branch_give(L, &crew->branches[i], 0);
	}
	for (int i = 0; i < n; i++)
		branch_start(&crew->branches[i], "parallel");
	crew_join(L, crew, c, "the functions of parallel() to end");
	push_results(L, crew);
	return 1;
}

/* Any list of values will do; machines are what it is for. */
static int fiber_wait_all(lua_State *L)
{
	struct call *c;
	struct crew *crew;
	lua_Integer n;

	luaL_checktype(L, 1, LUA_TTABLE);
	check_function(L, 2, "wait_all", "the second argument");
	lua_settop(L, 2);
	n = luaL_len(L, 1);
	if (n < 0 || n > FIBERS_MAX)
		raise_usage(L, NULL, "wait_all: a list of at most %d is wanted", FIBERS_MAX);
	c = call_new(L, "wait_all");
	crew = crew_new(L, (size_t)n);
	for (lua_Integer i = 0; i < n; i++) {
		lua_pushvalue(L, 2);
		lua_geti(L, 1, i + 1);
		branch_give(L, &crew->branches[i], 1);
	}
	for (lua_Integer i = 0; i < n; i++)
		branch_start(&crew->branches[i], "wait_all");
	crew_join(L, crew, c, "the functions of wait_all() to end");
	push_results(L, crew);
	return 1;
}

/* --- start_all
 * ----------------------------------------------------------------------------------------- */

/* Runs on a thread of its own: one machine. */
static int start_one(lua_State *L)
{
	struct call *c = call_machine(L, "start");

	call_timeout(c, NULL, BOOT_TIMEOUT_NS);
	call_start(c, "%s", "");
	call_end(L, c, machine_start(c->machine, NULL, c->timeout_ns, &c->err));
	return 0;
}

/* The group's machines, also those with autostart = false: "all" is all. */
static int fiber_start_all(lua_State *L)
{
	struct call *c = call_new(L, "start_all");
	struct group *g = c->script->running;
	struct crew *crew = crew_new(L, g->n_machines);
	size_t n = 0;

	for (size_t i = 0; i < g->n_machines; i++) {
		lua_pushcfunction(L, start_one);
		push_handle(L, g->machines[i]);
		branch_give(L, &crew->branches[n++], 1);
	}
	for (size_t i = 0; i < n; i++)
		branch_start(&crew->branches[i], "start_all");
	crew_join(L, crew, c, "all machines to start");
	return 0;
}

/* --- polling_condition
 * ------------------------------------------------------------------------------------ */

struct condition {
	uint64_t every_ns;
	char name[128];
};

struct condition_options {
	const char *name;
	uint64_t every_ns;
	int check;
};
static const struct option condition_options[] = {
	{"name", OPT_STRING, offsetof(struct condition_options, name)},
	{"every", OPT_DURATION, offsetof(struct condition_options, every_ns)},
	{"check", OPT_FUNCTION, offsetof(struct condition_options, check)},
	{NULL},
};

static int fiber_polling_condition(lua_State *L)
{
	struct condition_options o = {.name = "condition", .every_ns = NS_PER_SEC};
	struct condition *cond;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	read_options(L, 1, "polling_condition", condition_options, &o);
	if (!o.check)
		raise_usage(L, NULL, "polling_condition: option 'check' is missing");
	cond = lua_newuserdatauv(L, sizeof(*cond), 1);
	cond->every_ns = MAX(o.every_ns, NS_PER_MS);
	(void)snprintf(cond->name, sizeof(cond->name), "%s", o.name);
	lua_pushvalue(L, o.check);
	lua_setiuservalue(L, -2, 1);
	luaL_setmetatable(L, "assay.condition");
	return 1;
}

/* On a thread of its own: the condition, for ever. Returns only by an error. */
static int watch_condition(lua_State *L)
{
	struct condition *cond = lua_touserdata(L, 1);
	struct call *c = call_new(L, "polling_condition");

	for (;;) {
		lua_getiuservalue(L, 1, 1);
		lua_call(L, 0, 1);
		if (!lua_toboolean(L, -1)) {
			error_set(&c->err, ERROR_EXPECT, EPROTO, "condition '%s' is false",
				  cond->name);
			call_raise(L, c);
		}
		lua_pop(L, 1);
		if (fiber_sleep(cond->every_ns, &c->err) < 0)
			call_raise(L, c);
	}
}

/* Two branches, the check and the body. The check ends by an error only, so `failed` means that one
 * of them failed, and the body's end is the end of both. */
static int condition_during(lua_State *L)
{
	struct condition *cond = luaL_checkudata(L, 1, "assay.condition");
	struct branch *watch, *body;
	struct crew *crew;
	struct call *c;
	int r = 0, n;

	check_function(L, 2, "during", "the body");
	lua_settop(L, 2);
	c = call_new(L, "during");
	(void)snprintf(c->what, sizeof(c->what), "the body under condition '%.100s' to end",
		       cond->name);
	crew = crew_new(L, 2);
	watch = &crew->branches[0];
	body = &crew->branches[1];
	lua_pushcfunction(L, watch_condition);
	lua_pushvalue(L, 1);
	branch_give(L, watch, 1);
	lua_pushvalue(L, 2);
	branch_give(L, body, 0);
	branch_start(watch, "condition");
	branch_start(body, "during");
	while (r == 0 && !crew->failed && !body->done)
		r = fiber_wait(&crew->changed, NS_FOREVER, c->what, &c->err);
	if (r < 0 || crew->failed) {
		struct branch *b = crew->failed;

		crew_stop(crew);
		if (!b)
			call_raise(L, c);
		lua_xmove(b->L, L, 1);
		error_extend_trace(L, -1);
		return lua_error(L);
	}
	crew_stop(crew);
	n = lua_gettop(body->L) - 1;
	luaL_checkstack(L, n, NULL);
	lua_xmove(body->L, L, n);
	return n;
}

const struct binding fiber_bindings[] = {
	{"parallel", fiber_parallel},		{"wait_all", fiber_wait_all},
	{"start_all", fiber_start_all},		{"polling_condition", fiber_polling_condition},
	{"condition:during", condition_during}, {NULL},
};
