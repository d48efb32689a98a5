/* SPDX-License-Identifier: MIT */
/* What changes the digest of a setup, and what does not; what tests can see of what it changed. */
#include "script-test.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

#define TEST "test('t', function() end)\n"

static const struct script_opts plain = {.timeout_scale = 1};

/* The member "setup" of the first group's declaration. */
static json_t *setup_of(const char *text, struct script_opts opts)
{
	struct script *s = NULL;
	struct error err = {};
	json_t *d, *setup;

	check(load_text(text, opts, &s, &err) == 0);
	d = script_declarations(s);
	setup = json_incref(
		json_object_get(json_array_get(json_object_get(d, "groups"), 0), "setup"));
	json_decref(d);
	script_free(s);
	return setup;
}

static bool same(const char *a, const char *b)
{
	json_t *x = setup_of(a, plain), *y = setup_of(b, plain);
	bool equal = json_equal(json_object_get(x, "digest"), json_object_get(y, "digest"));

	check(json_string_length(json_object_get(x, "digest")) == 64);
	json_decref(x);
	json_decref(y);
	return equal;
}

FIBER_TEST(lines_and_tests_do_not_matter)
{
	check(same("setup(function() log('x') end)\n" TEST,
		   "-- a comment\n\nsetup(function()\n\n  log('x')\nend)\n" TEST));
	check(same("setup(function() log('x') end)\ntest('a', function() log(1) end)\n",
		   "setup(function() log('x') end)\ntest('a', function() log(2) end)\n"));
	/* A helper that only tests call, a local and a global one; a table only they use. */
	check(same("local function h() return 1 end\nfunction g() return 1 end\n"
		   "setup(function() log('x') end)\ntest('t', function() h() g() end)\n",
		   "local function h() return 2 end\nfunction g() return 2 end\n"
		   "setup(function() log('x') end)\ntest('t', function() h() g() end)\n"));
	/* Names of locals are not what happens. */
	check(same("setup(function() local a = 1 log(a) end)\n" TEST,
		   "setup(function() local b = 1 log(b) end)\n" TEST));
	/* The same at each load, whatever is where in memory. */
	check(same("t = {} for i = 1, 50 do t['k' .. i] = { i, string.rep } end\n"
		   "t.t = t\nsetup(function() log(t, assert_eq, os.time()) end)\n" TEST,
		   "t = {} for i = 50, 1, -1 do t['k' .. i] = { i, string.rep } end\n"
		   "t.t = t\nsetup(function() log(t, assert_eq, os.time()) end)\n" TEST));
}

FIBER_TEST(all_that_setup_reaches_matters)
{
	check(!same("setup(function() log('x') end)\n" TEST,
		    "setup(function() log('y') end)\n" TEST));
	check(!same("setup(function() log(1) end)\n" TEST, "setup(function() log(2) end)\n" TEST));
	check(!same("setup(function() log(1) end)\n" TEST,
		    "setup(function() log(1.0) end)\n" TEST));
	/* Upvalues, globals, functions of functions. */
	check(!same("local a = 1\nsetup(function() log(a) end)\n" TEST,
		    "local a = 2\nsetup(function() log(a) end)\n" TEST));
	check(!same("a = 1\nsetup(function() log(a) end)\n" TEST,
		    "a = 2\nsetup(function() log(a) end)\n" TEST));
	check(!same("local function f() return 1 end\nlocal function g() return f() end\n"
		    "setup(function() g() end)\n" TEST,
		    "local function f() return 2 end\nlocal function g() return f() end\n"
		    "setup(function() g() end)\n" TEST));
	check(!same(
		"function f() return 1 end\nsetup(function() retry(function() f() end) end)\n" TEST,
		"function f() return 2 end\nsetup(function() retry(function() f() end) "
		"end)\n" TEST));
	/* Tables, their metatables, methods of texts. */
	check(!same("t = { a = { 1, 2 } }\nsetup(function() log(t.a) end)\n" TEST,
		    "t = { a = { 1, 3 } }\nsetup(function() log(t.a) end)\n" TEST));
	check(!same("t = setmetatable({}, { __index = function() return 1 end })\n"
		    "setup(function() log(t.a) end)\n" TEST,
		    "t = setmetatable({}, { __index = function() return 2 end })\n"
		    "setup(function() log(t.a) end)\n" TEST));
	check(!same(
		"function string.x() return 1 end\nsetup(function() log((''):x()) end)\n" TEST,
		"function string.x() return 2 end\nsetup(function() log((''):x()) end)\n" TEST));
	/* Which machine, which function of ours. */
	check(!same(
		"m = machine('m', { backend = 'fake' }) n = machine('n', { backend = 'fake' })\n"
		"local x = m\nsetup(function() x:start() end)\n" TEST,
		"m = machine('m', { backend = 'fake' }) n = machine('n', { backend = 'fake' })\n"
		"local x = n\nsetup(function() x:start() end)\n" TEST));
	check(!same("local f = assert_eq\nsetup(function() f(1, 1) end)\n" TEST,
		    "local f = assert_ne\nsetup(function() f(1, 1) end)\n" TEST));
	/* Globals by a name that is not in the code. */
	check(!same("a = 1\nsetup(function() log(_G['a' .. '']) end)\n" TEST,
		    "a = 2\nsetup(function() log(_G['a' .. '']) end)\n" TEST));
	check(!same("a = 1\nsetup(function() local e = _ENV log(e['a' .. '']) end)\n" TEST,
		    "a = 2\nsetup(function() local e = _ENV log(e['a' .. '']) end)\n" TEST));
	check(!same("a = 1\nsetup(function() return (function() return _ENV['a' .. ''] end)() "
		    "end)\n" TEST,
		    "a = 2\nsetup(function() return (function() return _ENV['a' .. ''] end)() "
		    "end)\n" TEST));
	check(!same("a = 1\nsetup(function() load('return ' .. 'a')() end)\n" TEST,
		    "a = 2\nsetup(function() load('return ' .. 'a')() end)\n" TEST));
	check(!same("setmetatable(_G, { __index = { f = function() return 1 end } })\n"
		    "setup(function() f() end)\n" TEST,
		    "setmetatable(_G, { __index = { f = function() return 2 end } })\n"
		    "setup(function() f() end)\n" TEST));
	/* What cannot be described: the whole text counts. */
	check(!same("c = coroutine.wrap(function() end)\nsetup(function() c() end)\n" TEST,
		    "c = coroutine.wrap(function() end)\nsetup(function() c() end)\n" TEST
		    "-- x\n"));
	check(!same("t = { [{}] = 1, [print] = 2 }\nsetup(function() log(t) end)\n" TEST,
		    "t = { [{}] = 1, [print] = 2 }\nsetup(function() log(t) end)\n" TEST "-- x\n"));
}

FIBER_TEST(many_constants_and_nesting)
{
	_cleanup_buf_ struct buf a = {}, b = {};

	/* Above 255 constants a global is no longer named in the instruction. */
	buf_puts(&a, "late = 1\nsetup(function()\n");
	for (int i = 0; i < 400; i++)
		buf_printf(&a, "log('text %d')\n", i);
	buf_puts(&a, "log(late) end)\n" TEST);
	buf_append(&b, a.data, a.len);
	*strchr(buf_str(&b), '1') = '2';
	check(same(buf_str(&a), buf_str(&a)));
	check(!same(buf_str(&a), buf_str(&b)));
}

static void check_uses(const char *text, const char *uses)
{
	json_t *setup = setup_of(text, plain);
	char *got = json_dumps(json_object_get(setup, "uses"), JSON_COMPACT);

	check_str(got, uses);
	free(got);
	json_decref(setup);
}

FIBER_TEST(uses)
{
	check_uses("setup(function() log(1) end)\n" TEST, "[]");
	check_uses("local r = math.random\nsetup(function() log(r(3)) end)\n" TEST, "[\"random\"]");
	check_uses("m = machine('m', { backend = 'fake' })\n"
		   "setup(function() m:copy_from_host('a', '/a') end)\n" TEST,
		   "[\"files\"]");
	check_uses("m = machine('m', { backend = 'fake' })\nlocal how = { 'copy_from_host' }\n"
		   "setup(function() m[how[1]](m, 'a', '/a') end)\n" TEST,
		   "[\"files\"]");
	check_uses("setup(function() require('x') end)\n" TEST, "[\"files\"]");
	check_uses("setup(function() host:succeed('true') end)\n" TEST, "[\"host\"]");
}

FIBER_TEST(params_count_where_they_are_read)
{
	json_t *one = json_pack("{s:s}", "p", "1"), *two = json_pack("{s:s}", "p", "2"), *a, *b;
	const char *reads = "setup(function() log(params.p) end)\n" TEST;
	const char *may = "c = coroutine.wrap(function() log(params.p) end)\n"
			  "setup(function() c() end)\n" TEST;
	const char *does_not = "setup(function() log('p') end)\n" TEST;

	a = setup_of(reads, (struct script_opts){.params = one});
	b = setup_of(reads, (struct script_opts){.params = two});
	check(!json_equal(a, b));
	json_decref(a);
	json_decref(b);
	a = setup_of(may, (struct script_opts){.params = one});
	b = setup_of(may, (struct script_opts){.params = two});
	check(!json_equal(a, b));
	json_decref(a);
	json_decref(b);
	a = setup_of(does_not, (struct script_opts){.params = one});
	b = setup_of(does_not, (struct script_opts){.params = two});
	check(json_equal(a, b));
	json_decref(a);
	json_decref(b);
	json_decref(one);
	json_decref(two);
}

/* What setup() changes of what the test can see, as a text. */
static char *changed_by(const char *text)
{
	struct script *s = NULL;
	struct error err = {};
	struct script_failure failure = {};
	json_t *before, *after, *names;
	char *result;

	check(load_text(text, plain, &s, &err) == 0);
	before = script_visible_values(s, "");
	check(script_call_setup(s, "", NULL, &failure) == 0);
	after = script_visible_values(s, "");
	names = script_values_changed(before, after);
	result = json_dumps(names, JSON_COMPACT);
	json_decref(names);
	json_decref(before);
	json_decref(after);
	script_free(s);
	return result;
}

static void check_changed(const char *text, const char *names)
{
	_cleanup_free_ char *got = changed_by(text);

	check_str(got, names);
}

FIBER_TEST(changes_that_tests_can_see)
{
	check_changed("local v\nsetup(function() v = 1 end)\ntest('t', function() log(v) end)\n",
		      "[\"local 'v'\"]");
	check_changed("setup(function() v = 1 end)\ntest('t', function() log(v) end)\n",
		      "[\"global 'v'\"]");
	check_changed("local t = {}\nsetup(function() t.a = { 1 } end)\n"
		      "test('t', function() log(t) end)\n",
		      "[\"local 't'\"]");
	/* Through a function that the test calls, and one in a table; each variable once. */
	check_changed("local n = 0\nlocal function f() return n end\n"
		      "setup(function() n = 1 end)\ntest('t', function() f() end)\n",
		      "[\"local 'n'\"]");
	check_changed("local n = 0\nlocal h = { f = function() return n end }\n"
		      "setup(function() n = 1 end)\ntest('t', function() h.f() end)\n",
		      "[\"local 'n'\"]");
	check_changed("local n = 0\nsetup(function() n = 1 end)\n"
		      "teardown(function() log(n) end)\n" TEST,
		      "[\"local 'n'\"]");
	/* Its own affair, or nobody else's. */
	check_changed("local v, w\nsetup(function() v = 1 w = v x = 2 end)\n"
		      "test('t', function() local w, x = 1, 2 log(w, x) end)\n",
		      "[]");
	/* Two of one name: the right one. */
	check_changed("local a\ndo local a setup(function() a = 1 end) end\n"
		      "test('t', function() log(a) end)\n",
		      "[]");
}

FIBER_TEST(files_that_setup_reads)
{
	struct script *s = NULL;
	struct error err = {};
	struct script_failure failure = {};
	char dir[] = "/tmp/assay-digest-XXXXXX", digest[DIGEST_HEX_MAX];
	_cleanup_free_ char *test = NULL, *module = NULL, *early = NULL;
	const char *text = "require('early')\n"
			   "setup(function() require('early') require('late') end)\n" TEST;
	json_t *files, *file;

	check(mkdtemp(dir) != NULL);
	test = path_join(dir, "t.lua");
	early = path_join(dir, "early.lua");
	module = path_join(dir, "late.lua");
	check(file_write_atomic(test, text, strlen(text), 0644, NULL) == 0);
	check(file_write_atomic(early, "return 1", 8, 0644, NULL) == 0);
	check(file_write_atomic(module, "return 2", 8, 0644, NULL) == 0);
	check(script_load(&(struct script_opts){.path = test}, &s, &err) == 0);
	check(script_call_setup(s, "", NULL, &failure) == 0);
	files = script_files_read(s);
	/* What the top level has read is in the setup's digest. */
	check(json_array_size(files) == 1);
	file = json_array_get(files, 0);
	check_str(json_string_value(json_object_get(file, "path")), module);
	check(path_digest(module, digest, NULL) == 0);
	check_str(json_string_value(json_object_get(file, "digest")), digest);
	check(path_stamp(module, digest, NULL) == 0);
	check_str(json_string_value(json_object_get(file, "stamp")), digest);
	json_decref(files);
	script_free(s);
	check(path_remove_tree(dir, NULL) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_and_tests_do_not_matter),
		cmocka_unit_test(all_that_setup_reaches_matters),
		cmocka_unit_test(many_constants_and_nesting),
		cmocka_unit_test(uses),
		cmocka_unit_test(params_count_where_they_are_read),
		cmocka_unit_test(changes_that_tests_can_see),
		cmocka_unit_test(files_that_setup_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
