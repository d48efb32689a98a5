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
 * One `struct attempt` is one worker. The job's fiber reads its events until the socket ends, and
 * then waits for its process. A timer stands behind it all the while: each phase that the worker
 * announces sets it to the phase's time-out and 15 s, so a worker that does not keep its own
 * deadlines (a script in an endless loop inside one C function) is killed. What a worker did not
 * get to tell, it is told for: a test without "attempt-end" gets a verdict from how the worker
 * ended.
 *
 * Bounds: a line is at most 1 MiB, the events file at most EVENTS_MAX_BYTES; an event is handled
 * before the next one is read, so a flood fills the socket and makes the worker wait.
 */
#define FIRST_PHASE_NS	 (60 * NS_PER_SEC)
#define OVERTIME_NS	 (15 * NS_PER_SEC)
#define INTERRUPT_NS	 (1500 * NS_PER_MS)
#define EVENTS_MAX_BYTES (64 * MIB)

struct attempt {
	struct run *run;
	struct job *job;
	unsigned number; /* from 1 */
	char *dir;	 /* relative to the run's */
	struct child child;
	struct ns_verdict *ns;
	struct timer *timer;
	uint64_t phase_ns; /* time-out of the phase under way */
	bool overtime;	   /* killed because of it */
	bool job_sent;	   /* completely: what else is for the worker may follow */
	struct waiters sent;
	bool is_cancelled; /* its end is near: no phase gets time any more */
	char phase[16];
	FILE *events;
	uint64_t events_bytes, dropped;
	struct collector *collectors; /* one for each test */
	struct fiber *canceller;
	uint64_t start_ns;
};

/* --- deadlines ------------------------------------------------------------------------------- */

static void on_overtime(void *userdata)
{
	struct attempt *a = userdata;

	a->overtime = true;
	child_kill(&a->child, a->ns);
}

static void set_phase(struct attempt *a, const char *name, uint64_t timeout_ns)
{
	snprintf(a->phase, sizeof(a->phase), "%s", name);
	if (!timeout_ns || a->is_cancelled)
		return;
	a->phase_ns = timeout_ns;
	timer_free(a->timer);
	a->timer = timer_start(deadline_in(timeout_ns + OVERTIME_NS), on_overtime, a);
}

/* Waits for somebody to stop the run; then asks the worker to end, and soon makes it. Its message
 * must not come into the middle of the job's, which a worker may be slow to take. */
static int canceller_fiber(void *userdata)
{
	struct attempt *a = userdata;
	json_t *msg;

	while (!a->run->cancel)
		if (fiber_wait(&a->run->changed, NS_FOREVER, "the run's end", NULL) < 0)
			return 0;
	a->is_cancelled = true;
	timer_free(a->timer);
	a->timer = timer_start(deadline_in(INTERRUPT_NS), on_overtime, a);
	while (!a->job_sent)
		if (fiber_wait(&a->sent, NS_FOREVER, "the job to be sent", NULL) < 0)
			return 0;
	msg = json_pack("{s:s}", "cmd", "cancel");
	(void)wire_write(a->child.control, msg, INTERRUPT_NS, NULL);
	json_decref(msg);
	return 0;
}

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

static json_t *job_message(struct attempt *a)
{
	struct run *run = a->run;
	struct job *job = a->job;
	_cleanup_free_ char *dir = path_join(run->dir, a->dir);
	json_t *group = job->tests[0].group, *name = json_object_get(group, "name");
	json_t *m =
		json_pack("{s:s, s:s, s:I, s:I, s:f, s:s*, s:s, s:b, s:O, s:s, s:O, s:s, s:b, "
			  "s:s*, s:s, s:s}",
			  "mode", "run", "path", job->tests[0].file->path, "seed",
			  (json_int_t)run->opts->seed, "epoch_ns", (json_int_t)run->epoch_ns,
			  "timeout_scale", job->scale, "scale_reason", job->scale_reason, "accel",
			  run->opts->accel ? run->opts->accel : "auto", "debug_boot",
			  (int)run->opts->debug_boot, "declarations", job->tests[0].file->decl,
			  "group", name ? json_string_value(name) : "", "machines", job->machines,
			  "isolation", job->isolation, "autostart", (int)job->autostart, "note",
			  job->note, "dir", dir, "work_dir", run->work_dir);
	json_t *tests = json_array();

	assert(m);
	for (size_t i = 0; i < job->n_tests; i++)
		json_array_append_new(tests, test_message(run, &job->tests[i]));
	json_object_set_new(m, "tests", tests);
	json_object_set_new(m, "tell_console", json_boolean(run->opts->verbosity >= 2));
	if (run->opts->params)
		json_object_set(m, "params", run->opts->params);
	return m;
}

/* --- events ----------------------------------------------------------------------------------- */

/* Those that a report cannot do without come through whatever was dropped before. */
static bool is_essential(const char *type)
{
	static const char *const types[] = {"attempt-start",  "attempt-end", "error",
					    "diagnostic",     "phase",	     "output",
					    "events-dropped", NULL};

	return strv_contains((char *const *)types, type);
}

static void write_event(struct attempt *a, json_t *event, const char *type)
{
	_cleanup_free_ char *line = NULL;
	struct error err = {};
	size_t len;

	if (!a->events)
		return;
	if (a->events_bytes > EVENTS_MAX_BYTES && !is_essential(type)) {
		a->dropped++;
		return;
	}
	line = wire_format(event, &len);
	a->events_bytes += len;
	/* For whoever follows the file; and a crash of ours loses none. */
	if (fwrite(line, 1, len, a->events) != len ||
	    (!wire_has_line(&a->child.reader) && fflush(a->events) != 0)) {
		error_set_errno(&err, ERROR_INFRA, errno, "cannot write to '%s/%s/events.jsonl'",
				a->run->dir, a->dir);
		fclose(TAKE_PTR(a->events));
		run_break(a->run, &err);
	}
}

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
		a->dropped++;
		return;
	}
	type = json_string_value(json_object_get(event, "type"));
	if (str_eq(type, "phase"))
		set_phase(a, json_string_value(json_object_get(event, "name")),
			  (uint64_t)(json_number_value(json_object_get(event, "timeout")) *
				     (double)NS_PER_SEC));
	if (str_eq(type, "attempt-start")) {
		start_test(a->run, a->job, t);
		json_object_set_new(event, "dir", json_string(a->dir));
	}
	collector_event(&a->collectors[i], event);
	/* A console is for who looks on now; its log has it for later. */
	if (!str_eq(type, "machine-console"))
		write_event(a, event, type);
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

static int open_folder(struct attempt *a, struct error *err)
{
	_cleanup_free_ char *dir = path_join(a->run->dir, a->dir);
	_cleanup_free_ char *file = path_join(dir, "events.jsonl");
	int r = path_make_dirs(dir, 0755, err);

	if (r < 0)
		return r;
	a->events = fopen(file, "ae");
	if (!a->events)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write '%s'", file);
	return 0;
}

/* Feeds the worker and reads what it tells, to the end. */
static int converse(struct attempt *a, struct error *err)
{
	json_t *msg = job_message(a), *event;
	int r;

	r = wire_write(a->child.control, msg, FIRST_PHASE_NS, err);
	json_decref(msg);
	a->job_sent = r == 0;
	waiters_wake_all(&a->sent);
	if (r == -EPIPE || r == -ECONNRESET) {
		/* It is gone already; how it ended says more. */
		error_clear(err);
		r = 0;
	}
	while (r >= 0 && (r = wire_read(&a->child.reader, &event, NS_FOREVER, err)) > 0) {
		handle_event(a, event);
		json_decref(event);
	}
	if (r == -ECONNRESET) {
		error_clear(err);
		r = 0;
	}
	return r < 0 ? r : process_wait(a->child.process, NS_FOREVER, NULL, err);
}

/* A worker that fails after it has told its verdicts: no verdict changes, but somebody must know.
 */
static void tell_bad_end(struct attempt *a)
{
	struct process *p = a->child.process;
	_cleanup_free_ char *how = NULL, *message = NULL;

	if (!p || !process_is_done(p) || process_status(p) == 0 || a->run->cancel)
		return;
	how = process_describe_status(process_status(p));
	message = xasprintf("the worker %s after it had told its verdict%s", how,
			    a->overtime ? " (it was killed: it did not end in time)" : "");
	tell_about(a, "warning", json_pack("{s:s}", "message", message));
}

static void tell_leftovers(struct attempt *a)
{
	uint64_t dropped = a->dropped + a->child.reader.dropped;

	if (a->child.tail.len > 0) {
		_cleanup_free_ char *text = text_plain(buf_str(&a->child.tail));

		tell_about(a, "output", json_pack("{s:s, s:s}", "stream", "output", "text", text));
	}
	if (dropped) {
		a->dropped = a->child.reader.dropped = 0;
		tell_about(a, "events-dropped",
			   json_pack("{s:I, s:s}", "count", (json_int_t)dropped, "reason",
				     "they were too long, malformed, or too many"));
	}
}

/* Why running workers are told to end: a user's wish, or what the runner itself cannot go on with.
 */
static void explain_cancel(const struct run *run, struct error *ret)
{
	if (run->interrupted || !error_is_set(&run->broken)) {
		error_set(ret, ERROR_CANCELLED, ECANCELED, "interrupted");
		return;
	}
	*ret = run->broken;
	error_prefix(ret, "the run cannot go on");
}

/* Why a worker did not get to tell a verdict itself. */
static void explain_end(struct attempt *a, const struct error *failed, struct error *ret)
{
	_cleanup_free_ char *how = NULL;
	char text[FORMAT_MAX];

	if (a->run->cancel) {
		explain_cancel(a->run, ret);
	} else if (a->overtime) {
		error_set(ret, ERROR_DEADLINE, ETIMEDOUT,
			  "'%s' did not end 15 s after its time-out of %s and was killed", a->phase,
			  format_duration(a->phase_ns, text));
		error_hint(ret, "a script that computes inside one call cannot be stopped in any "
				"other way");
	} else if (error_is_set(failed)) {
		*ret = *failed;
	} else if (!a->child.process || !process_is_done(a->child.process)) {
		error_set(ret, ERROR_INFRA, EIO, "the worker could not be started");
	} else {
		how = process_describe_status(process_status(a->child.process));
		error_set(ret, ERROR_BUG, EPROTO, "the worker %s without a verdict", how);
		error_hint(ret, "this is a bug of Assay's; please report it with the folder of "
				"this test");
	}
}

/* Gives a test that the worker has told no end of an "attempt-end". */
static void end_for_worker(struct attempt *a, size_t i, const struct error *failed)
{
	struct test_case *t = &a->job->tests[i];
	struct error err = {};
	json_t *error, *fields;

	explain_end(a, failed, &err);
	error = json_pack("{s:s, s:o, s:s}", "kind", error_kind_name(err.kind), "message",
			  text_json(err.message), "phase", *a->phase ? a->phase : "load");
	if (err.hint[0])
		json_object_set_new(error, "hint", text_json(err.hint));
	if (a->child.tail.len > 0 && !a->run->cancel) {
		_cleanup_free_ char *text = text_plain(buf_str(&a->child.tail));

		json_object_set_new(error, "detail", json_pack("{s:s}", "output", text));
	}
	start_test(a->run, a->job, t);
	fields = json_pack("{s:s, s:f, s:o, s:s}", "verdict",
			   verdict_name(verdict_of_error(err.kind)), "seconds",
			   (double)(now_ns() - a->start_ns) / (double)NS_PER_SEC, "error", error,
			   "test", t->id);
	tell_about(a, "attempt-end", fields);
}

static void attempt_run(struct attempt *a)
{
	_cleanup_free_ char *name = xasprintf("worker of %s", a->job->tests[0].id);
	struct error err = {};
	int r;

	a->start_ns = now_ns();
	start_test(a->run, a->job, &a->job->tests[0]);
	r = open_folder(a, &err);
	if (r < 0)
		run_break(a->run, &err);
	if (r == 0)
		r = child_start(&a->child, name, a->ns, &err);
	if (r == 0) {
		set_phase(a, "load", FIRST_PHASE_NS);
		fiber_start("canceller", canceller_fiber, a, &a->canceller);
		(void)converse(a, &err);
		fiber_stop(a->canceller);
		fiber_unref(a->canceller);
		child_settle(&a->child);
	}
	if (a->collectors[a->job->n_tests - 1].end)
		tell_bad_end(a);
	for (size_t i = 0; i < a->job->n_tests; i++)
		if (!a->collectors[i].end)
			end_for_worker(a, i, &err);
	tell_leftovers(a);
}

static void attempt_done(struct attempt *a)
{
	timer_free(a->timer);
	child_done(&a->child);
	if (a->events && fclose(a->events) != 0) {
		struct error err = {};

		error_set_errno(&err, ERROR_INFRA, errno, "cannot write to '%s/%s/events.jsonl'",
				a->run->dir, a->dir);
		run_break(a->run, &err);
	}
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
		explain_cancel(a->run, &why);
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

void test_finish_unrun(struct run *run, struct job *job, struct test_case *t,
		       const struct error *err)
{
	json_t *result = json_pack("{s:f}", "seconds", 0.0);
	json_t *error = json_pack("{s:s, s:o}", "kind", error_kind_name(err->kind), "message",
				  text_json(err->message));

	if (err->hint[0])
		json_object_set_new(error, "hint", text_json(err->hint));
	t->verdict = verdict_of_error(err->kind);
	t->want = err->kind == ERROR_UNSUPPORTED;
	if (t->verdict == VERDICT_SKIPPED) {
		json_object_set_new(result, "reason", text_json(err->message));
		json_decref(error);
	} else {
		json_object_set_new(result, "error", error);
	}
	if (t->want)
		json_object_set_new(result, "want", json_true());
	set_common(run, job, t, result);
	finish_test(run, job, t, result);
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

int job_fiber(void *userdata)
{
	struct job_call *call = userdata;
	struct job *job = call->job;
	bool again = true;

	for (unsigned n = 1; again; n++) {
		struct attempt a = {.run = call->run, .job = job, .number = n};

		a.ns = &call->run->ns;
		a.dir = n == 1 ? xstrdup(job->dir) : xasprintf("%s/attempt-%u", job->dir, n);
		a.collectors = xcalloc(job->n_tests, sizeof(*a.collectors));
		for (size_t i = 0; i < job->n_tests; i++)
			collector_init(&a.collectors[i]);
		attempt_run(&a);
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
