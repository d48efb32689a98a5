/* SPDX-License-Identifier: MIT */
/* The runner: from paths and options to verdicts and reports. */
#pragma once

#include <jansson.h>

#include "base/error.h"

/* As on the command line of `assay run`; strings borrowed. Zero is "not given". */
struct run_opts {
	char *const *paths; /* files and folders; empty: tests/ */
	int jobs;	    /* 0: by free memory and CPUs */
	const char *filter; /* PCRE2 on "file: id" */
	char *const *tags;
	bool slow;
	const char *backend, *image, *isolation; /* a trailing '!' overrides */
	const char *accel;			 /* auto, kvm, tcg */
	const char *timeout_scale;		 /* number or "auto" */
	const char *retries;			 /* number, '!' allowed */
	int repeat;
	bool until_fail, fail_fast, rerun_failed;
	int shard_index, shard_count; /* I/N, from 1 */
	bool shuffle;
	uint64_t shuffle_seed; /* chosen and printed if 0 */
	uint64_t seed;
	bool strict; /* default where CI is set */
	bool debug_boot;
	int verbosity;
	const char *out_dir; /* assay-out */
	const char *junit_path, *json_path;
	bool tap;
	json_t *params;	      /* object of strings, or NULL */
	const char *ns_level; /* NULL: probe; "full", "nopid", "none" */
	bool color, live;     /* stdout is a terminal */
};

/* Exit statuses of `assay run`. */
enum {
	EXIT_PASSED = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_ERRORED = 3,
	EXIT_NOTHING = 4,
	EXIT_INTERRUPTED = 130,
};
/* Runs on a fiber of the loop. Returns the exit status; what could not be run at all fills err
 * (EXIT_USAGE or EXIT_ERRORED). */
int run_tests(const struct run_opts *opts, struct error *err);

/* Plan only (list, check): an array of declarations as in lua/script.h, each from a planning
 * worker. check: everything that can be known without starting anything (images, packages' names
 * syntax, capabilities, agent = false with agent methods …) is an entry in ret_problems:
 * { "file":, "line":, "kind":, "message":, "hint": }. */
int plan_files(const struct run_opts *opts, bool check, json_t **ret_plans, json_t **ret_problems,
	       struct error *err);

/* The hidden subcommands that the runner re-executes. */
int worker_main(int argc, char **argv);
int ns_init_main(int argc, char **argv);

/* Namespace level, found out by doing; reason says what stands in the way of a higher one, fix what
 * would lift it. */
enum ns_level { NS_FULL, NS_NOPID, NS_NONE };
struct ns_verdict {
	enum ns_level level;
	char reason[256];
	char fix[256];
};
int ns_probe(struct ns_verdict *ret, struct error *err);
const char *ns_level_name(enum ns_level l);
