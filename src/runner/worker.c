/* SPDX-License-Identifier: MIT */
/* `assay worker`: a process that plans one file, or runs one test of it. */
#include "runner/worker.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"
#include "report/event.h"
#include "report/text.h"
#include "runner/run.h"

/*
 * Theory of operation
 *
 * Two fibers. The first reads the job from the control socket and does it. The second goes on
 * reading the socket: {"cmd":"cancel"} or its end (the runner is gone) cancels the first one,
 * whose clean-up kills what it started. A third belongs to the outlet and writes events.
 *
 * Nothing here decides about reports: what happens is told, and the runner makes of it what it
 * likes.
 */

/* Well below a line's limit, together with all else in it. */
#define DETAIL_MAX_BYTES   (WIRE_EVENT_MAX_BYTES / 2)
#define DESCRIPTORS_WANTED 65536

static void emit(struct worker *w, const char *type, json_t *fields, bool may_wait)
{
	double t = (double)(now_ns() - w->epoch_ns) / (double)NS_PER_SEC;
	json_t *event = event_new(type, t, fields);
	struct error err = {};

	if (w->test && !json_object_get(event, "test"))
		json_object_set_new(event, "test", json_string(w->test));
	if (event_validate(event, &err) < 0) {
		/* Our own bug; it must not cost a person the rest of the report. */
		json_decref(event);
		event = event_new("warning", t, json_pack("{s:s}", "message", err.message));
	}
	outlet_emit(w->out, event, may_wait);
}

void worker_emit(struct worker *w, const char *type, json_t *fields)
{
	emit(w, type, fields, true);
}

void worker_emit_now(struct worker *w, const char *type, json_t *fields)
{
	emit(w, type, fields, false);
}

void worker_phase(struct worker *w, const char *name, uint64_t timeout_ns)
{
	json_t *fields = json_pack("{s:s}", "name", name);

	if (timeout_ns)
		json_object_set_new(fields, "timeout",
				    json_real((double)timeout_ns / (double)NS_PER_SEC));
	worker_emit(w, "phase", fields);
}

uint64_t worker_scaled(const struct worker *w, uint64_t timeout_ns)
{
	return (uint64_t)((double)timeout_ns * w->scale);
}

json_t *worker_error_json(const struct error *error, const char *phase, json_t *detail,
			  json_t *trace)
{
	json_t *j = json_object();

	json_object_set_new(j, "kind", json_string(error_kind_name(error->kind)));
	json_object_set_new(j, "message",
			    text_json(error->message[0] ? error->message : "no reason was given"));
	if (error->hint[0])
		json_object_set_new(j, "hint", text_json(error->hint));
	json_object_set_new(j, "phase", json_string(phase));
	/* A longer line than the runner takes would be dropped, and the verdict with it. */
	if (detail && json_dumpb(detail, NULL, 0, JSON_COMPACT) > DETAIL_MAX_BYTES)
		json_object_set_new(j, "detail", json_pack("{s:s}", "note", "left out: too large"));
	else if (detail)
		json_object_set(j, "detail", detail);
	if (trace)
		json_object_set(j, "trace", trace);
	return j;
}

/* --- planning ------------------------------------------------------------------------------ */

/* While planning only problems are of interest. */
static void on_plan_event(void *userdata, const char *type, json_t *fields)
{
	struct worker *w = userdata;

	if (str_eq(type, "error") || str_eq(type, "warning")) {
		json_object_set_new(fields, "type", json_string("problem"));
		if (!json_object_get(fields, "kind"))
			json_object_set_new(fields, "kind", json_string("usage"));
		outlet_emit(w->out, json_incref(fields), true);
	}
	json_decref(fields);
}

static void plan_job(struct worker *w)
{
	struct script_opts opts = {
		.path = json_string_value(json_object_get(w->job, "path")),
		.params = json_object_get(w->job, "params"),
		.seed = (uint64_t)json_integer_value(json_object_get(w->job, "seed")),
		.timeout_scale = 1,
		.check_only = json_is_true(json_object_get(w->job, "check")),
		.emit = on_plan_event,
		.userdata = w,
	};
	struct error err = {};
	json_t *answer;

	if (script_load(&opts, &w->script, &err) < 0) {
		answer = worker_error_json(&err, "load", NULL, NULL);
		json_object_set_new(answer, "type", json_string("problem"));
		json_object_set_new(answer, "fatal", json_true());
	} else {
		answer = json_pack("{s:s, s:o}", "type", "declarations", "declarations",
				   script_declarations(w->script));
	}
	outlet_emit(w->out, answer, true);
}

/* --- the process --------------------------------------------------------------------------- */

static int control_fiber(void *userdata)
{
	struct worker *w = userdata;
	json_t *msg;

	while (wire_read(&w->reader, &msg, NS_FOREVER, NULL) > 0) {
		bool cancel = str_eq(json_string_value(json_object_get(msg, "cmd")), "cancel");

		json_decref(msg);
		if (cancel)
			break;
	}
	fiber_cancel(w->main);
	return 0;
}

static void worker_done(struct worker *w)
{
	script_free(w->script);
	for (size_t i = 0; i < w->n_machines; i++)
		machine_spec_free(w->machines[i].spec);
	free(w->machines);
	free(w->base_dir);
	outlet_free(w->out);
	wire_reader_done(&w->reader);
	json_decref(w->job);
	io_free(w->control);
}

static int worker_fiber(void *userdata)
{
	struct worker *w = userdata;
	_cleanup_fiber_ struct fiber *control = NULL;
	const char *mode;
	int r;

	w->main = fiber_self();
	w->control = io_new(WIRE_CONTROL_FD);
	w->reader = (struct wire_reader){.io = w->control, .max = WIRE_JOB_MAX_BYTES};
	r = wire_read(&w->reader, &w->job, 60 * NS_PER_SEC, NULL);
	if (r <= 0) {
		/* The runner has thought better of it, or somebody started us by hand. */
		worker_done(w);
		return 1;
	}
	w->out = outlet_new(w->control);
	w->epoch_ns = (uint64_t)json_integer_value(json_object_get(w->job, "epoch_ns"));
	w->scale = json_number_value(json_object_get(w->job, "timeout_scale"));
	if (w->scale <= 0)
		w->scale = 1;
	fiber_start("control", control_fiber, w, &control);
	mode = json_string_value(json_object_get(w->job, "mode"));
	if (str_eq(mode, "plan"))
		plan_job(w);
	else if (str_eq(mode, "template"))
		worker_template_job(w);
	else
		worker_run_job(w);
	outlet_flush(w->out, 10 * NS_PER_SEC);
	fiber_stop(control);
	worker_done(w);
	return 0;
}

/* Snapshots are descriptors: each that is held has all layers of its disks, and QEMU has them, too.
 * The usual limit is for programs that use select(2). */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= DESCRIPTORS_WANTED)
		return;
	limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)DESCRIPTORS_WANTED);
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

int worker_main(int argc, char **argv)
{
	struct worker w = {};

	prctl(PR_SET_NAME, "assay-worker");
	raise_descriptor_limit();
	if (fcntl(WIRE_CONTROL_FD, F_GETFD) < 0) {
		fputs("assay: a worker is started by the runner, not by hand\n", stderr);
		return EXIT_USAGE;
	}
	/* For us, not for what we start. */
	fd_set_cloexec(WIRE_CONTROL_FD, true);
	return loop_main("worker", worker_fiber, &w);
}
