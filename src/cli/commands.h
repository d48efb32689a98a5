/* SPDX-License-Identifier: MIT */
/* The commands; each is one file and one const struct. */
#pragma once

#include <jansson.h>

#include "base/str.h"
#include "cli/options.h"
#include "runner/run.h"

extern const struct command command_run_tests, command_list, command_check;
extern const struct command command_image, command_cache;
extern const struct command command_doctor, command_doc, command_help;
/* Hidden: the runner's re-executions, and what the build renders from the tables. */
extern const struct command command_worker, command_ns_init, command_render;

/* What `run`, `list` and `check` have in common: the struct their options are stored in. */
struct run_command_opts {
	struct run_opts run;
	char **tags;
	const char *shard;   /* I/N */
	const char *shuffle; /* "" without a seed */
	const char *color;   /* auto, always, never */
	bool json;
};
/* Fills run from the rest and from args; ERROR_USAGE. */
int run_command_finish(struct run_command_opts *o, char **args, struct error *err);
void run_command_done(void *opts);

/* Runs fn on a fiber of a new loop; for commands. */
int command_on_fiber(const char *name, int (*fn)(void *userdata), void *userdata);

/* Prints and frees. */
void print_json(json_t *json);
/* "3 min 20 s": since then, which is in seconds since the epoch. Returns buf. */
char *format_age(uint64_t then, char buf[FORMAT_MAX]);
