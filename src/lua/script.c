/* SPDX-License-Identifier: MIT */
/* One script: its Lua state, loading, calling what it declared. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/fiber.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * script_load() makes the state, opens the sandbox, evaluates the file: its calls of suite(),
 * machine(), test() fill groups (declare.c). script_call_…() call the functions noted there on the
 * calling fiber and Lua's main thread; what runs beside it (fibers.c) has Lua threads of its own.
 *
 * Nothing of Lua is called outside of a protected call of the same thread: without one, Lua would
 * jump to the main thread's, which is on another fiber's stack.
 */
#define DEFAULT_MEMORY	     (256 * MIB)
#define DEFAULT_LOAD_TIMEOUT (10 * NS_PER_SEC)

struct script *script_of(lua_State *L)
{
	return *(struct script **)lua_getextraspace(L);
}

/* Lua's allocator, with a limit. Shrinking never fails, as Lua demands. */
static void *allocate(void *userdata, void *p, size_t old, size_t new)
{
	struct script *s = userdata;
	void *q;

	if (!p)
		old = 0; /* Lua passes the type of the object */
	if (new == 0) {
		s->memory_used -= old;
		free(p);
		return NULL;
	}
	if (new > old &&new - old > s->memory_limit - MIN(s->memory_used, s->memory_limit))
		return NULL;
	q = realloc(p, new);
	if (!q)
		return new <= old ? p : NULL;
	s->memory_used = s->memory_used - old + new;
	return q;
}

static int on_panic(lua_State *L)
{
	(void)fprintf(stderr, "assay: a Lua error outside of a protected call: %s\n",
		      lua_tostring(L, -1) ?: "(no text)");
	abort();
}

/* --- groups ------------------------------------------------------------------------------------
 */

struct group *group_new(struct script *s, const char *name)
{
	struct group *g = xcalloc(1, sizeof(*g));

	g->name = xstrdup(name);
	g->setup_ref = g->teardown_ref = LUA_NOREF;
	s->groups = xrealloc(s->groups, (s->n_groups + 1) * sizeof(*s->groups));
	s->groups[s->n_groups++] = g;
	return g;
}

struct group *group_find(struct script *s, const char *name)
{
	for (size_t i = 0; i < s->n_groups; i++)
		if (str_eq(s->groups[i]->name, name ?: ""))
			return s->groups[i];
	return NULL;
}

struct handle *handle_find(struct group *g, const char *name)
{
	for (size_t i = 0; i < g->n_machines; i++)
		if (str_eq(g->machines[i]->name, name))
			return g->machines[i];
	return NULL;
}

void group_free(struct group *g)
{
	for (size_t i = 0; i < g->n_machines; i++) {
		free(g->machines[i]->name);
		json_decref(g->machines[i]->spec);
		free(g->machines[i]);
	}
	for (size_t i = 0; i < g->n_tests; i++) {
		free(g->tests[i].name);
		json_decref(g->tests[i].json);
	}
	json_decref(g->setup);
	free(g->machines);
	free(g->tests);
	free(g->name);
	free(g);
}

/* --- loading -------------------------------------------------------------------------------------
 */

struct load {
	struct script *script;
	struct error *err;
	int r;
};

/* Protected. Leaves the file's function on the stack. */
static int open_state(lua_State *L)
{
	struct load *load = lua_touserdata(L, 1);

	raise_init(L);
	call_init(L);
	luaL_newmetatable(L, "assay.list");
	lua_pop(L, 1);
	sandbox_open(L);
	bindings_open(L);
	digest_open(L);
	load->r = load_file(L, load->script->path, load->err);
	return load->r < 0 ? 0 : 1;
}

/* "file:line: what", the line itself below. */
static void locate_error(struct script *s, struct script_failure *f, struct error *err)
{
	json_t *frame = json_array_get(f->trace, 0);
	const char *file = json_string_value(json_object_get(frame, "file"));
	int line = (int)json_integer_value(json_object_get(frame, "line"));
	const char *text = json_string_value(json_object_get(frame, "source"));
	enum error_kind kind = f->error.kind;

	/* A file that cannot be evaluated is wrong, whatever it ran into. */
	if (kind != ERROR_UNSUPPORTED && kind != ERROR_CANCELLED && kind != ERROR_BUG)
		kind = ERROR_USAGE;
	if (file)
		error_set(err, kind, f->error.code, "%s:%d: %s\n%5d | %s", file, line,
			  f->error.message, line, text ?: "");
	else
		error_set(err, kind, f->error.code, "%s: %s", s->path, f->error.message);
	if (*f->error.hint)
		error_hint(err, "%s", f->error.hint);
}

/* Calls what is on the stack with n arguments; one result, or a failure. */
static int call_protected(lua_State *L, int n, struct script_failure *ret)
{
	int status = call_traced(L, n, 1);

	if (status == LUA_OK)
		return 0;
	if (status == LUA_ERRMEM)
		error_set(&ret->error, ERROR_USAGE, ENOMEM,
			  "the script needs more memory than its limit of %zu MiB",
			  script_of(L)->memory_limit / (size_t)MIB);
	else
		failure_from_lua(L, -1, ret);
	lua_pop(L, 1);
	return -ret->error.code;
}

static int evaluate(struct script *s, uint64_t timeout_ns, struct error *err)
{
	struct load load = {.script = s, .err = err};
	struct script_failure failure = {};
	struct deadline_scope scope;
	char duration[FORMAT_MAX], what[64];
	int r;

	(void)snprintf(what, sizeof(what), "the limit of %s for the top level of a file",
		       format_duration(timeout_ns, duration));
	deadline_enter(&scope, timeout_ns, ERROR_DEADLINE, what);
	lua_pushcfunction(s->L, open_state);
	lua_pushlightuserdata(s->L, &load);
	r = call_protected(s->L, 1, &failure);
	if (r == 0)
		r = load.r; /* err is set already */
	if (r == 0)
		r = call_protected(s->L, 0, &failure);
	if (r < 0 && error_is_set(&failure.error))
		locate_error(s, &failure, err);
	script_failure_done(&failure);
	deadline_leave(&scope);
	return r;
}

static size_t count_tests(struct script *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_groups; i++)
		n += s->groups[i]->n_tests;
	return n;
}

int script_load(const struct script_opts *opts, struct script **ret, struct error *err)
{
	struct script *s = xcalloc(1, sizeof(*s));
	int r;

	assert(fiber_self());
	s->path = xstrdup(opts->path);
	s->dir = path_dirname(opts->path);
	s->params = opts->params ? json_incref(opts->params) : json_object();
	s->seed = opts->seed;
	s->timeout_scale = opts->timeout_scale > 0 ? opts->timeout_scale : 1;
	s->scale_reason = opts->scale_reason ? xstrdup(opts->scale_reason) : NULL;
	s->memory_limit = opts->memory_limit_bytes ?: DEFAULT_MEMORY;
	s->check_only = opts->check_only;
	s->emit = opts->emit;
	s->userdata = opts->userdata;
	s->artifact_dir = opts->artifact_dir ? xstrdup(opts->artifact_dir) : NULL;
	s->declaring = group_new(s, "");
	s->L = lua_newstate(allocate, s);
	if (!s->L) {
		r = error_set(err, ERROR_USAGE, ENOMEM, "%s: no memory for a Lua state", s->path);
		goto fail;
	}
	*(struct script **)lua_getextraspace(s->L) = s;
	lua_atpanic(s->L, on_panic);
	r = evaluate(s, opts->load_timeout_ns ?: DEFAULT_LOAD_TIMEOUT, err);
	if (r == 0 && count_tests(s) == 0) {
		r = error_set(err, ERROR_USAGE, ENOENT, "%s declares no test", s->path);
		error_hint(err, "test(\"does something\", function() … end) declares one");
	}
	if (r == 0 && digest_setups(s) < 0)
		r = error_set(err, ERROR_USAGE, ENOMEM,
			      "%s: the script needs more memory than its limit of %zu MiB", s->path,
			      s->memory_limit / (size_t)MIB);
	if (r < 0)
		goto fail;
	s->phase = PHASE_IDLE;
	s->declaring = NULL;
	if (s->check_only)
		check_source(s);
	*ret = s;
	return 0;
fail:
	script_free(s);
	return r;
}

void script_free(struct script *s)
{
	if (!s)
		return;
	processes_end(s);
	if (s->L)
		lua_close(s->L);
	processes_free(s);
	assert(s->n_fibers == 0);
	for (size_t i = 0; i < s->n_groups; i++)
		group_free(s->groups[i]);
	free(s->groups);
	while (s->sources) {
		struct source *src = s->sources;

		s->sources = src->next;
		free(src->path);
		free(src->text);
		free(src);
	}
	json_decref(s->params);
	json_decref(s->setup_value);
	json_decref(s->files_read);
	json_decref(s->suite);
	json_decref(s->images);
	free(s->path);
	free(s->dir);
	free(s->scale_reason);
	free(s->artifact_dir);
	free(s);
}

/* --- declarations
 * --------------------------------------------------------------------------------- */

static json_t *group_json(const struct group *g)
{
	json_t *machines = json_array(), *tests = json_array(), *lines = json_array();

	for (size_t i = 0; i < g->n_machines; i++) {
		json_array_append(machines, g->machines[i]->spec);
		json_array_append_new(lines, json_integer(g->machines[i]->line));
	}
	for (size_t i = 0; i < g->n_tests; i++)
		json_array_append(tests, g->tests[i].json);
	return json_pack("{s:s, s:o, s:o, s:O?, s:b, s:o}", "name", g->name, "machines", machines,
			 "machine_lines", lines, "setup", g->setup, "teardown",
			 g->teardown_ref != LUA_NOREF, "tests", tests);
}

json_t *script_declarations(struct script *s)
{
	json_t *groups = json_array(), *all;

	for (size_t i = 0; i < s->n_groups; i++)
		json_array_append_new(groups, group_json(s->groups[i]));
	all = json_pack("{s:i, s:s}", "version", 1, "file", s->path);
	json_object_set_new(all, "suite", s->suite ? json_incref(s->suite) : json_object());
	json_object_set_new(all, "images", s->images ? json_incref(s->images) : json_object());
	json_object_set_new(all, "groups", groups);
	return all;
}

int script_bind_machine(struct script *s, const char *group, const char *name, struct machine *m,
			struct error *err)
{
	struct group *g = group_find(s, group);
	struct handle *h = g ? handle_find(g, name) : NULL;

	if (!h)
		return error_set(err, ERROR_BUG, ENOENT, "%s declares no machine '%s'%s%s", s->path,
				 name, group && *group ? " in group " : "", group ?: "");
	h->machine = m;
	return 0;
}

/* --- calling
 * ---------------------------------------------------------------------------------------- */

struct invocation {
	struct script *script;
	int fn_ref;
	json_t *argument; /* NULL: none */
	json_t **ret_value;
	const char *seed;
};

/* Protected, so that it may raise while it prepares. */
static int invoke(lua_State *L)
{
	struct invocation *i = lua_touserdata(L, 1);
	struct error *err;

	lua_settop(L, 0);
	sandbox_reseed(L, i->seed);
	err = lua_newuserdatauv(L, sizeof(*err), 0);
	memset(err, 0, sizeof(*err));
	lua_rawgeti(L, LUA_REGISTRYINDEX, i->fn_ref);
	if (i->argument && !json_is_null(i->argument))
		push_json(L, i->argument);
	else
		lua_pushnil(L);
	lua_call(L, 1, 1);
	if (i->ret_value) {
		*i->ret_value = json_from_lua(L, -1, err);
		if (!*i->ret_value) {
			error_prefix(err, "setup() returned what its tests cannot be given");
			raise_error(L, err, NULL);
		}
	}
	return 0;
}

/* One function at a time: fibers of it may be many, but the runner calls them in turn. */
static int run_function(struct script *s, struct group *g, enum script_phase phase,
			struct invocation *i, struct script_failure *ret)
{
	lua_State *L;
	int r, top;

	assert(fiber_self());
	assert(s->phase == PHASE_IDLE);
	if (!lua_checkstack(s->L, 10))
		return error_set(&ret->error, ERROR_USAGE, ENOMEM, "the script's stack is full");
	top = lua_gettop(s->L);
	s->phase = phase;
	s->running = g;
	lua_pushcfunction(s->L, invoke);
	lua_pushlightuserdata(s->L, i);
	L = s->L;
	r = call_protected(L, 1, ret);
	lua_settop(s->L, top);
	s->phase = PHASE_IDLE;
	s->running = NULL;
	return r;
}

static int no_such(struct script *s, const char *group, const char *what,
		   struct script_failure *ret)
{
	return error_set(&ret->error, ERROR_BUG, ENOENT, "%s has no %s in group '%s'", s->path,
			 what, group ?: "");
}

/* What it returned was wrong, after it had returned: its declaration is the place to look at. */
static void trace_setup(struct script *s, struct group *g, struct script_failure *ret)
{
	int line = (int)json_integer_value(json_object_get(g->setup, "line"));
	_cleanup_free_ char *text = source_line(s, s->path, line);

	json_decref(ret->trace);
	ret->trace = json_pack("[{s:s, s:i, s:o, s:s}]", "file", s->path, "line", line, "source",
			       json_text(text, strlen(text), 0), "function", "setup");
}

int script_call_setup(struct script *s, const char *group, json_t **ret_value,
		      struct script_failure *ret)
{
	struct group *g = group_find(s, group);
	json_t *value = NULL;
	struct invocation i = {.script = s, .ret_value = &value, .seed = "setup"};
	int r;

	if (!g)
		return no_such(s, group, "setup()", ret);
	if (ret_value)
		*ret_value = NULL;
	if (g->setup_ref == LUA_NOREF)
		return 0;
	i.fn_ref = g->setup_ref;
	r = run_function(s, g, PHASE_SETUP, &i, ret);
	if (r < 0 && json_array_size(ret->trace) == 0)
		trace_setup(s, g, ret);
	if (r < 0 || !ret_value)
		json_decref(value);
	else
		*ret_value = value;
	return r;
}

void note_file_read(struct script *s, const char *path)
{
	_cleanup_free_ char *absolute = NULL;
	char digest[DIGEST_HEX_MAX], stamp[DIGEST_HEX_MAX];

	if (s->phase != PHASE_SETUP)
		return;
	absolute = path_absolute(path);
	/* In this order: what is written in between is found out. */
	if (path_stamp(absolute, stamp, NULL) < 0 || path_digest(absolute, digest, NULL) < 0)
		stamp[0] = digest[0] = '\0';
	if (!s->files_read)
		s->files_read = json_array();
	json_array_append_new(s->files_read,
			      json_pack("{s:o, s:s, s:s, s:b}", "path",
					json_text(absolute, strlen(absolute), 0), "digest", digest,
					"stamp", stamp, "missing", (int)!path_exists(absolute)));
}

json_t *script_files_read(struct script *s)
{
	return s->files_read ? json_incref(s->files_read) : json_array();
}

int script_call_test(struct script *s, const char *group, const char *test, json_t *setup_value,
		     struct script_failure *ret)
{
	struct group *g = group_find(s, group);
	struct invocation i = {.script = s, .argument = setup_value, .seed = test};

	/* For the teardown that follows. */
	json_decref(s->setup_value);
	s->setup_value = setup_value ? json_incref(setup_value) : NULL;
	if (!g)
		return no_such(s, group, test, ret);
	for (size_t k = 0; k < g->n_tests; k++)
		if (str_eq(g->tests[k].name, test)) {
			i.fn_ref = g->tests[k].fn_ref;
			return run_function(s, g, PHASE_TEST, &i, ret);
		}
	return no_such(s, group, test, ret);
}

int script_call_teardown(struct script *s, const char *group, struct script_failure *ret)
{
	struct group *g = group_find(s, group);
	struct invocation i = {.script = s, .argument = s->setup_value, .seed = "teardown"};

	if (!g)
		return no_such(s, group, "teardown()", ret);
	if (g->teardown_ref == LUA_NOREF)
		return 0;
	i.fn_ref = g->teardown_ref;
	return run_function(s, g, PHASE_TEARDOWN, &i, ret);
}

void script_end_test(struct script *s)
{
	processes_end(s);
}
