/* SPDX-License-Identifier: MIT */
/* Why nothing is to be run, and what was probably meant. */
#include <string.h>

#include "base/str.h"
#include "console/console.h"
#include "runner/internal.h"

#define MAX_NAMES 3

struct names {
	char **ids, **tags;
};

static void add_tags(char ***tags, json_t *list)
{
	json_t *tag;
	size_t i;

	json_array_foreach(list, i, tag) if (!strv_contains(*tags, json_string_value(tag)))
		strv_push(tags, json_string_value(tag));
}

static void collect_names(const struct run *run, struct names *n)
{
	for (size_t i = 0; i < run->n_files; i++) {
		json_t *decl = run->files[i].decl, *group, *test;
		size_t g, t;

		add_tags(&n->tags, json_object_get(json_object_get(decl, "suite"), "tags"));
		json_array_foreach(json_object_get(decl, "groups"), g, group)
			json_array_foreach(json_object_get(group, "tests"), t, test)
		{
			strv_push_take(&n->ids, plan_test_id(group, test));
			add_tags(&n->tags, json_object_get(test, "tags"));
		}
	}
}

/* 'a', 'b', 'c' and 4 more */
static char *quoted_list(char *const *names)
{
	_cleanup_strv_ char **quoted = NULL;
	_cleanup_free_ char *list = NULL;
	size_t n = strv_len(names);

	for (size_t i = 0; names && i < MIN(n, (size_t)MAX_NAMES); i++)
		strv_pushf(&quoted, "'%.60s'", names[i]);
	list = strv_join(quoted, ", ");
	return n > MAX_NAMES ? xasprintf("%s and %zu more", list, n - MAX_NAMES) : TAKE_PTR(list);
}

/* Names that the filter would match if case did not count. */
static char **other_case(const struct names *n, const char *filter)
{
	_cleanup_free_ char *pattern = xasprintf("(?i)%s", filter);
	struct regex *re = NULL;
	char **found = NULL;

	if (regex_compile(pattern, &re, NULL) < 0)
		return NULL;
	for (size_t i = 0; n->ids && n->ids[i]; i++)
		if (regex_match(re, n->ids[i], strlen(n->ids[i]), 0, NULL, NULL, NULL, NULL) == 1)
			strv_push(&found, n->ids[i]);
	regex_free(re);
	return found;
}

static void hint_filter(const struct names *n, const char *filter, struct error *err)
{
	_cleanup_strv_ char **cased = other_case(n, filter);
	_cleanup_free_ char *list = quoted_list(cased ? cased : n->ids);
	const char *near = nearest_name(filter, (const char *const *)n->ids);

	if (near)
		error_hint(err, "did you mean '%s'?", near);
	else if (cased)
		error_hint(err, "case counts: (?i)%s matches %s", filter, list);
	else
		error_hint(err, "the names are %s; 'assay list' shows all", list);
}

/* The first tag that no test has. */
static bool hint_tag(const struct names *n, char *const *wanted, struct error *err)
{
	for (; *wanted; wanted++) {
		_cleanup_free_ char *list = NULL;
		const char *near;

		if (strv_contains(n->tags, *wanted))
			continue;
		near = nearest_name(*wanted, (const char *const *)n->tags);
		list = quoted_list(n->tags);
		if (near)
			error_hint(err, "no test has the tag '%s'; did you mean '%s'?", *wanted,
				   near);
		else if (n->tags)
			error_hint(err, "no test has the tag '%s'; the tags are %s", *wanted, list);
		else
			error_hint(err, "no test has any tag");
		return true;
	}
	return false;
}

static void explain_selection(const struct run *run, struct error *err)
{
	const struct run_opts *o = run->opts;
	struct names n = {};

	collect_names(run, &n);
	error_set(err, ERROR_USAGE, ENOENT, "nothing to run: %zu %s declared, none is selected",
		  strv_len(n.ids), strv_len(n.ids) == 1 ? "test is" : "tests are");
	if (run->n_slow > 0)
		error_hint(err, "%u would be, but %s slow: add --slow", run->n_slow,
			   run->n_slow == 1 ? "is" : "are");
	else if (!(o->tags && hint_tag(&n, o->tags, err)) && o->filter)
		hint_filter(&n, o->filter, err);
	else if (o->shard_count)
		error_hint(err, "there are fewer tests than shards: the others have them");
	strv_free(n.ids);
	strv_free(n.tags);
}

void explain_nothing(const struct run *run, struct error *err)
{
	size_t declared = 0;

	for (size_t i = 0; i < run->n_files; i++)
		declared += run->files[i].n_tests;
	if (run->opts->rerun_failed) {
		error_set(err, ERROR_USAGE, ENOENT, "nothing to run: all passed in the last run");
	} else if (declared) {
		explain_selection(run, err);
	} else if (run->n_files == 0) {
		error_set(err, ERROR_USAGE, ENOENT, "nothing to run: there is no .lua file");
		error_hint(err, "tests are .lua files, in any folder but lib/");
	} else {
		error_set(err, ERROR_USAGE, ENOENT, "nothing to run: no file declares a test");
	}
}
