/* SPDX-License-Identifier: MIT */
/* What the parts of the runner share: the run, its files, its jobs. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "image/image.h"
#include "loop/fiber.h"
#include "loop/loop.h"
#include "loop/process.h"
#include "machine/machine.h"
#include "report/event.h"
#include "runner/run.h"
#include "runner/wire.h"

/* A test file. */
struct plan_file {
	char *path;	  /* as reports show it and workers open it */
	bool named;	  /* on the command line, not found in a folder */
	json_t *decl;	  /* as the planning worker told it; NULL if it could not be loaded */
	json_t *problems; /* array of { kind, message, hint, line, fatal } */
	size_t n_tests;
};

/* One test (or bench), once for each repetition. */
struct test_case {
	struct plan_file *file;
	json_t *group, *decl; /* borrowed from file->decl */
	char *id;	      /* "group/name" or "name" */
	unsigned repeat;      /* from 1; 0: not repeated */
	bool is_started;      /* "test-start" is out */
	json_t *attempts;     /* array of { verdict, seconds, dir, error } */
	json_t *result;	      /* the "test-end" event; NULL: not over */
	enum verdict verdict; /* once it is */
	bool want;	      /* skipped for want of a capability */
};

struct image_need;   /* images.c */
struct template_set; /* templates.c */

/* What one worker does: one test, or all of a group with isolation "shared". */
struct job {
	struct test_case *tests; /* owned */
	size_t n_tests;
	json_t *machines; /* with the overrides of the command line */
	const char *isolation;
	bool autostart;
	char *note;
	char *dir; /* relative to the run's */
	int priority, retries;
	size_t order;
	uint64_t cost_bytes;
	unsigned weight;
	double scale;
	const char *scale_reason;
	struct image_need **images;
	size_t n_images;
	struct template_set *templates; /* that it forks from; NULL: it does not */
	unsigned template_round;	/* which of them: they are made anew when they break */
	unsigned n_broken;		/* how often they did */
	bool requeue;			/* to be started again, once they are there */
	struct error *refusal;		/* decided while planning: not to be started; NULL: fine */
	json_t *refusal_line; /* of the machine that is refused; borrowed; NULL: the test's */
	/* while it runs */
	struct fiber *fiber;
	bool is_over;
};

/* Totals, for the summary and the exit status. */
struct counts {
	unsigned passed, failed, errored, skipped, xfailed, flaky, wanting;
};

struct run {
	const struct run_opts *opts;
	char *id, *dir, *out_dir; /* dir: absolute; out_dir: as given */
	char *work_dir;
	uint64_t epoch_ns;
	FILE *events; /* of the run itself */
	struct reporter *reporters;
	size_t n_reporters;

	struct plan_file *files;
	size_t n_files;
	struct job *jobs;
	size_t n_jobs, n_tests;
	char **used_dirs;
	struct image_need *needs;
	struct template_set *sets;
	json_t *templates_told; /* keys of those that were found and are reported */
	struct build *builds;	/* that want to run, or do */
	struct load {
		unsigned jobs, weight;
		uint64_t bytes;
	} load; /* what runs now */
	struct ns_verdict ns;
	struct accel_verdict accel;
	bool accel_known;
	struct counts counts;
	unsigned n_slow; /* tests that --slow would have added */

	bool interrupted; /* by a signal */
	bool cancel;	  /* running workers are to end now */
	int stop_signal;
	bool stopping;	     /* no new jobs: interrupted, fail-fast, or broken */
	struct error broken; /* the lab: disk full … ; ends the run */
	unsigned usage_errors;
	uint64_t shuffle_seed;
	struct waiters changed; /* a job has ended, an image is ready, somebody stops us */
};

/* --- run.c ------------------------------------------------------------------------------- */

/* Takes event; stamps the run, tells the reporters and, unless it is a test's, events.jsonl. */
void run_event(struct run *run, json_t *event);
/* Takes fields. */
void run_emit(struct run *run, const char *type, json_t *fields);
double run_seconds(const struct run *run);
/* The lab is broken: told once, ends the run. */
void run_break(struct run *run, const struct error *err);
/* Adds a finished test to the totals. */
void run_count(struct run *run, const struct test_case *t);

/* --- outdir.c ---------------------------------------------------------------------------- */

/* Makes <out>/<id>/ and checks that it can be written. */
int outdir_make(struct run *run, struct error *err);
/* Points <out>/latest to it. */
int outdir_publish(struct run *run, struct error *err);
/* A new folder name for a test, unique in the run. */
char *outdir_test_name(struct run *run, const struct plan_file *file, const char *id,
		       unsigned repeat);
/* "sh" text to paste, which runs this test again. malloc'd */
char *outdir_reproduce(const struct run *run, const struct test_case *t);

/* --- plan.c ------------------------------------------------------------------------------ */

/* Expands paths and asks planning workers: files, declarations, problems. */
int plan_load(struct run *run, bool check, struct error *err);
void plan_done(struct run *run);

unsigned host_cpus(void); /* that we may use */

/* --- select.c ---------------------------------------------------------------------------- */

/* From files to jobs: filters, overrides, needs, shard, shuffle, repeat. */
int plan_select(struct run *run, struct error *err);
/* A machine with what the command line fills in or overrides; new. */
json_t *plan_override_machine(const struct run_opts *opts, json_t *machine);
/* The id of a test: "group/name" or "name"; malloc'd. */
char *plan_test_id(json_t *group, json_t *test);
/* Does its backend boot images, and is there one to find or build? */
bool machine_needs_image(json_t *machine);
/* Why nothing is to be run; ERROR_USAGE. (explain.c) */
void explain_nothing(const struct run *run, struct error *err);
/* What kind of isolation counts for a test. */
const char *plan_isolation(const struct run_opts *opts, json_t *suite, json_t *test);
void job_done(struct job *job);
/* The one given, or a new one; 0 without --shuffle. */
uint64_t plan_shuffle_seed(const struct run_opts *opts);

/* Which tests are wanted: compiled once. */
struct filter;
int filter_new(const struct run_opts *opts, struct filter **ret, struct error *err);
void filter_free(struct filter *f);
/* 1 wanted, 0 not, -errno. */
#define FILTER_SLOW 2 /* wanted, but slow, and slow ones are not asked for */
int filter_match(struct filter *f, const struct plan_file *file, json_t *suite, json_t *test,
		 const char *id, struct error *err);

/* --- images.c ---------------------------------------------------------------------------- */

/* What the job's machines boot from is noted; images of one recipe are one need. */
int images_note(struct run *run, struct job *job, struct error *err);
/* Starts a fiber that gets all of them ready, in the order they were noted. */
void images_start(struct run *run);
/* 1: all there; 0: not yet; -errno: one cannot be had. */
int images_ready(const struct job *job, struct error *err);
/* Is it an image's name that is known without a file's declarations, or a path? ERROR_USAGE. */
int images_check_name(const char *name, struct error *err);
/* Can it be had at all, as far as is known without building? */
int images_check(const struct image_need *need, struct error *err);
/* Cancels builds, lets go of images. */
void images_stop(struct run *run);

/* --- templates.c ------------------------------------------------------------------------- */

/* A job that is to be forked: what it starts from is shared with the others of its group. */
void templates_note(struct run *run, struct job *job);
/* Starts to look for them, and to make what is missing, when the images are there. */
void templates_start(struct run *run);
/* 1: the job can start: as a fork, or, where there can be no templates, anew (isolation, note and
 * cost are set). 0: not yet. -errno: they cannot be made, see templates_finish(). */
int templates_ready(struct job *job);
/* Ends the tests of such a job. */
void templates_finish(struct run *run, struct job *job);
/* The member "templates" of a job's message. */
json_t *templates_message(const struct job *job);
/* A worker of the job has told (event) that a template is broken. True: another one is being made;
 * false: it was not the first time, err says so. */
bool templates_broken(struct run *run, struct job *job, json_t *event, struct error *err);
/* What the machines of a fork took: object of template key → bytes. */
void templates_note_cost(struct job *job, json_t *bytes);
void templates_stop(struct run *run);

/* --- talk.c -------------------------------------------------------------------------------- */

/* A process of ours with a control socket and a kept tail of what it prints (child.c). */
struct child {
	struct process *process;
	struct io *control, *output;
	struct wire_reader reader;
	struct buf tail; /* the end of what it printed; complete after child_settle() */
	struct fiber *output_fiber;
	struct timer *late; /* SIGKILL, should SIGTERM not do */
	uint64_t output_bytes;
};

/* One worker, from its job to its end. */
struct talk {
	/* given */
	struct run *run;
	char *dir;	  /* absolute; owned */
	bool stops_early; /* when the run starts nothing more, not only when all is to end */
	void (*on_event)(struct talk *t, json_t *event /* borrowed */);
	/* its own */
	struct child child;
	uint64_t start_ns;
	struct timer *timer;
	uint64_t phase_ns; /* time-out of the phase under way */
	bool overtime;	   /* killed because of it */
	bool job_sent;	   /* completely: what else is for the worker may follow */
	struct waiters sent;
	bool is_cancelled; /* its end is near: no phase gets time any more */
	char phase[16];
	FILE *events;
	uint64_t events_bytes, dropped;
	struct fiber *canceller;
};
/* Makes the folder, starts the worker, gives it the job and returns when it is over. A failure is
 * one of the lab's; how the worker ended, child.process says. */
int talk_run(struct talk *t, const char *name, json_t *job, struct error *err);
/* Into the folder's events.jsonl. */
void talk_write(struct talk *t, json_t *event);
/* Why a worker did not get to tell its end itself; failed: what talk_run() said. */
void talk_explain_end(struct talk *t, const struct error *failed, struct error *ret);
void talk_done(struct talk *t);
/* Why running workers are told to end: a user's wish, or what the runner itself cannot go on
 * with. */
void run_explain_cancel(const struct run *run, struct error *ret);

/* --- template-job.c ------------------------------------------------------------------------ */

/* A worker that makes a template. */
struct template_job {
	struct run *run;
	struct template_set *set;
	const char *title;	/* "setup of a.lua", "server (debian-13)" */
	const char *file;	/* whose it is */
	struct collector *kept; /* what was told on the way; initialized by the caller */
	json_t *message;	/* takes it */
	char *dir;		/* relative to the run's; borrowed */
	/* How it ended: */
	json_t *error;	/* as in events, NULL: it is made */
	json_t *broken; /* "template-broken", of one that it starts from; NULL: none */
};
void template_job_run(struct template_job *j);
void template_job_done(struct template_job *j);

/* --- job.c ------------------------------------------------------------------------------- */

/* All attempts of a job, on a fiber; results are in job->tests afterwards. */
int job_fiber(void *userdata); /* struct job_call */
struct job_call {
	struct run *run;
	struct job *job;
};
/* The message for a worker: all but what it is to do (wire.h, worker.h). dir: absolute. */
json_t *job_message(struct run *run, struct job *job, const char *mode, const char *dir);
/* Ends a test that no worker has run; error as in events; dir may be NULL. */
void test_finish_with(struct run *run, struct job *job, struct test_case *t, json_t *error,
		      const char *dir);
void test_finish_unrun(struct run *run, struct job *job, struct test_case *t,
		       const struct error *err);

/* ns: through ns-init at this level; NULL: directly. */
int child_start(struct child *c, const char *name, const struct ns_verdict *ns, struct error *err);
/* All of it is to end now: SIGTERM to ns-init, SIGKILL to a bare worker; SIGKILL after a while. */
void child_kill(struct child *c, const struct ns_verdict *ns);
/* It has ended: reads what is left of its output. */
void child_settle(struct child *c);
/* Frees; kills what still runs. */
void child_done(struct child *c);

/* --- schedule.c -------------------------------------------------------------------------- */

/* Tests at once, for the report. */
unsigned schedule_jobs(const struct run *run);
/* Runs all jobs. */
void schedule_run(struct run *run);

/* What runs beside the jobs and takes as much as one: waits until there is room for it. */
struct build {
	struct build *next;
	uint64_t cost_bytes;
	unsigned weight;
	bool is_running, is_over;
};
int schedule_enter(struct run *run, struct build *b, struct error *err);
void schedule_leave(struct run *run, struct build *b);

/* --- collect.c --------------------------------------------------------------------------- */

/* What a test's events add up to. */
struct collector {
	json_t *subtests, *metrics, *artifacts, *diagnostics, *log, *warnings, *errors;
	json_t *open; /* stack of indices of open subtests */
	json_t *end;  /* "attempt-end" */
	json_t *fork_seconds;
	size_t n_samples;
};
void collector_init(struct collector *c);
void collector_done(struct collector *c);
void collector_event(struct collector *c, json_t *event);
/* Adds what was collected to a "test-end" event. */
void collector_finish(struct collector *c, json_t *result);
