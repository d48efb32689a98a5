/* SPDX-License-Identifier: MIT */
/* `assay cache`: what the cache holds, and keeping it small. */
#include <stdio.h>

#include "base/file.h"
#include "base/str.h"
#include "cli/commands.h"
#include "image/image.h"
#include "machine/template.h"

struct cache_opts {
	bool json;
	uint64_t max_bytes;
};

static int fail(const struct error *err)
{
	report_error(err);
	return err->kind == ERROR_USAGE ? EXIT_USAGE : EXIT_ERRORED;
}

/* Images and templates have this in common. Strings are borrowed. */
struct entry {
	const char *type, *name, *digest;
	uint64_t bytes, memory_bytes, created, used;
	bool outdated, in_use;
};

struct listing {
	struct image_info *images;
	struct template_info *templates;
	size_t n_images, n_templates;
	struct entry *entries;
	uint64_t bytes, memory_bytes;
};

static void listing_done(struct listing *l)
{
	image_infos_free(l->images, l->n_images);
	template_infos_free(l->templates, l->n_templates);
	free(l->entries);
}

static int listing_read(struct listing *l, struct error *err)
{
	uint64_t images, templates;
	struct entry *e;
	int r;

	if ((r = image_store_list(&l->images, &l->n_images, err)) < 0 ||
	    (r = template_list(&l->templates, &l->n_templates, err)) < 0 ||
	    (r = image_store_usage(&images, err)) < 0 ||
	    (r = template_store_usage(&templates, err)) < 0)
		return r;
	l->bytes = images + templates;
	e = l->entries = xcalloc(l->n_images + l->n_templates + 1, sizeof(*l->entries));
	for (size_t i = 0; i < l->n_images; i++) {
		const struct image_info *info = &l->images[i];

		*e++ = (struct entry){
			.type = info->from ? "derived image" : "image",
			.name = info->name,
			.digest = info->digest,
			.bytes = info->bytes,
			.created = info->created,
			.used = info->used,
			.outdated = !info->is_current,
		};
	}
	for (size_t i = 0; i < l->n_templates; i++) {
		const struct template_info *info = &l->templates[i];

		l->memory_bytes += info->memory_bytes;
		*e++ = (struct entry){
			.type = "template",
			.name = info->title,
			.digest = info->key,
			.bytes = info->bytes,
			.memory_bytes = info->memory_bytes,
			.created = info->created,
			.used = info->used_ns / NS_PER_SEC,
			.in_use = info->in_use,
		};
	}
	return 0;
}

static void print_entry(const struct entry *e)
{
	char size[FORMAT_MAX], made[FORMAT_MAX], used[FORMAT_MAX];

	/* Titles of templates may be long, so the name comes last. */
	printf("%-13s  %.12s  %9s  made %12s ago, used %12s ago  %s%s%s\n", e->type, e->digest,
	       format_size(e->bytes, size), format_age(e->created, made), format_age(e->used, used),
	       e->name, e->outdated ? "  outdated" : "", e->in_use ? "  in use" : "");
}

static json_t *entry_json(const struct entry *e)
{
	json_t *json = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I}", "type", e->type, "name", e->name,
				 "digest", e->digest, "bytes", (json_int_t)e->bytes, "created",
				 (json_int_t)e->created, "used", (json_int_t)e->used);

	if (str_eq(e->type, "template")) {
		json_object_set_new(json, "memory_bytes",
				    json_integer((json_int_t)e->memory_bytes));
		json_object_set_new(json, "in_use", json_boolean(e->in_use));
	}
	return json;
}

static int run_list(const struct command *cmd, void *opts, int n_args, char **args)
{
	_cleanup_(listing_done) struct listing l = {};
	struct cache_opts *o = opts;
	struct error err = {};
	_cleanup_free_ char *dir = NULL;
	char text[FORMAT_MAX], memory[FORMAT_MAX];
	size_t n;

	if (path_cache_dir(&dir, &err) < 0 || listing_read(&l, &err) < 0)
		return fail(&err);
	n = l.n_images + l.n_templates;
	if (o->json) {
		json_t *list = json_array();

		for (size_t i = 0; i < n; i++)
			json_array_append_new(list, entry_json(&l.entries[i]));
		print_json(json_pack("{s:s, s:I, s:I, s:o}", "dir", dir, "bytes",
				     (json_int_t)l.bytes, "memory_bytes",
				     (json_int_t)l.memory_bytes, "entries", list));
		return EXIT_PASSED;
	}
	for (size_t i = 0; i < n; i++)
		print_entry(&l.entries[i]);
	printf("%s in %s", format_size(l.bytes, text), dir);
	if (l.memory_bytes)
		printf(", %s of it in this host's memory", format_size(l.memory_bytes, memory));
	putchar('\n');
	return EXIT_PASSED;
}

/* Templates go before images: they are made again in seconds. */
static int prune(uint64_t max_bytes, uint64_t *ret_freed, struct error *err)
{
	uint64_t rubbish = 0, templates = 0, images = 0, usage = 0;
	int r = image_store_prune(UINT64_MAX, &rubbish, err);

	if (r >= 0)
		r = image_store_usage(&usage, err);
	if (r >= 0)
		r = template_prune(max_bytes > usage ? max_bytes - usage : 0, &templates, err);
	if (r >= 0)
		r = template_store_usage(&usage, err);
	if (r >= 0)
		r = image_store_prune(max_bytes > usage ? max_bytes - usage : 0, &images, err);
	*ret_freed = rubbish + templates + images;
	return r;
}

static int prune_fiber(void *userdata)
{
	struct cache_opts *o = userdata;
	struct error err = {};
	char text[FORMAT_MAX];
	uint64_t freed = 0;

	if (prune(o->max_bytes, &freed, &err) < 0)
		return fail(&err);
	printf("%s freed\n", format_size(freed, text));
	return EXIT_PASSED;
}

static int run_prune(const struct command *cmd, void *opts, int n_args, char **args)
{
	return command_on_fiber("prune", prune_fiber, opts);
}

static const struct option_spec list_options[] = {
	{"json", 0, OPTION_FLAG, NULL, offsetof(struct cache_opts, json), "print JSON", NULL},
	{NULL},
};
static const struct option_spec prune_options[] = {
	{"max-size", 0, OPTION_SIZE, "SIZE", offsetof(struct cache_opts, max_bytes),
	 "what may stay (20G)", NULL},
	{NULL},
};

static const struct cache_opts prune_defaults = {.max_bytes = 20 * GIB};

static const struct command sub_list = {
	.name = "list",
	.args = "",
	.summary = "images and templates, with sizes and ages",
	.options = list_options,
	.opts_size = sizeof(struct cache_opts),
	.run = run_list,
};
static const struct command sub_prune = {
	.name = "prune",
	.args = "",
	.summary = "remove leftovers and what is outdated, then the least recently used",
	.options = prune_options,
	.opts_size = sizeof(struct cache_opts),
	.defaults = &prune_defaults,
	.run = run_prune,
};
static const struct command *const subs[] = {&sub_list, &sub_prune, NULL};

const struct command command_cache = {
	.name = "cache",
	.args = "COMMAND",
	.summary = "the cache: list, prune",
	.doc = "The cache is _$ASSAY_CACHE_ or _$XDG_CACHE_HOME/assay_. Everything in it can be "
	       "made\n"
	       "again; nothing in use is ever removed.\n\n"
	       "It holds images and templates. A template is a machine, or all machines of a file, "
	       "saved\n"
	       "after boot or after *setup*; tests start from it. It is found by everything that "
	       "it "
	       "was\n"
	       "made from, so an outdated one is never used, and counts until the host boots "
	       "again. "
	       "The\n"
	       "machines' memory lies on the tmpfs _/dev/shm_ (or _$ASSAY_TMPFS_) if it fits there "
	       "and\n"
	       "leaves a quarter of the free memory; else in the cache. All templates together are "
	       "kept\n"
	       "within _$ASSAY_CACHE_MAX_ (8G, at most a tenth of the file system), and those on "
	       "the\n"
	       "tmpfs within a quarter of the host's memory: with each new one, the least recently "
	       "used\n"
	       "go.\n\n"
	       "*prune* bounds the whole cache: templates go before images, as they are made again "
	       "in\n"
	       "seconds.\n",
	.sub = subs,
};
