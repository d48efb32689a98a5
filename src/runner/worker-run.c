/* SPDX-License-Identifier: MIT */
/* A worker's job: machines, setup, tests, teardown, verdicts. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"
#include "report/event.h"
#include "report/text.h"
#include "runner/worker.h"

/*
 * Phases of a job, each told to the runner and each with a deadline of its own:
 *
 *	load       the file is evaluated again and must declare what was planned
 *	boot       all autostart machines, side by side (not with isolation = "boot")
 *	setup      of the group
 *	  test     (warmup, run: of a bench)     ┐
 *	  diagnose when it failed                ├ once for each test of the job
 *	  teardown                               ┘
 *	end        machines are killed
 *
 * What fails first is the test's error and decides its verdict; later failures of the same test
 * are told as "error" events.
 */

#define LOAD_TIMEOUT_NS	 (30 * NS_PER_SEC)
#define BOOT_TIMEOUT_NS	 (120 * NS_PER_SEC)
#define PHASE_TIMEOUT_NS (600 * NS_PER_SEC) /* a setup's, a teardown's, a test's default */
#define END_TIMEOUT_NS	 (20 * NS_PER_SEC)

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

/* --- machines ------------------------------------------------------------------------------ */

static void on_machine_event(void *userdata, const char *machine, const char *type, json_t *fields)
{
	struct worker *w = userdata;
	_cleanup_free_ char *name = xasprintf("machine-%s", type);
	json_t *copy;

	if (event_type_find(name)) {
		copy = fields ? json_copy(fields) : json_object();
	} else {
		copy = json_pack("{s:s, s:O*}", "event", type, "data", fields);
		free(name);
		name = xstrdup("machine-event");
	}
	json_object_set_new(copy, "machine", json_string(machine));
	worker_emit_now(w, name, copy);
}

static int make_machines(struct worker *w, struct error *err)
{
	json_t *machines = json_object_get(w->job, "machines"), *json;
	const char *group = json_string_value(json_object_get(w->job, "group"));
	size_t i;

	w->env = (struct machine_env){
		.dir = json_string_value(json_object_get(w->job, "dir")),
		.work_dir = json_string_value(json_object_get(w->job, "work_dir")),
		.base_dir = w->base_dir,
		.accel = json_string_value(json_object_get(w->job, "accel")),
		.debug_boot = json_is_true(json_object_get(w->job, "debug_boot")),
		.tell_console = json_is_true(json_object_get(w->job, "tell_console")),
		.emit = on_machine_event,
		.userdata = w,
	};
	w->machines = xcalloc(json_array_size(machines) + 1, sizeof(*w->machines));
	json_array_foreach(machines, i, json)
	{
		struct worker_machine *m = &w->machines[w->n_machines++];
		int r;

		r = machine_spec_parse(json, &m->spec, err);
		if (r == 0)
			r = machine_new(m->spec, &w->env, &m->machine, err);
		if (r == 0)
			r = script_bind_machine(w->script, group, m->spec->name, m->machine, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Machines that start side by side. */
struct starts {
	struct worker *w;
	size_t n_pending;
	struct waiters ended;
	struct error failed; /* the first */
};

struct start {
	struct starts *all;
	struct machine *machine;
	struct fiber *fiber;
};

static int start_fiber(void *userdata)
{
	struct start *s = userdata;
	struct starts *all = s->all;
	struct error err = {};
	int r;

	r = machine_start(s->machine, NULL, worker_scaled(all->w, BOOT_TIMEOUT_NS), &err);
	if (r < 0 && !error_is_set(&all->failed))
		all->failed = err;
	all->n_pending--;
	waiters_wake_all(&all->ended);
	return r;
}

/* All that shall be up, side by side; the first failure, in time, cancels the rest. */
static int start_machines(struct worker *w, struct error *err)
{
	struct start *starts = xcalloc(w->n_machines + 1, sizeof(*starts));
	struct starts all = {.w = w};
	int r = 0;

	for (size_t i = 0; i < w->n_machines; i++) {
		if (!w->machines[i].spec->autostart)
			continue;
		starts[i] = (struct start){.all = &all, .machine = w->machines[i].machine};
		all.n_pending++;
		fiber_start(w->machines[i].spec->name, start_fiber, &starts[i], &starts[i].fiber);
	}
	while (r == 0 && all.n_pending > 0 && !error_is_set(&all.failed))
		r = fiber_wait(&all.ended, NS_FOREVER, "machines to start", err);
	if (r == 0 && error_is_set(&all.failed))
		r = error_propagate(err, &all.failed);
	/* At once, and only then one after the other to their ends. */
	for (size_t i = 0; i < w->n_machines; i++)
		if (starts[i].fiber)
			fiber_cancel(starts[i].fiber);
	for (size_t i = 0; i < w->n_machines; i++) {
		if (!starts[i].fiber)
			continue;
		fiber_stop(starts[i].fiber);
		fiber_unref(starts[i].fiber);
	}
	free(starts);
	return r;
}

static int boot(struct worker *w, struct error *err)
{
	if (w->n_machines == 0)
		return 0;
	worker_phase(w, "boot", worker_scaled(w, BOOT_TIMEOUT_NS));
	return start_machines(w, err);
}

static int power_cycle(struct worker *w, struct error *err)
{
	for (size_t i = 0; i < w->n_machines; i++) {
		int r = machine_unplug(w->machines[i].machine, err);

		if (r < 0)
			return r;
	}
	return boot(w, err);
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

static int run_setup(struct worker *w, json_t **ret_value, struct script_failure *ret)
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
	worker_emit(userdata, type, fields);
}

static int load(struct worker *w, struct error *err)
{
	const char *path = json_string_value(json_object_get(w->job, "path"));
	_cleanup_free_ char *absolute = path_absolute(path);
	struct script_opts opts = {
		.path = path,
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
	w->base_dir = path_dirname(absolute);
	r = script_load(&opts, &w->script, err);
	if (r < 0)
		return r;
	now = script_declarations(w->script);
	r = declarations_compare(json_object_get(w->job, "declarations"), now, err);
	json_decref(now);
	if (r == 0)
		r = make_machines(w, err);
	return r;
}

/* Up to where the tests begin; on failure *ret_phase says how far it came. */
static int prepare(struct worker *w, json_t **ret_value, const char **ret_phase,
		   struct script_failure *ret)
{
	int r;

	*ret_phase = "load";
	r = load(w, &ret->error);
	if (r < 0)
		return r;
	*ret_phase = "boot";
	if (json_is_true(json_object_get(w->job, "autostart"))) {
		r = boot(w, &ret->error);
		if (r < 0)
			return r;
	}
	*ret_phase = "setup";
	return run_setup(w, ret_value, ret);
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

static void end_machines(struct worker *w)
{
	worker_phase(w, "end", END_TIMEOUT_NS);
	/* First the script: what its handles free belongs to the machines. */
	script_free(w->script);
	w->script = NULL;
	for (size_t i = 0; i < w->n_machines; i++) {
		machine_free(w->machines[i].machine);
		w->machines[i].machine = NULL;
	}
}

void worker_run_job(struct worker *w)
{
	json_t *tests = json_object_get(w->job, "tests"), *test, *setup_value = NULL;
	struct script_failure f = {};
	uint64_t start_ns = now_ns();
	const char *phase;
	size_t i;

	begin_attempt(w, json_array_get(tests, 0));
	if (prepare(w, &setup_value, &phase, &f) < 0) {
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
	end_machines(w);
	json_decref(setup_value);
	script_failure_done(&f);
	if (outlet_dropped(w->out))
		worker_emit(w, "events-dropped",
			    json_pack("{s:I, s:s}", "count", (json_int_t)outlet_dropped(w->out),
				      "reason", "there were too many at once"));
}
