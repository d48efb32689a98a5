/* SPDX-License-Identifier: MIT */
/* `assay cache`: what the cache holds, and keeping it small. */
#include <stdio.h>

#include "base/file.h"
#include "base/str.h"
#include "cli/commands.h"
#include "image/image.h"

struct cache_opts {
	bool json;
	uint64_t max_bytes;
};

static int fail(const struct error *err)
{
	report_error(err);
	return err->kind == ERROR_USAGE ? EXIT_USAGE : EXIT_ERRORED;
}

static int run_list(const struct command *cmd, void *opts, int n_args, char **args)
{
	struct cache_opts *o = opts;
	struct image_info *infos = NULL;
	struct error err = {};
	_cleanup_free_ char *dir = NULL;
	char text[FORMAT_MAX];
	uint64_t total = 0;
	size_t n = 0;

	if (path_cache_dir(&dir, &err) < 0 || image_store_list(&infos, &n, &err) < 0 ||
	    image_store_usage(&total, &err) < 0)
		return fail(&err);
	if (o->json) {
		json_t *list = json_array();

		for (size_t i = 0; i < n; i++)
			json_array_append_new(
				list, json_pack("{s:s, s:s, s:s, s:I, s:I}", "type",
						infos[i].from ? "derived image" : "image", "name",
						infos[i].name, "digest", infos[i].digest, "bytes",
						(json_int_t)infos[i].bytes, "used",
						(json_int_t)infos[i].used));
		print_json(json_pack("{s:s, s:I, s:o}", "dir", dir, "bytes", (json_int_t)total,
				     "entries", list));
	} else {
		for (size_t i = 0; i < n; i++)
			printf("%-13s  %-14s  %.12s  %9s%s\n",
			       infos[i].from ? "derived image" : "image", infos[i].name,
			       infos[i].digest, format_size(infos[i].bytes, text),
			       infos[i].is_current ? "" : "  outdated");
		printf("%s in %s\n", format_size(total, text), dir);
	}
	image_infos_free(infos, n);
	return EXIT_PASSED;
}

static int prune_fiber(void *userdata)
{
	struct cache_opts *o = userdata;
	struct error err = {};
	char text[FORMAT_MAX];
	uint64_t freed = 0;

	if (image_store_prune(o->max_bytes ? o->max_bytes : 20 * GIB, &freed, &err) < 0)
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

static const struct command sub_list = {
	.name = "list",
	.args = "",
	.summary = "what the cache holds, with sizes",
	.options = list_options,
	.opts_size = sizeof(struct cache_opts),
	.run = run_list,
};
static const struct command sub_prune = {
	.name = "prune",
	.args = "",
	.summary = "remove leftovers, outdated images, then the least recently used",
	.options = prune_options,
	.opts_size = sizeof(struct cache_opts),
	.run = run_prune,
};
static const struct command *const subs[] = {&sub_list, &sub_prune, NULL};

const struct command command_cache = {
	.name = "cache",
	.args = "COMMAND",
	.summary = "the cache: list, prune",
	.doc = "The cache is _$ASSAY_CACHE_ or _$XDG_CACHE_HOME/assay_. Everything in it can be "
	       "made\n"
	       "again; nothing in use is ever removed.\n",
	.sub = subs,
};
