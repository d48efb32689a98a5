/* SPDX-License-Identifier: MIT */
/* The options that `run`, `list` and `check` share: which tests. */
#pragma once

#include "cli/commands.h"

#define SELECTION_OPTIONS                                                                          \
	{"filter",                                                                                 \
	 'k',                                                                                      \
	 OPTION_STRING,                                                                            \
	 "REGEX",                                                                                  \
	 offsetof(struct run_command_opts, run.filter),                                            \
	 "only tests whose \"FILE: NAME\" matches (PCRE2)",                                        \
	 NULL},                                                                                    \
		{"tag",                                                                            \
		 't',                                                                              \
		 OPTION_STRINGS,                                                                   \
		 "TAG",                                                                            \
		 offsetof(struct run_command_opts, tags),                                          \
		 "only tests with this tag (several: with any of them)",                           \
		 NULL},                                                                            \
		{"slow",                                                                           \
		 0,                                                                                \
		 OPTION_FLAG,                                                                      \
		 NULL,                                                                             \
		 offsetof(struct run_command_opts, run.slow),                                      \
		 "tests marked slow too",                                                          \
		 NULL},                                                                            \
		{"shard",                                                                          \
		 0,                                                                                \
		 OPTION_STRING,                                                                    \
		 "I/N",                                                                            \
		 offsetof(struct run_command_opts, shard),                                         \
		 "only part I of N of the tests",                                                  \
		 NULL},                                                                            \
		{"shuffle",                                                                        \
		 0,                                                                                \
		 OPTION_STRING,                                                                    \
		 "[=SEED]",                                                                        \
		 offsetof(struct run_command_opts, shuffle),                                       \
		 "in random order; the seed is printed",                                           \
		 NULL},                                                                            \
		{"rerun-failed",                                                                   \
		 0,                                                                                \
		 OPTION_FLAG,                                                                      \
		 NULL,                                                                             \
		 offsetof(struct run_command_opts, run.rerun_failed),                              \
		 "only tests that did not pass in the last run",                                   \
		 NULL},                                                                            \
	{                                                                                          \
		"param", 0, OPTION_PARAM, "K=V", offsetof(struct run_command_opts, run.params),    \
			"a parameter for the tests: params.K is \"V\"", NULL                       \
	}
