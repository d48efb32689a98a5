/* SPDX-License-Identifier: MIT */
/* `assay image`: the store that machines boot from. */
#include <stdio.h>

#include "base/str.h"
#include "cli/commands.h"
#include "image/image.h"
#include "loop/fiber.h"
#include "loop/loop.h"

struct image_opts {
	bool json, rebuild;
	char **packages;
	const char *run, *name, *initrd;
	uint64_t size_bytes;
	char **args;
	int n_args;
};

static void image_done(void *opts)
{
	struct image_opts *o = opts;

	strv_free(o->packages);
}

static int report(int r, const struct error *err)
{
	if (r >= 0)
		return EXIT_PASSED;
	report_error(err);
	return err->kind == ERROR_USAGE ? EXIT_USAGE : EXIT_ERRORED;
}

static const char *kind_name(enum image_kind kind)
{
	static const char *const names[] = {
		[IMAGE_LAYERED] = "layered",
		[IMAGE_KERNEL] = "kernel",
		[IMAGE_DISK] = "disk",
	};
	return names[kind];
}

static int wrong_args(const struct command *cmd)
{
	fprintf(stderr, "assay: 'image %s' wants %s\n  hint: 'assay image %s --help' explains it\n",
		cmd->name, cmd->args, cmd->name);
	return EXIT_USAGE;
}

/* Runs fn on a fiber, where all calls that may wait belong. */
static int on_fiber(const struct command *cmd, void *opts, int n_args, char **args, int min,
		    int max, int (*fn)(void *))
{
	struct image_opts *o = opts;

	if (n_args < min || n_args > max)
		return wrong_args(cmd);
	o->args = args;
	o->n_args = n_args;
	return command_on_fiber("image", fn, o);
}

/* --- build ---------------------------------------------------------------------------------- */

struct build_progress {
	uint64_t start_ns;
	const char *name;
};

static void on_progress(const char *phase, void *userdata)
{
	struct build_progress *p = userdata;

	fprintf(stderr, "%6.1f s  %s: %s\n", (double)(now_ns() - p->start_ns) / NS_PER_SEC, p->name,
		phase);
}

/* Ctrl-C cancels the fiber that builds, so that the build cleans up after itself. */
static int on_interrupt(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
	fiber_cancel(userdata);
	return 0;
}

static int build_fiber(void *userdata)
{
	struct image_opts *o = userdata;
	int r = EXIT_PASSED;
	sd_event_source *sigint = NULL, *sigterm = NULL;
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	sd_event_add_signal(loop_event(), &sigint, SIGINT, on_interrupt, fiber_self());
	sd_event_add_signal(loop_event(), &sigterm, SIGTERM, on_interrupt, fiber_self());
	for (int i = 0; i < o->n_args && r == EXIT_PASSED; i++) {
		struct build_progress p = {now_ns(), o->args[i]};
		struct image_spec spec = {
			.from = o->args[i],
			.name = o->name,
			.packages = o->packages,
			.run = o->run,
			.size_bytes = o->size_bytes,
		};
		struct image_build_opts opts = {
			.progress = on_progress,
			.userdata = &p,
			.rebuild = o->rebuild,
		};
		_cleanup_image_ struct image *image = NULL;
		struct error err = {};
		int k = image_ensure(&spec, &opts, &image, &err);

		r = err.kind == ERROR_CANCELLED ? EXIT_INTERRUPTED : report(k, &err);
		if (k >= 0)
			printf("%s %.12s %s\n", image_name(image), image_digest(image),
			       image_dir(image) ? image_dir(image) : "");
	}
	sd_event_source_disable_unref(sigint);
	sd_event_source_disable_unref(sigterm);
	return r;
}

static int run_build(const struct command *cmd, void *opts, int n_args, char **args)
{
	return on_fiber(cmd, opts, n_args, args, 1, 1000, build_fiber);
}

/* --- list, show ------------------------------------------------------------------------------ */

static json_t *info_json(const struct image_info *i)
{
	json_t *packages = json_array(), *o;

	for (size_t k = 0; i->packages && i->packages[k]; k++)
		json_array_append_new(packages, json_string(i->packages[k]));
	o = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:o}", "name", i->name, "digest",
		      i->digest, "dir", i->dir, "kind", kind_name(i->kind), "bytes",
		      (json_int_t)i->bytes, "created", (json_int_t)i->created, "used",
		      (json_int_t)i->used, "current", i->is_current, "packages", packages);
	if (i->from)
		json_object_set_new(o, "from", json_string(i->from));
	if (i->kernel_release)
		json_object_set_new(o, "kernel", json_string(i->kernel_release));
	return o;
}

static void print_info(const struct image_info *i)
{
	char size[FORMAT_MAX], age[FORMAT_MAX];
	_cleanup_free_ char *packages = i->packages ? strv_join(i->packages, " ") : xstrdup("");

	printf("%-14s  %.12s  %-7s  %9s", i->name, i->digest, kind_name(i->kind),
	       format_size(i->bytes, size));
	printf("  %9s ago", format_age(i->used, age));
	printf("%s%s%s%s\n", *packages ? "  + " : "", packages, i->is_current ? "" : "  outdated",
	       i->from && !*packages ? "  derived" : "");
}

static int run_list(const struct command *cmd, void *opts, int n_args, char **args)
{
	struct image_opts *o = opts;
	struct image_info *infos = NULL;
	struct error err = {};
	size_t n = 0;
	int r;

	r = image_store_list(&infos, &n, &err);
	if (r < 0)
		return report(r, &err);
	if (o->json) {
		json_t *list = json_array();

		for (size_t i = 0; i < n; i++)
			json_array_append_new(list, info_json(&infos[i]));
		print_json(list);
	} else {
		for (size_t i = 0; i < n; i++)
			print_info(&infos[i]);
		for (const char *const *b = image_builtin_names(); *b; b++) {
			bool built = false;

			for (size_t i = 0; i < n; i++)
				built |= str_eq(infos[i].name, *b) && infos[i].is_current;
			if (!built)
				printf("%-14s  not built yet: %s\n", *b, image_builtin_summary(*b));
		}
	}
	image_infos_free(infos, n);
	return EXIT_PASSED;
}

static int run_show(const struct command *cmd, void *opts, int n_args, char **args)
{
	struct image_opts *o = opts;
	struct image_info info = {};
	struct error err = {};
	_cleanup_free_ char *manifest = NULL;
	int r;

	if (n_args != 1)
		return wrong_args(cmd);
	r = image_store_show(args[0], &info, &err);
	if (r >= 0 && o->json)
		r = image_store_manifest(args[0], &manifest, &err);
	if (r >= 0 && o->json) {
		puts(manifest);
	} else if (r >= 0) {
		print_info(&info);
		printf("folder  %s\nkernel  %s\n", info.dir,
		       info.kernel_release ? info.kernel_release : "-");
	}
	image_info_done(&info);
	return report(r, &err);
}

/* --- rm, import, export ------------------------------------------------------------------------
 */

static int rm_fiber(void *userdata)
{
	struct image_opts *o = userdata;
	struct error err = {};
	int r = 0;

	for (int i = 0; i < o->n_args && r >= 0; i++) {
		size_t removed = 0;

		r = image_store_remove(o->args[i], &removed, &err);
		if (r >= 0)
			printf("%s: %zu removed\n", o->args[i], removed);
	}
	return report(r, &err);
}

static int run_rm(const struct command *cmd, void *opts, int n_args, char **args)
{
	return on_fiber(cmd, opts, n_args, args, 1, 1000, rm_fiber);
}

static int import_fiber(void *userdata)
{
	struct image_opts *o = userdata;
	struct error err = {};
	int r;

	if (o->initrd)
		r = image_store_import_kernel(o->args[0], o->args[1], o->initrd, &err);
	else
		r = image_store_import_disk(o->args[0], o->args[1], &err);
	return report(r, &err);
}

static int run_import(const struct command *cmd, void *opts, int n_args, char **args)
{
	return on_fiber(cmd, opts, n_args, args, 2, 2, import_fiber);
}

static int export_fiber(void *userdata)
{
	struct image_opts *o = userdata;
	struct error err = {};

	return report(image_store_export(o->args[0], o->args[1], &err), &err);
}

static int run_export(const struct command *cmd, void *opts, int n_args, char **args)
{
	return on_fiber(cmd, opts, n_args, args, 2, 2, export_fiber);
}

#define O(member) offsetof(struct image_opts, member)

static const struct option_spec build_options[] = {
	{"package", 'p', OPTION_STRINGS, "NAME", O(packages),
	 "install this package on top (several allowed)", NULL},
	{"run", 0, OPTION_STRING, "SCRIPT", O(run), "run this shell script in the new root", NULL},
	{"size", 0, OPTION_SIZE, "SIZE", O(size_bytes), "size of a machine's disk (8G)", NULL},
	{"name", 0, OPTION_STRING, "NAME", O(name), "name of the derived image", NULL},
	{"rebuild", 0, OPTION_FLAG, NULL, O(rebuild), "build anew even if it is there", NULL},
	{NULL},
};
static const struct option_spec json_options[] = {
	{"json", 0, OPTION_FLAG, NULL, O(json), "print JSON", NULL},
	{NULL},
};
static const struct option_spec import_options[] = {
	{"initrd", 0, OPTION_STRING, "FILE", O(initrd), "PATH is a kernel and this its initramfs",
	 NULL},
	{NULL},
};

#define SUBCOMMAND(n, a, s, o)                                                                     \
	static const struct command sub_##n = {                                                    \
		.name = #n,                                                                        \
		.args = a,                                                                         \
		.summary = s,                                                                      \
		.options = o,                                                                      \
		.opts_size = sizeof(struct image_opts),                                            \
		.done = image_done,                                                                \
		.run = run_##n,                                                                    \
	}

SUBCOMMAND(build, "IMAGE…", "build images that are missing", build_options);
SUBCOMMAND(list, "", "images in the store", json_options);
SUBCOMMAND(show, "IMAGE", "one image", json_options);
SUBCOMMAND(rm, "IMAGE…", "remove images", NULL);
SUBCOMMAND(import, "NAME PATH", "put a disk, or a kernel, into the store under a name",
	   import_options);
SUBCOMMAND(export, "IMAGE DEST", "write an image's parts into a new folder", NULL);

static const struct command *const subs[] = {&sub_build,  &sub_list,   &sub_show, &sub_rm,
					     &sub_import, &sub_export, NULL};

const struct command command_image = {
	.name = "image",
	.args = "COMMAND",
	.summary = "the image store: build, list, show, rm, import, export",
	.doc = "Images are built once, by the distribution's own tools and without root, and kept "
	       "in\n"
	       "_$ASSAY_CACHE_ or _$XDG_CACHE_HOME/assay_ under the digest of their recipe. *assay "
	       "run*\n"
	       "builds what a test needs by itself.\n"
	       "\n"
	       "The mirror and keyrings are those of the host's own apt configuration;\n"
	       "_$ASSAY_DEBIAN_MIRROR_ overrides the mirror.\n",
	.sub = subs,
};
