/* SPDX-License-Identifier: MIT */
/* The table of events, the check against it, and verdicts. */
#include "report/event.h"

#include <assert.h>
#include <string.h>

#include "base/str.h"

/*
 * Every event has "v", "type" and "t". The runner stamps "run" on all of them, "file", "test" and
 * "attempt" on those of a test, "file" and "template" on those of the making of a template. These
 * seven are not repeated in the table.
 *
 * What src/lua emits: subtest-start … breakpoint. What src/machine emits through machine_env.emit()
 * as "state", "boot", … arrives here as "machine-state", "machine-boot", … with "machine" stamped.
 * The rest is the runner's and the worker's own.
 */
static const char common_fields[] =
	"v:integer type:string t:number run:string? file:string? test:string? attempt:integer? "
	"template:string?";

const struct event_type event_types[] = {
	/* --- the run ---------------------------------------------------------------------- */
	{"run-start",
	 "id:string dir:string version:string started:string jobs:integer seed:integer "
	 "shuffle_seed:integer? strict:boolean ns_level:string ns_reason:string? params:object?",
	 "The run begins. `started` is UTC in ISO 8601; `dir` the run's folder."},
	{"plan", "tests:array files:integer open:boolean?",
	 "What will run, in order: objects with `file`, `test`, `line`, `tags`. Comes once, before "
	 "the first `test-start`. With `open`, there will be more of the same."},
	{"accel", "accel:string reason:string timeout_scale:number",
	 "How guests are run here (`kvm`, `tcg`), and why; comes only when there are any."},
	{"image", "name:string state:string phase:string? seconds:number? message:string?",
	 "An image that tests wait for. `state`: `building` (again at each new `phase`), `ready`, "
	 "`failed`."},
	{"template-start", "name:string level:string dir:string",
	 "What tests start from is being made: a machine that has booted (`level` `boot`), or all "
	 "of a group after its setup (`setup`). `dir` is its folder, relative to the run's."},
	{"template-end",
	 "name:string level:string state:string cached:boolean seconds:number dir:string? "
	 "error:object? errors:array? subtests:array? metrics:object? artifacts:array? "
	 "diagnostics:array? log:array? warnings:array? fork_seconds:number?",
	 "It is there (`state` `ready`), or cannot be made (`failed`, with `error`). `cached`: it "
	 "was made by an earlier run, in so many `seconds`, and what it told (`log`, `metrics`, …) "
	 "is from then."},
	{"interrupted", "signal:string", "Somebody pressed Ctrl-C; everything is being stopped."},
	{"run-end",
	 "passed:integer failed:integer errored:integer skipped:integer xfailed:integer "
	 "flaky:integer seconds:number exit:integer interrupted:boolean not_run:integer? "
	 "wanting:integer? slow:integer?",
	 "The last event. `exit` is the program's exit status; `failed` includes tests that passed "
	 "unexpectedly. `not_run` were planned and never started; `wanting` were skipped for want "
	 "of a capability, which is an error in this run; `slow` were left out for want of "
	 "`--slow`."},

	/* --- a test ------------------------------------------------------------------------ */
	{"test-start", "line:integer? isolation:string? dir:string",
	 "The first attempt at a test begins. `dir` is its folder, relative to the run's."},
	{"attempt-start", "dir:string isolation:string? note:string?",
	 "An attempt begins: the first, a retry or a repetition. `note` says why the isolation is "
	 "not "
	 "the one asked for."},
	{"phase", "name:string timeout:number?",
	 "What the worker does: `load`, `fork`, `boot`, `settle`, `setup`, `save`, `test`, "
	 "`warmup`, `run` (of a bench), `teardown`, `diagnose`, `end`; `timeout`: the seconds it "
	 "may take."},
	{"fork", "seconds:number",
	 "All machines go on from where their template was saved; it took so long."},
	{"fork-cost", "bytes:object",
	 "What the forks' VMMs had taken of the host's memory at the end, by template."},
	{"template-broken", "key:string message:string",
	 "A template is gone or does not restore: it is made again, and the test waits for it."},
	{"template-made", "error:object?", "A worker has made a template, or could not."},
	{"attempt-end", "verdict:string seconds:number error:object? reason:string?",
	 "An attempt is over. `error` has `kind`, `message`, `hint`, `phase`, `detail`, `trace`; "
	 "`reason` is that of a skip."},
	{"test-end",
	 "verdict:string seconds:number line:integer? kind:string? tags:array? isolation:string? "
	 "dir:string? attempts:array? error:object? reason:string? want:boolean? errors:array? "
	 "subtests:array? "
	 "metrics:object? artifacts:array? diagnostics:array? log:array? warnings:array? "
	 "reproduce:string? repeat:integer? fork_seconds:number?",
	 "A test is over: all that is known about it. `want` is true for a skip for want of a "
	 "capability; `reproduce` a command to paste into a shell; `fork_seconds` what it took its "
	 "machines to go on from their template."},
	{"error",
	 "kind:string message:string hint:string? phase:string? detail:object? trace:array? "
	 "line:integer?",
	 "Something failed: of a test with `test`, of a file with `file` only, of the run with "
	 "neither. `kind` as in the Lua API; `detail` what was seen, `trace` where in the script."},
	{"diagnostic",
	 "machine:string state:string? failed_units:array? journal_tail:string? "
	 "journal_file:string? console_tail:string? console_file:string? vmm_file:string? "
	 "note:string?",
	 "What a machine looked like when the test failed. Files are in the test's folder."},
	{"warning", "message:string hint:string?",
	 "Something that a person should know but that changes no verdict."},
	{"output", "stream:string text:string",
	 "What a worker wrote to its stdout or stderr (`stream`), which a well-behaved one never "
	 "does."},
	{"events-dropped", "count:integer reason:string",
	 "So many events were lost: too long, malformed, or too many."},

	/* --- from the script ---------------------------------------------------------------- */
	{"subtest-start", "name:string", "`subtest(name, fn)` begins; they nest."},
	{"subtest-end", "name:string verdict:string seconds:number message:string?",
	 "The innermost subtest ends: `passed` or `failed`."},
	{"command",
	 "machine:string call:string text:string phase:string id:integer? code:integer? "
	 "signal:integer? seconds:number? message:string? stdout:string? stderr:string?",
	 "A command in a guest. `call` is the method (`succeed`, `execute`, …), `text` the "
	 "command; "
	 "`phase` is `start` or `end`; `id` ties both together. Outputs are shortened."},
	{"wait",
	 "call:string what:string phase:string machine:string? id:integer? seconds:number? "
	 "message:string?",
	 "A wait: `what` completes \"waiting for …\"; `phase` is `start` or `end`; `message` is "
	 "there "
	 "when it failed."},
	{"call",
	 "call:string phase:string machine:string? text:string? id:integer? seconds:number? "
	 "message:string?",
	 "Any other call worth a line: `start`, `shutdown`, `copy_to_host`, `sleep`, ….  `text` "
	 "are its "
	 "arguments, shortened."},
	{"log", "text:string machine:string?", "`log(…)`."},
	{"metric", "name:string value:number unit:string? better:string?",
	 "One sample of `metric(name, value)`; `better` is `lower` or `higher`."},
	{"artifact", "name:string path:string bytes:integer? machine:string?",
	 "A file that belongs to the test; `path` is relative to the test's folder."},
	{"breakpoint", "line:integer?", "`breakpoint()` was reached."},

	/* --- from machines ------------------------------------------------------------------- */
	{"machine-state", "machine:string state:string reason:string?",
	 "A machine's new state: `off`, `starting`, `up`, `paused`, `crashed`."},
	{"machine-vmm",
	 "machine:string pid:integer? version:string? accel:string? command:string? file:string? "
	 "status:string?",
	 "The VMM was started (`pid`, `file` with its command line), or ended (`status`)."},
	{"machine-boot",
	 "machine:string boot_id:string? phase:string? seconds:number? times:object?",
	 "The guest's agent said hello: `seconds` after the VMM's start."},
	{"machine-restored", "machine:string seconds:number",
	 "The machine goes on from a saved state; that took so long."},
	{"machine-panic", "machine:string message:string trace:string? expected:boolean?",
	 "The guest's kernel panicked."},
	{"machine-console", "machine:string text:string",
	 "A line of the console. Comes only with `-vv`, and is not in `events.jsonl`: the "
	 "console's "
	 "log has it."},
	{"machine-console-dropped", "machine:string bytes:integer",
	 "So many bytes of the console are not in its log: it was too long."},
	{"machine-event", "machine:string event:string data:any?",
	 "Anything else that a backend finds worth telling."},
	{NULL, NULL, NULL},
};

static const char *const verdict_names[] = {
	[VERDICT_PASSED] = "passed",   [VERDICT_FAILED] = "failed", [VERDICT_ERRORED] = "errored",
	[VERDICT_SKIPPED] = "skipped", [VERDICT_XFAIL] = "xfail",   [VERDICT_XPASS] = "xpass",
	[VERDICT_FLAKY] = "flaky",
};

const char *verdict_name(enum verdict v)
{
	assert((size_t)v < ARRAY_SIZE(verdict_names));
	return verdict_names[v];
}

int verdict_from_name(const char *name, enum verdict *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(verdict_names); i++)
		if (str_eq(name, verdict_names[i])) {
			*ret = (enum verdict)i;
			return 0;
		}
	return -EINVAL;
}

enum verdict verdict_of_error(enum error_kind kind)
{
	switch (kind) {
	case ERROR_NONE:
		return VERDICT_PASSED;
	case ERROR_EXPECT:
	case ERROR_TIMEOUT:
	case ERROR_CRASH:
	case ERROR_DEADLINE:
		return VERDICT_FAILED;
	case ERROR_UNSUPPORTED:
	case ERROR_SKIP:
		return VERDICT_SKIPPED;
	case ERROR_USAGE:
	case ERROR_INFRA:
	case ERROR_BUG:
	case ERROR_CANCELLED:
		break;
	}
	return VERDICT_ERRORED;
}

const struct event_type *event_type_find(const char *name)
{
	for (const struct event_type *t = event_types; t->name; t++)
		if (str_eq(t->name, name))
			return t;
	return NULL;
}

static bool type_matches(json_t *value, const char *type, size_t len)
{
	static const struct {
		const char *name;
		json_type types[2];
	} known[] = {
		{"string", {JSON_STRING, JSON_STRING}}, {"integer", {JSON_INTEGER, JSON_INTEGER}},
		{"number", {JSON_REAL, JSON_INTEGER}},	{"boolean", {JSON_TRUE, JSON_FALSE}},
		{"object", {JSON_OBJECT, JSON_OBJECT}}, {"array", {JSON_ARRAY, JSON_ARRAY}},
	};

	if (len == 3 && memcmp(type, "any", 3) == 0)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strlen(known[i].name) == len && memcmp(known[i].name, type, len) == 0)
			return json_typeof(value) == known[i].types[0] ||
			       json_typeof(value) == known[i].types[1];
	assert(!"unknown type in event_types");
	return false;
}

/* One "name:type" or "name:type?" of a field list; *p moves behind it. False at the end. */
static bool next_field(const char **p, struct event_field *ret)
{
	const char *s = *p, *colon;

	while (*s == ' ')
		s++;
	if (!*s)
		return false;
	colon = strchr(s, ':');
	assert(colon);
	ret->name = s;
	ret->name_len = (size_t)(colon - s);
	ret->type = colon + 1;
	ret->type_len = strcspn(colon + 1, " ?");
	s = ret->type + ret->type_len;
	ret->optional = *s == '?';
	*p = s + ret->optional;
	return true;
}

bool event_field_next(const char **fields, struct event_field *ret)
{
	return next_field(fields, ret);
}

static bool field_known(const char *fields, const char *key)
{
	struct event_field f;

	while (next_field(&fields, &f))
		if (strlen(key) == f.name_len && memcmp(key, f.name, f.name_len) == 0)
			return true;
	return false;
}

static int check_fields(json_t *event, const char *type, const char *fields, struct error *err)
{
	struct event_field f;

	while (next_field(&fields, &f)) {
		json_t *value = json_object_getn(event, f.name, f.name_len);

		if (!value && !f.optional)
			return error_set(err, ERROR_BUG, EPROTO, "event '%s' lacks '%.*s'", type,
					 (int)f.name_len, f.name);
		if (value && !type_matches(value, f.type, f.type_len))
			return error_set(err, ERROR_BUG, EPROTO,
					 "event '%s': '%.*s' is not of type %.*s", type,
					 (int)f.name_len, f.name, (int)f.type_len, f.type);
	}
	return 0;
}

int event_validate(json_t *event, struct error *err)
{
	const char *name = json_string_value(json_object_get(event, "type"));
	const struct event_type *t;
	const char *key;
	json_t *value;
	int r;

	if (!json_is_object(event))
		return error_set(err, ERROR_BUG, EPROTO, "an event is not an object");
	t = name ? event_type_find(name) : NULL;
	if (!t)
		return error_set(err, ERROR_BUG, EPROTO, "event of unknown type '%s'",
				 name ? name : "(none)");
	r = check_fields(event, name, common_fields, err);
	if (r == 0)
		r = check_fields(event, name, t->fields, err);
	if (r < 0)
		return r;
	json_object_foreach(
		event, key,
		value) if (!field_known(common_fields, key) &&
			   !field_known(t->fields,
					key)) return error_set(err, ERROR_BUG, EPROTO,
							       "event '%s' has an unknown '%s'",
							       name, key);
	return 0;
}

json_t *event_new(const char *type, double t, json_t *fields)
{
	json_t *event = json_object();

	json_object_set_new(event, "v", json_integer(EVENT_VERSION));
	json_object_set_new(event, "type", json_string(type));
	json_object_set_new(event, "t", json_real(t));
	if (fields)
		json_object_update(event, fields);
	json_decref(fields);
	return event;
}
