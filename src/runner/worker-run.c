/* SPDX-License-Identifier: MIT */
/* A worker's job: machines, setup, tests, teardown, verdicts. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"
#include "machine/template.h"
#include "report/event.h"
#include "report/text.h"
#include "runner/worker.h"

/*
 * Phases of a job, each told to the runner and each with a deadline of its own:
 *
 *	load       the file is evaluated again and must declare what was planned
 *	fork       all machines go on where their template was saved; or
 *	boot       all autostart machines, side by side (not with isolation = "boot"), and
 *	setup      of the group
 *	  test     (warmup, run: of a bench)     ┐
 *	  diagnose when it failed                ├ once for each test of the job
 *	  teardown                               ┘
 *	end        machines are killed
 *
 * What fails first is the test's error and decides its verdict; later failures of the same test
 * are told as "error" events.
 */

#define LOAD_TIMEOUT_NS (30 * NS_PER_SEC)

struct outcome {
	enum verdict verdict;
	const char *phase; /* where the first failure was; NULL: none yet */
	struct script_failure failure;
	uint64_t start_ns;
};

static void outcome_done(struct outcome *o)
{
	script_failure_done(&o->failure);
}

/* Takes the failure's contents: the first one decides, the others are told at once. */
static void outcome_fail(struct worker *w, struct outcome *o, const char *phase,
			 struct script_failure *f)
{
	if (!o->phase) {
		o->phase = phase;
		o->verdict = verdict_of_error(f->error.kind);
		o->failure = *f;
	} else {
		worker_emit(w, "error", worker_error_json(&f->error, phase, f->detail, f->trace));
		script_failure_done(f);
	}
	*f = (struct script_failure){};
}

static void outcome_fail_error(struct worker *w, struct outcome *o, const char *phase,
			       const struct error *err)
{
	struct script_failure f = {.error = *err};

	outcome_fail(w, o, phase, &f);
}

/* --- setup, body, teardown ------------------------------------------------------------------ */

struct phase {
	struct deadline_scope scope;
	char what[64];
};

/* A phase with a deadline that no script can catch. */
static void phase_enter(struct worker *w, struct phase *p, const char *name, const char *whose,
			uint64_t timeout_ns)
{
	uint64_t scaled = worker_scaled(w, timeout_ns);
	char text[FORMAT_MAX];

	worker_phase(w, name, scaled);
	snprintf(p->what, sizeof(p->what), "the %s's time-out of %s", whose,
		 format_duration(scaled, text));
	deadline_enter(&p->scope, scaled, ERROR_DEADLINE, p->what);
}

static void phase_leave(struct phase *p)
{
	deadline_leave(&p->scope);
}

static json_t *find_group(struct worker *w)
{
	const char *name = json_string_value(json_object_get(w->job, "group"));
	json_t *groups = json_object_get(json_object_get(w->job, "declarations"), "groups"), *group;
	size_t i;

	json_array_foreach(groups, i,
			   group) if (str_eq(json_string_value(json_object_get(group, "name")),
					     name)) return group;
	return NULL;
}

static bool group_has(struct worker *w, const char *what)
{
	json_t *value = json_object_get(find_group(w), what);

	return value && !json_is_null(value) && !json_is_false(value);
}

int worker_setup(struct worker *w, json_t **ret_value, struct script_failure *ret)
{
	const char *group = json_string_value(json_object_get(w->job, "group"));
	struct phase phase;
	int r;

	*ret_value = NULL;
	if (!group_has(w, "setup"))
		return 0;
	phase_enter(w, &phase, "setup", "setup", PHASE_TIMEOUT_NS);
	r = script_call_setup(w->script, group, ret_value, ret);
	phase_leave(&phase);
	return r;
}

static int call_body(struct worker *w, json_t *test, json_t *setup_value,
		     struct script_failure *ret)
{
	return script_call_test(w->script, json_string_value(json_object_get(w->job, "group")),
				json_string_value(json_object_get(test, "name")), setup_value, ret);
}

static uint64_t test_timeout(json_t *test)
{
	json_int_t ms = json_integer_value(json_object_get(test, "timeout_ms"));

	return ms > 0 ? (uint64_t)ms * NS_PER_MS : PHASE_TIMEOUT_NS;
}

static int power_cycle(struct worker *w, struct error *err)
{
	for (size_t i = 0; i < w->n_machines; i++) {
		int r = machine_unplug(w->machines[i].machine, err);

		if (r < 0)
			return r;
	}
	return machines_boot(w, err);
}

/* One repetition of a bench: from power-off if it is cold; its duration is a sample, and the
 * bench's time-out bounds it. */
static int run_bench_once(struct worker *w, json_t *test, bool warmup, json_t *setup_value,
			  struct script_failure *ret)
{
	struct phase phase;
	uint64_t start;
	int r;

	if (json_is_true(json_object_get(test, "cold"))) {
		r = power_cycle(w, &ret->error);
		if (r < 0)
			return r;
	}
	phase_enter(w, &phase, warmup ? "warmup" : "run", "repetition", test_timeout(test));
	start = now_ns();
	r = call_body(w, test, setup_value, ret);
	phase_leave(&phase);
	if (r == 0 && !warmup)
		worker_emit(w, "metric",
			    json_pack("{s:s, s:f, s:s, s:s}", "name", "duration", "value",
				      (double)(now_ns() - start) / (double)NS_PER_SEC, "unit", "s",
				      "better", "lower"));
	return r;
}

static int run_bench(struct worker *w, json_t *test, json_t *setup_value,
		     struct script_failure *ret)
{
	json_t *runs_json = json_object_get(test, "runs"),
	       *warmup_json = json_object_get(test, "warmup");
	json_int_t runs = runs_json ? json_integer_value(runs_json) : 10;
	json_int_t warmup = warmup_json ? json_integer_value(warmup_json) : 1;
	int r = 0;

	for (json_int_t i = 0; r == 0 && i < warmup + runs; i++)
		r = run_bench_once(w, test, i < warmup, setup_value, ret);
	return r;
}

static void run_body(struct worker *w, json_t *test, json_t *setup_value, struct outcome *o)
{
	struct script_failure f = {};
	struct phase phase;
	int r;

	if (str_eq(json_string_value(json_object_get(test, "kind")), "bench")) {
		r = run_bench(w, test, setup_value, &f);
	} else {
		phase_enter(w, &phase, "test", "test", test_timeout(test));
		r = call_body(w, test, setup_value, &f);
		phase_leave(&phase);
	}
	if (r < 0)
		outcome_fail(w, o, "test", &f);
	script_failure_done(&f);
}

static void check_panics(struct worker *w, struct outcome *o)
{
	for (size_t i = 0; i < w->n_machines; i++) {
		struct error err = {};

		if (!w->machines[i].machine ||
		    machine_check_panic(w->machines[i].machine, &err) == 0)
			continue;
		/* The call that noticed has already told it. */
		if (o->phase && o->failure.error.kind == ERROR_CRASH)
			continue;
		outcome_fail_error(w, o, "test", &err);
	}
}

/* Also after a failed test; its own failure counts only if there was none before. */
static void run_teardown(struct worker *w, struct outcome *o)
{
	const char *group = json_string_value(json_object_get(w->job, "group"));
	struct script_failure f = {};
	struct phase phase;

	if (!group_has(w, "teardown") || fiber_is_cancelled(fiber_self()))
		return;
	phase_enter(w, &phase, "teardown", "teardown", PHASE_TIMEOUT_NS);
	if (script_call_teardown(w->script, group, &f) < 0)
		outcome_fail(w, o, "teardown", &f);
	phase_leave(&phase);
	script_failure_done(&f);
}

static bool wants_diagnosis(const struct outcome *o, json_t *test)
{
	if (!o->phase || o->verdict == VERDICT_SKIPPED || fiber_is_cancelled(fiber_self()))
		return false;
	return !json_is_false(json_object_get(test, "diagnose"));
}

/* --- telling ------------------------------------------------------------------------------- */

static void begin_attempt(struct worker *w, json_t *test)
{
	const char *note = json_string_value(json_object_get(w->job, "note"));

	w->test = json_string_value(json_object_get(test, "id"));
	worker_emit(w, "attempt-start",
		    json_pack("{s:s, s:s, s:s*}", "dir",
			      json_string_value(json_object_get(w->job, "dir")), "isolation",
			      json_string_value(json_object_get(w->job, "isolation")), "note",
			      note));
}

static void end_attempt(struct worker *w, const struct outcome *o)
{
	json_t *fields = json_pack("{s:s, s:f}", "verdict", verdict_name(o->verdict), "seconds",
				   (double)(now_ns() - o->start_ns) / (double)NS_PER_SEC);

	if (o->phase) {
		const struct script_failure *f = &o->failure;

		if (o->verdict == VERDICT_SKIPPED)
			json_object_set_new(fields, "reason", text_json(f->error.message));
		json_object_set_new(fields, "error",
				    worker_error_json(&f->error, o->phase, f->detail, f->trace));
	}
	worker_emit(w, "attempt-end", fields);
	w->test = NULL;
}

/* A failure before any test could run is that of each test of the job. */
static void fail_all(struct worker *w, const char *phase, struct script_failure *f,
		     bool first_is_started, uint64_t start_ns)
{
	json_t *tests = json_object_get(w->job, "tests"), *test;
	size_t i;

	json_array_foreach(tests, i, test)
	{
		struct outcome o = {.phase = phase, .start_ns = start_ns};

		if (i > 0 || !first_is_started)
			begin_attempt(w, test);
		o.verdict = verdict_of_error(f->error.kind);
		o.failure = (struct script_failure){
			.error = f->error,
			.detail = json_incref(f->detail),
			.trace = json_incref(f->trace),
		};
		if (i == 0 && wants_diagnosis(&o, test))
			diagnose_machines(w);
		end_attempt(w, &o);
		outcome_done(&o);
	}
	script_failure_done(f);
	*f = (struct script_failure){};
}

/* --- the whole ------------------------------------------------------------------------------ */

static void on_script_event(void *userdata, const char *type, json_t *fields)
{
	struct worker *w = userdata;

	if (w->on_told)
		w->on_told(w, type, fields);
	worker_emit(w, type, fields);
}

int worker_load(struct worker *w, struct error *err)
{
	struct script_opts opts = {
		.path = json_string_value(json_object_get(w->job, "path")),
		.params = json_object_get(w->job, "params"),
		.seed = (uint64_t)json_integer_value(json_object_get(w->job, "seed")),
		.timeout_scale = w->scale,
		.scale_reason = json_string_value(json_object_get(w->job, "scale_reason")),
		.emit = on_script_event,
		.userdata = w,
		.artifact_dir = json_string_value(json_object_get(w->job, "dir")),
	};
	json_t *now;
	int r;

	worker_phase(w, "load", LOAD_TIMEOUT_NS);
	r = script_load(&opts, &w->script, err);
	if (r < 0)
		return r;
	now = script_declarations(w->script);
	r = declarations_compare(json_object_get(w->job, "declarations"), now, err);
	json_decref(now);
	return r;
}

static bool is_forked(struct worker *w)
{
	return str_eq(json_string_value(json_object_get(w->job, "isolation")), "fork");
}

/* What setup returned when the template was made; absent in one of a booted machine. */
static json_t *stored_value(struct worker *w)
{
	json_t *notes = w->group_template ? w->group_template->notes : NULL;

	return json_incref(json_object_get(notes, "value"));
}

/* Up to where the tests begin; on failure *ret_phase says how far it came. */
static int prepare(struct worker *w, json_t **ret_value, const char **ret_phase,
		   struct fork_failure *broken, struct script_failure *ret)
{
	bool forked = is_forked(w);
	int r;

	*ret_phase = "load";
	r = machines_make(w, &ret->error);
	if (r == 0 && forked) {
		r = fork_open(w, broken);
		if (r < 0)
			return error_propagate(&ret->error, &broken->error);
		fork_prestart(w);
	}
	if (r == 0)
		r = worker_load(w, &ret->error);
	if (r == 0)
		r = machines_bind(w, &ret->error);
	if (r < 0)
		return r;
	if (forked) {
		*ret_phase = "fork";
		r = fork_restore(w, broken);
		*ret_value = stored_value(w);
		return r < 0 ? error_propagate(&ret->error, &broken->error) : 0;
	}
	*ret_phase = "boot";
	if (json_is_true(json_object_get(w->job, "autostart"))) {
		r = machines_boot(w, &ret->error);
		if (r < 0)
			return r;
	}
	*ret_phase = "setup";
	return worker_setup(w, ret_value, ret);
}

static void run_one(struct worker *w, json_t *test, json_t *setup_value, uint64_t start_ns)
{
	struct outcome o = {.verdict = VERDICT_PASSED, .start_ns = start_ns};

	run_body(w, test, setup_value, &o);
	check_panics(w, &o);
	if (wants_diagnosis(&o, test))
		diagnose_machines(w);
	script_end_test(w->script);
	run_teardown(w, &o);
	script_end_test(w->script);
	check_panics(w, &o);
	end_attempt(w, &o);
	outcome_done(&o);
}

void worker_run_job(struct worker *w)
{
	json_t *tests = json_object_get(w->job, "tests"), *test, *setup_value = NULL;
	struct fork_failure broken = {};
	struct script_failure f = {};
	uint64_t start_ns = now_ns();
	const char *phase;
	size_t i;

	begin_attempt(w, json_array_get(tests, 0));
	if (prepare(w, &setup_value, &phase, &broken, &f) < 0) {
		/* Not a verdict: the runner will think of something. */
		if (broken.key[0])
			fork_tell_broken(w, &broken);
		else
			fail_all(w, phase, &f, true, start_ns);
		tests = NULL;
	}
	json_array_foreach(tests, i, test)
	{
		if (i > 0) {
			start_ns = now_ns();
			begin_attempt(w, test);
		}
		run_one(w, test, setup_value, start_ns);
	}
	if (tests)
		fork_tell_cost(w);
	machines_end(w);
	fork_done(w);
	json_decref(setup_value);
	script_failure_done(&f);
	if (outlet_dropped(w->out))
		worker_emit(w, "events-dropped",
			    json_pack("{s:I, s:s}", "count", (json_int_t)outlet_dropped(w->out),
				      "reason", "there were too many at once"));
}
