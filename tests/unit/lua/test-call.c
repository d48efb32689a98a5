/* SPDX-License-Identifier: MIT */
/* Calling a script's functions: failures, what cannot be swallowed, limits of time and stack. */
#include "script-test.h"

#include "loop/fiber.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

/* --- failures ------------------------------------------------------------------------------------
 */

FIBER_TEST(a_failure_has_kind_message_detail_and_trace)
{
	struct script_failure f = {};
	json_t *frame;

	check(run_body("local function look()\n"
		       "  assert_eq({ 1 }, { 2 }, 'list')\n"
		       "end\n"
		       "look()",
		       (struct script_opts){}, SOON, &f) < 0);
	check(f.error.kind == ERROR_EXPECT);
	check_str(f.error.message, "list: got { 1 }, wanted { 2 } (they differ at [1])");
	check_str(json_string_value(json_object_get(f.detail, "want")), "{ 2 }");
	frame = json_array_get(f.trace, 0);
	check(json_integer_value(json_object_get(frame, "line")) == 3);
	check_str(json_string_value(json_object_get(frame, "source")),
		  "assert_eq({ 1 }, { 2 }, 'list')");
	check_str(json_string_value(json_object_get(frame, "function")), "look");
	check_contains(json_string_value(json_object_get(frame, "file")), "/t.lua");
	frame = json_array_get(f.trace, 1);
	check(json_integer_value(json_object_get(frame, "line")) == 5);
	script_failure_done(&f);
}

FIBER_TEST(the_trace_goes_on_behind_a_fiber)
{
	struct script_failure f = {};

	check(run_body("parallel(function()\n"
		       "  fail_test('in a fiber')\n"
		       "end)",
		       (struct script_opts){}, SOON, &f) < 0);
	check(json_array_size(f.trace) >= 2);
	check(json_integer_value(json_object_get(json_array_get(f.trace, 0), "line")) == 3);
	check(json_integer_value(json_object_get(json_array_get(f.trace, 1), "line")) == 2);
	script_failure_done(&f);
}

FIBER_TEST(kinds)
{
	static const struct {
		const char *body;
		enum error_kind kind;
		const char *message;
	} cases[] = {
		{"error('words')", ERROR_EXPECT, "words"},
		{"error({ message = 'table', kind = 'infra' })", ERROR_INFRA, "table"},
		{"error()", ERROR_EXPECT, "error() was called without a message"},
		{"assert(false, 'asserted')", ERROR_EXPECT, "asserted"},
		{"local x; x.y = 1", ERROR_USAGE, "attempt to index a nil value (local 'x')"},
		{"return 1 + {}", ERROR_USAGE, "attempt to perform arithmetic"},
		{"string.rep()", ERROR_USAGE, "bad argument #1"},
		{"fail_test('told')", ERROR_EXPECT, "told"},
		{"skip('why not')", ERROR_SKIP, "why not"},
		{"local function f() return 1 + f() end f()", ERROR_USAGE, "stack overflow"},
		{"host:succeed('true')", ERROR_UNSUPPORTED, "host:succeed is not built yet"},
		{"log(setmetatable({}, { __tostring = function() end }))", ERROR_EXPECT,
		 "'__tostring' must return a string"},
		{"math.randoom()", ERROR_USAGE, "nil value (field 'randoom')"},
		{"return host.nothing", ERROR_USAGE, "a host has no 'nothing'"},
		{"host.x = 1", ERROR_USAGE, "cannot be given fields"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char message[512];
		enum error_kind kind = body_kind(cases[i].body, SOON, message);

		if (kind != cases[i].kind)
			fprintf(stderr, "%s: %s: %s\n", cases[i].body, error_kind_name(kind),
				message);
		check(kind == cases[i].kind);
		check_contains(message, cases[i].message);
	}
}

/* --- what nobody may catch
 * -------------------------------------------------------------------------- */

static const char *const swallowers[] = {
	"while true do pcall(%s) end",
	"while true do xpcall(%s, function() return 1 end) end",
	"while true do xpcall(%s, print, 1) end",
	"while true do pcall(pcall, %s) end",
	"while true do pcall(coroutine.wrap(%s)) end",
	"while true do coroutine.resume(coroutine.create(%s)) end",
	"while true do local co = coroutine.create(%s) coroutine.resume(co) coroutine.close(co) "
	"end",
	"while true do pcall(parallel, %s) end",
	"while true do pcall(retry, { delay = 0 }, %s) end",
	"while true do pcall(subtest, 's', %s) end",
	"while true do pcall(assert_error, %s) end",
	"while true do pcall(function() local x <close> = setmetatable({}, { __close = %s }) end) "
	"end",
	"while true do pcall(string.gsub, 'x', 'x', %s) end",
	"while true do pcall(re.gsub, 'x', 'x', %s) end",
	"while true do pcall(table.sort, { 2, 1 }, %s) end",
	"while true do load(%s) end",
	"while true do pcall(polling_condition({ check = %s }).during, nil, print) end\n"
	"while true do pcall(%s) end",
};

FIBER_TEST(skip_cannot_be_swallowed)
{
	for (size_t i = 0; i < ARRAY_SIZE(swallowers); i++) {
		const char *skip = "function() skip('enough') end";
		_cleanup_free_ char *body = xasprintf(swallowers[i], skip, skip);
		char message[512];
		enum error_kind kind;

		if (strstr(swallowers[i], "during")) /* without a machine of its own */
			continue;
		kind = body_kind(body, SOON, message);
		if (kind != ERROR_SKIP)
			fprintf(stderr, "%s: %s: %s\n", body, error_kind_name(kind), message);
		check(kind == ERROR_SKIP);
	}
}

FIBER_TEST(a_deadline_cannot_be_swallowed)
{
	for (size_t i = 0; i < ARRAY_SIZE(swallowers); i++) {
		const char *loop = "function() while true do end end";
		_cleanup_free_ char *body = xasprintf(swallowers[i], loop, loop);
		uint64_t start = now_ns();
		char message[512];
		enum error_kind kind = body_kind(body, 20 * MS, message);

		if (kind != ERROR_DEADLINE)
			fprintf(stderr, "%s: %s: %s\n", body, error_kind_name(kind), message);
		check(kind == ERROR_DEADLINE);
		check_contains(message, "the test's time-out passed");
		check(now_ns() - start < 5 * NS_PER_SEC);
	}
}

FIBER_TEST(nobody_can_make_or_change_such_an_error)
{
	char message[512];

	/* Not made by hand … */
	check(body_kind("error({ kind = 'skip', message = 'forged' })", SOON, message) ==
	      ERROR_EXPECT);
	check(body_kind("local ok = pcall(error, { kind = 'deadline' }) assert(not ok)", SOON,
			message) == ERROR_NONE);
	/* … nor out of one of ours. */
	check(body_kind("local ok, e = pcall(fail_test, 'x')\n"
			"assert(not pcall(setmetatable, e, {}))\n"
			"assert_eq(getmetatable(e), 'error')\n"
			"e.kind = 'skip' error(e)",
			SOON, message) == ERROR_EXPECT);
}

FIBER_TEST(finalizers_of_the_script_never_run)
{
	check(body_kind("local ran = false\n"
			"local meta = { __gc = function() ran = true end }\n"
			"for _ = 1, 100 do setmetatable({}, meta) end\n"
			"meta.__gc = function() ran = true end\n"
			"collectgarbage() collectgarbage()\n"
			"assert(not ran)",
			SOON, NULL) == ERROR_NONE);
}

static int count_turns(void *userdata)
{
	unsigned *n = userdata;

	while (fiber_sleep(NS_PER_MS, NULL) == 0)
		(*n)++;
	return 0;
}

FIBER_TEST(others_run_while_a_script_computes)
{
	struct fiber *other;
	unsigned turns = 0;

	fiber_start("other", count_turns, &turns, &other);
	check(body_kind("while true do end", 200 * MS, NULL) == ERROR_DEADLINE);
	check(turns >= 3);
	fiber_stop(other);
	fiber_unref(other);
}

static int run_endless(void *userdata)
{
	return (int)body_kind("while true do pcall(sleep, 10) end", NS_FOREVER, NULL);
}

FIBER_TEST(a_cancelled_script_ends)
{
	struct fiber *f;

	fiber_start("script", run_endless, NULL, &f);
	fiber_sleep(20 * MS, NULL);
	fiber_stop(f);
	check(fiber_result(f) == ERROR_CANCELLED);
	fiber_unref(f);
}

/* --- the stack
 * ------------------------------------------------------------------------------------------- */

/*
 * Each nests C calls as deeply as Lua lets it (LUAI_MAXCCALLS): there must be an error before the
 * fiber's stack ends. What one level costs differs; gsub is the most expensive one.
 */
static const char *const deep[] = {
	"local function f() return (('x'):gsub('x', f)) end f()",
	"local function f() local ok, e = pcall(f) if not ok then error(e, 0) end end f()",
	"local function f() local ok, e = xpcall(f, function(m) return m end) error(e, 0) end f()",
	"local mt = {} mt.__tostring = function(s) return string.format('%s', s) end\n"
	"tostring(setmetatable({}, mt))",
	"local mt = {} mt.__index = function(t, k) return t[k .. 'x'] end\n"
	"return setmetatable({}, mt).a",
	"assert(load(('do '):rep(5000) .. ('end '):rep(5000)))",
	"assert(load('return ' .. ('('):rep(5000)))",
	"local function f() table.sort({ 3, 2, 1 }, function(a, b) f() return a < b end) end f()",
	"local function f() return coroutine.wrap(f)() end f()",
	"local function f() return (('x'):gsub('x', function() return coroutine.wrap(f)() end)) "
	"end\n"
	"f()",
	"local function f() return (('x'):gsub('x', function()\n"
	"  return assert(load('return ' .. ('('):rep(20) .. '1' .. (')'):rep(20)))() and f()\n"
	"end)) end f()",
	"local function f() re.gsub('x', 'x', f) end f()",
	"local function f() subtest('s', f) end f()",
	"local function f() retry({ attempts = 1 }, f) end f()",
	"local function f() assert_error(f, '^nothing$') end f()",
	"local function f() log(setmetatable({}, { __tostring = f })) end f()",
	"local function f() print(setmetatable({}, { __tostring = f })) end f()",
	"local function f() assert_eq(setmetatable({}, { __eq = f }), setmetatable({}, { __eq = f "
	"})) end\n"
	"f()",
	"local function f() for _ in pairs(setmetatable({}, { __pairs = f })) do end end f()",
	"local function f() parallel(f) end f()",
	"return (('a'):rep(300)):match(('(a'):rep(30) .. (')'):rep(30) .. ('.-'):rep(200) .. 'b')",
	"local t = {} for _ = 1, 5000 do t = { t } end json.encode(t)",
	"json.decode(('['):rep(100000))",
	"local t = {} for _ = 1, 5000 do t = { t } end assert_eq(t, 1)",
	"local t, u = {}, {} for _ = 1, 5000 do t, u = { t }, { u } end t[1] = 1 assert_eq(t, u)\n"
	"error('unequal')",
	"re.match(('a'):rep(100000), '(a|b)*c') error('no match')",
};

FIBER_TEST(deep_recursion_is_an_error)
{
	for (size_t i = 0; i < ARRAY_SIZE(deep); i++) {
		char message[512];
		enum error_kind kind = body_kind(deep[i], SOON, message);

		if (kind != ERROR_USAGE && kind != ERROR_EXPECT)
			fprintf(stderr, "%s: %s: %s\n", deep[i], error_kind_name(kind), message);
		check(kind == ERROR_USAGE || kind == ERROR_EXPECT);
	}
}

/* --- setup
 * ---------------------------------------------------------------------------------------------------
 */

static enum error_kind setup_kind(const char *value, char *ret_json)
{
	_cleanup_free_ char *text =
		xasprintf("setup(function() return %s end)\ntest('t', function(s) end)", value);
	struct script_failure f = {};
	struct script *s = NULL;
	json_t *json = NULL;
	enum error_kind kind;

	check(load_text(text, (struct script_opts){}, &s, &f.error) == 0);
	script_call_setup(s, "", &json, &f);
	if (json) {
		char *dump = json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT);

		snprintf(ret_json, 512, "%.500s", dump);
		free(dump);
		json_decref(json);
	} else {
		snprintf(ret_json, 512, "%.500s", f.error.message);
	}
	kind = f.error.kind;
	script_failure_done(&f);
	script_end_test(s);
	script_free(s);
	return kind;
}

FIBER_TEST(what_setup_may_return)
{
	char text[512];

	check(setup_kind("nil", text) == ERROR_NONE);
	check_str(text, "null");
	check(setup_kind("{ b = 1, a = { 1, 'x', true, 1.5 }, c = {} }", text) == ERROR_NONE);
	check_str(text, "{\"a\":[1,\"x\",true,1.5],\"b\":1,\"c\":{}}");
	check(setup_kind("{ f = { print } }", text) == ERROR_USAGE);
	check_contains(text,
		       "setup() returned what its tests cannot be given: 'f': [1]: a function");
	check(setup_kind("0/0", text) == ERROR_USAGE);
	check(setup_kind("'\\xff'", text) == ERROR_USAGE);
	check_contains(text, "not UTF-8");
	check(setup_kind("(function() local t = {} t.t = t return t end)()", text) == ERROR_USAGE);
	check_contains(text, "does one contain itself");
	check(setup_kind("fail_test('no setup')", text) == ERROR_EXPECT);
}

/* --- time-outs
 * ----------------------------------------------------------------------------------------------------
 */

FIBER_TEST(a_scaled_time_out_tells_how)
{
	static const char text[] =
		"local m = machine('m', { backend = 'fake' })\n"
		"test('scaled', function() m:wait_for_file('/no', { timeout = '10ms' }) end)\n"
		"test('exact', function() m:wait_for_file('/no', { timeout = '10ms', exact = true "
		"}) end)\n"
		"test('command', function() m:succeed('sleep 9', { timeout = '10ms' }) end)\n";
	struct script_opts opts = {.timeout_scale = 4, .scale_reason = "TCG"};
	struct machine_env env = {.dir = "/tmp", .work_dir = "/tmp", .base_dir = "/tmp"};
	struct script_failure f = {};
	struct machine_spec *spec;
	struct machine *m;
	struct script *s = NULL;
	json_t *d, *json;

	check(load_text(text, opts, &s, &f.error) == 0);
	d = script_declarations(s);
	json = json_array_get(
		json_object_get(json_array_get(json_object_get(d, "groups"), 0), "machines"), 0);
	check(machine_spec_parse(json, &spec, &f.error) == 0);
	check(machine_new(spec, &env, &m, &f.error) == 0);
	check(script_bind_machine(s, "", "m", m, &f.error) == 0);
	check(script_bind_machine(s, "", "n", m, NULL) < 0);

	check(script_call_test(s, "", "scaled", NULL, &f) < 0);
	check(f.error.kind == ERROR_TIMEOUT);
	check_contains(f.error.message, "40 ms (10 ms × 4, TCG)");
	check_contains(f.error.message, "machine 'm'");
	script_failure_done(&f);
	f = (struct script_failure){};
	check(script_call_test(s, "", "exact", NULL, &f) < 0);
	check_contains(f.error.message, "10 ms");
	check(!strstr(f.error.message, "×"));
	script_failure_done(&f);
	f = (struct script_failure){};
	check(script_call_test(s, "", "command", NULL, &f) < 0);
	check_contains(f.error.message,
		       "timed out after 40 ms (10 ms × 4, TCG) waiting for command "
		       "'sleep 9' to end");
	script_failure_done(&f);

	script_end_test(s);
	machine_free(m);
	script_free(s);
	machine_spec_free(spec);
	json_decref(d);
	unlink("/tmp/console-m.log");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failure_has_kind_message_detail_and_trace),
		cmocka_unit_test(the_trace_goes_on_behind_a_fiber),
		cmocka_unit_test(kinds),
		cmocka_unit_test(skip_cannot_be_swallowed),
		cmocka_unit_test(a_deadline_cannot_be_swallowed),
		cmocka_unit_test(nobody_can_make_or_change_such_an_error),
		cmocka_unit_test(finalizers_of_the_script_never_run),
		cmocka_unit_test(others_run_while_a_script_computes),
		cmocka_unit_test(a_cancelled_script_ends),
		cmocka_unit_test(deep_recursion_is_an_error),
		cmocka_unit_test(what_setup_may_return),
		cmocka_unit_test(a_scaled_time_out_tells_how),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
