/* SPDX-License-Identifier: MIT */
/* What every binding that reaches the core has in common: its memory, time-out, events, errors. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * A binding that reaches the core goes through these steps:
 *
 *	call_machine()	 the handle at index 1, its machine, a fresh struct call (a userdata)
 *	call_timeout()	 what the user gave, or the default, times the run's scale
 *	call_agent()	 only for what needs the agent: boots the machine if it is off
 *	call_start(), call_wait_start(), or an event of its own: "somebody does this now"
 *	<the core>	 fills c->err and c's buffers; other fibers run meanwhile
 *	call_end(), call_wait_end(): "it is over", and the error is raised, if there is one
 *	push results, call_done()
 *
 * The struct call is the one owner of everything in between. If pushing runs out of memory, or the
 * fiber is cancelled, the collector frees it. call_done() is for large outputs: the collector does
 * not see how much hangs on a small userdata.
 */
#define CALL_META "assay.call"

void call_done(struct call *c)
{
	json_decref(c->detail);
	json_decref(c->json);
	c->detail = c->json = NULL;
	buf_done(&c->buf);
	agent_result_done(&c->result);
	agent_result_done(&c->attempt);
	strv_free(c->env);
	c->env = NULL;
	free(c->text);
	c->text = NULL;
	regex_free(c->regex);
	c->regex = NULL;
}

static int call_gc(lua_State *L)
{
	call_done(lua_touserdata(L, 1));
	return 0;
}

void call_init(lua_State *L)
{
	luaL_newmetatable(L, CALL_META);
	lua_pushcfunction(L, call_gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
}

struct call *call_push(lua_State *L, const char *method)
{
	struct call *c;

	luaL_checkstack(L, 40, NULL);
	c = lua_newuserdatauv(L, sizeof(*c), 0);
	memset(c, 0, sizeof(*c));
	c->script = script_of(L);
	c->method = method;
	c->start_ns = now_ns();
	c->timeout_ns = DEFAULT_TIMEOUT_NS;
	luaL_setmetatable(L, CALL_META);
	return c;
}

struct call *call_new(lua_State *L, const char *method)
{
	struct script *s = script_of(L);

	if (s->phase == PHASE_LOAD || s->phase == PHASE_IDLE)
		raise_usage(L, "call it in setup(), in a test or in teardown()",
			    "'%s' cannot be called while the file is being declared", method);
	return call_push(L, method);
}

struct call *call_machine(lua_State *L, const char *method)
{
	struct handle *h = to_handle(L, 1);
	struct script *s = script_of(L);
	char hint[96];
	struct call *c;

	if (!h) {
		(void)snprintf(hint, sizeof(hint), "write it with a colon: server:%s(…)", method);
		raise_usage(L, hint, "%s: a machine is wanted in front of it, not %s", method,
			    lua_isnoneornil(L, 1) ? "nothing" : luaL_typename(L, 1));
	}
	c = call_new(L, method);
	c->handle = h;
	c->machine = h->machine;
	if (!h->machine) {
		if (s->running && h->group != s->running)
			raise_usage(L, "a group has machines of its own",
				    "machine '%s' is not one of this group's", h->name);
		raise_usage(L, NULL, "machine '%s' is not there in this run", h->name);
	}
	return c;
}

void call_timeout(struct call *c, const struct time_options *o, uint64_t default_ns)
{
	uint64_t ns = o && o->timeout_ns ? o->timeout_ns : default_ns;

	c->scale = o && o->exact ? 1 : c->script->timeout_scale;
	c->timeout_ns = (uint64_t)MIN((double)ns * c->scale, 9e18);
}

void call_agent(lua_State *L, struct call *c)
{
	uint64_t timeout_ns = c->timeout_ns;
	double scale = c->scale;

	/* The boot has a time-out of its own: the call's is for the call. */
	call_timeout(c, NULL, BOOT_TIMEOUT_NS);
	if (machine_agent(c->machine, c->timeout_ns, &c->agent, &c->err) < 0)
		call_raise(L, c);
	c->timeout_ns = timeout_ns;
	c->scale = scale;
	c->start_ns = now_ns();
}

void call_detail(struct call *c, const char *key, json_t *value)
{
	if (!c->detail)
		c->detail = json_object();
	json_object_set_new(c->detail, key, value);
}

/* --- errors ---------------------------------------------------------------------------------- */

/* "timed out after 120 s" becomes "timed out after 2 min (30 s × 4, TCG)", so that a person finds
 * the number that he wrote. */
static void explain_scale(struct call *c)
{
	char scaled[FORMAT_MAX], given[FORMAT_MAX];
	_cleanup_free_ char *message = NULL;
	char *at;
	int head;

	if (c->scale == 0 || c->scale == 1 ||
	    (c->err.kind != ERROR_TIMEOUT && c->err.kind != ERROR_EXPECT))
		return;
	format_duration(c->timeout_ns, scaled);
	at = strstr(c->err.message, scaled);
	if (!at)
		return;
	format_duration((uint64_t)((double)c->timeout_ns / c->scale + 0.5), given);
	message = xstrdup(c->err.message);
	head = (int)(at - c->err.message) + (int)strlen(scaled);
	(void)snprintf(c->err.message, sizeof(c->err.message), "%.*s (%s × %g%s%s)%s", head,
		       message, given, c->scale, c->script->scale_reason ? ", " : "",
		       c->script->scale_reason ?: "", message + head);
}

/* Which machine it was, and the last lines of its console: what a person would look at first. The
 * core says the name itself in many cases. */
static void add_machine(struct call *c)
{
	char prefix[96];
	char *tail;

	(void)snprintf(prefix, sizeof(prefix), "machine '%s'", c->handle->name);
	if (!strstr(c->err.message, prefix))
		error_prefix(&c->err, "%s", prefix);
	if (!c->machine || !machine_console(c->machine))
		return;
	tail = console_tail(machine_console(c->machine), CONSOLE_TAIL);
	if (tail && *tail && !json_object_get(c->detail, "console"))
		call_detail(c, "console", json_text(tail, strlen(tail), TAIL_BYTES));
	free(tail);
}

void call_raise(lua_State *L, struct call *c)
{
	/* A mistake in the file, or a fiber given up: nothing to be seen on a console. */
	bool wants_console = c->err.kind != ERROR_USAGE && c->err.kind != ERROR_UNSUPPORTED &&
			     c->err.kind != ERROR_CANCELLED;

	explain_scale(c);
	if (c->handle && wants_console)
		add_machine(c);
	raise_error(L, &c->err, c->detail);
}

/* --- events ---------------------------------------------------------------------------------- */

void emit(struct script *s, const char *type, json_t *fields)
{
	if (s->emit)
		s->emit(s->userdata, type, fields);
	else
		json_decref(fields);
}

static double seconds_since(uint64_t start_ns)
{
	return (double)(now_ns() - start_ns) / (double)NS_PER_SEC;
}

/* What start and end have in common; the id ties them together in reports. */
static json_t *call_fields(struct call *c, const char *phase)
{
	json_t *f = json_pack("{s:s, s:s, s:I}", "call", c->method, "phase", phase, "id",
			      (json_int_t)c->id);

	if (c->handle)
		json_object_set_new(f, "machine", json_string(c->handle->name));
	return f;
}

/* No event is made when nobody listens: a benchmark's loop should not pay for JSON. */
static void emit_end(struct call *c, const char *type, const char *key, int r)
{
	json_t *f;

	if (r < 0 && c->machine) /* what the channel saw of a crash is not the whole of it */
		machine_explain_crash(c->machine, &c->err);
	if (!c->script->emit)
		return;
	f = call_fields(c, "end");
	if (key)
		json_object_set_new(f, key, json_text(c->what, strlen(c->what), 0));
	json_object_set_new(f, "seconds", json_real(seconds_since(c->start_ns)));
	if (r < 0)
		json_object_set_new(f, "message",
				    json_text(c->err.message, strlen(c->err.message), 0));
	emit(c->script, type, f);
}

static void emit_start(struct call *c, const char *type, const char *key)
{
	json_t *f;

	c->id = ++c->script->next_id;
	c->start_ns = now_ns();
	if (!c->script->emit)
		return;
	f = call_fields(c, "start");
	json_object_set_new(f, key, json_text(c->what, strlen(c->what), 0));
	emit(c->script, type, f);
}

void call_wait_start(struct call *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(c->what, sizeof(c->what), fmt, ap);
	va_end(ap);
	emit_start(c, "wait", "what");
}

void call_wait_end(lua_State *L, struct call *c, int r)
{
	emit_end(c, "wait", "what", r);
	if (r < 0)
		call_raise(L, c);
}

void call_start(struct call *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(c->what, sizeof(c->what), fmt, ap);
	va_end(ap);
	emit_start(c, "call", "text");
}

void call_end(lua_State *L, struct call *c, int r)
{
	emit_end(c, "call", *c->what ? "text" : NULL, r);
	if (r < 0)
		call_raise(L, c);
}
