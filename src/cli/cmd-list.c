/* SPDX-License-Identifier: MIT */
/* `assay list` and `assay check`: what would run, and whether it could. */
#include <stdio.h>

#include "base/str.h"
#include "cli/commands.h"
#include "cli/run-options.h"

static const struct option_spec list_options[] = {
	SELECTION_OPTIONS,
	{"json", 0, OPTION_FLAG, NULL, offsetof(struct run_command_opts, json), "print JSON", NULL},
	{NULL},
};

static void print_strings(const char *label, json_t *list)
{
	size_t i;
	json_t *s;

	if (json_array_size(list) == 0)
		return;
	printf("  %s", label);
	json_array_foreach(list, i, s) printf("%s%s", i ? "," : "", json_string_value(s));
}

static void print_test(json_t *group, json_t *test)
{
	const char *g = json_string_value(json_object_get(group, "name"));
	size_t i;
	json_t *m;

	printf("  %s%s%s", g, *g ? "/" : "", json_string_value(json_object_get(test, "name")));
	if (str_eq(json_string_value(json_object_get(test, "kind")), "bench"))
		fputs("  bench", stdout);
	if (json_is_true(json_object_get(test, "slow")))
		fputs("  slow", stdout);
	print_strings("tags=", json_object_get(test, "tags"));
	print_strings("needs=", json_object_get(test, "needs"));
	json_array_foreach(json_object_get(group, "machines"), i, m)
	{
		const char *image = json_string_value(json_object_get(m, "image"));

		printf("%s%s%s%s", i ? ", " : "  on ",
		       json_string_value(json_object_get(m, "name")), image ? ":" : "",
		       image ? image : "");
	}
	putchar('\n');
}

static size_t print_plans(json_t *plans)
{
	size_t i, j, k, n = 0;
	json_t *plan, *group, *test;

	json_array_foreach(plans, i, plan)
	{
		printf("%s\n", json_string_value(json_object_get(plan, "file")));
		json_array_foreach(json_object_get(plan, "groups"), j, group)
			json_array_foreach(json_object_get(group, "tests"), k, test)
		{
			print_test(group, test);
			n++;
		}
	}
	return n;
}

static void print_problem(json_t *p)
{
	const char *file = json_string_value(json_object_get(p, "file"));
	const char *hint = json_string_value(json_object_get(p, "hint"));
	json_int_t line = json_integer_value(json_object_get(p, "line"));

	if (line > 0)
		fprintf(stderr, "%s:%d: ", file ? file : "?", (int)line);
	else if (file)
		fprintf(stderr, "%s: ", file);
	fprintf(stderr, "%s\n", json_string_value(json_object_get(p, "message")));
	if (hint && *hint)
		fprintf(stderr, "  hint: %s\n", hint);
}

static int list_fiber(void *userdata)
{
	struct run_command_opts *o = userdata;
	json_t *plans = NULL, *problems = NULL, *p;
	struct error err = {};
	size_t i, n_problems, n;

	if (plan_files(&o->run, false, &plans, &problems, &err) < 0) {
		report_error(&err);
		return err.kind == ERROR_USAGE ? EXIT_USAGE : EXIT_ERRORED;
	}
	n_problems = json_array_size(problems);
	json_array_foreach(problems, i, p) print_problem(p);
	json_decref(problems);
	if (o->json) {
		n = json_array_size(plans);
		print_json(plans);
	} else {
		n = print_plans(plans);
		json_decref(plans);
		printf("%zu %s\n", n, n == 1 ? "test" : "tests");
	}
	return n_problems ? EXIT_USAGE : n ? EXIT_PASSED : EXIT_NOTHING;
}

static int check_fiber(void *userdata)
{
	struct run_command_opts *o = userdata;
	json_t *plans = NULL, *problems = NULL, *p;
	struct error err = {};
	size_t i, n, files;

	if (plan_files(&o->run, true, &plans, &problems, &err) < 0) {
		report_error(&err);
		return err.kind == ERROR_USAGE ? EXIT_USAGE : EXIT_ERRORED;
	}
	n = json_array_size(problems);
	files = json_array_size(plans);
	json_decref(plans);
	if (o->json) {
		print_json(problems);
		return n ? EXIT_USAGE : EXIT_PASSED;
	}
	json_array_foreach(problems, i, p) print_problem(p);
	json_decref(problems);
	if (n)
		fprintf(stderr, "%zu %s\n", n, n == 1 ? "problem" : "problems");
	else
		printf("%zu %s checked, no problem found\n", files, files == 1 ? "file" : "files");
	return n ? EXIT_USAGE : EXIT_PASSED;
}

static int run_planned(void *opts, char **args, int (*fiber)(void *))
{
	struct error err = {};

	if (run_command_finish(opts, args, &err) < 0) {
		report_error(&err);
		return EXIT_USAGE;
	}
	return command_on_fiber("plan", fiber, opts);
}

static int run_list(const struct command *cmd, void *opts, int n_args, char **args)
{
	return run_planned(opts, args, list_fiber);
}

static int run_check(const struct command *cmd, void *opts, int n_args, char **args)
{
	return run_planned(opts, args, check_fiber);
}

const struct command command_list = {
	.name = "list",
	.args = "[PATH…]",
	.summary = "what would run, with tags and needs",
	.doc = "Loads the files and prints the tests that *assay run* with the same options would "
	       "run.\n"
	       "Nothing is started.\n",
	.options = list_options,
	.opts_size = sizeof(struct run_command_opts),
	.done = run_command_done,
	.run = run_list,
};

const struct command command_check = {
	.name = "check",
	.args = "[PATH…]",
	.summary = "find mistakes in test files without starting anything",
	.doc = "Loads the files and checks everything that can be known beforehand: syntax, names "
	       "and\n"
	       "options (also those in calls within tests), regular expressions that are written "
	       "out,\n"
	       "images, capabilities, methods that need an agent on machines without one. What "
	       "stands in\n"
	       "*assert_error()* or *pcall()* is taken to be wrong on purpose. Exit status 2 if "
	       "there is a\n"
	       "problem.\n",
	.options = list_options,
	.opts_size = sizeof(struct run_command_opts),
	.done = run_command_done,
	.run = run_check,
};
