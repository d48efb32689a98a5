/* SPDX-License-Identifier: MIT */
/* Every command of the program, in the order of the help. */
#include "cli/commands.h"

const struct command *const commands[] = {
	&command_run_tests, &command_list,    &command_check,  &command_image,
	&command_cache,	    &command_doctor,  &command_doc,    &command_help,
	&command_worker,    &command_ns_init, &command_render, NULL,
};

const char *const commands_unbuilt[] = {
	"spawn", "shell", "console", "bench",	 "ps",	  "stop", "report", "lab", "submit",
	"jobs",	 "logs",  "cancel",  "machines", "power", "gate", "bisect", NULL,
};
