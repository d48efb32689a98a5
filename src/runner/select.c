/* SPDX-License-Identifier: MIT */
/* From declarations to jobs: what to run, on what, in which order. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/str.h"
#include "machine/backend.h"
#include "runner/internal.h"

/*
 * Theory of operation
 *
 * A job is what one worker does: one test; or, with isolation "shared", all wanted tests of a
 * group. What tests of a group have in common (machines with overrides, their cost, what stands
 * in the way of running them) is worked out once for each group (`struct group_plan`).
 *
 * What cannot be run is a job all the same: its `refusal` becomes its verdict, so that every
 * declared test is accounted for.
 */

#define TCG_SCALE 4.0

char *plan_test_id(json_t *group, json_t *test)
{
	const char *g = json_string_value(json_object_get(group, "name"));
	const char *t = json_string_value(json_object_get(test, "name"));

	return g && *g ? xasprintf("%s/%s", g, t) : xstrdup(t ? t : "");
}

/* --- the command line's say ------------------------------------------------------------------ */

/* "debian-12!" → "debian-12" and true. */
static char *parse_override(const char *option, bool *ret_override)
{
	size_t len = strlen(option);

	*ret_override = len > 0 && option[len - 1] == '!';
	return xstrndup(option, len - *ret_override);
}

static void apply(json_t *object, const char *key, const char *option, bool may_fill)
{
	_cleanup_free_ char *value = NULL;
	bool override;

	if (!option)
		return;
	value = parse_override(option, &override);
	if (override ? (may_fill || json_object_get(object, key))
		     : (may_fill && !json_object_get(object, key)))
		json_object_set_new(object, key, json_string(value));
}

json_t *plan_override_machine(const struct run_opts *opts, json_t *machine)
{
	json_t *m = json_copy(machine);
	/* One that boots its own kernel or disk wants no image filled in. */
	bool bare = !json_object_get(m, "kernel") && !json_object_get(m, "disks");

	apply(m, "backend", opts->backend, true);
	apply(m, "image", opts->image, bare);
	return m;
}

const char *plan_isolation(const struct run_opts *opts, json_t *suite, json_t *test)
{
	const char *own = json_string_value(json_object_get(test, "isolation"));
	const char *option = opts->isolation;

	if (!own)
		own = json_string_value(json_object_get(suite, "isolation"));
	if (option && (!own || str_ends(option, "!"))) {
		/* Only three words exist; the '!' must not be part of the one that is told. */
		own = str_starts(option, "fork")   ? "fork"
		      : str_starts(option, "boot") ? "boot"
						   : "shared";
	}
	return own;
}

static int plan_retries(const struct run_opts *opts, json_t *test)
{
	json_t *own = json_object_get(test, "retries");
	_cleanup_free_ char *value = NULL;
	bool override = false;
	int n = 0;

	if (opts->retries) {
		value = parse_override(opts->retries, &override);
		(void)parse_int(value, &n);
	}
	if (own && !override)
		n = (int)json_integer_value(own);
	return MAX(n, 0);
}

/* --- groups ---------------------------------------------------------------------------------- */

struct group_plan {
	json_t *machines;
	uint64_t cost_bytes;
	unsigned caps; /* of all machines */
	double scale;
	const char *scale_reason;
	struct error *refusal;
	json_t *refusal_line; /* borrowed */
};

static void group_plan_done(struct group_plan *g)
{
	json_decref(g->machines);
	free(g->refusal);
}

static void refuse(struct group_plan *g, const struct error *err)
{
	if (!g->refusal)
		g->refusal = xmemdup(err, sizeof(*err));
}

bool machine_needs_image(json_t *machine)
{
	const struct backend_ops *ops;

	if (backend_find(json_string_value(json_object_get(machine, "backend")), &ops, NULL) < 0)
		return false;
	return (ops->flags & BACKEND_NEEDS_IMAGE) && json_object_get(machine, "image");
}

/* KVM 1, TCG 4; `auto`: as measured. Of several machines the slowest counts. */
static int group_scale(struct run *run, struct group_plan *g, const struct machine_spec *spec,
		       struct error *err)
{
	const char *asked = run->opts->timeout_scale;
	const char *accel =
		spec->accel && !str_eq(spec->accel, "auto") ? spec->accel : run->opts->accel;
	const struct backend_ops *ops;
	double scale = 1;
	int r;

	if (backend_find(spec->backend, &ops, NULL) < 0 || !(ops->flags & BACKEND_NEEDS_IMAGE))
		return 0; /* nothing is emulated */
	if (!run->accel_known) {
		r = accel_probe(&run->accel, err);
		if (r < 0)
			return r;
		run->accel_known = true;
	}
	if (str_eq(accel, "tcg") || !run->accel.kvm) {
		scale = TCG_SCALE;
		g->scale_reason = "TCG";
	}
	if (str_eq(asked, "auto") && !str_eq(accel, "kvm") && !str_eq(accel, "tcg"))
		scale = MAX(scale, run->accel.timeout_scale);
	g->scale = MAX(g->scale, scale);
	return 0;
}

static int plan_machine(struct run *run, struct group_plan *g, json_t *machine, struct error *err)
{
	struct machine_spec *spec = NULL;
	unsigned caps = 0;
	int r;

	r = machine_spec_parse(machine, &spec, err);
	if (r == 0)
		r = backend_check(spec, err);
	if (r == 0)
		r = backend_available(spec->backend, err);
	if (r == 0)
		r = backend_caps(spec->backend, &caps, err);
	if (r == 0)
		r = group_scale(run, g, spec, err);
	if (r < 0)
		error_prefix(err, "machine '%s'",
			     json_string_value(json_object_get(machine, "name")));
	else
		g->cost_bytes += machine_cost_bytes(spec);
	g->caps &= caps;
	machine_spec_free(spec);
	return r;
}

static void fixed_scale(const char *asked, struct group_plan *g)
{
	char *end;
	double n;

	if (!asked || str_eq(asked, "auto"))
		return;
	n = strtod(asked, &end);
	if (n > 0 && !*end) {
		g->scale = n;
		g->scale_reason = "--timeout-scale";
	}
}

static void plan_group(struct run *run, json_t *group, struct group_plan *g)
{
	json_t *machines = json_object_get(group, "machines"), *machine;
	size_t i;

	*g = (struct group_plan){.machines = json_array(), .caps = ~0u, .scale = 1};
	if (json_array_size(machines) == 0)
		(void)backend_caps(NULL, &g->caps, NULL);
	json_array_foreach(machines, i, machine)
	{
		json_t *m = plan_override_machine(run->opts, machine);
		struct error err = {};

		json_array_append_new(g->machines, m);
		if (plan_machine(run, g, m, &err) < 0 && !g->refusal) {
			refuse(g, &err);
			g->refusal_line =
				json_array_get(json_object_get(group, "machine_lines"), i);
		}
	}
	fixed_scale(run->opts->timeout_scale, g);
}

/* --- jobs ------------------------------------------------------------------------------------ */

void job_done(struct job *job)
{
	for (size_t i = 0; i < job->n_tests; i++) {
		free(job->tests[i].id);
		json_decref(job->tests[i].attempts);
		json_decref(job->tests[i].result);
	}
	free(job->tests);
	json_decref(job->machines);
	free(job->note);
	free(job->dir);
	free(job->images);
	free(job->refusal);
}

static struct job *add_job(struct run *run)
{
	run->jobs = xrealloc(run->jobs, (run->n_jobs + 1) * sizeof(*run->jobs));
	run->jobs[run->n_jobs] = (struct job){.order = run->n_jobs};
	return &run->jobs[run->n_jobs++];
}

static void add_test(struct job *job, struct plan_file *file, json_t *group, json_t *test,
		     const char *id, unsigned repeat)
{
	job->tests = xrealloc(job->tests, (job->n_tests + 1) * sizeof(*job->tests));
	job->tests[job->n_tests++] = (struct test_case){
		.file = file,
		.group = group,
		.decl = test,
		.id = xstrdup(id),
		.repeat = repeat,
		.attempts = json_array(),
	};
}

/* A capability that is named in `needs` and not there: fills err. */
static bool lacks_need(const struct group_plan *g, json_t *test, struct error *err)
{
	json_t *needs = json_object_get(test, "needs"), *need;
	size_t i;

	json_array_foreach(needs, i, need)
	{
		const char *name = json_string_value(need) ? json_string_value(need) : "";
		unsigned cap = machine_cap_from_name(name);
		const char *nearest;

		if (cap && (g->caps & cap))
			continue;
		if (cap) {
			error_set(err, ERROR_UNSUPPORTED, ENOTSUP,
				  "needs '%s', which is not to be had here", name);
			return true;
		}
		error_set(err, ERROR_USAGE, EINVAL, "there is no capability '%s' to need", name);
		nearest = nearest_name(name, machine_cap_names());
		if (nearest)
			error_hint(err, "did you mean '%s'?", nearest);
		return true;
	}
	return false;
}

/* A fork until it turns out that there can be no template (templates_ready). */
static void set_isolation(struct run *run, struct job *job, const char *isolation,
			  const struct group_plan *g)
{
	bool asked = str_eq(isolation, "fork");

	job->autostart = !str_eq(isolation, "boot");
	job->isolation = str_eq(isolation, "shared") ? "shared" : "boot";
	if ((isolation && !asked) || json_array_size(g->machines) == 0 || job->refusal)
		return;
	if (g->caps & MACHINE_CAP_SNAPSHOT)
		templates_note(run, job);
	else if (asked) /* nobody needs to be told what nobody asked for */
		job->note =
			xstrdup("isolation \"fork\" was asked for; not all of these machines can "
				"be saved, so they are booted anew");
}

static void fill_job(struct run *run, struct job *job, const struct group_plan *g, json_t *suite,
		     json_t *test, const char *isolation, const char *id, unsigned repeat)
{
	unsigned n_machines = (unsigned)json_array_size(g->machines);
	json_t *priority = json_object_get(test, "priority");
	struct error err = {};

	if (!priority)
		priority = json_object_get(suite, "priority");
	job->machines = json_incref(g->machines);
	job->cost_bytes = g->cost_bytes;
	/* A machine keeps a processor busy; a script waits most of the time. */
	job->weight = g->cost_bytes > 0 ? 2 * n_machines : 1;
	job->scale = g->scale;
	job->scale_reason = g->scale_reason;
	job->priority = (int)json_integer_value(priority);
	job->retries = plan_retries(run->opts, test);
	if (g->refusal)
		job->refusal = xmemdup(g->refusal, sizeof(*g->refusal));
	job->refusal_line = g->refusal_line;
	set_isolation(run, job, isolation, g);
	job->dir = outdir_test_name(run, job->tests[0].file, id, repeat);
	if (!job->refusal && images_note(run, job, &err) < 0)
		job->refusal = xmemdup(&err, sizeof(err));
}

struct selection {
	struct run *run;
	struct filter *filter;
	size_t n_seen; /* wanted tests, for the shard */
	unsigned repeat;
};

static bool in_shard(struct selection *s)
{
	const struct run_opts *o = s->run->opts;

	return !o->shard_count ||
	       s->n_seen++ % (size_t)o->shard_count == (size_t)(o->shard_index - 1);
}

/* The shared job of a group, all of it in one shard; the others have a job each. */
static void add_wanted(struct selection *s, struct plan_file *file, json_t *group, json_t *test,
		       const struct group_plan *g, const char *id, size_t *shared_job)
{
	json_t *suite = json_object_get(file->decl, "suite");
	const char *isolation = plan_isolation(s->run->opts, suite, test);
	struct error err = {};
	bool lacking = lacks_need(g, test, &err);
	/* What is skipped must not take the rest of its group along. */
	bool shared = str_eq(isolation, "shared") && !lacking;
	struct job *job;

	if (shared && *shared_job != SIZE_MAX) {
		if (*shared_job < s->run->n_jobs)
			add_test(&s->run->jobs[*shared_job], file, group, test, id, s->repeat);
		return;
	}
	if (!in_shard(s)) {
		if (shared)
			*shared_job = SIZE_MAX - 1;
		return;
	}
	job = add_job(s->run);
	add_test(job, file, group, test, id, s->repeat);
	if (shared)
		*shared_job = s->run->n_jobs - 1;
	fill_job(s->run, job, g, suite, test, isolation, id, s->repeat);
	if (lacking && !job->refusal)
		job->refusal = xmemdup(&err, sizeof(err));
}

static int select_group(struct selection *s, struct plan_file *file, json_t *group,
			struct error *err)
{
	json_t *suite = json_object_get(file->decl, "suite");
	json_t *tests = json_object_get(group, "tests"), *test;
	size_t i, shared_job = SIZE_MAX;
	struct group_plan g;
	bool planned = false;
	int r = 0;

	json_array_foreach(tests, i, test)
	{
		_cleanup_free_ char *id = plan_test_id(group, test);

		r = filter_match(s->filter, file, suite, test, id, err);
		if (r < 0)
			break;
		s->run->n_slow += r == FILTER_SLOW && s->repeat <= 1;
		if (r == 0 || r == FILTER_SLOW)
			continue;
		if (!planned)
			plan_group(s->run, group, &g);
		planned = true;
		add_wanted(s, file, group, test, &g, id, &shared_job);
	}
	if (planned)
		group_plan_done(&g);
	return MIN(r, 0);
}

/* --- order ------------------------------------------------------------------------------------ */

static int by_priority(const void *a, const void *b)
{
	const struct job *x = a, *y = b;

	if (x->priority != y->priority)
		return x->priority > y->priority ? -1 : 1;
	return (x->order > y->order) - (x->order < y->order);
}

/* SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere for one seed. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static void shuffle(struct run *run)
{
	uint64_t state = run->shuffle_seed;

	for (size_t i = run->n_jobs; i > 1; i--) {
		size_t j = next_random(&state) % i;
		struct job t = run->jobs[i - 1];

		run->jobs[i - 1] = run->jobs[j];
		run->jobs[j] = t;
	}
}

/* --image and --backend name something that there is: known before anything is started, as it is
 * the command line's mistake and no test's. */
static int check_options(const struct run *run, struct error *err)
{
	_cleanup_free_ char *backend = NULL, *image = NULL;
	const struct backend_ops *ops;
	bool override;
	int r = 0;

	if (run->opts->backend) {
		backend = parse_override(run->opts->backend, &override);
		r = backend_find(backend, &ops, err);
		if (r < 0)
			error_prefix(err, "--backend");
	}
	if (r == 0 && run->opts->image) {
		image = parse_override(run->opts->image, &override);
		for (size_t i = 0; i < run->n_files; i++)
			if (json_object_get(json_object_get(run->files[i].decl, "images"), image))
				return 0;
		r = images_check_name(image, err);
		if (r < 0)
			error_prefix(err, "--image");
	}
	return r;
}

int plan_select(struct run *run, struct error *err)
{
	struct selection s = {.run = run};
	unsigned repeats = (unsigned)MAX(run->opts->repeat, 1);
	int r;

	r = check_options(run, err);
	if (r == 0)
		r = filter_new(run->opts, &s.filter, err);
	for (unsigned n = 1; n <= repeats && r == 0; n++) {
		s.repeat = repeats > 1 ? n : 0;
		s.n_seen = 0;
		for (size_t i = 0; i < run->n_files && r == 0; i++) {
			json_t *groups = json_object_get(run->files[i].decl, "groups"), *group;
			size_t k;

			json_array_foreach(groups, k, group)
			{
				r = select_group(&s, &run->files[i], group, err);
				if (r < 0)
					break;
			}
		}
	}
	filter_free(s.filter);
	if (r < 0)
		return r;
	if (run->opts->shuffle)
		shuffle(run);
	else if (run->n_jobs > 0)
		qsort(run->jobs, run->n_jobs, sizeof(*run->jobs), by_priority);
	for (size_t i = 0; i < run->n_jobs; i++)
		run->n_tests += run->jobs[i].n_tests;
	return 0;
}

uint64_t plan_shuffle_seed(const struct run_opts *opts)
{
	uint64_t seed = opts->shuffle_seed;

	/* Six digits are enough to be told apart and short enough to be typed. */
	while (opts->shuffle && seed == 0)
		if (getrandom(&seed, sizeof(seed), 0) == (ssize_t)sizeof(seed))
			seed %= 1000000;
	return seed;
}
