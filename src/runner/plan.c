/* SPDX-License-Identifier: MIT */
/* From paths to declarations: finds test files, asks a planning worker for each. */
#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sched.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "report/text.h"
#include "runner/internal.h"

/* The worker bounds itself to 10 s of evaluation; this is for one that does not. */
#define PLAN_TIMEOUT_NS (25 * NS_PER_SEC)
#define MAX_DEPTH	32

/* --- paths --------------------------------------------------------------------------------- */

static void add_file(struct run *run, const char *path, bool named)
{
	while (str_starts(path, "./"))
		path += 2;
	for (size_t i = 0; i < run->n_files; i++)
		if (str_eq(run->files[i].path, path)) {
			run->files[i].named |= named;
			return;
		}
	run->files = xrealloc(run->files, (run->n_files + 1) * sizeof(*run->files));
	run->files[run->n_files++] = (struct plan_file){
		.path = xstrdup(path),
		.named = named,
		.problems = json_array(),
	};
}

static int visible(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

/* Files first, then folders, each sorted: a folder's own tests stand together. */
static int add_folder(struct run *run, const char *dir, unsigned depth, struct error *err)
{
	struct dirent **names;
	int n = scandir(dir, &names, visible, alphasort), r = 0;

	if (n < 0)
		return error_set_errno(err, ERROR_USAGE, errno, "cannot read the folder '%s'", dir);
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < n && r == 0; i++) {
			_cleanup_free_ char *path = path_join(dir, names[i]->d_name);
			bool is_dir = path_is_dir(path);

			if (pass == 0 && !is_dir && str_ends(path, ".lua"))
				add_file(run, path, false);
			/* lib/ holds what tests require(). */
			if (pass == 1 && is_dir && !str_eq(names[i]->d_name, "lib") &&
			    depth < MAX_DEPTH)
				r = add_folder(run, path, depth + 1, err);
		}
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return r;
}

/* What else is in the folder and looks like it, be it without ".lua". */
static void hint_path(const char *path, struct error *err)
{
	_cleanup_free_ char *dir = path_dirname(path), *near_path = NULL;
	_cleanup_free_ char *lua = xasprintf("%s.lua", path_basename(path));
	_cleanup_free_ const char **candidates = NULL;
	struct dirent **names;
	const char *near;
	int n = scandir(dir, &names, visible, alphasort);

	if (n < 0) {
		error_hint(err, "there is no folder '%s' either", dir);
		return;
	}
	candidates = xcalloc((size_t)n + 1, sizeof(*candidates));
	for (int i = 0; i < n; i++)
		candidates[i] = names[i]->d_name;
	near = strv_contains((char *const *)candidates, lua)
		       ? lua
		       : nearest_name(path_basename(path), candidates) ?: nearest_name(lua, candidates);
	if (near) {
		near_path = str_eq(dir, ".") ? xstrdup(near) : path_join(dir, near);
		error_hint(err, "did you mean '%s'?", near_path);
	} else {
		error_hint(err, "test files end in .lua; 'assay list' shows those in tests/");
	}
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

static int add_path(struct run *run, const char *given, struct error *err)
{
	_cleanup_free_ char *path = xstrdup(given);
	size_t len = strlen(path);
	int r;

	while (len > 1 && path[len - 1] == '/')
		path[--len] = '\0';
	if (path_is_dir(path))
		return add_folder(run, path, 0, err);
	if (!path_exists(path)) {
		r = error_set(err, ERROR_USAGE, ENOENT, "there is no file or folder '%s'", given);
		hint_path(path, err);
		return r;
	}
	if (!str_ends(path, ".lua")) {
		r = error_set(err, ERROR_USAGE, EINVAL, "'%s' is no test file", given);
		error_hint(err, "test files end in .lua");
		return r;
	}
	add_file(run, path, true);
	return 0;
}

static int expand_paths(struct run *run, struct error *err)
{
	char *const *paths = run->opts->paths;
	int r;

	if (!paths || !paths[0]) {
		if (path_is_dir("tests"))
			return add_folder(run, "tests", 0, err);
		r = error_set(err, ERROR_USAGE, ENOENT, "there is no folder 'tests' here");
		error_hint(err, "name the files or folders to run");
		return r;
	}
	for (; *paths; paths++) {
		r = add_path(run, *paths, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- asking -------------------------------------------------------------------------------- */

struct plan_call {
	struct run *run;
	struct plan_file *file;
	bool check;
	struct fiber *fiber;
};

static void add_problem(struct plan_file *f, const struct error *err)
{
	json_t *problem = json_object();

	json_object_set_new(problem, "kind", json_string(error_kind_name(err->kind)));
	json_object_set_new(problem, "message", text_json(err->message));
	if (err->hint[0])
		json_object_set_new(problem, "hint", text_json(err->hint));
	json_object_set_new(problem, "fatal", json_true());
	json_array_append_new(f->problems, problem);
}

/* "tests/a.lua:12: …" → 12. */
static json_int_t line_of(const char *message, const char *path)
{
	size_t len = strlen(path);

	if (message && strncmp(message, path, len) == 0 && message[len] == ':')
		return strtol(message + len + 1, NULL, 10);
	return 0;
}

static void take_message(struct plan_file *f, json_t *msg)
{
	const char *type = json_string_value(json_object_get(msg, "type"));

	if (str_eq(type, "declarations") && !f->decl) {
		f->decl = json_incref(json_object_get(msg, "declarations"));
	} else if (str_eq(type, "problem")) {
		json_int_t line =
			line_of(json_string_value(json_object_get(msg, "message")), f->path);

		json_object_del(msg, "type");
		json_object_del(msg, "phase");
		if (line > 0 && !json_object_get(msg, "line"))
			json_object_set_new(msg, "line", json_integer(line));
		json_array_append(f->problems, msg);
	}
}

static json_t *plan_message(const struct plan_call *call)
{
	const struct run_opts *o = call->run->opts;
	json_t *job = json_pack("{s:s, s:s, s:I, s:b}", "mode", "plan", "path", call->file->path,
				"seed", (json_int_t)o->seed, "check", (int)call->check);

	if (o->params)
		json_object_set(job, "params", o->params);
	return job;
}

/* Nothing came although the worker is over: says why. */
static void explain_silence(struct plan_file *f, struct child *c)
{
	_cleanup_free_ char *how = process_describe_status(process_status(c->process));
	_cleanup_free_ char *tail = text_plain(buf_str(&c->tail));
	struct error err = {};

	error_set(&err, ERROR_INFRA, EPROTO, "'%s' could not be loaded: its process %s%s%s",
		  f->path, how, *tail ? ": " : "", tail);
	add_problem(f, &err);
}

static void ask_worker(struct plan_call *call)
{
	struct plan_file *f = call->file;
	_cleanup_(child_done) struct child c = {};
	struct deadline_scope scope;
	struct error err = {};
	json_t *job = plan_message(call), *msg;
	int r;

	deadline_enter(&scope, PLAN_TIMEOUT_NS, ERROR_TIMEOUT, "planning");
	r = child_start(&c, "plan", NULL, &err);
	if (r == 0) {
		c.reader.max = WIRE_JOB_MAX_BYTES;
		r = wire_write(c.control, job, NS_FOREVER, &err);
	}
	/* A worker that is gone before it has read the job says more by how it ended. */
	if (r == -EPIPE || r == -ECONNRESET)
		r = 0, error_clear(&err);
	while (r >= 0 && (r = wire_read(&c.reader, &msg, NS_FOREVER, &err)) > 0) {
		take_message(f, msg);
		json_decref(msg);
	}
	if (r >= 0)
		r = process_wait(c.process, NS_FOREVER, NULL, &err);
	if (r >= 0 && !f->decl && json_array_size(f->problems) == 0) {
		child_settle(&c);
		explain_silence(f, &c);
	}
	if (r < 0 && r != -ECANCELED)
		add_problem(f, &err);
	if (c.process)
		child_kill(&c, NULL);
	deadline_leave(&scope);
	json_decref(job);
}

/* Nothing waits between the wake and the end: who is woken looks whether this fiber is done. */
static int plan_fiber(void *userdata)
{
	struct plan_call *call = userdata;

	ask_worker(call);
	waiters_wake_all(&call->run->changed);
	return 0;
}

unsigned host_cpus(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (unsigned)MAX(CPU_COUNT(&set), 1);
}

static size_t running_calls(const struct plan_call *calls, size_t n)
{
	size_t running = 0;

	for (size_t i = 0; i < n; i++)
		running += calls[i].fiber && !fiber_is_done(calls[i].fiber);
	return running;
}

static int ask_all(struct run *run, bool check, struct error *err)
{
	struct plan_call *calls = xcalloc(run->n_files + 1, sizeof(*calls));
	size_t at_once = host_cpus() + 1, next = 0;
	int r = 0;

	while (r == 0) {
		while (next < run->n_files && running_calls(calls, next) < at_once) {
			calls[next] = (struct plan_call){
				.run = run,
				.file = &run->files[next],
				.check = check,
			};
			fiber_start("plan", plan_fiber, &calls[next], &calls[next].fiber);
			next++;
		}
		if (next == run->n_files && running_calls(calls, next) == 0)
			break;
		r = fiber_wait(&run->changed, NS_FOREVER, "test files to be read", err);
		if (run->interrupted)
			r = error_set(err, ERROR_CANCELLED, ECANCELED, "interrupted");
	}
	for (size_t i = 0; i < next; i++) {
		fiber_stop(calls[i].fiber);
		fiber_unref(calls[i].fiber);
	}
	free(calls);
	return r;
}

static void count_tests(struct plan_file *f)
{
	json_t *groups = json_object_get(f->decl, "groups"), *group;
	size_t i;

	json_array_foreach(groups, i, group) f->n_tests +=
		json_array_size(json_object_get(group, "tests"));
}

/* script_load() refuses a file without tests. On the command line that is a mistake; in a folder it
 * is what tests beside it require(), and none of our business. */
static void forgive_modules(struct plan_file *f)
{
	_cleanup_free_ char *refusal = xasprintf("%s declares no test", f->path);
	json_t *problem = json_array_get(f->problems, 0);

	if (!f->named && !f->decl &&
	    str_eq(json_string_value(json_object_get(problem, "message")), refusal))
		json_array_clear(f->problems);
}

int plan_load(struct run *run, bool check, struct error *err)
{
	int r = expand_paths(run, err);

	if (r == 0)
		r = ask_all(run, check, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < run->n_files; i++) {
		count_tests(&run->files[i]);
		forgive_modules(&run->files[i]);
	}
	return 0;
}

void plan_done(struct run *run)
{
	templates_stop(run); /* noted while jobs were made, even if none was started */
	for (size_t i = 0; i < run->n_jobs; i++)
		job_done(&run->jobs[i]);
	free(run->jobs);
	for (size_t i = 0; i < run->n_files; i++) {
		free(run->files[i].path);
		json_decref(run->files[i].decl);
		json_decref(run->files[i].problems);
	}
	free(run->files);
	strv_free(run->used_dirs);
}
