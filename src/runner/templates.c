/* SPDX-License-Identifier: MIT */
/* Templates that forked tests start from: found in the store or made, before the tests. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "base/str.h"
#include "machine/saved.h"
#include "report/text.h"
#include "runner/template-set.h"

/*
 * Theory of operation
 *
 * All tests of a group start from the same: a `struct template_set`. Each has a fiber, which waits
 * for the images and then gets what it needs:
 *
 *	a template of each machine with autostart, booted	(key: template_boot_key)
 *	if there is a setup, one of all machines after it	(key: setup_key below)
 *
 * Look it up; if it is not there, lock its key (another run, or another group of this one, may be
 * at it), look again, and have a worker make it (template-job.c), which takes a place among the
 * running jobs. Tests whose set is not ready are passed over meanwhile; so making a template costs
 * no test any of its time, and what is there already starts at once.
 *
 *	OPEN ──► READY ──(a worker tells that one is broken)──► OPEN …
 *	  ├────► BOOT	a machine cannot be saved: the group's tests boot anew, the note says why
 *	  └────► FAILED	a machine does not boot, or setup fails: so do the tests
 *
 * What is held open stays in the store. A set that must not be kept (its setup uses the host or the
 * internet and does not say `cache`) has a key of this run alone and is thrown away at its end.
 */

/* Memory that a fork takes, before one was measured: the VMM itself, and a part of the guest's. A
 * Debian of 1 GiB under TCG takes about 40 MiB for a command or two, and more when it works. */
#define FORK_BASE_BYTES	  (48 * MIB)
#define FORK_MEMORY_SHARE 8
/* How often a set is made again because what it starts from breaks. */
#define SET_TRIES 3

static json_t *set_setup(const struct template_set *s)
{
	json_t *setup = json_object_get(s->job->tests[0].group, "setup");

	return json_is_object(setup) ? setup : NULL;
}

/* --- which sets there are ------------------------------------------------------------------ */

static char *set_identity(const struct job *job)
{
	const char *group = json_string_value(json_object_get(job->tests[0].group, "name"));
	_cleanup_free_ char *machines = json_dumps(job->machines, JSON_COMPACT | JSON_SORT_KEYS);

	return xasprintf("%s\n%s\n%s", job->tests[0].file->path, group ? group : "", machines);
}

void templates_note(struct run *run, struct job *job)
{
	_cleanup_free_ char *identity = set_identity(job);
	struct template_set **p = &run->sets;

	while (*p && !str_eq((*p)->identity, identity))
		p = &(*p)->next;
	if (!*p) {
		*p = xcalloc(1, sizeof(**p));
		(*p)->run = run;
		(*p)->identity = TAKE_PTR(identity);
		(*p)->costs = json_object();
	}
	job->templates = *p;
}

/* --- keys ---------------------------------------------------------------------------------- */

static bool uses(json_t *setup, const char *what)
{
	json_t *list = json_object_get(setup, "uses"), *use;
	size_t i;

	json_array_foreach(list, i, use) if (str_eq(json_string_value(use), what)) return true;
	return false;
}

/* Its result is not made of what the key says alone. */
static bool reaches_out(const struct template_set *s)
{
	json_t *machine;
	size_t i;

	json_array_foreach(
		s->job->machines, i,
		machine) if (json_is_true(json_object_get(machine, "internet"))) return true;
	return uses(set_setup(s), "host");
}

static void setup_key(struct template_set *s, char ret[DIGEST_HEX_MAX])
{
	json_t *setup = set_setup(s);
	struct sha256 sha;
	char seed[32];

	sha256_init(&sha);
	sha256_update_str(&sha, "assay-setup-1 " ASSAY_VERSION);
	sha256_update_str(&sha, json_string_value(json_object_get(setup, "digest")));
	for (size_t i = 0; i < s->n_machines; i++) {
		const struct set_machine *m = &s->machines[i];

		sha256_update_str(&sha, m->spec->name);
		sha256_update_str(&sha, m->key);
		sha256_update_str(&sha, m->spec->autostart ? "on" : "off");
	}
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)s->run->opts->seed);
	sha256_update_str(&sha, uses(setup, "random") ? seed : "");
	/* The same path may be another file elsewhere. */
	sha256_update_str(&sha, uses(setup, "files") ? s->base_dir : "");
	s->is_temporary = reaches_out(s) && !json_object_get(setup, "cache");
	/* The id is that of one output folder. */
	sha256_update_str(&sha, s->is_temporary ? s->run->dir : "");
	sha256_hex(&sha, ret);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct set_machine *)a)->spec->name,
		      ((const struct set_machine *)b)->spec->name);
}

/* ERROR_UNSUPPORTED: one of them cannot be saved. */
static int find_machines(struct template_set *s, struct error *err)
{
	_cleanup_free_ char *absolute = path_absolute(s->job->tests[0].file->path);
	struct machine_env env = {.work_dir = s->run->work_dir,
				  .accel = s->run->opts->accel ? s->run->opts->accel : "auto",
				  .debug_boot = s->run->opts->debug_boot};
	json_t *machine;
	size_t i;

	if (s->machines)
		return 0;
	env.base_dir = s->base_dir = path_dirname(absolute);
	s->machines = xcalloc(json_array_size(s->job->machines) + 1, sizeof(*s->machines));
	json_array_foreach(s->job->machines, i, machine)
	{
		struct set_machine *m = &s->machines[s->n_machines];
		int r;

		r = machine_spec_parse(machine, &m->spec, err);
		if (r < 0)
			return r;
		s->n_machines++;
		m->json = machine;
		r = template_boot_key(m->spec, &env, m->key, err);
		if (r < 0)
			return r;
	}
	qsort(s->machines, s->n_machines, sizeof(*s->machines), by_name);
	return 0;
}

/* --- looking up ---------------------------------------------------------------------------- */

/* One that was not there (and setup could do without it) still is not. */
static bool is_still_missing(json_t *file)
{
	return json_is_true(json_object_get(file, "missing")) &&
	       !path_exists(json_string_value(json_object_get(file, "path")));
}

static bool files_are_the_same(json_t *notes)
{
	json_t *files = json_object_get(notes, "files"), *file;
	size_t i;

	json_array_foreach(files, i, file)
	{
		const char *path = json_string_value(json_object_get(file, "path"));
		char hex[DIGEST_HEX_MAX];

		if (is_still_missing(file))
			continue;
		if (path_stamp(path, hex, NULL) == 0 &&
		    str_eq(hex, json_string_value(json_object_get(file, "stamp"))))
			continue;
		if (path_digest(path, hex, NULL) < 0 ||
		    !str_eq(hex, json_string_value(json_object_get(file, "digest"))))
			return false;
	}
	return true;
}

/* setup({ cache = "1d" }, …) */
static bool is_too_old(const struct template_set *s, json_t *notes)
{
	const char *cache = json_string_value(json_object_get(set_setup(s), "cache"));
	json_int_t created = json_integer_value(json_object_get(notes, "created"));
	uint64_t ns;

	if (!cache || parse_duration(cache, &ns) < 0)
		return false;
	return time(NULL) - created > (time_t)(ns / NS_PER_SEC);
}

static void warn(struct run *run, const char *fmt, ...) _printf_(2, 3);
static void warn(struct run *run, const char *fmt, ...)
{
	struct error text = {};
	va_list ap;

	va_start(ap, fmt);
	error_setv(&text, ERROR_INFRA, EIO, fmt, ap);
	va_end(ap);
	run_emit(run, "warning", json_pack("{s:o}", "message", text_json(text.message)));
}

/* What setup has read may have changed since. Such a template stays until the new one takes its
 * place: another run may be at it. */
static bool is_stale(const struct template_set *s, const struct template *t)
{
	return !files_are_the_same(t->notes) || is_too_old(s, t->notes);
}

static struct template *look_up(struct template_set *s, const char *key, const char *title)
{
	struct template *t = NULL;
	struct error err = {};
	int r = template_open(key, &t, &err);

	if (r < 0)
		warn(s->run, "%s: its template was broken and is made again: %s", title,
		     err.message);
	return r <= 0 ? NULL : t;
}

static void hold(struct template_set *s, struct template *t)
{
	s->held = xrealloc(s->held, (s->n_held + 1) * sizeof(struct template *));
	s->held[s->n_held++] = t;
}

static void let_go(struct template_set *s)
{
	for (size_t i = 0; i < s->n_held; i++)
		template_free(s->held[i]);
	free(TAKE_PTR(s->held));
	s->n_held = 0;
}

/* --- making -------------------------------------------------------------------------------- */

static json_t *boot_keys(const struct template_set *s)
{
	json_t *keys = json_object();

	for (size_t i = 0; i < s->n_machines; i++)
		if (s->machines[i].spec->autostart)
			json_object_set_new(keys, s->machines[i].spec->name,
					    json_string(s->machines[i].key));
	return keys;
}

static json_t *making_message(struct template_set *s, const struct wanted *w, const char *dir)
{
	json_t *m = job_message(s->run, s->job, "template", dir);

	json_object_set_new(m, "key", json_string(w->key));
	json_object_set_new(m, "title", text_json(w->title));
	json_object_set_new(m, "level", json_string(wanted_level(w)));
	if (w->machine)
		json_object_set_new(m, "machines", json_pack("[O]", w->machine->json));
	else
		json_object_set_new(m, "templates", json_pack("{s:o}", "boot", boot_keys(s)));
	return m;
}

/* The first failure counts: others may be no more than its consequence. */
static void fail(struct template_set *s, const char *dir, json_t *error)
{
	if (s->error)
		return;
	s->error = json_incref(error);
	free(s->error_dir);
	s->error_dir = dir ? xstrdup(dir) : NULL;
}

static void fail_err(struct template_set *s, const char *phase, const struct error *err)
{
	json_t *error = json_pack("{s:s, s:o, s:s}", "kind", error_kind_name(err->kind), "message",
				  text_json(err->message), "phase", phase);

	if (err->hint[0])
		json_object_set_new(error, "hint", text_json(err->hint));
	fail(s, NULL, error);
	json_decref(error);
}

static int first_fd(const struct template *t)
{
	for (size_t i = 0; i < t->n_machines; i++) {
		const struct saved *s = t->machines[i].saved;

		if (s && s->devices_fd >= 0)
			return s->devices_fd;
		if (s && s->n_disks > 0 && s->disks[0].n_layers > 0)
			return s->disks[0].layers[0];
	}
	return -EBADF;
}

/* Is it still what the store has under its key? */
static bool is_newest(const struct template *t)
{
	struct template *now = NULL;
	struct stat a, b;
	bool same;

	if (template_open(t->key, &now, NULL) <= 0)
		return false;
	same = fstat(first_fd(t), &a) < 0 || fstat(first_fd(now), &b) < 0 ||
	       (a.st_dev == b.st_dev && a.st_ino == b.st_ino);
	template_free(now);
	return same;
}

/* Another group may break a template, have it made, and break it for us: only what was held when
 * it broke is thrown away. */
static void throw_away(struct template_set *s, const char *key)
{
	for (size_t i = 0; i < s->n_held; i++)
		if (str_eq(s->held[i]->key, key) && is_newest(s->held[i]))
			(void)template_discard(key, NULL);
}

/* Has a worker make it. -EAGAIN: what it starts from was broken. */
static int make(struct template_set *s, const struct wanted *w)
{
	_cleanup_free_ char *dir = outdir_test_name(s->run, s->job->tests[0].file, w->id, 0);
	_cleanup_free_ char *absolute = path_join(s->run->dir, dir);
	struct collector kept;
	struct template_job j = {
		.run = s->run,
		.set = s,
		.title = w->title,
		.file = s->job->tests[0].file->path,
		.kept = &kept,
		.message = making_message(s, w, absolute),
		.dir = dir,
	};
	uint64_t start_ns = now_ns();
	int r = 0;

	collector_init(&kept);
	report_start(s, w, dir);
	template_job_run(&j);
	if (j.broken) {
		warn(s->run, "%s: a template that it starts from is broken and is made again: %s",
		     w->title, json_string_value(json_object_get(j.broken, "message")));
		throw_away(s, json_string_value(json_object_get(j.broken, "key")));
		j.error = json_pack("{s:s, s:O, s:s}", "kind", "infra", "message",
				    json_object_get(j.broken, "message"), "phase", "fork");
		r = -EAGAIN;
	} else if (j.error) {
		fail(s, dir, j.error);
		r = -ECANCELED;
	}
	report_made(s, w, dir, start_ns, &kept, j.error);
	collector_done(&kept);
	template_job_done(&j);
	return r;
}

static int make_in_turn(struct template_set *s, const struct wanted *w, struct error *err)
{
	struct build b = {.cost_bytes = s->build_cost, .weight = s->job->weight};
	int r;

	if (w->machine) {
		b.cost_bytes = machine_cost_bytes(w->machine->spec);
		b.weight = 2;
	}
	r = schedule_enter(s->run, &b, err);
	if (r == 0)
		r = make(s, w);
	schedule_leave(s->run, &b);
	return r;
}

static struct template *look_up_fresh(struct template_set *s, const struct wanted *w)
{
	struct template *t = look_up(s, w->key, w->title);

	if (!t || w->machine || !is_stale(s, t))
		return t;
	template_free(t);
	return NULL;
}

/* Between the commit and now nobody held it: another run may have wanted its room. */
static int gone_already(struct template_set *s, const struct wanted *w)
{
	warn(s->run, "%s: its template was gone as soon as it was made", w->title);
	return -EAGAIN;
}

static int get(struct template_set *s, const struct wanted *w)
{
	struct template *t = look_up_fresh(s, w);
	bool was_there = t != NULL;
	struct error err = {};
	int lock = -EBADF, r = 0;

	if (!t) {
		r = template_lock(w->key, &lock, &err);
		t = r < 0 ? NULL : look_up_fresh(s, w);
		was_there = t != NULL;
		if (r >= 0 && !t) {
			r = make_in_turn(s, w, &err);
			/* Whatever became of the host's files meanwhile: it is this run's. */
			t = r < 0 ? NULL : look_up(s, w->key, w->title);
			if (r >= 0 && !t)
				r = gone_already(s, w);
		}
		cleanup_close(&lock);
	}
	if (t)
		hold(s, t);
	if (t && was_there)
		report_found(s, w, t);
	if (error_is_set(&err))
		fail_err(s, wanted_level(w), &err);
	return r < 0 ? r : 0;
}

/* "server (debian-13 + nginx)" */
static char *machine_title(const struct set_machine *m)
{
	const char *image = json_string_value(json_object_get(m->json, "image"));
	_cleanup_free_ char *packages = strv_join(m->spec->packages, ", ");
	const char *what = image ? image : m->spec->backend ? m->spec->backend : "own disk";

	return xasprintf("%s (%s%s%s)", m->spec->name, what, packages && *packages ? " + " : "",
			 packages ? packages : "");
}

/* "setup of tests/a.lua: group" */
static char *setup_title(const struct template_set *s)
{
	const char *group = json_string_value(json_object_get(s->job->tests[0].group, "name"));

	return xasprintf("setup of %s%s%s", s->job->tests[0].file->path,
			 group && *group ? ": " : "", group ? group : "");
}

/* As a test of that name would have. */
static char *setup_id(const struct template_set *s)
{
	json_t *name = json_pack("{s:s}", "name", "setup");
	char *id = plan_test_id(s->job->tests[0].group, name);

	json_decref(name);
	return id;
}

struct boot_calls {
	struct template_set *set;
	size_t n_pending;
	int result; /* of the first that failed */
};

struct boot_call {
	struct boot_calls *all;
	const struct set_machine *machine;
	struct fiber *fiber;
};

static int boot_fiber(void *userdata)
{
	struct boot_call *c = userdata;
	struct wanted w = {.key = c->machine->key, .machine = c->machine};
	int r;

	w.title = machine_title(c->machine);
	w.id = xasprintf("boot %s", c->machine->spec->name);
	r = get(c->all->set, &w);
	free(w.title);
	free(w.id);
	if (r < 0 && c->all->result == 0)
		c->all->result = r;
	c->all->n_pending--;
	waiters_wake_all(&c->all->set->run->changed);
	return r;
}

/* All machines side by side; the first failure ends the wait for the others. */
static int get_booted(struct template_set *s)
{
	struct boot_call *calls = xcalloc(s->n_machines + 1, sizeof(*calls));
	struct boot_calls all = {.set = s};
	int r = 0;

	for (size_t i = 0; i < s->n_machines; i++) {
		calls[i] = (struct boot_call){.all = &all, .machine = &s->machines[i]};
		if (!s->machines[i].spec->autostart)
			continue;
		all.n_pending++;
		fiber_start("template", boot_fiber, &calls[i], &calls[i].fiber);
	}
	while (r == 0 && all.result == 0 && all.n_pending > 0)
		r = fiber_wait(&s->run->changed, NS_FOREVER, "machines to boot", NULL);
	for (size_t i = 0; i < s->n_machines; i++)
		if (calls[i].fiber)
			fiber_cancel(calls[i].fiber);
	for (size_t i = 0; i < s->n_machines; i++) {
		if (!calls[i].fiber)
			continue;
		fiber_stop(calls[i].fiber);
		fiber_unref(calls[i].fiber);
	}
	free(calls);
	return r < 0 ? r : all.result;
}

static int get_all(struct template_set *s)
{
	struct wanted w = {};
	int r;

	let_go(s);
	json_decref(TAKE_PTR(s->error));
	r = get_booted(s);
	if (r < 0 || !set_setup(s))
		return r;
	setup_key(s, s->setup_key);
	w.key = s->setup_key;
	w.title = setup_title(s);
	w.id = setup_id(s);
	r = get(s, &w);
	free(w.title);
	free(w.id);
	return r;
}

/* --- the fiber ----------------------------------------------------------------------------- */

static uint64_t estimate(const struct template_set *s)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < s->n_machines; i++)
		bytes += FORK_BASE_BYTES + s->machines[i].spec->memory_bytes / FORK_MEMORY_SHARE;
	return bytes;
}

static bool is_saved(const struct template *t, const char *machine)
{
	for (size_t i = 0; i < t->n_machines; i++)
		if (str_eq(t->machines[i].name, machine))
			return t->machines[i].saved && t->machines[i].saved->devices_fd >= 0;
	return false;
}

/* Machines that a test finds off and may start: these are not forked. */
static uint64_t off_cost(const struct template_set *s)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < s->n_machines; i++) {
		const struct machine_spec *spec = s->machines[i].spec;
		bool is_off = true;

		for (size_t k = 0; k < s->n_held && is_off; k++)
			if (!set_setup(s) || str_eq(s->held[k]->key, s->setup_key))
				is_off = !is_saved(s->held[k], spec->name);
		if (is_off)
			bytes += machine_cost_bytes(spec);
	}
	return bytes;
}

/* What a fork takes: as measured, if each of its templates has been; never more than machines that
 * boot. */
static uint64_t fork_cost(const struct template_set *s)
{
	uint64_t off = off_cost(s), bytes = 0, booted = 0;

	for (size_t i = 0; i < s->n_machines; i++)
		booted += machine_cost_bytes(s->machines[i].spec);

	for (size_t i = 0; i < s->n_held; i++) {
		const struct template *t = s->held[i];
		uint64_t seen = (uint64_t)json_integer_value(json_object_get(s->costs, t->key));

		/* Of one after setup, that alone counts. */
		if (set_setup(s) && !str_eq(t->key, s->setup_key))
			continue;
		if (!seen && !t->fork_bytes)
			return off + estimate(s);
		bytes += MIN(MAX(seen, t->fork_bytes), booted);
	}
	return MIN(off + bytes, booted);
}

static void settle(struct template_set *s, enum set_state state)
{
	s->state = state;
	s->round++;
	waiters_wake_all(&s->run->changed);
}

static int set_fiber(void *userdata)
{
	struct template_set *s = userdata;
	struct error err = {};
	int r;

	while ((r = images_ready(s->job, NULL)) == 0)
		if (fiber_wait(&s->run->changed, NS_FOREVER, "images", NULL) < 0)
			return 0;
	if (r < 0)
		return 0; /* the jobs are told by images_ready(), too */
	r = find_machines(s, &err);
	if (r < 0 && err.kind == ERROR_UNSUPPORTED) {
		s->note = xasprintf("machines are booted anew: %s", err.message);
		settle(s, SET_BOOT);
		return 0;
	}
	if (r < 0)
		fail_err(s, "boot", &err);
	for (unsigned i = 0; i < SET_TRIES && (r == 0 || r == -EAGAIN); i++) {
		r = get_all(s);
		if (r == 0)
			break;
	}
	if (fiber_is_cancelled(fiber_self()))
		return 0;
	if (r < 0 && !s->error) {
		error_set(&err, ERROR_INFRA, EIO,
			  "templates break or vanish as soon as they are made; the warnings say "
			  "how");
		fail_err(s, "fork", &err);
	}
	settle(s, r < 0 ? SET_FAILED : SET_READY);
	return 0;
}

static void start(struct template_set *s)
{
	if (s->fiber) {
		fiber_stop(s->fiber);
		fiber_unref(s->fiber);
	}
	s->state = SET_OPEN;
	fiber_start("templates", set_fiber, s, &s->fiber);
}

void templates_start(struct run *run)
{
	for (size_t i = 0; i < run->n_jobs; i++) {
		struct job *job = &run->jobs[i];

		if (!job->templates || job->templates->job || job->refusal)
			continue;
		job->templates->job = job;
		job->templates->build_cost = job->cost_bytes;
		start(job->templates);
	}
}

/* --- what jobs see ------------------------------------------------------------------------- */

int templates_ready(struct job *job)
{
	struct template_set *s = job->templates;

	if (!s)
		return 1;
	switch (s->state) {
	case SET_OPEN:
		return 0;
	case SET_FAILED:
		return -EIO;
	case SET_BOOT:
		free(job->note);
		job->note = xstrdup(s->note);
		job->isolation = "boot";
		return 1;
	case SET_READY:
		job->isolation = "fork";
		job->template_round = s->round;
		job->cost_bytes = fork_cost(s);
		return 1;
	}
	return 1;
}

void templates_finish(struct run *run, struct job *job)
{
	job->isolation = "fork";
	for (size_t i = 0; i < job->n_tests; i++)
		test_finish_with(run, job, &job->tests[i], job->templates->error,
				 job->templates->error_dir);
	job->is_over = true;
}

json_t *templates_message(const struct job *job)
{
	const struct template_set *s = job->templates;

	if (s->state == SET_BOOT)
		return json_null();
	/* Those that are made anew just now have the same keys: a worker that is too early says
	 * that they are not there. */
	if (set_setup(s))
		return json_pack("{s:s}", "setup", s->setup_key);
	return json_pack("{s:o}", "boot", boot_keys(s));
}

bool templates_broken(struct run *run, struct job *job, json_t *event, struct error *err)
{
	const char *key = json_string_value(json_object_get(event, "key"));
	const char *message = json_string_value(json_object_get(event, "message"));
	struct template_set *s = job->templates;

	if (job->n_broken++ > 0) {
		error_set(err, ERROR_INFRA, EIO,
			  "its template is broken, and so was the last one: %s", message);
		return false;
	}
	/* Many tests may tell of the same one. */
	if (s->state == SET_READY && s->round == job->template_round) {
		warn(run, "%s: %s: its template is broken and is made again: %s",
		     job->tests[0].file->path, job->tests[0].id, message);
		throw_away(s, key);
		start(s);
	}
	return true;
}

void templates_note_cost(struct job *job, json_t *bytes)
{
	struct template_set *s = job->templates;
	const char *key;
	json_t *n;

	json_object_foreach(bytes, key, n)
	{
		json_int_t before = json_integer_value(json_object_get(s->costs, key));

		if (json_integer_value(n) <= before)
			continue;
		json_object_set(s->costs, key, n);
		template_note_cost(key, (uint64_t)json_integer_value(n));
	}
}

static void set_free(struct template_set *s)
{
	if (s->fiber)
		fiber_stop(s->fiber);
	fiber_unref(s->fiber);
	let_go(s);
	if (s->is_temporary)
		(void)template_discard(s->setup_key, NULL);
	for (size_t i = 0; i < s->n_machines; i++)
		machine_spec_free(s->machines[i].spec);
	free(s->machines);
	free(s->base_dir);
	free(s->identity);
	free(s->note);
	free(s->error_dir);
	json_decref(s->error);
	json_decref(s->costs);
	free(s);
}

void templates_stop(struct run *run)
{
	for (struct template_set *s = run->sets; s; s = s->next)
		if (s->fiber)
			fiber_cancel(s->fiber);
	while (run->sets) {
		struct template_set *s = run->sets;

		run->sets = s->next;
		set_free(s);
	}
}
