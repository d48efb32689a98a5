/* SPDX-License-Identifier: MIT */
/* Loading a file: what it declares, what is told when it is wrong, `assay check`. */
#include "script-test.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

static const struct script_opts plain = {.timeout_scale = 1};

/* Many keys: by chance the order of a Lua table would hardly be the same twice. */
static const char ordered[] =
	"local t = {}\n"
	"for i = 1, 200 do t['key' .. i] = i end\n"
	"for k, v in pairs(t) do test(k .. ' ' .. math.random(1000) .. os.time() .. "
	"os.date(), print) end\n"
	"test('next ' .. next(t) .. os.clock() .. time.now(), print)\n"
	"local all, k = {}, nil\n"
	"for _ = 1, 5 do k = next(t, k); all[#all + 1] = k end\n"
	"test(table.concat(all, ' '), print)\n";

FIBER_TEST(declarations_are_the_same_each_time)
{
	char *first = NULL;

	for (int i = 0; i < 5; i++) {
		struct script *s = NULL;
		struct error err = {};
		json_t *d;
		char *text;

		check(load_text(ordered, plain, &s, &err) == 0);
		d = script_declarations(s);
		json_object_del(d, "file"); /* a folder of its own each time */
		text = json_dumps(d, JSON_COMPACT);
		json_decref(d);
		script_free(s);
		if (first) {
			check_str(text, first);
			free(text);
		} else {
			first = text;
		}
	}
	check_contains(first, "key1 key10 key100 key101 key102");
	free(first);
}

FIBER_TEST(declarations_have_what_was_declared)
{
	struct script *s = NULL;
	struct error err = {};
	json_t *d, *groups;
	char *text;

	check(load_text("suite { name = 'n', timeout = '90s', tags = 'a', priority = 3 }\n"
			"image('i', { from = 'tiny', packages = { 'curl' } })\n"
			"machine('m', { backend = 'fake', memory = '64M' })\n"
			"setup({ cache = '1d' }, print)\n"
			"teardown(print)\n"
			"test('a', { needs = { 'kvm' }, retries = 2, xfail = 'x', slow = true }, "
			"print)\n"
			"bench('b', { runs = 5, cold = true, isolation = 'boot' }, print)\n"
			"group('g', function() machine('m', { backend = 'fake' }) test('a', print) "
			"end)\n",
			plain, &s, &err) == 0);
	d = script_declarations(s);
	text = json_dumps(json_object_get(d, "suite"), JSON_COMPACT | JSON_SORT_KEYS);
	check_str(text, "{\"name\":\"n\",\"priority\":3,\"tags\":[\"a\"],\"timeout_ms\":90000}");
	free(text);
	text = json_dumps(json_object_get(d, "images"), JSON_COMPACT | JSON_SORT_KEYS);
	check_str(text, "{\"i\":{\"from\":\"tiny\",\"packages\":[\"curl\"]}}");
	free(text);
	groups = json_object_get(d, "groups");
	check(json_array_size(groups) == 2);
	/* test-digest.c looks at it. */
	check(json_object_del(json_object_get(json_array_get(groups, 0), "setup"), "digest") == 0);
	text = json_dumps(json_array_get(groups, 0), JSON_COMPACT | JSON_SORT_KEYS);
	check_str(text,
		  "{\"machine_lines\":[3],\"machines\":[{\"backend\":\"fake\",\"memory\":\"64M\","
		  "\"name\":\"m\"}],"
		  "\"name\":\"\",\"setup\":{\"cache\":\"1d\",\"line\":4,\"uses\":[]},\"teardown\":"
		  "true,"
		  "\"tests\":[{\"kind\":\"test\",\"line\":6,\"name\":\"a\",\"needs\":[\"kvm\"],"
		  "\"retries\":2,\"slow\":true,\"xfail\":\"x\"},"
		  "{\"cold\":true,\"isolation\":\"boot\",\"kind\":\"bench\",\"line\":7,"
		  "\"name\":\"b\",\"runs\":5}]}");
	free(text);
	text = json_dumps(json_array_get(groups, 1), JSON_COMPACT | JSON_SORT_KEYS);
	check_contains(text, "\"name\":\"g\",\"setup\":null,\"teardown\":false");
	free(text);
	json_decref(d);
	script_free(s);
}

/* A wrong file: the line that is wrong, the message, the hint. */
static const struct {
	const char *text, *message, *line, *hint;
} wrong[] = {
	{"local x = \nif then", "t.lua:2: unexpected symbol near 'if'", "2 | if then", ""},
	{"\n\nasert_eq(1, 1)", "t.lua:3: attempt to call a nil value (global 'asert_eq')",
	 "3 | asert_eq(1, 1)", "did you mean 'assert_eq'?"},
	{"machine('m', { backend = 'fake', memroy = 1 })", "unknown option 'memroy'",
	 "1 | machine(", "did you mean 'memory'?"},
	{"suite { tiemout = 1 }", "unknown option 'tiemout' for suite", "1 | suite",
	 "did you mean 'timeout'?"},
	{"test('t', { retrys = 1 }, print)", "unknown option 'retrys' for test", "1 | test",
	 "did you mean 'retries'?"},
	{"test('t', { needs = { 'kmv' } }, print)", "unknown capability 'kmv'", "1 | test",
	 "did you mean 'kvm'?"},
	{"test('t', print)\ntest('t', print)", "there are two tests 't'", "2 | test", ""},
	{"machine('m', { backend = 'fake' })\nmachine('m', { backend = 'fake' })",
	 "there are two machines 'm' (the other one in line 1)", "2 | machine", ""},
	{"local m = machine('m', { backend = 'fake' })\nm:succeed('true')",
	 "'succeed' cannot be called while the file is being declared", "2 | m:succeed",
	 "call it in setup()"},
	{"local m = machine('m', { backend = 'fake' })\nm:wait_for_untl('x')",
	 "unknown method 'wait_for_untl' for machine", "2 | m:wait", "did you mean"},
	{"group('g', function() group('h', print) end)", "groups do not nest", "1 | group", ""},
	{"error('own words')", "t.lua:1: own words", "1 | error", ""},
	{"error({ code = 1 })", "error() was called with a table: { code = 1 }", "1 | error", ""},
	{"skip('x')", "'skip' cannot be called while", "1 | skip", ""},
	{"require 'nowhere.to.be'", "module 'nowhere.to.be' does not exist", "1 | require", "lib/"},
	{"require '../../etc/passwd'", "does not exist", "", ""},
	{"local f = io.open('/etc/passwd')", "'io.open' is not available in test files",
	 "1 | local", "artifact()"},
	{"os.execute('true')", "'os.execute' is not available", "1 | os", "m:succeed()"},
	{"print(package.loadlib)", "'package.loadlib' is not available", "1 | print", "require()"},
	{"debug.getregistry()", "'debug.getregistry' is not available", "1 | debug", ""},
	{"load('\\27Lua')()", "attempt to call a nil value", "1 | load", ""},
	{"load('x = 1', 'c', 'b')", "there is no bytecode", "1 | load", ""},
	{"string.dump(print)", "attempt to call a nil value (field 'dump')", "1 | string", ""},
	{"loadfile('/etc/passwd')", "'loadfile' is not available", "1 | loadfile", "require()"},
	{"local x = 1", "t.lua declares no test", "", "test("},
};

FIBER_TEST(what_is_wrong_is_told_with_its_line)
{
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct error err = load_error(wrong[i].text, plain);

		check(err.kind == ERROR_USAGE);
		check_contains(err.message, wrong[i].message);
		check_contains(err.message, wrong[i].line);
		check_contains(err.hint, wrong[i].hint);
	}
}

FIBER_TEST(what_is_not_built_is_unsupported)
{
	struct error err = load_error("network('lan')", plain);

	check(err.kind == ERROR_UNSUPPORTED);
	check_contains(err.message, "network is not built yet");
}

FIBER_TEST(a_missing_file_and_a_nul_byte)
{
	struct script_opts opts = {.path = "/no/such.lua", .timeout_scale = 1};
	struct script *s = NULL;
	struct error err = {};
	char path[] = "/tmp/assay-nul-XXXXXX";
	int fd = mkstemp(path);

	check(script_load(&opts, &s, &err) < 0 && err.kind == ERROR_USAGE);
	check_contains(err.message, "/no/such.lua");
	error_clear(&err);
	check(fd >= 0 && write(fd, "x = 1\0y", 7) == 7);
	close(fd);
	opts.path = path;
	check(script_load(&opts, &s, &err) < 0 && err.kind == ERROR_USAGE);
	check_contains(err.message, "a NUL byte");
	unlink(path);
}

/* --- limits of the top level ---------------------------------------------------------------------
 */

FIBER_TEST(an_endless_top_level_is_stopped)
{
	static const char *const endless[] = {
		"while true do end",
		"while true do pcall(function() while true do end end) end",
		"while true do pcall(pcall, function() while true do end end) end",
		"local f = coroutine.wrap(function() while true do end end) f()",
		"local co = coroutine.create(function() while true do end end)\n"
		"while true do coroutine.resume(co) end",
		"(function() local function f() return f() end f() end)()",
		"(('x'):rep(1000)):gsub('x', function() while true do end end)",
		"table.sort({ 3, 2, 1 }, function() while true do end end)",
		"for _ in pairs(setmetatable({}, { __pairs = function() while true do end end })) "
		"do end",
		"load(function() while true do end end)",
		"setmetatable({}, { __index = function() while true do end end }).x = 1\n"
		"return setmetatable({}, { __index = function() while true do end end }).y",
		"group('g', function() while true do pcall(pcall, print) end end)",
	};
	struct script_opts opts = {.timeout_scale = 1, .load_timeout_ns = 40 * MS};

	for (size_t i = 0; i < ARRAY_SIZE(endless); i++) {
		uint64_t start = now_ns();
		struct error err = load_error(endless[i], opts);

		check(err.kind == ERROR_USAGE);
		check_contains(err.message, "the limit of 40 ms for the top level of a file");
		check(now_ns() - start < 5 * NS_PER_SEC);
	}
}

FIBER_TEST(a_memory_bomb_is_stopped)
{
	static const char *const bombs[] = {
		"local s = ('x'):rep(1 << 30)",
		"local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
		"local s = 'x' while true do s = s .. s end",
		"local t = {} for i = 1, 1e9 do t[i] = i end",
	};
	struct script_opts opts = {.timeout_scale = 1, .memory_limit_bytes = 16 * MIB};

	for (size_t i = 0; i < ARRAY_SIZE(bombs); i++) {
		struct error err = load_error(bombs[i], opts);

		check(err.kind == ERROR_USAGE);
		check_contains(err.message, "needs more memory than its limit of 16 MiB");
	}
}

FIBER_TEST(a_caught_memory_bomb_leaves_a_script_that_works)
{
	struct script_opts opts = {.timeout_scale = 1, .memory_limit_bytes = 16 * MIB};
	struct script *s = NULL;
	struct error err = {};

	check(load_text("for _ = 1, 20 do assert(not pcall(string.rep, 'x', 1 << 30)) end\n"
			"test('t', print)",
			opts, &s, &err) == 0);
	script_free(s);
}

FIBER_TEST(no_limit_at_all_is_too_small_for_a_state)
{
	struct script_opts opts = {.timeout_scale = 1};
	struct error err;

	/* Out of memory at every step of opening it: an error each time, never a crash. */
	for (size_t kib = 1; kib < 200; kib += 3) {
		struct script *s = NULL;

		memset(&err, 0, sizeof(err));
		opts.memory_limit_bytes = kib * KIB;
		if (load_text("test('t', print)", opts, &s, &err) == 0)
			script_free(s);
		else
			check(err.kind == ERROR_USAGE);
	}
}

/* --- check
 * ----------------------------------------------------------------------------------------- */

static void check_tells(const char *text, const char *want)
{
	struct told told = {};
	struct script_opts opts = {
		.timeout_scale = 1, .check_only = true, .emit = on_told, .userdata = &told};
	struct script *s = NULL;
	struct error err = {};

	if (load_text(text, opts, &s, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	script_free(s);
	check_str(buf_str(&told.text), want);
	buf_done(&told.text);
}

FIBER_TEST(check_finds_names_that_do_not_exist)
{
	check_tells("test('t', function()\n"
		    "  asert_eq(1, 1)\n"
		    "end)\n",
		    "error {\"hint\":\"did you mean 'assert_eq'?\",\"kind\":\"usage\",\"line\":2,"
		    "\"message\":\"there is no function 'asert_eq'\"}\n");
	check_tells(
		"local m = machine('m', { backend = 'fake' })\n"
		"test('t', function()\n"
		"  m:wait_for_unot('x')\n"
		"end)\n",
		"error {\"hint\":\"did you mean 'wait_for_unit'?\",\"kind\":\"usage\",\"line\":3,"
		"\"message\":\"there is no method 'wait_for_unot'\"}\n");
	check_tells(
		"local server = machine('s', { backend = 'fake', agent = false })\n"
		"test('t', function()\n"
		"  server:wait_for_console_text('x')\n"
		"  server:succeed('true')\n"
		"end)\n",
		"error {\"kind\":\"usage\",\"line\":4,\"message\":\"machine 's' has agent = false, "
		"but 'succeed' needs the agent\"}\n");
}

FIBER_TEST(check_invents_nothing)
{
	check_tells(
		"local function asert_eq(a) return a end\n"
		"function asert_ne() end\n"
		"local t = { sucseed = function() end, asert_lt = 1 }\n"
		"function t:wait_for_unot() end\n"
		"local s = [[ asert_gt(1) ]] --[==[ asert_le(1) ]==] .. \"asert_ge(\" -- trimm(1)\n"
		"test('t', function(trimm)\n"
		"  asert_eq(1) asert_ne() t.sucseed() t:sucseed() t:wait_for_unot() trimm(s)\n"
		"  t.asert_lt(1) ; (s):rep(3):upper() ; local lins = print ; lins(1)\n"
		"end)\n",
		"");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(declarations_are_the_same_each_time),
		cmocka_unit_test(declarations_have_what_was_declared),
		cmocka_unit_test(what_is_wrong_is_told_with_its_line),
		cmocka_unit_test(what_is_not_built_is_unsupported),
		cmocka_unit_test(a_missing_file_and_a_nul_byte),
		cmocka_unit_test(an_endless_top_level_is_stopped),
		cmocka_unit_test(a_memory_bomb_is_stopped),
		cmocka_unit_test(a_caught_memory_bomb_leaves_a_script_that_works),
		cmocka_unit_test(no_limit_at_all_is_too_small_for_a_state),
		cmocka_unit_test(check_finds_names_that_do_not_exist),
		cmocka_unit_test(check_invents_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
