/* SPDX-License-Identifier: MIT */
/* What a file declares at its top level: suite, groups, machines, images, setup, tests. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * A declaration becomes JSON at once: what the planning process tells the runner, and what each
 * worker that evaluates the file again compares with. So everything here must come out the same
 * each time: keys in sorted order, durations in milliseconds, nothing that was not written in the
 * file (the command line fills that in later). Functions stay in the registry, by reference.
 *
 * The options of a machine are not known here: machine_spec_parse() has the one table of them, and
 * its error is raised as it is. A table is parsed when it is declared, not when the machine is
 * made: a mistake should be told with its line, and by `assay check`.
 *
 * A declaration in a test's body would be seen by that one process only, so it is an error.
 */
/* How an option of suite(), test() or bench() is checked and stored. */
enum form {
	FORM_TEXT,
	FORM_MS, /* a duration, stored in ms */
	FORM_BOOL,
	FORM_COUNT,
	FORM_INT,
	FORM_TAGS,
	FORM_ISOLATION,
	FORM_NEEDS,
};
struct declared_option {
	const char *name;
	enum form form;
	const char *key; /* in the declarations */
};

static const struct declared_option suite_options[] = {
	{"name", FORM_TEXT, "name"},
	{"timeout", FORM_MS, "timeout_ms"},
	{"tags", FORM_TAGS, "tags"},
	{"priority", FORM_INT, "priority"},
	{"slow", FORM_BOOL, "slow"},
	{"isolation", FORM_ISOLATION, "isolation"},
	{NULL},
};
#define TEST_OPTIONS                                                                               \
	{"timeout", FORM_MS, "timeout_ms"}, {"tags", FORM_TAGS, "tags"},                           \
		{"slow", FORM_BOOL, "slow"}, {"isolation", FORM_ISOLATION, "isolation"},           \
		{"needs", FORM_NEEDS, "needs"}, {"retries", FORM_COUNT, "retries"},                \
	{                                                                                          \
		"xfail", FORM_TEXT, "xfail"                                                        \
	}
static const struct declared_option test_options[] = {TEST_OPTIONS, {NULL}};
static const struct declared_option bench_options[] = {
	TEST_OPTIONS,
	{"runs", FORM_COUNT, "runs"},
	{"warmup", FORM_COUNT, "warmup"},
	{"cold", FORM_BOOL, "cold"},
	{NULL},
};

static struct script *declaring(lua_State *L, const char *what)
{
	struct script *s = script_of(L);

	if (s->phase != PHASE_LOAD)
		raise_usage(L, "the file is evaluated in several processes, each needs to know it",
			    "%s() can only be called at the top level of a file", what);
	return s;
}

/* The name of a group or test at 1: not empty, and UTF-8, as reports and -k are. */
static const char *check_name(lua_State *L, const char *what)
{
	size_t len;
	const char *name = check_text(L, 1, what, "the name", &len);
	json_t *text;

	if (!*name)
		raise_usage(L, NULL, "%s: the name is empty", what);
	text = json_stringn(name, len); /* which takes nothing but UTF-8 */
	if (!text) {
		text = json_text(name, len, 0);
		lua_pushstring(L, json_string_value(text));
		json_decref(text);
		raise_usage(L, "save the file as UTF-8", "%s: the name '%s' is not UTF-8", what,
			    lua_tostring(L, -1));
	}
	json_decref(text);
	return name;
}

/* --- options ------------------------------------------------------------------------------------
 */

static const char *const isolations[] = {"fork", "boot", "shared", NULL};

/* One of a few known words, or the nearest of them in the hint. */
static void check_word(lua_State *L, const char *word, const char *kind, const char *what,
		       const char *const *known)
{
	for (const char *const *k = known; *k; k++)
		if (str_eq(*k, word))
			return;
	raise_unknown(L, kind, word, what, known);
}

/* A list of texts, or one text, at the top of the stack. */
static json_t *text_list(lua_State *L, struct call *c, const char *what, const char *option,
			 const char *const *known)
{
	int list = lua_gettop(L);

	c->json = json_array();
	if (lua_type(L, list) == LUA_TSTRING) {
		lua_createtable(L, 1, 0);
		lua_pushvalue(L, list);
		lua_rawseti(L, -2, 1);
		list = lua_gettop(L);
	}
	if (!lua_istable(L, list))
		raise_usage(L, NULL, "%s: option '%s' must be a list of texts, not %s", what,
			    option, luaL_typename(L, list));
	for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
		const char *text = check_text(L, -1, what, option, NULL);

		if (known)
			check_word(L, text, "capability", what, known);
		json_array_append_new(c->json, json_text(text, strlen(text), 0));
		lua_pop(L, 1);
	}
	return TAKE_PTR(c->json);
}

/* Options are read strictly, "3" is no count: a mistake here would change what is tested. */
static lua_Integer whole_number(lua_State *L, const char *what, const char *option, lua_Integer min)
{
	int is_number;
	lua_Integer n = lua_tointegerx(L, -1, &is_number);

	if (!is_number || lua_type(L, -1) != LUA_TNUMBER || n < min || n > 1000000)
		raise_usage(L, NULL, "%s: option '%s' must be a whole number%s, not %s", what,
			    option, min == 0 ? " of 0 or more" : "", luaL_tolstring(L, -1, NULL));
	return n;
}

/* The value on top of the stack in the form that the declarations have. */
static json_t *option_to_json(lua_State *L, struct call *c, const char *what,
			      const struct declared_option *o)
{
	char label[96];
	const char *text;

	switch (o->form) {
	case FORM_MS:
		(void)snprintf(label, sizeof(label), "%s: option '%s'", what, o->name);
		return json_integer((json_int_t)(check_duration(L, -1, label) / NS_PER_MS));
	case FORM_BOOL:
		if (!lua_isboolean(L, -1))
			raise_usage(L, NULL, "%s: option '%s' must be true or false, not %s", what,
				    o->name, luaL_typename(L, -1));
		return json_boolean(lua_toboolean(L, -1));
	case FORM_COUNT:
		return json_integer(whole_number(L, what, o->name, 0));
	case FORM_INT:
		return json_integer(whole_number(L, what, o->name, -1000000));
	case FORM_TAGS:
		return text_list(L, c, what, o->name, NULL);
	case FORM_NEEDS:
		return text_list(L, c, what, o->name, machine_cap_names());
	case FORM_ISOLATION:
		text = check_text(L, -1, what, o->name, NULL);
		check_word(L, text, "isolation", what, isolations);
		return json_string(text);
	case FORM_TEXT:
		break;
	}
	text = check_text(L, -1, what, o->name, NULL);
	return json_text(text, strlen(text), 0);
}

/* Adds the options of the table at idx to c->detail, which is used as a place for it. */
static void declared_options(lua_State *L, int idx, struct call *c, const char *what,
			     const struct declared_option *options)
{
	const char *names[16];
	size_t n = 0;

	for (const struct declared_option *o = options; o->name; o++)
		names[n++] = o->name;
	names[n] = NULL;
	if (!lua_istable(L, idx))
		raise_usage(L, NULL, "%s: options must be a table, not %s", what,
			    luaL_typename(L, idx));
	push_sorted_keys(L, idx);
	for (lua_Integer i = 1, keys = lua_gettop(L); lua_rawgeti(L, (int)keys, i); i++) {
		const struct declared_option *o = options;
		const char *key = luaL_tolstring(L, -1, NULL);

		while (o->name && !str_eq(o->name, key))
			o++;
		if (!o->name)
			raise_unknown(L, "option", key, what, names);
		lua_pop(L, 1);
		lua_rawget(L, idx);
		call_detail(c, o->key, option_to_json(L, c, what, o));
		lua_settop(L, (int)keys);
	}
}

/* --- suite, group, setup, teardown
 * ---------------------------------------------------------------- */

static int declare_suite(lua_State *L)
{
	struct script *s = declaring(L, "suite");
	struct call *c;

	if (s->suite_seen)
		raise_usage(L, NULL, "suite() is called twice in this file");
	lua_settop(L, 1);
	c = call_push(L, "suite");
	c->detail = json_object();
	declared_options(L, 1, c, "suite", suite_options);
	s->suite = TAKE_PTR(c->detail);
	s->suite_seen = true;
	return 0;
}

static int declare_group(lua_State *L)
{
	struct script *s = declaring(L, "group");
	const char *name = check_name(L, "group");
	int status;

	check_function(L, 2, "group", "the body");
	if (s->declaring != s->groups[0])
		raise_usage(L, NULL, "group '%s' is within group '%s': groups do not nest", name,
			    s->declaring->name);
	if (group_find(s, name))
		raise_usage(L, NULL, "there are two groups '%s'", name);
	lua_settop(L, 2);
	s->declaring = group_new(s, name);
	/* Even if the body fails: pcall(group, …) must not leave us inside of it. */
	status = call_traced(L, 0, 0);
	s->declaring = s->groups[0];
	return status == LUA_OK ? 0 : lua_error(L);
}

static int declare_setup(lua_State *L)
{
	struct script *s = declaring(L, "setup");
	bool has_options = lua_istable(L, 1);
	struct call *c;
	static const struct declared_option options[] = {{"cache", FORM_TEXT, "cache"}, {NULL}};

	check_function(L, has_options ? 2 : 1, "setup", "the body");
	if (s->declaring->setup_ref != LUA_NOREF)
		raise_usage(L, NULL, "setup() is called twice%s",
			    s->declaring == s->groups[0] ? "" : " in a group");
	lua_settop(L, has_options ? 2 : 1);
	c = call_push(L, "setup");
	call_detail(c, "line", json_integer(current_line(L, NULL, 0)));
	if (has_options) {
		declared_options(L, 1, c, "setup", options);
		lua_getfield(L, 1, "cache");
		if (!lua_isnil(L, -1))
			check_duration(L, -1, "setup: option 'cache'");
	}
	lua_pushvalue(L, has_options ? 2 : 1);
	s->declaring->setup_ref = luaL_ref(L, LUA_REGISTRYINDEX);
	s->declaring->setup = TAKE_PTR(c->detail);
	return 0;
}

static int declare_teardown(lua_State *L)
{
	struct script *s = declaring(L, "teardown");

	check_function(L, 1, "teardown", "the body");
	if (s->declaring->teardown_ref != LUA_NOREF)
		raise_usage(L, NULL, "teardown() is called twice");
	lua_settop(L, 1);
	s->declaring->teardown_ref = luaL_ref(L, LUA_REGISTRYINDEX);
	return 0;
}

/* --- tests
 * ------------------------------------------------------------------------------------------ */

static int add_test(lua_State *L, const char *kind, const struct declared_option *options)
{
	struct script *s = declaring(L, kind);
	const char *name = check_name(L, kind);
	bool has_options = !lua_isfunction(L, 2) && lua_gettop(L) >= 3;
	struct group *g = s->declaring;
	struct call *c;
	int ref;

	check_function(L, has_options ? 3 : 2, kind, "the body");
	for (size_t i = 0; i < g->n_tests; i++)
		if (str_eq(g->tests[i].name, name))
			raise_usage(L, NULL, "there are two tests '%s'", name);
	lua_settop(L, has_options ? 3 : 2);
	c = call_push(L, kind);
	call_detail(c, "name", json_text(name, strlen(name), 0));
	call_detail(c, "kind", json_string(kind));
	call_detail(c, "line", json_integer(current_line(L, NULL, 0)));
	if (has_options)
		declared_options(L, 2, c, kind, options);
	/* From here on nothing raises: the registry may run out of memory, C aborts. */
	lua_pushvalue(L, has_options ? 3 : 2);
	ref = luaL_ref(L, LUA_REGISTRYINDEX);
	g->tests = xrealloc(g->tests, (g->n_tests + 1) * sizeof(*g->tests));
	g->tests[g->n_tests++] = (struct test_decl){
		.name = xstrdup(name), .json = TAKE_PTR(c->detail), .fn_ref = ref};
	return 0;
}

static int declare_test(lua_State *L)
{
	return add_test(L, "test", test_options);
}

static int declare_bench(lua_State *L)
{
	return add_test(L, "bench", bench_options);
}

/* --- machines, images
 * -------------------------------------------------------------------------------- */

/* The table at 2 as JSON in c->json. */
static void table_argument(lua_State *L, struct call *c, const char *what)
{
	if (lua_isnoneornil(L, 2)) {
		c->json = json_object();
		return;
	}
	if (!lua_istable(L, 2))
		raise_usage(L, NULL, "%s: options must be a table, not %s", what,
			    luaL_typename(L, 2));
	c->json = json_from_lua(L, 2, &c->err);
	if (!c->json) {
		error_prefix(&c->err, "%s: option", what);
		raise_error(L, &c->err, NULL);
	}
	if (!json_is_object(c->json))
		raise_usage(L, NULL, "%s: options have names: { image = \"debian-13\" }", what);
}

/* The handle is the same object each time; which machine it stands for is known in a test only
 * (script_bind_machine). */
static int declare_machine(lua_State *L)
{
	struct script *s = declaring(L, "machine");
	const char *name = check_text(L, 1, "machine", "the name", NULL);
	struct machine_spec *spec = NULL;
	struct handle *h;
	struct call *c;

	lua_settop(L, 2);
	h = handle_find(s->declaring, name);
	if (h)
		raise_usage(L, NULL, "there are two machines '%s' (the other one in line %u)", name,
			    h->line);
	c = call_push(L, "machine");
	table_argument(L, c, "machine");
	if (json_object_get(c->json, "name"))
		raise_usage(L, NULL, "machine '%s': the name is the first argument", name);
	json_object_set_new(c->json, "name", json_text(name, strlen(name), 0));
	if (machine_spec_parse(c->json, &spec, &c->err) < 0)
		raise_error(L, &c->err, NULL);
	machine_spec_free(spec);

	h = xcalloc(1, sizeof(*h));
	h->script = s;
	h->group = s->declaring;
	h->name = xstrdup(name);
	h->spec = TAKE_PTR(c->json);
	h->line = (unsigned)current_line(L, NULL, 0);
	s->declaring->machines =
		xrealloc(s->declaring->machines,
			 (s->declaring->n_machines + 1) * sizeof(*s->declaring->machines));
	s->declaring->machines[s->declaring->n_machines++] = h;
	push_handle(L, h);
	return 1;
}

/* Only a recipe; whether it can be built is the image layer's to say. The name is returned so that
 * `image = image("web", { … })` can be written. */
static int declare_image(lua_State *L)
{
	static const char *const keys[] = {"from", "packages", "files", "run", "size", NULL};
	struct script *s = declaring(L, "image");
	const char *name = check_text(L, 1, "image", "the name", NULL);
	struct call *c;
	const char *key;
	json_t *value;

	lua_settop(L, 2);
	c = call_push(L, "image");
	table_argument(L, c, "image");
	json_object_foreach(c->json, key, value) check_word(L, key, "option", "image", keys);
	if (!json_is_string(json_object_get(c->json, "from")))
		raise_usage(L, "from = \"debian-13\"", "image '%s': option 'from' is missing",
			    name);
	if (json_object_get(s->images, name))
		raise_usage(L, NULL, "there are two images '%s'", name);
	if (!s->images)
		s->images = json_object();
	json_object_set_new(s->images, name, TAKE_PTR(c->json));
	lua_pushvalue(L, 1);
	return 1;
}

const struct binding declare_bindings[] = {
	{"suite", declare_suite},     {"setup", declare_setup}, {"teardown", declare_teardown},
	{"group", declare_group},     {"test", declare_test},	{"bench", declare_bench},
	{"machine", declare_machine}, {"image", declare_image}, {NULL},
};
