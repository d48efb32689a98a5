/* SPDX-License-Identifier: MIT */
/* Results that a guest prints on its console: TAP and KTAP. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Only lines that say so count ("positive evidence"): a plan `1..N` and N lines `ok` or `not ok` at
 * the outermost level. A guest that dies, or falls silent after three of ten, has not passed.
 * KTAP (Linux: Documentation/dev-tools/ktap.rst) is TAP with nested results, indented by two
 * spaces, behind the kernel's time stamps.
 */
#define RESULT_LINE                                                                                \
	"^(?:<\\d+>)?(?:\\[ *\\d+\\.\\d+\\] ?)?( *)"                                               \
	"(?:(ok|not ok)\\b *(\\d*)([^\\n]*)|1\\.\\.(\\d+)[^\\n]*|(Bail out!)([^\\n]*))\\n"

struct tally {
	int64_t planned; /* -1: not known yet */
	int64_t tests, failed, skipped, subtests;
};

static const char *capture(json_t *captures, const char *key)
{
	return json_string_value(json_object_get(captures, key));
}

/* One line that matched. */
static int count_line(struct call *c, struct tally *t)
{
	bool outer = !*(capture(c->json, "1") ?: "");
	const char *verdict = capture(c->json, "2"), *name = capture(c->json, "4") ?: "";
	const char *plan = capture(c->json, "5");

	if (capture(c->json, "6"))
		return error_set(&c->err, ERROR_EXPECT, ECANCELED, "the guest gave up:%s",
				 capture(c->json, "7") ?: "");
	if (plan && outer)
		t->planned = strtoll(plan, NULL, 10);
	if (!verdict)
		return 0;
	if (!outer) {
		t->subtests++;
		return 0;
	}
	t->tests++;
	if (strcasestr(name, "# SKIP"))
		t->skipped++;
	else if (str_eq(verdict, "not ok") && !strcasestr(name, "# TODO"))
		t->failed++;
	if (str_eq(verdict, "not ok")) {
		json_t *list = json_object_get(c->detail, "failed");

		if (!list) {
			list = json_array();
			call_detail(c, "failed", list);
		}
		name += strspn(name, " -");
		json_array_append_new(list, json_text(name, strlen(name), 0));
	}
	return 0;
}

static int collect(struct call *c, struct tally *t)
{
	uint64_t deadline = deadline_in(c->timeout_ns);
	char duration[FORMAT_MAX];
	int r;

	while (t->planned < 0 || t->tests < t->planned) {
		json_decref(c->json);
		c->json = NULL;
		r = console_wait_text(machine_console(c->machine), RESULT_LINE, false,
				      timeout_left(deadline), &c->json, &c->err);
		if (r < 0 && c->err.kind == ERROR_TIMEOUT) {
			char planned[24] = "an unknown number";

			if (t->planned >= 0)
				(void)snprintf(planned, sizeof(planned), "%lld",
					       (long long)t->planned);
			error_clear(&c->err);
			return error_set(
				&c->err, ERROR_TIMEOUT, ETIMEDOUT,
				"timed out after %s waiting for the results of the guest's "
				"tests: %lld of %s came",
				format_duration(c->timeout_ns, duration), (long long)t->tests,
				planned);
		}
		if (r == 0)
			r = count_line(c, t);
		if (r < 0)
			return r;
	}
	return 0;
}

struct result_options {
	struct time_options time;
	const char *protocol;
};
static const struct option result_options[] = {
	TIME_OPTIONS,
	{"protocol", OPT_STRING, offsetof(struct result_options, protocol)},
	{NULL},
};

static void set_count(lua_State *L, const char *name, int64_t n)
{
	lua_pushinteger(L, n);
	lua_setfield(L, -2, name);
}

static int result_wait_for(lua_State *L)
{
	struct result_options o = {};
	struct tally t = {.planned = -1};
	struct call *c;

	lua_settop(L, 2);
	read_options(L, 2, "wait_for_result", result_options, &o);
	if (!o.protocol)
		raise_usage(L, "protocol = \"tap\"",
			    "wait_for_result: option 'protocol' is missing");
	if (str_eq(o.protocol, "sotest") || str_eq(o.protocol, "gtest"))
		raise_unsupported(L,
				  "machine:wait_for_result with another protocol than TAP, KTAP");
	if (!str_eq(o.protocol, "tap") && !str_eq(o.protocol, "ktap"))
		raise_usage(L, "\"tap\", \"ktap\", \"sotest\" or \"gtest\"",
			    "wait_for_result: there is no protocol '%s'", o.protocol);
	c = call_machine(L, "wait_for_result");
	call_timeout(c, &o.time, DEFAULT_TIMEOUT_NS);
	call_wait_start(c, "the results of the guest's tests");
	call_wait_end(L, c, collect(c, &t));
	lua_createtable(L, 0, 5);
	set_count(L, "tests", t.tests);
	set_count(L, "passed", t.tests - t.failed - t.skipped);
	set_count(L, "failed", t.failed);
	set_count(L, "skipped", t.skipped);
	set_count(L, "subtests", t.subtests);
	if (json_object_get(c->detail, "failed")) {
		push_json(L, json_object_get(c->detail, "failed"));
		lua_setfield(L, -2, "failed_names");
	}
	call_done(c);
	return 1;
}

const struct binding result_bindings[] = {
	{"machine:wait_for_result", result_wait_for},
	{NULL},
};
