/* SPDX-License-Identifier: MIT */
/* `assay doc`: the Lua API, offline; `assay help`: manual pages. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/commands.h"
#include "lua/script.h"

struct doc_opts {
	bool json;
};

static json_t *doc_json(const struct api_doc *d)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:b}", "name", d->name, "section", d->section,
			 "signature", d->signature, "text", d->text, "built", d->built);
}

static void doc_print(const struct api_doc *d)
{
	printf("%s\n\n    %s\n\n%s\n", d->name, d->signature, d->text);
	if (!d->built)
		puts("\nThis version does not have it yet: a call raises 'unsupported'.");
}

/* "machine:succeed" is also found as "succeed" and "m:succeed". */
static bool doc_matches(const struct api_doc *d, const char *name)
{
	const char *colon = strchr(d->name, ':');

	if (str_eq(d->name, name))
		return true;
	if (str_starts(name, "m:"))
		return colon && str_starts(d->name, "machine:") && str_eq(colon + 1, name + 2);
	return colon && str_eq(colon + 1, name);
}

static int doc_all(bool json)
{
	const char *section = "";
	json_t *list = json_array();

	for (const struct api_doc *d = api_docs; d->name; d++) {
		if (json) {
			json_array_append_new(list, doc_json(d));
			continue;
		}
		if (!str_eq(section, d->section))
			printf("%s%s\n", d == api_docs ? "" : "\n", section = d->section);
		printf("  %s%s\n", d->signature, d->built ? "" : "   (not in this version)");
	}
	if (json)
		print_json(json_incref(list));
	json_decref(list);
	return EXIT_PASSED;
}

static int doc_unknown(const char *name)
{
	struct error err = {};
	size_t n = 0, k = 0;
	_cleanup_free_ const char **names = NULL;
	const char *near;

	while (api_docs[n].name)
		n++;
	names = xcalloc(2 * n + 1, sizeof(*names));
	for (size_t i = 0; i < n; i++) {
		const char *colon = strchr(api_docs[i].name, ':');

		names[k++] = api_docs[i].name;
		if (colon)
			names[k++] = colon + 1;
	}
	near = nearest_name(name, names);
	error_set(&err, ERROR_USAGE, ENOENT, "there is no '%s' in the API", name);
	if (near)
		error_hint(&err, "did you mean '%s'?", near);
	else
		error_hint(&err, "'assay doc' lists everything");
	report_error(&err);
	return EXIT_USAGE;
}

static int run_doc(const struct command *cmd, void *opts, int n_args, char **args)
{
	struct doc_opts *o = opts;
	json_t *list;

	if (n_args == 0)
		return doc_all(o->json);
	list = json_array();
	for (int i = 0; i < n_args; i++) {
		bool found = false;

		for (const struct api_doc *d = api_docs; d->name; d++) {
			if (!doc_matches(d, args[i]))
				continue;
			if (o->json)
				json_array_append_new(list, doc_json(d));
			else
				printf("%s", i || found ? "\n" : ""), doc_print(d);
			found = true;
		}
		if (!found) {
			json_decref(list);
			return doc_unknown(args[i]);
		}
	}
	if (o->json)
		print_json(json_incref(list));
	json_decref(list);
	return EXIT_PASSED;
}

static const struct option_spec doc_options[] = {
	{"json", 0, OPTION_FLAG, NULL, offsetof(struct doc_opts, json), "print JSON", NULL},
	{NULL},
};

const struct command command_doc = {
	.name = "doc",
	.args = "[NAME…]",
	.summary = "the test language, offline",
	.doc = "Without a name: everything in one list. With names: each in full. _m:succeed_,\n"
	       "_machine:succeed_ and _succeed_ are the same.\n",
	.options = doc_options,
	.opts_size = sizeof(struct doc_opts),
	.run = run_doc,
};

static int run_help(const struct command *cmd, void *opts, int n_args, char **args)
{
	const struct command *c;
	_cleanup_free_ char *page = NULL;

	if (n_args == 0) {
		options_print_overview(stdout);
		return EXIT_PASSED;
	}
	c = command_find(commands, args[0]);
	if (!c || c->hidden)
		return command_dispatch(commands, "assay", n_args, args);
	page = xasprintf("assay-%s", c->name);
	if (isatty(STDOUT_FILENO))
		execlp("man", "man", "1", page, NULL);
	/* No man, or no terminal: the help has all the options. */
	options_print_help(c, "assay", stdout);
	return EXIT_PASSED;
}

const struct command command_help = {
	.name = "help",
	.args = "[COMMAND]",
	.summary = "a command's manual page",
	.doc = "Opens the manual page on a terminal; elsewhere, or without *man*(1), prints the "
	       "help.\n",
	.run = run_help,
};
