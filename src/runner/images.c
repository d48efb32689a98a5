/* SPDX-License-Identifier: MIT */
/* Images: found or built in the runner, before the tests that need them. */
#include <assert.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "machine/recipe.h"
#include "report/text.h"
#include "runner/internal.h"

/*
 * Each different recipe is one `struct image_need`, shared by all jobs that ask for it. One fiber
 * first looks which are there, then builds the others one after the other, in the order in which
 * tests want them (a build uses all processors anyway). A test whose images are not ready is
 * passed over meanwhile; so building costs no test any of its time. The images stay open, that is
 * locked against removal, until the run is over.
 */
enum need_state { NEED_OPEN, NEED_READY, NEED_FAILED };

struct image_need {
	struct image_need *next;
	char *key;		     /* the recipe as text */
	struct machine_spec *parsed; /* recipe borrows from it */
	struct machine_recipe recipe;
	char *name, *run_script; /* of a declared image */
	bool is_derived_from_declared;
	enum need_state state;
	struct image *image;
	struct error *err;
};

/* The fiber; one run at a time in this process. */
static struct fiber *ensure_fiber;

static void need_free(struct image_need *n)
{
	image_unref(n->image);
	machine_recipe_done(&n->recipe);
	machine_spec_free(n->parsed);
	free(n->name);
	free(n->run_script);
	free(n->key);
	free(n->err);
	free(n);
}

static struct image_need *find_need(struct run *run, const char *key)
{
	for (struct image_need *n = run->needs; n; n = n->next)
		if (str_eq(n->key, key))
			return n;
	return NULL;
}

static void append_need(struct run *run, struct image_need *need)
{
	struct image_need **p = &run->needs;

	while (*p)
		p = &(*p)->next;
	*p = need;
}

static void use_need(struct job *job, struct image_need *need)
{
	for (size_t i = 0; i < job->n_images; i++)
		if (job->images[i] == need)
			return;
	job->images = xrealloc(job->images, (job->n_images + 1) * sizeof(struct image_need *));
	job->images[job->n_images++] = need;
}

/* A machine's options `packages` and `files` are those of an image, so one parser does. */
static int parse_recipe(struct image_need *n, const char *base_dir, json_t *recipe,
			struct error *err)
{
	const char *script = json_string_value(json_object_get(recipe, "run"));
	json_t *size = json_object_get(recipe, "size");
	json_t *machine = json_pack("{s:s, s:O*, s:O*, s:O*}", "name", "image", "image",
				    json_object_get(recipe, "from"), "packages",
				    json_object_get(recipe, "packages"), "files",
				    json_object_get(recipe, "files"));
	int r = machine_spec_parse(machine, &n->parsed, err);

	json_decref(machine);
	if (r < 0)
		return r;
	(void)machine_image_spec(n->parsed, base_dir, &n->recipe);
	n->run_script = script ? xstrdup(script) : NULL;
	n->recipe.spec.name = n->name;
	n->recipe.spec.run = n->run_script;
	if (json_is_integer(size))
		n->recipe.spec.size_bytes = (uint64_t)json_integer_value(size);
	else if (json_is_string(size))
		(void)parse_size(json_string_value(size), &n->recipe.spec.size_bytes);
	return 0;
}

/* recipe: { from, packages, files, run, size }; name: of a declared image, or NULL. */
static int note_recipe(struct run *run, struct job *job, const char *base_dir, const char *name,
		       json_t *recipe, bool from_declared, struct error *err)
{
	_cleanup_free_ char *key = NULL, *text = json_dumps(recipe, JSON_COMPACT | JSON_SORT_KEYS);
	struct image_need *n;
	int r;

	/* Relative paths mean other files in other folders. */
	key = xasprintf("%s\n%s\n%s", base_dir, name ? name : "", text);
	n = find_need(run, key);
	if (!n) {
		n = xcalloc(1, sizeof(*n));
		n->key = TAKE_PTR(key);
		n->name = name ? xstrdup(name) : NULL;
		n->is_derived_from_declared = from_declared;
		r = parse_recipe(n, base_dir, recipe, err);
		if (r < 0) {
			need_free(n);
			return r;
		}
		append_need(run, n);
	}
	use_need(job, n);
	return 0;
}

static int note_machine(struct run *run, struct job *job, const char *base_dir, json_t *machine,
			unsigned depth, struct error *err)
{
	const char *image = json_string_value(json_object_get(machine, "image"));
	json_t *images = json_object_get(job->tests[0].file->decl, "images");
	json_t *declared = json_object_get(images, image ? image : "");
	json_t *packages = json_object_get(machine, "packages");
	json_t *files = json_object_get(machine, "files"), *recipe;
	int r;

	if (!image)
		return 0;
	if (declared && depth < 16) {
		const char *from = json_string_value(json_object_get(declared, "from"));
		bool base_declared = json_object_get(images, from ? from : "") != NULL;
		json_t *base = json_pack("{s:s*}", "image", from);

		/* What it is made from may be declared as well. */
		r = note_machine(run, job, base_dir, base, depth + 1, err);
		json_decref(base);
		if (r == 0)
			r = note_recipe(run, job, base_dir, image, declared, base_declared, err);
		if (r < 0)
			return r;
	}
	if (declared && !packages && !files)
		return 0;
	recipe =
		json_pack("{s:s, s:O*, s:O*}", "from", image, "packages", packages, "files", files);
	r = note_recipe(run, job, base_dir, NULL, recipe, declared != NULL, err);
	json_decref(recipe);
	return r;
}

int images_note(struct run *run, struct job *job, struct error *err)
{
	_cleanup_free_ char *absolute = path_absolute(job->tests[0].file->path);
	_cleanup_free_ char *base_dir = path_dirname(absolute);
	json_t *machine;
	size_t i;

	json_array_foreach(job->machines, i, machine)
	{
		int r;

		if (!machine_needs_image(machine))
			continue;
		r = note_machine(run, job, base_dir, machine, 0, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- getting them -------------------------------------------------------------------------- */

struct progress {
	struct run *run;
	struct image_need *need;
	uint64_t start_ns;
};

static const char *need_name(const struct image_need *n)
{
	return n->recipe.spec.name ? n->recipe.spec.name : n->recipe.spec.from;
}

/* "debian-13 + nginx" */
static char *need_title(const struct image_need *n)
{
	_cleanup_free_ char *packages = strv_join(n->recipe.spec.packages, ", ");

	if (n->recipe.spec.name || !packages || !*packages)
		return xstrdup(need_name(n));
	return xasprintf("%s + %s", need_name(n), packages);
}

static void tell(struct run *run, struct image_need *n, const char *state, const char *phase,
		 uint64_t start_ns, const char *message)
{
	_cleanup_free_ char *title = need_title(n);
	json_t *fields = json_pack("{s:o, s:s, s:s*}", "name", text_json(title), "state", state,
				   "phase", phase);

	json_object_set_new(fields, "seconds",
			    json_real((double)(now_ns() - start_ns) / (double)NS_PER_SEC));
	if (message)
		json_object_set_new(fields, "message", text_json(message));
	run_emit(run, "image", fields);
}

static void on_progress(const char *phase, void *userdata)
{
	struct progress *p = userdata;

	tell(p->run, p->need, "building", phase, p->start_ns, NULL);
}

static void settle(struct run *run, struct image_need *n, int r, const struct error *err)
{
	n->state = r < 0 ? NEED_FAILED : NEED_READY;
	if (r < 0) {
		n->err = xmemdup(err, sizeof(*err));
		/* "image 'x': image 'x' does not exist" */
		if (!strstr(n->err->message, need_name(n)))
			error_prefix(n->err, "image '%s'", need_name(n));
	}
	waiters_wake_all(&run->changed);
}

static int build(struct run *run, struct image_need *n)
{
	struct progress p = {.run = run, .need = n, .start_ns = now_ns()};
	struct image_build_opts opts = {.progress = on_progress, .userdata = &p};
	struct error err = {};
	int r;

	r = image_ensure(&n->recipe.spec, &opts, &n->image, &err);
	if (r == -ECANCELED && fiber_is_cancelled(fiber_self()))
		return r;
	tell(run, n, r < 0 ? "failed" : "ready", NULL, p.start_ns, r < 0 ? err.message : NULL);
	settle(run, n, r, &err);
	return 0;
}

static int ensure_all(void *userdata)
{
	struct run *run = userdata;

	for (struct image_need *n = run->needs; n; n = n->next)
		if (image_find(&n->recipe.spec, &n->image, NULL) == 0)
			settle(run, n, 0, NULL);
	for (struct image_need *n = run->needs; n; n = n->next)
		if (n->state == NEED_OPEN && build(run, n) < 0)
			return -ECANCELED;
	return 0;
}

void images_start(struct run *run)
{
	assert(!ensure_fiber);
	if (run->needs)
		fiber_start("images", ensure_all, run, &ensure_fiber);
}

int images_ready(const struct job *job, struct error *err)
{
	for (size_t i = 0; i < job->n_images; i++) {
		if (job->images[i]->state == NEED_FAILED)
			return error_propagate(err, job->images[i]->err);
		if (job->images[i]->state == NEED_OPEN)
			return 0;
	}
	return 1;
}

int images_check_name(const char *name, struct error *err)
{
	const char *nearest;

	if (strchr(name, '/') || image_name_is_known(name))
		return 0;
	error_set(err, ERROR_USAGE, ENOENT, "there is no image '%s'", name);
	nearest = nearest_name(name, image_builtin_names());
	if (nearest)
		error_hint(err, "did you mean '%s'?", nearest);
	else
		error_hint(err, "'assay image list' has the names; a disk is given by a path with "
				"a '/'");
	return -ENOENT;
}

int images_check(const struct image_need *need, struct error *err)
{
	int r = 0;

	/* A declared one is known by its own need. */
	if (!need->is_derived_from_declared)
		r = images_check_name(need->recipe.spec.from, err);
	return r < 0 ? r : image_spec_check(&need->recipe.spec, err);
}

void images_stop(struct run *run)
{
	if (ensure_fiber) {
		fiber_stop(ensure_fiber);
		ensure_fiber = fiber_unref(ensure_fiber);
	}
	while (run->needs) {
		struct image_need *n = run->needs;

		run->needs = n->next;
		need_free(n);
	}
}
