/* SPDX-License-Identifier: MIT */
/* What several commands share: run options, fibers, JSON output. */
#include <stdio.h>
#include <time.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "cli/commands.h"
#include "loop/loop.h"

static int parse_shard(struct run_command_opts *o, struct error *err)
{
	int index, count, end = 0;

	if (!o->shard)
		return 0;
	if (sscanf(o->shard, "%d/%d%n", &index, &count, &end) != 2 || o->shard[end] || index < 1 ||
	    index > count) {
		error_set(err, ERROR_USAGE, EINVAL, "--shard wants I/N with 1 <= I <= N, not '%s'",
			  o->shard);
		error_hint(err, "for three machines: --shard 1/3, --shard 2/3 and --shard 3/3");
		return -EINVAL;
	}
	o->run.shard_index = index;
	o->run.shard_count = count;
	return 0;
}

static int parse_choice(const char *option, const char *value, const char *const *choices,
			struct error *err)
{
	_cleanup_free_ char *all = NULL;
	const char *near;

	if (!value)
		return 0;
	for (size_t i = 0; choices[i]; i++)
		if (str_eq(choices[i], value))
			return 0;
	all = strv_join((char *const *)choices, ", ");
	error_set(err, ERROR_USAGE, EINVAL, "--%s wants one of %s, not '%s'", option, all, value);
	near = nearest_name(value, choices);
	if (near)
		error_hint(err, "did you mean '%s'?", near);
	return -EINVAL;
}

static int parse_choices(struct run_command_opts *o, struct error *err)
{
	static const char *const accels[] = {"auto", "kvm", "tcg", NULL};
	static const char *const colors[] = {"auto", "always", "never", NULL};
	static const char *const levels[] = {"full", "nopid", "none", NULL};
	static const char *const isolations[] = {"fork",  "boot",    "shared", "fork!",
						 "boot!", "shared!", NULL};
	int r;

	r = parse_choice("accel", o->run.accel, accels, err);
	if (r == 0)
		r = parse_choice("color", o->color, colors, err);
	if (r == 0)
		r = parse_choice("namespaces", o->run.ns_level, levels, err);
	if (r == 0)
		r = parse_choice("isolation", o->run.isolation, isolations, err);
	return r;
}

static int parse_numbers(struct run_command_opts *o, struct error *err)
{
	const char *retries = o->run.retries, *scale = o->run.timeout_scale;
	size_t digits = retries ? strspn(retries, "0123456789") : 0;
	char *end = NULL;

	if (retries &&
	    (digits == 0 || digits > 3 || (retries[digits] && !str_eq(retries + digits, "!"))))
		return error_set(err, ERROR_USAGE, EINVAL,
				 "--retries wants a number (with '!' behind it: for all), not '%s'",
				 retries);
	if (scale && !str_eq(scale, "auto") && (!(strtod(scale, &end) > 0) || *end))
		return error_set(err, ERROR_USAGE, EINVAL,
				 "--timeout-scale wants auto or a number above 0, not '%s'", scale);
	return 0;
}

/* Said before a long run, not after it. */
static int check_report_path(const char *option, const char *path, struct error *err)
{
	_cleanup_free_ char *dir = path ? path_dirname(path) : NULL;

	if (!path || access(path, W_OK) == 0 || (access(path, F_OK) < 0 && access(dir, W_OK) == 0))
		return 0;
	error_set_errno(err, ERROR_USAGE, errno, "--%s: cannot write '%s'", option, path);
	error_hint(err, "choose a file in a folder that is there and writable");
	return -EINVAL;
}

int run_command_finish(struct run_command_opts *o, char **args, struct error *err)
{
	const char *no_color = getenv("NO_COLOR"), *ci = getenv("CI"), *term = getenv("TERM");
	bool tty = isatty(STDOUT_FILENO) && !str_eq(term, "dumb");
	int r;

	r = parse_shard(o, err);
	if (r == 0)
		r = parse_choices(o, err);
	if (r == 0)
		r = parse_numbers(o, err);
	if (r == 0)
		r = check_report_path("junit", o->run.junit_path, err);
	if (r == 0)
		r = check_report_path("json", o->run.json_path, err);
	if (r < 0)
		return r;
	if (o->shuffle) {
		o->run.shuffle = true;
		if (*o->shuffle && parse_u64(o->shuffle, &o->run.shuffle_seed) < 0)
			return error_set(err, ERROR_USAGE, EINVAL,
					 "--shuffle wants a number as its seed, not '%s'",
					 o->shuffle);
	}
	o->run.paths = args;
	o->run.tags = o->tags;
	o->run.strict |= ci && *ci && !str_eq(ci, "false") && !str_eq(ci, "0");
	o->run.live = tty;
	o->run.color = o->color && !str_eq(o->color, "auto") ? str_eq(o->color, "always")
							     : tty && !(no_color && *no_color);
	if (!o->run.out_dir)
		o->run.out_dir = "assay-out";
	if (!o->run.seed)
		o->run.seed = 1;
	return 0;
}

void run_command_done(void *opts)
{
	struct run_command_opts *o = opts;

	strv_free(o->tags);
	json_decref(o->run.params);
}

int command_on_fiber(const char *name, int (*fn)(void *userdata), void *userdata)
{
	int r = loop_main(name, fn, userdata);

	return r < 0 ? EXIT_ERRORED : r;
}

char *format_age(uint64_t then, char buf[FORMAT_MAX])
{
	uint64_t now = (uint64_t)time(NULL);

	return format_duration((now > then ? now - then : 0) * NS_PER_SEC, buf);
}

void print_json(json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	putchar('\n');
	json_decref(json);
}
