/* SPDX-License-Identifier: MIT */
/* A job from the runner's side: starts workers, listens to them, decides verdicts. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "report/text.h"
#include "runner/internal.h"

/*
 * Theory of operation
 *
 * One `struct attempt` is one worker (talk.c). What it did not get to tell, it is told for: a test
 * without "attempt-end" gets a verdict from how the worker ended. But one whose template was broken
 * ("template-broken") has not run its test: the job waits for another template then.
 */
struct attempt {
	struct talk talk;
	struct run *run;
	struct job *job;
	unsigned number;	      /* from 1 */
	char *dir;		      /* relative to the run's */
	struct collector *collectors; /* one for each test */
	json_t *broken;		      /* "template-broken": it has no verdict */
	uint64_t start_ns;
};

/* --- the job's message ------------------------------------------------------------------------ */

static json_t *test_message(struct run *run, struct test_case *t)
{
	static const char *const copied[] = {"name", "kind",   "timeout_ms",
					     "runs", "warmup", "cold"};
	json_t *m = json_pack("{s:s}", "id", t->id);
	json_t *suite = json_object_get(t->file->decl, "suite");

	for (size_t i = 0; i < ARRAY_SIZE(copied); i++)
		if (json_object_get(t->decl, copied[i]))
			json_object_set(m, copied[i], json_object_get(t->decl, copied[i]));
	if (!json_object_get(m, "timeout_ms") && json_object_get(suite, "timeout_ms"))
		json_object_set(m, "timeout_ms", json_object_get(suite, "timeout_ms"));
	/* An expected failure needs no explanation. */
	if (json_object_get(t->decl, "xfail"))
		json_object_set_new(m, "diagnose", json_false());
	return m;
}

json_t *job_message(struct run *run, struct job *job, const char *mode, const char *dir)
{
	json_t *group = job->tests[0].group, *name = json_object_get(group, "name");
	json_t *m = json_pack(
		"{s:s, s:s, s:I, s:I, s:f, s:s*, s:s, s:b, s:O, s:s, s:O, s:s, s:b, "
		"s:s*, s:s, s:s}",
		"mode", mode, "path", job->tests[0].file->path, "seed", (json_int_t)run->opts->seed,
		"epoch_ns", (json_int_t)run->epoch_ns, "timeout_scale", job->scale, "scale_reason",
		job->scale_reason, "accel", run->opts->accel ? run->opts->accel : "auto",
		"debug_boot", (int)run->opts->debug_boot, "declarations", job->tests[0].file->decl,
		"group", name ? json_string_value(name) : "", "machines", job->machines,
		"isolation", job->isolation, "autostart", (int)job->autostart, "note", job->note,
		"dir", dir, "work_dir", run->work_dir);

	assert(m);
	json_object_set_new(m, "tell_console", json_boolean(run->opts->verbosity >= 2));
	if (run->opts->params)
		json_object_set(m, "params", run->opts->params);
	return m;
}

static json_t *attempt_message(struct attempt *a)
{
	json_t *m = job_message(a->run, a->job, "run", a->talk.dir), *tests = json_array();

	for (size_t i = 0; i < a->job->n_tests; i++)
		json_array_append_new(tests, test_message(a->run, &a->job->tests[i]));
	json_object_set_new(m, "tests", tests);
	if (a->job->templates)
		json_object_set_new(m, "templates", templates_message(a->job));
	return m;
}

/* --- events ----------------------------------------------------------------------------------- */

static size_t test_index(struct attempt *a, json_t *event)
{
	const char *id = json_string_value(json_object_get(event, "test"));

	for (size_t i = 0; i < a->job->n_tests; i++)
		if (str_eq(a->job->tests[i].id, id))
			return i;
	return 0; /* a shared setup's belong to the first */
}

static void start_test(struct run *run, struct job *job, struct test_case *t)
{
	json_t *event;

	if (t->is_started)
		return;
	t->is_started = true;
	event = event_new("test-start", run_seconds(run),
			  json_pack("{s:s, s:O*, s:s, s:s, s:s}", "dir", job->dir, "line",
				    json_object_get(t->decl, "line"), "isolation", job->isolation,
				    "file", t->file->path, "test", t->id));
	run_event(run, event);
}

static void finish_run(struct attempt *a, size_t i);

static void handle_event(struct attempt *a, json_t *event)
{
	size_t i = test_index(a, event);
	struct test_case *t = &a->job->tests[i];
	const char *type;

	json_object_set_new(event, "file", json_string(t->file->path));
	json_object_set_new(event, "test", json_string(t->id));
	json_object_set_new(event, "attempt", json_integer((json_int_t)a->number));
	if (event_validate(event, NULL) < 0) {
		a->talk.dropped++;
		return;
	}
	type = json_string_value(json_object_get(event, "type"));
	if (str_eq(type, "attempt-start")) {
		start_test(a->run, a->job, t);
		json_object_set_new(event, "dir", json_string(a->dir));
	}
	if (str_eq(type, "template-broken") && !a->broken)
		a->broken = json_incref(event);
	if (str_eq(type, "fork-cost"))
		templates_note_cost(a->job, json_object_get(event, "bytes"));
	collector_event(&a->collectors[i], event);
	/* A console is for who looks on now; its log has it for later. */
	if (!str_eq(type, "machine-console"))
		talk_write(&a->talk, event);
	run_event(a->run, json_incref(event));
	/* Of a group that shares a worker each is over when it is; a lone one may be tried again.
	 */
	if (a->job->n_tests > 1 && str_eq(type, "attempt-end") && !t->result)
		finish_run(a, i);
}

static void tell_about(struct attempt *a, const char *type, json_t *fields)
{
	json_t *event = event_new(type, run_seconds(a->run), fields);

	handle_event(a, event);
	json_decref(event);
}

/* --- one attempt -------------------------------------------------------------------------------
 */

/* A worker that fails after it has told its verdicts: no verdict changes, but somebody must know.
 */
static void tell_bad_end(struct attempt *a)
{
	struct process *p = a->talk.child.process;
	_cleanup_free_ char *how = NULL, *message = NULL;

	if (!p || !process_is_done(p) || process_status(p) == 0 || a->run->cancel)
		return;
	how = process_describe_status(process_status(p));
	message = xasprintf("the worker %s after it had told its verdict%s", how,
			    a->talk.overtime ? " (it was killed: it did not end in time)" : "");
	tell_about(a, "warning", json_pack("{s:s}", "message", message));
}

static void tell_leftovers(struct attempt *a)
{
	uint64_t dropped = a->talk.dropped + a->talk.child.reader.dropped;

	if (a->talk.child.tail.len > 0) {
		_cleanup_free_ char *text = text_plain(buf_str(&a->talk.child.tail));

		tell_about(a, "output", json_pack("{s:s, s:s}", "stream", "output", "text", text));
	}
	if (dropped) {
		a->talk.dropped = a->talk.child.reader.dropped = 0;
		tell_about(a, "events-dropped",
			   json_pack("{s:I, s:s}", "count", (json_int_t)dropped, "reason",
				     "they were too long, malformed, or too many"));
	}
}

/* An "attempt-end" for a test that the worker has told no end of. */
static void end_attempt_with(struct attempt *a, size_t i, const char *phase,
			     const struct error *err)
{
	struct test_case *t = &a->job->tests[i];
	json_t *error, *fields;

	error = json_pack("{s:s, s:o, s:s}", "kind", error_kind_name(err->kind), "message",
			  text_json(err->message), "phase", phase);
	if (err->hint[0])
		json_object_set_new(error, "hint", text_json(err->hint));
	if (a->talk.child.tail.len > 0 && !a->run->cancel) {
		_cleanup_free_ char *text = text_plain(buf_str(&a->talk.child.tail));

		json_object_set_new(error, "detail", json_pack("{s:s}", "output", text));
	}
	start_test(a->run, a->job, t);
	fields = json_pack("{s:s, s:f, s:o, s:s}", "verdict",
			   verdict_name(verdict_of_error(err->kind)), "seconds",
			   (double)(now_ns() - a->start_ns) / (double)NS_PER_SEC, "error", error,
			   "test", t->id);
	tell_about(a, "attempt-end", fields);
}

static void end_for_worker(struct attempt *a, size_t i, const struct error *failed)
{
	struct error err = {};

	talk_explain_end(&a->talk, failed, &err);
	end_attempt_with(a, i, *a->talk.phase ? a->talk.phase : "load", &err);
}

static void attempt_run(struct attempt *a)
{
	_cleanup_free_ char *name = xasprintf("worker of %s", a->job->tests[0].id);
	struct error err = {};
	json_t *message;

	a->start_ns = now_ns();
	start_test(a->run, a->job, &a->job->tests[0]);
	message = attempt_message(a);
	(void)talk_run(&a->talk, name, message, &err);
	json_decref(message);
	if (a->broken && !a->talk.is_cancelled)
		return;
	if (a->collectors[a->job->n_tests - 1].end)
		tell_bad_end(a);
	for (size_t i = 0; i < a->job->n_tests; i++)
		if (!a->collectors[i].end)
			end_for_worker(a, i, &err);
	tell_leftovers(a);
}

static void attempt_done(struct attempt *a)
{
	talk_done(&a->talk);
	json_decref(a->broken);
	for (size_t i = 0; i < a->job->n_tests; i++)
		collector_done(&a->collectors[i]);
	free(a->collectors);
	free(a->dir);
}

/* --- verdicts -----------------------------------------------------------------------------------
 */

static void note_attempt(struct attempt *a, size_t i)
{
	json_t *end = a->collectors[i].end;

	json_array_append_new(
		a->job->tests[i].attempts,
		json_pack("{s:O, s:O, s:s, s:O*, s:O*}", "verdict", json_object_get(end, "verdict"),
			  "seconds", json_object_get(end, "seconds"), "dir", a->dir, "error",
			  json_object_get(end, "error"), "reason", json_object_get(end, "reason")));
}

/* What the last attempt says, in the light of what was expected and of earlier attempts. */
static enum verdict judge(struct test_case *t, json_t *end, unsigned attempt)
{
	enum verdict v = VERDICT_ERRORED;
	bool xfail = json_object_get(t->decl, "xfail") != NULL;

	(void)verdict_from_name(json_string_value(json_object_get(end, "verdict")), &v);
	if (xfail && v == VERDICT_FAILED)
		return VERDICT_XFAIL;
	if (xfail && v == VERDICT_PASSED)
		return VERDICT_XPASS;
	if (v == VERDICT_PASSED && attempt > 1)
		return VERDICT_FLAKY;
	return v;
}

static void set_common(struct run *run, struct job *job, struct test_case *t, json_t *result)
{
	static const char *const copied[] = {"line", "kind", "tags"};

	for (size_t i = 0; i < ARRAY_SIZE(copied); i++)
		if (json_object_get(t->decl, copied[i]))
			json_object_set(result, copied[i], json_object_get(t->decl, copied[i]));
	json_object_set_new(result, "file", json_string(t->file->path));
	json_object_set_new(result, "test", json_string(t->id));
	json_object_set_new(result, "isolation", json_string(job->isolation));
	if (t->repeat)
		json_object_set_new(result, "repeat", json_integer(t->repeat));
}

static void finish_test(struct run *run, struct job *job, struct test_case *t, json_t *result)
{
	const char *xfail = json_string_value(json_object_get(t->decl, "xfail"));

	json_object_set_new(result, "verdict", json_string(verdict_name(t->verdict)));
	if (t->verdict == VERDICT_XFAIL && xfail)
		json_object_set_new(result, "reason", json_string(xfail));
	if (t->verdict == VERDICT_XPASS) {
		_cleanup_free_ char *message = xasprintf("passed, but a failure was expected%s%s",
							 xfail ? ": " : "", xfail ? xfail : "");

		json_object_set_new(result, "error",
				    json_pack("{s:s, s:o, s:s}", "kind", "expect", "message",
					      text_json(message), "hint",
					      "if what was broken is mended, take the xfail out"));
	}
	if (t->verdict == VERDICT_FAILED || t->verdict == VERDICT_ERRORED ||
	    t->verdict == VERDICT_XPASS) {
		_cleanup_free_ char *command = outdir_reproduce(run, t);

		json_object_set_new(result, "reproduce", text_json(command));
	}
	t->result = event_new("test-end", run_seconds(run), result);
	run_count(run, t);
	run_event(run, json_incref(t->result));
}

static void finish_run(struct attempt *a, size_t i)
{
	struct test_case *t = &a->job->tests[i];
	json_t *end = a->collectors[i].end, *error = json_object_get(end, "error");
	struct error why = {};
	json_t *result;

	/* "cancelled while waiting for …" is where it stood, not what happened. */
	if (str_eq(json_string_value(json_object_get(error, "kind")), "cancelled")) {
		run_explain_cancel(a->run, &why);
		json_object_set_new(error, "kind", json_string(error_kind_name(why.kind)));
		json_object_set_new(error, "message", text_json(why.message));
	}
	note_attempt(a, i);
	result = json_pack("{s:O, s:s, s:O, s:O*, s:O*}", "seconds",
			   json_object_get(end, "seconds"), "dir", a->dir, "attempts", t->attempts,
			   "error", error, "reason", json_object_get(end, "reason"));

	t->verdict = judge(t, end, a->number);
	t->want = t->verdict == VERDICT_SKIPPED &&
		  str_eq(json_string_value(json_object_get(error, "kind")), "unsupported");
	if (t->want)
		json_object_set_new(result, "want", json_true());
	if (t->verdict == VERDICT_PASSED || t->verdict == VERDICT_FLAKY ||
	    t->verdict == VERDICT_SKIPPED)
		json_object_del(result, "error");
	set_common(a->run, a->job, t, result);
	collector_finish(&a->collectors[i], result);
	finish_test(a->run, a->job, t, result);
}

void test_finish_with(struct run *run, struct job *job, struct test_case *t, json_t *error,
		      const char *dir)
{
	json_t *result = json_pack("{s:f, s:s*}", "seconds", 0.0, "dir", dir);
	enum error_kind kind =
		error_kind_from_name(json_string_value(json_object_get(error, "kind")) ?: "");

	t->verdict = verdict_of_error(kind == ERROR_NONE ? ERROR_BUG : kind);
	t->want = kind == ERROR_UNSUPPORTED;
	if (t->verdict == VERDICT_FAILED && json_object_get(t->decl, "xfail"))
		t->verdict = VERDICT_XFAIL;
	if (t->verdict == VERDICT_SKIPPED)
		json_object_set(result, "reason", json_object_get(error, "message"));
	else
		json_object_set(result, "error", error);
	if (t->want)
		json_object_set_new(result, "want", json_true());
	set_common(run, job, t, result);
	finish_test(run, job, t, result);
}

void test_finish_unrun(struct run *run, struct job *job, struct test_case *t,
		       const struct error *err)
{
	json_t *error = json_pack("{s:s, s:o}", "kind", error_kind_name(err->kind), "message",
				  text_json(err->message));

	if (err->hint[0])
		json_object_set_new(error, "hint", text_json(err->hint));
	test_finish_with(run, job, t, error, NULL);
	json_decref(error);
}

/* Only a lone test can be tried again, and only where that may change something. */
static bool try_again(struct attempt *a)
{
	struct test_case *t = &a->job->tests[0];
	json_t *end = a->collectors[0].end;
	const char *kind =
		json_string_value(json_object_get(json_object_get(end, "error"), "kind"));
	enum verdict v = judge(t, end, a->number);

	return a->job->n_tests == 1 && (v == VERDICT_FAILED || v == VERDICT_ERRORED) &&
	       !str_eq(kind, "usage") && !a->run->stopping &&
	       a->number <= (unsigned)a->job->retries;
}

static void on_event(struct talk *t, json_t *event)
{
	handle_event(container_of(t, struct attempt, talk), event);
}

/* The test has not run, as its template was broken: once it may wait for another one. */
static bool wait_for_template(struct attempt *a)
{
	struct job *job = a->job;
	struct error err = {};

	if (!a->broken || a->talk.is_cancelled)
		return false;
	if (templates_broken(a->run, job, a->broken, &err)) {
		job->requeue = true;
		return true;
	}
	for (size_t i = 0; i < job->n_tests; i++)
		end_attempt_with(a, i, "fork", &err);
	tell_leftovers(a);
	return false;
}

int job_fiber(void *userdata)
{
	struct job_call *call = userdata;
	struct job *job = call->job;
	bool again = true;

	/* Those before it had to wait for another template count as well. */
	for (size_t n = json_array_size(job->tests[0].attempts) + 1; again; n++) {
		struct attempt a = {.run = call->run, .job = job, .number = (unsigned)n};

		a.dir = n == 1 ? xstrdup(job->dir) : xasprintf("%s/attempt-%zu", job->dir, n);
		a.talk = (struct talk){
			.run = call->run,
			.dir = path_join(call->run->dir, a.dir),
			.on_event = on_event,
		};
		a.collectors = xcalloc(job->n_tests, sizeof(*a.collectors));
		for (size_t i = 0; i < job->n_tests; i++)
			collector_init(&a.collectors[i]);
		attempt_run(&a);
		if (wait_for_template(&a)) {
			attempt_done(&a);
			break;
		}
		again = try_again(&a);
		for (size_t i = 0; i < job->n_tests; i++) {
			if (again)
				note_attempt(&a, i);
			else if (!job->tests[i].result)
				finish_run(&a, i);
		}
		attempt_done(&a);
	}
	job->is_over = true;
	waiters_wake_all(&call->run->changed);
	free(call);
	return 0;
}
