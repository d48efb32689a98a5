/* SPDX-License-Identifier: MIT */
/* run_tests(): from options to the exit status. */
#include "runner/run.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "report/text.h"
#include "runner/internal.h"

/*
 * Theory of operation
 *
 * The calling fiber is the scheduler. Each running job has a fiber (job.c), images have one
 * (images.c). Everything that happens becomes an event (run_event); reports are made from events
 * only, by reporters that know nothing of the runner.
 *
 * Ctrl-C, SIGTERM and SIGHUP set `interrupted` and `cancel` and wake whoever waits for `changed`:
 * the scheduler starts nothing more, each job tells its worker to end and kills it soon after, a
 * build is cancelled, and the run ends the usual way, with reports of what is known. A second
 * signal changes nothing.
 */

/* --- events ---------------------------------------------------------------------------------- */

double run_seconds(const struct run *run)
{
	return (double)(now_ns() - run->epoch_ns) / (double)NS_PER_SEC;
}

static void write_own_event(struct run *run, json_t *event)
{
	_cleanup_free_ char *line = NULL;
	struct error err = {};
	size_t len;

	if (!run->events)
		return;
	line = wire_format(event, &len);
	if (fwrite(line, 1, len, run->events) == len && fflush(run->events) == 0)
		return;
	error_set_errno(&err, ERROR_INFRA, errno, "cannot write to '%s/events.jsonl'", run->dir);
	fclose(TAKE_PTR(run->events));
	run_break(run, &err);
}

void run_event(struct run *run, json_t *event)
{
	struct error err = {};

	json_object_set_new(event, "run", json_string(run->id ? run->id : ""));
	if (event_validate(event, &err) < 0)
		log_warn("%s", err.message);
	if (!json_object_get(event, "test") && !json_object_get(event, "template"))
		write_own_event(run, event);
	for (size_t i = 0; i < run->n_reporters; i++)
		run->reporters[i].ops->event(&run->reporters[i], event);
	json_decref(event);
}

void run_emit(struct run *run, const char *type, json_t *fields)
{
	run_event(run, event_new(type, run_seconds(run), fields));
}

static void emit_error(struct run *run, const struct error *err)
{
	json_t *fields = json_pack("{s:s, s:o}", "kind", error_kind_name(err->kind), "message",
				   text_json(err->message));

	if (err->hint[0])
		json_object_set_new(fields, "hint", text_json(err->hint));
	run_emit(run, "error", fields);
}

void run_break(struct run *run, const struct error *err)
{
	bool first = !error_is_set(&run->broken);

	run->stopping = run->cancel = true;
	waiters_wake_all(&run->changed);
	if (!first)
		return;
	run->broken = *err;
	emit_error(run, err);
}

void run_count(struct run *run, const struct test_case *t)
{
	struct counts *c = &run->counts;
	bool bad = false;

	switch (t->verdict) {
	case VERDICT_PASSED:
		c->passed++;
		break;
	case VERDICT_FAILED:
	case VERDICT_XPASS:
		c->failed++;
		bad = true;
		break;
	case VERDICT_ERRORED:
		c->errored++;
		bad = true;
		break;
	case VERDICT_SKIPPED:
		c->skipped++;
		c->wanting += t->want;
		break;
	case VERDICT_XFAIL:
		c->xfailed++;
		break;
	case VERDICT_FLAKY:
		c->flaky++;
		break;
	}
	if (bad && run->opts->fail_fast)
		run->stopping = true;
}

/* --- signals ---------------------------------------------------------------------------------- */

static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};

/*
 * A handler and a pipe rather than a blocked mask and a signalfd: switching fibers restores each
 * one's own mask, so what one of them blocks is open again in the next. What was ignored when we
 * were started (nohup, a shell's background job) stays ignored.
 */
struct signals {
	struct sigaction before[ARRAY_SIZE(stop_signals)];
	struct io *io; /* reading end */
	struct fiber *fiber;
	struct run *run;
};

static int signal_pipe = -EBADF; /* writing end; the handler's */

static void on_stop_signal(int sig)
{
	int saved = errno;
	char byte = (char)sig;

	(void)!write(signal_pipe, &byte, 1);
	errno = saved;
}

static int signal_fiber(void *userdata)
{
	struct signals *s = userdata;
	struct run *run = s->run;
	uint8_t sig;

	while (io_read(s->io, &sig, 1, NS_FOREVER, NULL) == 1) {
		if (!run->interrupted)
			run->stop_signal = sig;
		run->interrupted = run->stopping = run->cancel = true;
		waiters_wake_all(&run->changed);
	}
	return 0;
}

static int signals_start(struct signals *s, struct run *run, struct error *err)
{
	struct sigaction sa = {.sa_handler = on_stop_signal, .sa_flags = SA_RESTART};
	int fds[2];

	*s = (struct signals){.run = run};
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a pipe");
	s->io = io_new(fds[0]);
	signal_pipe = fds[1];
	fiber_start("signals", signal_fiber, s, &s->fiber);
	for (size_t i = 0; i < ARRAY_SIZE(stop_signals); i++) {
		sigaction(stop_signals[i], NULL, &s->before[i]);
		if (s->before[i].sa_handler != SIG_IGN)
			sigaction(stop_signals[i], &sa, NULL);
	}
	return 0;
}

static void signals_stop(struct signals *s)
{
	if (!s->io)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(stop_signals); i++)
		sigaction(stop_signals[i], &s->before[i], NULL);
	fiber_stop(s->fiber);
	fiber_unref(s->fiber);
	io_free(s->io);
	close(TAKE_FD(signal_pipe));
}

/* --- reporters ---------------------------------------------------------------------------------
 */

static int add_reporter(struct run *run, const char *name, const char *path, struct error *err)
{
	struct reporter r = {
		.path = path ? xstrdup(path) : NULL,
		.color = run->opts->color,
		.live = run->opts->live,
		.verbosity = run->opts->verbosity,
	};
	int e;

	for (size_t i = 0; reporters[i]; i++)
		if (str_eq(reporters[i]->name, name))
			r.ops = reporters[i];
	assert(r.ops);
	e = r.ops->open(&r, err);
	if (e < 0) {
		free((char *)r.path);
		return e;
	}
	run->reporters = xrealloc(run->reporters, (run->n_reporters + 1) * sizeof(r));
	run->reporters[run->n_reporters++] = r;
	return 0;
}

static int open_reporters(struct run *run, struct error *err)
{
	_cleanup_free_ char *junit = path_join(run->dir, "junit.xml"),
			    *json = path_join(run->dir, "results.json");
	const struct {
		const char *name, *path;
		bool wanted;
	} wanted[] = {
		{"terminal", NULL, !run->opts->tap},
		{"tap", NULL, run->opts->tap},
		{"junit", junit, true},
		{"json", json, true},
		{"junit", run->opts->junit_path, run->opts->junit_path},
		{"json", run->opts->json_path, run->opts->json_path},
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		int r = wanted[i].wanted ? add_reporter(run, wanted[i].name, wanted[i].path, err)
					 : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

/* The first that cannot write its report is the error; the others write theirs all the same. */
static int close_reporters(struct run *run, struct error *err)
{
	int result = 0;

	for (size_t i = 0; i < run->n_reporters; i++) {
		struct error e = {};
		int r = run->reporters[i].ops->close(&run->reporters[i], &e);

		if (r < 0 && result == 0)
			result = error_propagate(err, &e);
		free((char *)run->reporters[i].path);
	}
	free(run->reporters);
	run->reporters = NULL;
	run->n_reporters = 0;
	return result;
}

/* --- beginning and end --------------------------------------------------------------------------
 */

static int find_ns_level(struct run *run, struct error *err)
{
	static const enum ns_level levels[] = {NS_FULL, NS_NOPID, NS_NONE};
	const char *asked = run->opts->ns_level;

	for (size_t i = 0; asked && i < ARRAY_SIZE(levels); i++)
		if (str_eq(asked, ns_level_name(levels[i]))) {
			run->ns = (struct ns_verdict){.level = levels[i]};
			snprintf(run->ns.reason, sizeof(run->ns.reason),
				 "asked for on the command line");
			return 0;
		}
	if (asked)
		return error_set(err, ERROR_USAGE, EINVAL,
				 "there is no namespace level '%s' (full, nopid, none)", asked);
	return ns_probe(&run->ns, err);
}

/* Scratch space for unlinked overlays: where images are, so that it is a real disk. */
static int make_work_dir(struct run *run, struct error *err)
{
	_cleanup_free_ char *cache = NULL;
	int r = path_cache_dir(&cache, NULL);

	if (r >= 0) {
		run->work_dir = path_join(cache, "scratch");
		r = path_make_dirs(run->work_dir, 0700, NULL);
	}
	/* A cache that others filled and that we may only read. */
	if (r < 0 || access(run->work_dir, W_OK) < 0) {
		free(run->work_dir);
		run->work_dir = xstrdup("/var/tmp");
	}
	if (access(run->work_dir, W_OK) < 0)
		return error_set_errno(err, ERROR_INFRA, errno,
				       "neither the cache nor /var/tmp can be written");
	return 0;
}

static void emit_run_start(struct run *run)
{
	const struct run_opts *o = run->opts;
	time_t now = time(NULL);
	char started[32];
	struct tm tm;
	json_t *fields;

	gmtime_r(&now, &tm);
	strftime(started, sizeof(started), "%Y-%m-%dT%H:%M:%SZ", &tm);
	fields = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:b, s:s, s:O*}", "id", run->id, "dir",
			   run->dir, "version", ASSAY_VERSION, "started", started, "jobs",
			   (json_int_t)schedule_jobs(run), "seed", (json_int_t)o->seed, "strict",
			   (int)o->strict, "ns_level", ns_level_name(run->ns.level), "params",
			   o->params);
	if (o->shuffle)
		json_object_set_new(fields, "shuffle_seed",
				    json_integer((json_int_t)run->shuffle_seed));
	if (run->ns.level != NS_FULL)
		json_object_set_new(fields, "ns_reason", text_json(run->ns.reason));
	run_emit(run, "run-start", fields);
}

static void emit_plan(struct run *run)
{
	json_t *tests = json_array();

	for (size_t i = 0; i < run->n_jobs; i++)
		for (size_t k = 0; k < run->jobs[i].n_tests; k++) {
			struct test_case *t = &run->jobs[i].tests[k];

			json_array_append_new(tests,
					      json_pack("{s:s, s:s, s:O*, s:O*}", "file",
							t->file->path, "test", t->id, "line",
							json_object_get(t->decl, "line"), "tags",
							json_object_get(t->decl, "tags")));
		}
	run_emit(run, "plan",
		 json_pack("{s:o, s:I, s:b}", "tests", tests, "files", (json_int_t)run->n_files,
			   "open", (int)run->opts->until_fail));
	if (run->accel_known)
		run_emit(run, "accel",
			 json_pack("{s:s, s:s, s:f}", "accel", run->accel.kvm ? "kvm" : "tcg",
				   "reason", run->accel.reason, "timeout_scale",
				   run->accel.timeout_scale));
}

/* What was wrong with the files: true if nothing can be run because of it. */
static bool emit_problems(struct run *run)
{
	bool fatal = false;

	for (size_t i = 0; i < run->n_files; i++) {
		const struct plan_file *f = &run->files[i];
		json_t *problem;
		size_t k;

		json_array_foreach(f->problems, k, problem)
		{
			json_t *fields = json_copy(problem);
			bool stops = json_is_true(json_object_get(problem, "fatal"));

			json_object_del(fields, "fatal");
			json_object_set_new(fields, "file", json_string(f->path));
			if (!stops) {
				json_object_del(fields, "kind");
				json_object_del(fields, "line");
			}
			run_emit(run, stops ? "error" : "warning", fields);
			fatal |= stops;
		}
	}
	return fatal;
}

static int exit_status(const struct run *run, int planned)
{
	const struct counts *c = &run->counts;

	if (run->interrupted)
		return EXIT_INTERRUPTED;
	if (planned != EXIT_PASSED)
		return planned;
	if (error_is_set(&run->broken))
		return EXIT_ERRORED;
	if (c->failed)
		return EXIT_FAILED;
	if (c->errored || (run->opts->strict && c->wanting))
		return EXIT_ERRORED;
	return EXIT_PASSED;
}

static json_int_t count_unrun(const struct run *run)
{
	json_int_t n = 0;

	for (size_t i = 0; i < run->n_jobs; i++)
		for (size_t k = 0; k < run->jobs[i].n_tests; k++)
			n += !run->jobs[i].tests[k].result;
	return n;
}

static int emit_run_end(struct run *run, int planned)
{
	const struct counts *c = &run->counts;
	int status = exit_status(run, planned);
	json_t *end;

	if (run->interrupted)
		run_emit(run, "interrupted",
			 json_pack("{s:s}", "signal", sigabbrev_np(run->stop_signal)));
	end = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:i, s:b, s:I, s:i}", "passed",
			(int)c->passed, "failed", (int)c->failed, "errored", (int)c->errored,
			"skipped", (int)c->skipped, "xfailed", (int)c->xfailed, "flaky",
			(int)c->flaky, "seconds", run_seconds(run), "exit", status, "interrupted",
			(int)run->interrupted, "not_run", count_unrun(run), "slow",
			(int)run->n_slow);
	if (run->opts->strict)
		json_object_set_new(end, "wanting", json_integer(c->wanting));
	run_emit(run, "run-end", end);
	return status;
}

/* --- the run -------------------------------------------------------------------------------------
 */

/* From paths to jobs. EXIT_PASSED when there is something to run; what is wrong with the command
 * line fills err. */
static int plan(struct run *run, struct error *err)
{
	int r = plan_load(run, false, err);

	if (r < 0)
		return err->kind == ERROR_USAGE ? EXIT_USAGE : EXIT_ERRORED;
	if (emit_problems(run))
		return EXIT_USAGE;
	r = plan_select(run, err);
	if (r < 0)
		return err->kind == ERROR_USAGE ? EXIT_USAGE : EXIT_ERRORED;
	return run->n_tests ? EXIT_PASSED : EXIT_NOTHING;
}

static int open_events(struct run *run, struct error *err)
{
	_cleanup_free_ char *path = path_join(run->dir, "events.jsonl");

	run->events = fopen(path, "ae");
	if (!run->events)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write '%s'", path);
	return 0;
}

/* What must be there before anything is started. */
static int prepare(struct run *run, struct error *err)
{
	int r;

	r = find_ns_level(run, err);
	if (r == 0)
		r = make_work_dir(run, err);
	if (r == 0)
		r = outdir_make(run, err);
	if (r == 0)
		r = open_events(run, err);
	if (r == 0)
		r = open_reporters(run, err);
	return r;
}

static int run_all(struct run *run, struct error *err)
{
	int status, r;

	emit_run_start(run);
	status = plan(run, err);
	if (status == EXIT_PASSED) {
		/* Not before: --rerun-failed reads the last run's results through it. */
		r = outdir_publish(run, err);
		if (r < 0)
			run_break(run, err);
		emit_plan(run);
		schedule_run(run);
	} else if (status == EXIT_NOTHING) {
		struct error why = {};

		explain_nothing(run, &why);
		emit_error(run, &why);
	}
	if (run->interrupted)
		error_clear(err);
	return emit_run_end(run, status);
}

static void run_done(struct run *run)
{
	if (run->events)
		fclose(run->events);
	plan_done(run);
	json_decref(run->templates_told);
	free(run->id);
	free(run->dir);
	free(run->out_dir);
	free(run->work_dir);
}

int run_tests(const struct run_opts *opts, struct error *err)
{
	struct run *run = xcalloc(1, sizeof(*run));
	struct signals signals;
	int status, r;

	run->opts = opts;
	run->epoch_ns = now_ns();
	run->shuffle_seed = plan_shuffle_seed(opts);
	r = signals_start(&signals, run, err);
	if (r == 0)
		r = prepare(run, err);
	if (r < 0) {
		status = err->kind == ERROR_USAGE ? EXIT_USAGE : EXIT_ERRORED;
		(void)close_reporters(run, NULL);
	} else {
		status = run_all(run, err);
		r = close_reporters(run, error_is_set(err) ? NULL : err);
		if (r < 0 && (status == EXIT_PASSED || status == EXIT_FAILED))
			status = EXIT_ERRORED;
	}
	signals_stop(&signals);
	run_done(run);
	free(run);
	return status;
}
