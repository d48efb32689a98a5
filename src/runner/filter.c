/* SPDX-License-Identifier: MIT */
/* Which tests are wanted: -k, -t, --slow, --rerun-failed. */
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "console/console.h"
#include "runner/internal.h"

#define RESULTS_MAX_BYTES (256 * MIB)

struct filter {
	const struct run_opts *opts;
	struct regex *regex;
	json_t *failed; /* object: "file: id" of the last run; NULL: not asked for */
};

static bool did_not_pass(const char *verdict)
{
	return str_eq(verdict, "failed") || str_eq(verdict, "errored") || str_eq(verdict, "xpass");
}

static void add_failed(struct filter *f, json_t *tests, bool all)
{
	json_t *test;
	size_t i;

	json_array_foreach(tests, i, test)
	{
		const char *file = json_string_value(json_object_get(test, "file"));
		const char *id = json_string_value(json_object_get(test, "test"));
		_cleanup_free_ char *name = NULL;

		if (!file || !id ||
		    (!all && !did_not_pass(json_string_value(json_object_get(test, "verdict")))))
			continue;
		name = xasprintf("%s: %s", file, id);
		json_object_set_new(f->failed, name, json_true());
	}
}

static int load_last_run(struct filter *f, struct error *err)
{
	const char *out = f->opts->out_dir ? f->opts->out_dir : "assay-out";
	_cleanup_free_ char *path = path_join(out, "latest/results.json");
	_cleanup_buf_ struct buf text = {};
	json_t *results = NULL;
	int r;

	r = buf_read_file(&text, path, RESULTS_MAX_BYTES);
	if (r >= 0)
		results = json_loadb(text.data, text.len, 0, NULL);
	if (!results) {
		r = error_set(err, ERROR_USAGE, r < 0 ? -r : EPROTO,
			      "--rerun-failed: the last run has left no results in '%s'", path);
		error_hint(err, "run without --rerun-failed once, with the same --out");
		return r;
	}
	f->failed = json_object();
	add_failed(f, json_object_get(results, "tests"), false);
	add_failed(f, json_object_get(results, "not_run"), true);
	json_decref(results);
	return 0;
}

int filter_new(const struct run_opts *opts, struct filter **ret, struct error *err)
{
	struct filter *f = xcalloc(1, sizeof(*f));
	int r = 0;

	f->opts = opts;
	if (opts->filter) {
		r = regex_compile(opts->filter, &f->regex, err);
		if (r < 0)
			error_prefix(err, "--filter");
	}
	if (r == 0 && opts->rerun_failed)
		r = load_last_run(f, err);
	if (r < 0) {
		filter_free(f);
		return r;
	}
	*ret = f;
	return 0;
}

void filter_free(struct filter *f)
{
	if (!f)
		return;
	regex_free(f->regex);
	json_decref(f->failed);
	free(f);
}

static bool has_tag(json_t *tags, char *const *wanted)
{
	json_t *tag;
	size_t i;

	json_array_foreach(tags, i,
			   tag) if (strv_contains(wanted, json_string_value(tag))) return true;
	return false;
}

int filter_match(struct filter *f, const struct plan_file *file, json_t *suite, json_t *test,
		 const char *id, struct error *err)
{
	_cleanup_free_ char *name = xasprintf("%s: %s", file->path, id);
	json_t *slow = json_object_get(test, "slow");
	int r = 1;

	if (f->opts->tags && f->opts->tags[0] &&
	    !has_tag(json_object_get(suite, "tags"), f->opts->tags) &&
	    !has_tag(json_object_get(test, "tags"), f->opts->tags))
		return 0;
	if (f->failed && !json_object_get(f->failed, name))
		return 0;
	if (f->regex)
		r = regex_match(f->regex, name, strlen(name), 0, NULL, NULL, NULL, err);
	if (!slow)
		slow = json_object_get(suite, "slow");
	return r == 1 && json_is_true(slow) && !f->opts->slow ? FILTER_SLOW : r;
}
