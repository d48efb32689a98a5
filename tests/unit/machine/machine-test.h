/* SPDX-License-Identifier: MIT */
/* A fake machine for a test's body: made from JSON, its events recorded. */
#pragma once

#include <string.h>

#include "base/str.h"
#include "fiber-test.h"
#include "machine/backend.h"
#include "machine/machine.h"

#define MS   NS_PER_MS
#define SOON (2 * NS_PER_SEC)

struct rig {
	struct machine *m;
	struct machine_spec *spec;
	struct machine_env env;
	struct buf events; /* "state=up;" … */
};

static void rig_emit(void *userdata, const char *machine, const char *type, json_t *fields)
{
	struct rig *rig = userdata;
	const char *state = json_string_value(json_object_get(fields, "state"));

	check(str_eq(machine, "web"));
	if (state)
		buf_printf(&rig->events, "%s ", state);
	else if (!str_eq(type, "boot") && !str_eq(type, "vmm"))
		buf_printf(&rig->events, "<%s> ", type);
}

/* fake: the script, in JSON with ' for ". */
static void rig_init(struct rig *rig, const char *options)
{
	char *text = xasprintf("{'name': 'web', 'backend': 'fake', %s}", options);
	struct error err = {};
	json_t *json;

	for (char *c = text; *c; c++)
		if (*c == '\'')
			*c = '"';
	json = json_loads(text, 0, NULL);
	check(json);
	*rig = (struct rig){.env = {.emit = rig_emit, .userdata = rig}};
	if (machine_spec_parse(json, &rig->spec, &err) < 0 ||
	    machine_new(rig->spec, &rig->env, &rig->m, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	json_decref(json);
	free(text);
}

static void rig_done(struct rig *rig)
{
	machine_free(rig->m);
	machine_spec_free(rig->spec);
	buf_done(&rig->events);
}
#define RIG(name, options)                                                                         \
	_cleanup_(rig_done) struct rig name;                                                       \
	rig_init(&name, options)

#define check_ok(expr)                                                                             \
	do {                                                                                       \
		struct error why = {};                                                             \
		if ((expr) < 0) {                                                                  \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expr,              \
				why.message);                                                      \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* The call fails with this kind and message. */
#define check_fails(expr, kind_, message_)                                                         \
	do {                                                                                       \
		struct error why = {};                                                             \
		check((expr) < 0);                                                                 \
		check_str(why.message, message_);                                                  \
		check(why.kind == (kind_));                                                        \
	} while (0)

static _unused_ void check_state(struct rig *rig, enum machine_state wanted)
{
	check_str(machine_state_name(machine_get_state(rig->m)), machine_state_name(wanted));
}

/* Until the machine has told this; so that nothing depends on how soon that is. */
static _unused_ void wait_events(struct rig *rig, const char *wanted)
{
	uint64_t deadline = deadline_in(SOON);

	while (!strstr(buf_str(&rig->events), wanted)) {
		check(timeout_left(deadline) > 0);
		fiber_sleep(MS, NULL);
	}
}

/* Runs a command; its exit code. */
static _unused_ int run(struct rig *rig, const char *script, uint64_t timeout_ns, struct error *err)
{
	struct agent_command cmd = {.script = script};
	struct agent_result result = {};
	struct agent *agent;
	int r;

	r = machine_agent(rig->m, timeout_ns, &agent, err);
	if (r < 0)
		return r;
	r = agent_run(agent, &cmd, timeout_ns, &result, err);
	if (r < 0)
		machine_explain_crash(rig->m, err);
	else
		r = result.code;
	agent_result_done(&result);
	return r;
}
