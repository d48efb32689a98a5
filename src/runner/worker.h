/* SPDX-License-Identifier: MIT */
/* What the parts of a worker share: its job, its way to tell, its machines. */
#pragma once

#include <jansson.h>

#include "base/file.h"
#include "lua/script.h"
#include "machine/machine.h"
#include "runner/wire.h"

/*
 * A job, as the runner writes it (one JSON line):
 *
 *	{ "mode": "plan", "path":, "params": {}, "seed":, "check": bool }
 *	{ "mode": "run", "path":, "params": {}, "seed":, "epoch_ns": <of the run, monotonic>,
 *	  "timeout_scale": 4, "scale_reason": "TCG", "accel": "auto", "debug_boot": bool,
 *	  "tell_console": bool, "declarations": {…}, "group": "…",
 *	  "machines": [ with what the command line overrides ],
 *	  "isolation": "fork"|"boot"|"shared", "autostart": bool, "note": why it is not what was
 *	  asked for, "templates": { "boot": { "<machine>": key } } | { "setup": key } | null,
 *	  "dir": report folder, "work_dir": scratch space,
 *	  "tests": [ { "name":, "id":, "kind":, "timeout_ms":, "runs":, "warmup":, "cold":,
 *	               "diagnose": bool } ] }
 *
 *	{ "mode": "template", "level": "boot"|"setup", "key":, "title":, …as with "run", but for
 *	  tests, note and isolation }: makes the template <key>, of one machine that has booted,
 *	  or of a group after its setup, which starts from the "templates"
 *
 * Several tests only with isolation "shared". Times are unscaled.
 */
struct saved;
struct template;

struct worker_machine {
	struct machine_spec *spec;
	struct machine *machine;
	struct template *template; /* that it is forked from; NULL: none */
	struct saved *from;	   /* borrowed from it; NULL: it was off */
	struct fiber *prestart;	   /* NULL: none */
	struct saved *saved;	   /* what was made of it; NULL: nothing */
	bool was_started;	   /* its VMM ran once */
	pid_t pid;		   /* of its VMM, the last one */
};

struct worker {
	struct io *control;
	struct wire_reader reader;
	struct outlet *out;
	json_t *job;
	uint64_t epoch_ns;
	double scale;
	const char *test; /* id, stamped on events; NULL: none in particular */
	struct machine_env env;
	char *base_dir;
	struct script *script;
	struct worker_machine *machines;
	size_t n_machines;
	struct template *group_template; /* of all machines, if they are forked after a setup */
	const struct template *broken_template; /* did not restore; NULL: none */
	/* What the script tells is passed on here before it is told; NULL: not wanted. */
	void (*on_told)(struct worker *w, const char *type, json_t *fields);
	json_t *notes; /* of the template that is made */
	size_t notes_bytes;
	struct fiber *main;
};

/* Takes fields. */
void worker_emit(struct worker *w, const char *type, json_t *fields);
/* The same, but never waits: dropped and counted when the runner does not keep up. */
void worker_emit_now(struct worker *w, const char *type, json_t *fields);
/* Tells what is done now and how long it may take (0: not told), so that the runner can kill us
 * when we do not keep to it. */
void worker_phase(struct worker *w, const char *name, uint64_t timeout_ns);
uint64_t worker_scaled(const struct worker *w, uint64_t timeout_ns);
/* The error as events carry it; detail and trace may be NULL and are borrowed. */
json_t *worker_error_json(const struct error *error, const char *phase, json_t *detail,
			  json_t *trace);

/* The whole of a job with mode "run": loads, compares, boots or forks, runs, tells. */
void worker_run_job(struct worker *w);
/* The whole of a job with mode "template". */
void worker_template_job(struct worker *w);

/* --- worker-run.c: what both kinds of jobs do ---------------------------------------------- */

#define BOOT_TIMEOUT_NS	 (120 * NS_PER_SEC)
#define PHASE_TIMEOUT_NS (600 * NS_PER_SEC) /* a setup's, a teardown's, a test's default */

/* Loads the file and compares what it declares with what was planned. */
int worker_load(struct worker *w, struct error *err);
/* 0 and no value without one. */
int worker_setup(struct worker *w, json_t **ret_value, struct script_failure *ret);

/* --- worker-machines.c --------------------------------------------------------------------- */

/* From the job's "machines"; nothing is started. */
int machines_make(struct worker *w, struct error *err);
int machines_bind(struct worker *w, struct error *err); /* to the script's handles */
/* fn for each machine that is wanted, side by side; the first failure cancels the rest. `what`
 * completes "waiting for …". */
struct machines_call {
	bool (*wanted)(const struct worker_machine *m);
	int (*fn)(struct worker *w, struct worker_machine *m, struct error *err);
	const char *what;
};
int machines_each(struct worker *w, const struct machines_call *call, struct error *err);
/* All with autostart; its own phase. */
int machines_boot(struct worker *w, struct error *err);
/* Kills what runs; its own phase. */
void machines_end(struct worker *w);

/* --- worker-fork.c ------------------------------------------------------------------------- */

/* What a test needs is broken or gone: which template, and why. */
struct fork_failure {
	char key[DIGEST_HEX_MAX]; /* "": it is not the template's fault */
	struct error error;
};
/* Opens the job's templates and gives each machine what it goes on from. */
int fork_open(struct worker *w, struct fork_failure *ret);
/* VMMs that a restore will use begin to start, in the background. */
void fork_prestart(struct worker *w);
/* All machines go on, side by side; its own phase. With a memory_dir they are to be saved again. */
int fork_restore(struct worker *w, struct fork_failure *ret);
/* Tells what memory the VMMs have taken for themselves. */
void fork_tell_cost(struct worker *w);
void fork_done(struct worker *w);
/* Tells that a template is broken, which makes the runner build another. */
void fork_tell_broken(struct worker *w, const struct fork_failure *f);

/* Differences between what was planned and what is declared now; ERROR_USAGE says where. */
int declarations_compare(json_t *planned, json_t *now, struct error *err);

/* What every machine looks like, told as "diagnostic" events, within 10 s in total. */
void diagnose_machines(struct worker *w);
