/* SPDX-License-Identifier: MIT */
/* Control flow on one fiber: subtest, retry, skip, fail_test, sleep. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * These call functions of the script under call_traced(): an error is looked at while its trace is
 * known, and passed on as the same value. What nobody may catch (error_is_final) is never one that
 * is retried, since its kind is neither expect nor timeout.
 */

/* --- subtest
 * --------------------------------------------------------------------------------------- */

static int control_subtest(lua_State *L)
{
	const char *name = check_text(L, 1, "subtest", "the name", NULL);
	struct call *c;
	json_t *f;
	int status;

	check_function(L, 2, "subtest", "the body");
	lua_settop(L, 2);
	c = call_new(L, "subtest");
	emit(c->script, "subtest-start",
	     json_pack("{s:o}", "name", json_text(name, strlen(name), 0)));
	lua_pushvalue(L, 2);
	status = call_traced(L, 0, 0);
	f = json_pack("{s:o, s:s, s:f}", "name", json_text(name, strlen(name), 0), "verdict",
		      status == LUA_OK ? "passed" : "failed", "seconds",
		      (double)(now_ns() - c->start_ns) / (double)NS_PER_SEC);
	if (status != LUA_OK) {
		error_from_lua(L, -1, &c->err);
		json_object_set_new(f, "message",
				    json_text(c->err.message, strlen(c->err.message), 0));
	}
	emit(c->script, "subtest-end", f);
	return status == LUA_OK ? 0 : lua_error(L);
}

/* --- retry
 * ----------------------------------------------------------------------------------------- */

struct retry_options {
	struct time_options time;
	int64_t attempts;
	uint64_t delay_ns;
	double backoff;
};
static const struct option retry_options[] = {
	TIME_OPTIONS,
	{"attempts", OPT_INT, offsetof(struct retry_options, attempts)},
	{"delay", OPT_DURATION, offsetof(struct retry_options, delay_ns)},
	{"backoff", OPT_NUMBER, offsetof(struct retry_options, backoff)},
	{NULL},
};

/* The error of the last attempt is at the top of the stack; c->err becomes what retry() says. */
static void gave_up(lua_State *L, struct call *c, int64_t attempts, const char *why)
{
	struct script_failure last = {};

	failure_from_lua(L, -1, &last);
	error_set(&c->err, last.error.kind, last.error.code, "gave up after %lld attempt%s%s: %s",
		  (long long)attempts, attempts == 1 ? "" : "s", why, last.error.message);
	if (*last.error.hint)
		error_hint(&c->err, "%s", last.error.hint);
	if (last.detail)
		json_object_update(c->detail ?: (c->detail = json_object()), last.detail);
	if (last.trace)
		call_detail(c, "cause",
			    json_pack("{s:s, s:o, s:O}", "kind", error_kind_name(last.error.kind),
				      "message",
				      json_text(last.error.message, strlen(last.error.message), 0),
				      "trace", last.trace));
	script_failure_done(&last);
}

/* Another attempt can help only where the guest was not as wanted, or not yet. */
static bool may_retry(lua_State *L, struct call *c)
{
	enum error_kind kind;

	error_clear(&c->err);
	error_from_lua(L, -1, &c->err);
	kind = c->err.kind;
	error_clear(&c->err);
	return kind == ERROR_EXPECT || kind == ERROR_TIMEOUT;
}

/* Results of the function are on the stack above `base`: true. Else an error is on top and c->err
 * is set, or it is not one to be retried. */
static bool attempts_loop(lua_State *L, struct call *c, const struct retry_options *o, int fn,
			  uint64_t deadline, bool *ret_give_up)
{
	uint64_t delay = o->delay_ns;

	for (int64_t n = 1;; n++) {
		lua_pushvalue(L, fn);
		if (call_traced(L, 0, LUA_MULTRET) == LUA_OK)
			return true;
		if (!may_retry(L, c))
			return false;
		*ret_give_up = true;
		if (n >= o->attempts) {
			gave_up(L, c, n, "");
			return false;
		}
		if (timeout_left(deadline) <= delay) {
			gave_up(L, c, n, " (its time-out)");
			return false;
		}
		lua_pop(L, 1);
		*ret_give_up = false;
		if (fiber_sleep(delay, &c->err) < 0)
			return false;
		delay = (uint64_t)MIN((double)delay * o->backoff, 3600e9);
	}
}

static int control_retry(lua_State *L)
{
	struct retry_options o = {.attempts = 10, .delay_ns = NS_PER_SEC, .backoff = 1};
	bool has_options = lua_istable(L, 1), give_up = false, ok;
	struct deadline_scope scope;
	uint64_t deadline = NS_FOREVER;
	char duration[FORMAT_MAX], what[64];
	struct call *c;
	int fn = has_options ? 2 : 1, base;

	check_function(L, fn, "retry", "the body");
	lua_settop(L, fn);
	if (has_options)
		read_options(L, 1, "retry", retry_options, &o);
	if (o.attempts < 1 || o.backoff < 1 || o.backoff > 100)
		raise_usage(L, NULL, "retry: attempts must be 1 or more, backoff 1 to 100");
	c = call_new(L, "retry");
	if (o.time.timeout_ns) {
		call_timeout(c, &o.time, 0);
		deadline = deadline_in(c->timeout_ns);
	}
	base = lua_gettop(L);
	(void)snprintf(what, sizeof(what), "retry's time-out of %s",
		       format_duration(c->timeout_ns, duration));
	/* The scope bounds waits within an attempt, too: the inner never outlives the outer. */
	deadline_enter(&scope, o.time.timeout_ns ? c->timeout_ns : NS_FOREVER, ERROR_TIMEOUT, what);
	ok = attempts_loop(L, c, &o, fn, deadline, &give_up);
	deadline_leave(&scope);
	if (ok)
		return lua_gettop(L) - base;
	if (give_up || error_is_set(&c->err))
		call_raise(L, c);
	return lua_error(L);
}

/* --- the rest
 * ---------------------------------------------------------------------------------------- */

static int control_skip(lua_State *L)
{
	const char *reason = lua_isnoneornil(L, 1) ? "skip() was called"
						   : check_text(L, 1, "skip", "the reason", NULL);
	struct call *c = call_new(L, "skip");

	error_set(&c->err, ERROR_SKIP, ECANCELED, "%s", reason);
	call_raise(L, c);
}

static int control_fail_test(lua_State *L)
{
	const char *reason = check_text(L, 1, "fail_test", "the reason", NULL);
	struct call *c = call_new(L, "fail_test");

	error_set(&c->err, ERROR_EXPECT, EPROTO, "%s", reason);
	call_raise(L, c);
}

/* Host time, and never scaled: who sleeps means it. */
static int control_sleep(lua_State *L)
{
	uint64_t ns = check_duration(L, 1, "sleep");
	struct call *c = call_new(L, "sleep");
	char text[FORMAT_MAX];

	call_start(c, "%s", format_duration(ns, text));
	call_end(L, c, fiber_sleep(ns, &c->err));
	return 0;
}

const struct binding control_bindings[] = {
	{"subtest", control_subtest},	  {"retry", control_retry}, {"skip", control_skip},
	{"fail_test", control_fail_test}, {"sleep", control_sleep}, {NULL},
};
