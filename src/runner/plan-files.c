/* SPDX-License-Identifier: MIT */
/* plan_files(): what `assay list` and `assay check` want to know; nothing is started. */
#include <string.h>

#include "base/str.h"
#include "report/text.h"
#include "runner/internal.h"

static void add_problem(json_t *problems, const char *file, json_t *line, const struct error *err)
{
	json_t *p = json_pack("{s:s, s:O*, s:s, s:o}", "file", file, "line", line, "kind",
			      error_kind_name(err->kind), "message", text_json(err->message));

	if (err->hint[0])
		json_object_set_new(p, "hint", text_json(err->hint));
	json_array_append_new(problems, p);
}

/* "tests/a.lua:12: …" and "tests/a.lua: …" → "…": who prints it has file and line already. */
static json_t *without_place(const char *message, const char *path)
{
	size_t len = strlen(path), digits;

	if (strncmp(message, path, len) != 0 || message[len] != ':')
		return json_string(message);
	if (message[len + 1] == ' ')
		return json_string(message + len + 2);
	digits = strspn(message + len + 1, "0123456789");
	if (digits == 0 || strncmp(message + len + 1 + digits, ": ", 2) != 0)
		return json_string(message);
	return json_string(message + len + 1 + digits + 2);
}

static void take_problems(const struct run *run, json_t *problems)
{
	for (size_t i = 0; i < run->n_files; i++) {
		json_t *problem;
		size_t k;

		json_array_foreach(run->files[i].problems, k, problem)
		{
			json_t *copy = json_copy(problem);

			json_object_del(copy, "fatal");
			json_object_set_new(copy, "file", json_string(run->files[i].path));
			json_object_set_new(
				copy, "message",
				without_place(json_string_value(json_object_get(copy, "message")),
					      run->files[i].path));
			json_array_append_new(problems, copy);
		}
	}
}

/* The same trouble of a group's tests once: at the machine's line, or the first test's. */
static void take_refusals(const struct run *run, json_t *problems)
{
	const char *last = NULL;

	for (size_t i = 0; i < run->n_jobs; i++) {
		const struct job *job = &run->jobs[i];
		const struct test_case *t = &job->tests[0];

		if (!job->refusal || str_eq(job->refusal->message, last))
			continue;
		last = job->refusal->message;
		add_problem(problems, t->file->path,
			    job->refusal_line ? job->refusal_line
					      : json_object_get(t->decl, "line"),
			    job->refusal);
	}
}

/* The line of the machine that names what the message quotes, else the test's. */
static json_t *line_of_image(const struct test_case *t, const char *message)
{
	json_t *machines = json_object_get(t->group, "machines"), *m;
	size_t i;

	json_array_foreach(machines, i, m)
	{
		const char *image = json_string_value(json_object_get(m, "image"));
		_cleanup_free_ char *quoted = xasprintf("'%s'", image ? image : "");

		if (image && strstr(message, quoted))
			return json_array_get(json_object_get(t->group, "machine_lines"), i);
	}
	return json_object_get(t->decl, "line");
}

/* Images that are named and that nobody knows. */
static void take_images(const struct run *run, json_t *problems)
{
	json_t *seen = json_object();

	for (size_t i = 0; i < run->n_jobs; i++) {
		const struct test_case *t = &run->jobs[i].tests[0];

		for (size_t k = 0; k < run->jobs[i].n_images; k++) {
			struct error err = {};

			if (images_check(run->jobs[i].images[k], &err) == 0 ||
			    json_object_get(seen, err.message))
				continue;
			json_object_set_new(seen, err.message, json_true());
			add_problem(problems, t->file->path, line_of_image(t, err.message), &err);
		}
	}
	json_decref(seen);
}

static bool is_selected(const struct run *run, json_t *test)
{
	for (size_t i = 0; i < run->n_jobs; i++)
		for (size_t k = 0; k < run->jobs[i].n_tests; k++)
			if (run->jobs[i].tests[k].decl == test)
				return true;
	return false;
}

/* The declarations, less what is not selected; with what the command line overrides. */
static json_t *selected_group(const struct run *run, json_t *group)
{
	json_t *copy = json_copy(group), *tests = json_array(), *machines = json_array(), *item;
	size_t i;

	json_array_foreach(json_object_get(group, "tests"), i, item)
	{
		_cleanup_free_ char *id = plan_test_id(group, item);
		json_t *test;

		if (!is_selected(run, item))
			continue;
		test = json_copy(item);
		json_object_set_new(test, "id", json_string(id));
		json_array_append_new(tests, test);
	}
	json_array_foreach(json_object_get(group, "machines"), i, item)
		json_array_append_new(machines, plan_override_machine(run->opts, item));
	json_object_set_new(copy, "tests", tests);
	json_object_set_new(copy, "machines", machines);
	return copy;
}

static json_t *selected_file(const struct run *run, const struct plan_file *f)
{
	json_t *copy = json_copy(f->decl), *groups = json_array(), *group;
	size_t i, n = 0;

	json_array_foreach(json_object_get(f->decl, "groups"), i, group)
	{
		json_t *g = selected_group(run, group);

		n += json_array_size(json_object_get(g, "tests"));
		if (json_array_size(json_object_get(g, "tests")) > 0)
			json_array_append(groups, g);
		json_decref(g);
	}
	json_object_set_new(copy, "file", json_string(f->path));
	json_object_set_new(copy, "groups", groups);
	if (n > 0)
		return copy;
	json_decref(copy);
	return NULL;
}

int plan_files(const struct run_opts *opts, bool check, json_t **ret_plans, json_t **ret_problems,
	       struct error *err)
{
	struct run *run = xcalloc(1, sizeof(*run));
	json_t *plans = json_array(), *problems = json_array();
	int r;

	run->opts = opts;
	run->epoch_ns = now_ns();
	run->shuffle_seed = plan_shuffle_seed(opts);
	r = plan_load(run, check, err);
	if (r == 0)
		r = plan_select(run, err);
	if (r == 0) {
		take_problems(run, problems);
		if (check) {
			take_refusals(run, problems);
			take_images(run, problems);
		}
		for (size_t i = 0; i < run->n_files; i++) {
			json_t *plan = selected_file(run, &run->files[i]);

			if (plan)
				json_array_append_new(plans, plan);
		}
		*ret_plans = TAKE_PTR(plans);
		*ret_problems = TAKE_PTR(problems);
	}
	json_decref(plans);
	json_decref(problems);
	images_stop(run);
	plan_done(run);
	free(run);
	return r;
}
