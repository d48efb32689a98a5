/* SPDX-License-Identifier: MIT */
/* Runs test files on the fake backend without the runner: each test in a state of its own, every
 * event checked against the table of events. `run-scripts FILE…`; prints TAP. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/fiber.h"
#include "loop/loop.h"
#include "lua/script.h"
#include "machine/backend.h"
#include "report/event.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

struct rig {
	const char *path;
	char *dir;
	unsigned n, n_failed;
	unsigned bad_events;
	char bad_event[512];
};

struct one_test {
	struct rig *rig;
	struct script *script;
	const char *group;
	json_t *group_json, *test, *suite;
	struct machine_env env;
	struct machine *machines[16];
	struct machine_spec *specs[16];
	size_t n_machines;
};

static void on_event(void *userdata, const char *type, json_t *fields)
{
	struct rig *rig = userdata;
	json_t *event = event_new(type, 0, fields);
	struct error err = {};

	if (event_validate(event, &err) < 0 && rig->bad_events++ == 0)
		snprintf(rig->bad_event, sizeof(rig->bad_event), "%.500s", err.message);
	json_decref(event);
}

static void on_machine_event(void *userdata, const char *machine, const char *type, json_t *fields)
{
}

static int load(struct rig *rig, bool check, struct script **ret, struct error *err)
{
	_cleanup_(json_decrefp) json_t *params = json_pack("{s:s}", "greeting", "hello world");
	struct script_opts opts = {
		.path = rig->path,
		.params = params,
		.seed = 1,
		.timeout_scale = 1,
		.check_only = check,
		.emit = on_event,
		.userdata = rig,
		.artifact_dir = rig->dir,
	};

	return script_load(&opts, ret, err);
}

static int make_machines(struct one_test *t, bool start, struct error *err)
{
	json_t *m;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(t->group_json, "machines"), i, m)
	{
		struct machine_spec *spec;

		r = machine_spec_parse(m, &spec, err);
		if (r < 0)
			return r;
		t->specs[t->n_machines] = spec;
		r = machine_new(spec, &t->env, &t->machines[t->n_machines++], err);
		if (r == 0)
			r = script_bind_machine(t->script, t->group, spec->name,
						t->machines[t->n_machines - 1], err);
		if (r == 0 && start && spec->autostart)
			r = machine_start(t->machines[t->n_machines - 1], NULL, 20 * NS_PER_SEC,
					  err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Why the test is not run here, or NULL. */
static const char *skipped(struct one_test *t)
{
	unsigned caps = 0;
	json_t *need;
	size_t i;

	if (json_is_true(json_object_get(t->test, "slow")))
		return "slow";
	(void)backend_caps("fake", &caps, NULL);
	json_array_foreach(json_object_get(t->test, "needs"), i,
			   need) if (!(caps &
				       machine_cap_from_name(json_string_value(
					       need)))) return json_string_value(need);
	return NULL;
}

static int run_phases(struct one_test *t, struct script_failure *f)
{
	json_t *timeout = json_object_get(t->test, "timeout_ms");
	const char *isolation = json_string_value(json_object_get(t->test, "isolation"));
	const char *name = json_string_value(json_object_get(t->test, "name"));
	struct script_failure after = {};
	_cleanup_(json_decrefp) json_t *value = NULL;
	struct deadline_scope scope;
	int r;

	if (!isolation)
		isolation = json_string_value(json_object_get(t->suite, "isolation"));
	if (!timeout)
		timeout = json_object_get(t->suite, "timeout_ms");
	r = make_machines(t, !str_eq(isolation, "boot"), &f->error);
	if (r == 0)
		r = script_call_setup(t->script, t->group, &value, f);
	if (r < 0)
		return r;
	deadline_enter(&scope,
		       timeout ? (uint64_t)json_integer_value(timeout) * NS_PER_MS
			       : 60 * NS_PER_SEC,
		       ERROR_DEADLINE, "the test's time-out");
	r = script_call_test(t->script, t->group, name, value, f);
	deadline_leave(&scope);
	for (size_t i = 0; i < t->n_machines && r == 0; i++)
		r = machine_check_panic(t->machines[i], &f->error);
	if (script_call_teardown(t->script, t->group, &after) < 0 && r == 0) {
		*f = after;
		return -f->error.code;
	}
	script_failure_done(&after);
	return r;
}

static void report(struct one_test *t, int r, struct script_failure *f)
{
	const char *xfail = json_string_value(json_object_get(t->test, "xfail"));
	const char *name = json_string_value(json_object_get(t->test, "name"));
	bool skip = r < 0 && (f->error.kind == ERROR_SKIP || f->error.kind == ERROR_UNSUPPORTED);
	bool good = skip || (r < 0) == (xfail != NULL);
	struct rig *rig = t->rig;
	json_t *frame;
	size_t i;

	if (good && rig->bad_events) {
		good = false;
		error_set(&f->error, ERROR_BUG, EPROTO, "an event is wrong: %.400s",
			  rig->bad_event);
	} else if (!good && r == 0) {
		error_set(&f->error, ERROR_EXPECT, EPROTO, "passed, but was to fail");
	}
	rig->bad_events = 0;
	printf("%sok %u - %s: %s%s%s%s\n", good ? "" : "not ", ++rig->n, path_basename(rig->path),
	       t->group, *t->group ? "/" : "", name, skip ? " # SKIP" : "");
	if (good)
		return;
	rig->n_failed++;
	printf("# %s: %s\n", error_kind_name(f->error.kind), f->error.message);
	if (*f->error.hint)
		printf("#   %s\n", f->error.hint);
	json_array_foreach(f->trace, i, frame)
		printf("#   %s:%lld: %s\n", json_string_value(json_object_get(frame, "file")),
		       (long long)json_integer_value(json_object_get(frame, "line")),
		       json_string_value(json_object_get(frame, "source")));
	if (f->detail) {
		char *text = json_dumps(f->detail, JSON_INDENT(2));

		printf("#   %s\n", text);
		free(text);
	}
}

static void run_test(struct rig *rig, const char *group, json_t *group_json, json_t *test,
		     json_t *suite)
{
	struct one_test t = {
		.rig = rig, .group = group, .group_json = group_json, .test = test, .suite = suite};
	struct script_failure f = {};
	int runs = (int)(json_integer_value(json_object_get(test, "runs")) ?: 1), r = 0;
	const char *why = skipped(&t);

	if (why) {
		printf("ok %u - %s # SKIP %s\n", ++rig->n,
		       json_string_value(json_object_get(test, "name")), why);
		return;
	}
	for (int i = 0; i < runs; i++) {
		_cleanup_free_ char *base = path_dirname(rig->path);

		t.n_machines = 0;
		t.env = (struct machine_env){.dir = rig->dir,
					     .work_dir = rig->dir,
					     .base_dir = base,
					     .emit = on_machine_event};
		r = load(rig, false, &t.script, &f.error);
		if (r == 0)
			r = run_phases(&t, &f);
		if (t.script)
			script_end_test(t.script);
		for (size_t k = 0; k < t.n_machines; k++)
			machine_free(t.machines[k]);
		script_free(t.script);
		for (size_t k = 0; k < t.n_machines; k++)
			machine_spec_free(t.specs[k]);
		t.script = NULL;
		if (r < 0)
			break;
	}
	report(&t, r, &f);
	script_failure_done(&f);
}

static int run_file(void *userdata)
{
	struct rig *rig = userdata;
	struct script *script = NULL;
	struct error err = {};
	_cleanup_(json_decrefp) json_t *d = NULL;
	json_t *group, *test;
	size_t i, k;

	if (load(rig, true, &script, &err) < 0) {
		printf("not ok %u - %s\n# %s\n# %s\n", ++rig->n, rig->path, err.message, err.hint);
		rig->n_failed++;
		return 0;
	}
	d = script_declarations(script);
	script_free(script);
	json_array_foreach(json_object_get(d, "groups"), i, group)
		json_array_foreach(json_object_get(group, "tests"), k, test)
			run_test(rig, json_string_value(json_object_get(group, "name")), group,
				 test, json_object_get(d, "suite"));
	return 0;
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/assay-scripts-XXXXXX";
	struct rig rig = {};

	if (!mkdtemp(dir))
		return 99;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++) {
		rig.path = argv[i];
		rig.dir = xasprintf("%s/%d", dir, i);
		(void)path_make_dirs(rig.dir, 0755, NULL);
		loop_main("scripts", run_file, &rig);
		free(rig.dir);
	}
	(void)path_remove_tree(dir, NULL);
	printf("1..%u\n", rig.n);
	return rig.n_failed ? 1 : 0;
}
