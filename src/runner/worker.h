/* SPDX-License-Identifier: MIT */
/* What the parts of a worker share: its job, its way to tell, its machines. */
#pragma once

#include <jansson.h>

#include "lua/script.h"
#include "machine/machine.h"
#include "runner/wire.h"

/*
 * A job, as the runner writes it (one JSON line):
 *
 *	{ "mode": "plan", "path":, "params": {}, "seed":, "check": bool }
 *	{ "mode": "run", "path":, "params": {}, "seed":, "epoch_ns": <of the run, monotonic>,
 *	  "timeout_scale": 4, "scale_reason": "TCG", "accel": "auto", "debug_boot": bool,
 *	  "declarations": {…}, "group": "…",
 *	  "machines": [ with what the command line overrides ],
 *	  "isolation": "boot"|"shared", "autostart": bool, "note": why it is not what was asked for,
 *	  "dir": report folder, "work_dir": scratch space,
 *	  "tests": [ { "name":, "id":, "kind":, "timeout_ms":, "runs":, "warmup":, "cold":,
 *	               "diagnose": bool } ] }
 *
 * Several tests only with isolation "shared". Times are unscaled.
 */
struct worker_machine {
	struct machine_spec *spec;
	struct machine *machine;
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

/* The whole of a job with mode "run": loads, compares, boots, runs, tells. */
void worker_run_job(struct worker *w);

/* Differences between what was planned and what is declared now; ERROR_USAGE says where. */
int declarations_compare(json_t *planned, json_t *now, struct error *err);

/* What every machine looks like, told as "diagnostic" events, within 10 s in total. */
void diagnose_machines(struct worker *w);
