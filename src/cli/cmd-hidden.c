/* SPDX-License-Identifier: MIT */
/* Hidden commands: what the runner re-executes, and what the build renders from the tables. */
#include <stdio.h>

#include "base/str.h"
#include "cli/commands.h"
#include "lua/script.h"

static int run_worker(const struct command *cmd, void *opts, int n_args, char **args)
{
	return worker_main(n_args, args);
}

static int run_ns_init(const struct command *cmd, void *opts, int n_args, char **args)
{
	return ns_init_main(n_args, args);
}

const struct command command_worker = {
	.name = "worker",
	.args = "",
	.summary = "runs one test for the runner",
	.hidden = true,
	.raw = true,
	.run = run_worker,
};

const struct command command_ns_init = {
	.name = "ns-init",
	.args = "",
	.summary = "first process of a test's namespaces",
	.hidden = true,
	.raw = true,
	.run = run_ns_init,
};

static int render_text(char *text)
{
	fputs(text, stdout);
	free(text);
	return 0;
}

/* `assay render man [COMMAND]`, `render completion SHELL`, `render stub`, `render api-man`. */
static int run_render(const struct command *cmd, void *opts, int n_args, char **args)
{
	const char *what = n_args > 1 ? args[1] : "", *which = n_args > 2 ? args[2] : NULL;
	struct error err = {};

	if (str_eq(what, "stub"))
		return render_text(api_render_stub());
	if (str_eq(what, "api-man"))
		return render_text(api_render_man());
	if (str_eq(what, "man") && (!which || command_find(commands, which))) {
		man_render(which ? command_find(commands, which) : NULL, stdout);
		return 0;
	}
	if (str_eq(what, "completion") && which && completion_render(which, stdout, &err) == 0)
		return 0;
	fputs("assay: render wants 'man [COMMAND]', 'completion bash|zsh|fish', 'stub' or "
	      "'api-man'\n",
	      stderr);
	return 2;
}

const struct command command_render = {
	.name = "render",
	.args = "",
	.summary = "renders man pages, completions and the editor stub for the build",
	.hidden = true,
	.raw = true,
	.run = run_render,
};
