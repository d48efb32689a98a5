/* SPDX-License-Identifier: MIT */
/* `assay doc`: the Lua API, offline; `assay help`: manual pages. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/commands.h"
#include "lua/script.h"
#include "machine/spec.h"

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

/* "p:wait{ timeout= } -> …" is about "p:wait". */
static bool heads_signature(const struct api_doc *d, const char *name)
{
	size_t len = strcspn(d->signature, "({ ");

	if (len > 0 && d->signature[len - 1] == ':') /* "m.name: string" */
		len--;
	return strlen(name) == len && strncmp(d->signature, name, len) == 0;
}

/* "machine:succeed" is also found as "succeed" and "m:succeed". */
static bool doc_matches(const struct api_doc *d, const char *name)
{
	const char *mark = strpbrk(d->name, ":.");

	return str_eq(d->name, name) || heads_signature(d, name) ||
	       (mark && str_eq(mark + 1, name));
}

/* "re", "process", "p": all that belongs to it. */
static bool doc_is_part(const struct api_doc *d, const char *name)
{
	size_t len = strlen(name);

	return (str_starts(d->name, name) && strchr(":.", d->name[len]) && d->name[len]) ||
	       (str_starts(d->signature, name) && strchr(":.", d->signature[len]) &&
		d->signature[len]);
}

/* Is there an option of this name in the annotations, or in the signature? */
static bool doc_has_option(const struct api_doc *d, const char *name)
{
	_cleanup_free_ char *field = xasprintf("---@field %s?", name);
	_cleanup_free_ char *inner = xasprintf(" %s=", name), *first = xasprintf("{%s=", name);

	return (d->stub && strstr(d->stub, field)) || strstr(d->signature, inner) ||
	       strstr(d->signature, first);
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

struct doc_sink {
	json_t *list; /* NULL: print */
	bool in_full; /* or only the signatures */
	size_t n;
};

static void doc_put(struct doc_sink *s, const struct api_doc *d)
{
	if (s->list) {
		json_array_append_new(s->list, doc_json(d));
	} else if (s->in_full) {
		printf("%s", s->n ? "\n" : "");
		doc_print(d);
	} else {
		printf("  %s%s\n", d->signature, d->built ? "" : "   (not in this version)");
	}
	s->n++;
}

static size_t doc_put_all(struct doc_sink *s, const char *name,
			  bool (*matches)(const struct api_doc *d, const char *name))
{
	size_t n = 0;

	for (const struct api_doc *d = api_docs; d->name; d++)
		if (matches(d, name)) {
			doc_put(s, d);
			n++;
		}
	return n;
}

/* An option of machine(), then the functions that take one of this name. */
static size_t doc_put_option(struct doc_sink *s, const char *name)
{
	size_t n = 0;

	for (const struct option_desc *o = machine_options; o->name; o++) {
		if (!str_eq(o->name, name))
			continue;
		if (s->list)
			json_array_append_new(s->list, json_pack("{s:s, s:s, s:s, s:s}", "name",
								 name, "of", "machine", "type",
								 o->type, "text", o->doc));
		else
			printf("%s\n\n    machine(name, { %s = … })   %s\n\n%s\n", name, name,
			       o->type, o->doc);
		n++;
	}
	for (const struct api_doc *d = api_docs; d->name; d++) {
		if (!doc_has_option(d, name))
			continue;
		if (!s->list && n == 0)
			printf("'%s' is an option of\n", name);
		s->in_full = false;
		doc_put(s, d);
		n++;
	}
	return n;
}

static bool doc_find(struct doc_sink *s, const char *name)
{
	s->in_full = true;
	if (doc_put_all(s, name, doc_matches) > 0)
		return true;
	s->in_full = false;
	return doc_put_all(s, name, doc_is_part) > 0 || doc_put_option(s, name) > 0;
}

static int run_doc(const struct command *cmd, void *opts, int n_args, char **args)
{
	struct doc_opts *o = opts;
	struct doc_sink sink = {};

	if (n_args == 0)
		return doc_all(o->json);
	if (o->json)
		sink.list = json_array();
	for (int i = 0; i < n_args; i++)
		if (!doc_find(&sink, args[i])) {
			json_decref(sink.list);
			return doc_unknown(args[i]);
		}
	if (o->json)
		print_json(sink.list);
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
	       "_machine:succeed_ and _succeed_ are the same. _re_ or _process_ lists what belongs "
	       "to it;\nthe name of an option lists the functions that take it.\n",
	.options = doc_options,
	.opts_size = sizeof(struct doc_opts),
	.run = run_doc,
};

/* `assay help image build`: the page of the parent has it, but the help is to the point. */
static int help_inner(const struct command *parent, int n_args, char **args)
{
	_cleanup_free_ char *prefix = xasprintf("assay %s", parent->name);
	const struct command *c = parent->sub ? command_find(parent->sub, args[0]) : NULL;
	struct error err = {};

	if (c && n_args == 1) {
		options_print_help(c, prefix, stdout);
		return EXIT_PASSED;
	}
	if (!c && parent->sub)
		return command_dispatch(parent->sub, prefix, 1, args); /* says what is near */
	error_set(&err, ERROR_USAGE, EINVAL, "'%s%s%s' has no commands of its own", prefix,
		  c ? " " : "", c ? c->name : "");
	error_hint(&err, "'%s --help' lists its options", prefix);
	report_error(&err);
	return EXIT_USAGE;
}

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
	if (n_args > 1)
		return help_inner(c, n_args - 1, args + 1);
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
