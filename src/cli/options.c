/* SPDX-License-Identifier: MIT */
/* Parsing of command lines by table, and the help that the same table gives. */
#include "cli/options.h"

#include <getopt.h>
#include <jansson.h>
#include <string.h>

#include "base/buf.h"
#include "base/str.h"

/* getopt_long's `val` for an option without a letter: its index behind all characters. */
#define VAL_BASE 1000

static bool value_is_optional(const struct option_spec *o)
{
	return o->value && o->value[0] == '[';
}

static int set_param(json_t **target, const char *text, struct error *err)
{
	const char *eq = strchr(text, '=');
	_cleanup_free_ char *key = NULL;

	if (!eq || eq == text) {
		error_set(err, ERROR_USAGE, EINVAL, "--param '%s' has no name", text);
		error_hint(err, "write --param NAME=VALUE");
		return -EINVAL;
	}
	key = xstrndup(text, (size_t)(eq - text));
	if (!*target)
		*target = json_object();
	json_object_set_new(*target, key, json_string(eq + 1));
	return 0;
}

static int option_store(const struct option_spec *o, const char *value, void *opts,
			struct error *err)
{
	void *target = (char *)opts + o->offset;
	int r = 0;

	switch (o->type) {
	case OPTION_FLAG:
		*(bool *)target = true;
		break;
	case OPTION_COUNT:
		*(int *)target += 1;
		break;
	case OPTION_STRING:
		*(const char **)target = value ? value : "";
		break;
	case OPTION_STRINGS:
		strv_push(target, value);
		break;
	case OPTION_INT:
		r = parse_int(value, target);
		if (r == 0 && *(int *)target < 1)
			r = -ERANGE;
		break;
	case OPTION_U64:
		r = parse_u64(value, target);
		break;
	case OPTION_SIZE:
		r = parse_size(value, target);
		break;
	case OPTION_PARAM:
		return set_param(target, value, err);
	}
	if (r == 0)
		return 0;
	error_set(err, ERROR_USAGE, EINVAL, "--%s wants %s, not '%s'", o->name,
		  o->type == OPTION_SIZE  ? "a size such as 10G"
		  : o->type == OPTION_INT ? "a number from 1"
					  : "a number",
		  value);
	error_hint(err, "--%s %s: %s", o->name, o->value, o->doc);
	return -EINVAL;
}

static size_t option_count(const struct command *cmd)
{
	size_t n = 0;

	while (cmd->options && cmd->options[n].name)
		n++;
	return n;
}

static int unknown_option(const struct command *cmd, const char *word, struct error *err)
{
	size_t n = option_count(cmd);
	_cleanup_free_ const char **names = xcalloc(n + 2, sizeof(*names));
	_cleanup_free_ char *name = NULL;
	const char *near;

	name = xstrndup(word + strspn(word, "-"), strcspn(word + strspn(word, "-"), "="));
	if (cmd->unbuilt && strv_contains((char *const *)cmd->unbuilt, name)) {
		error_set(err, ERROR_USAGE, ENOSYS, "%s is not built yet", word);
		error_hint(err,
			   "it is in the specification; this version of Assay does not have it");
		return -EINVAL;
	}

	if (word[0] != '-' || word[1] != '-' || word[2] == '\0') {
		error_set(err, ERROR_USAGE, EINVAL, "unknown option '%s'", word);
		error_hint(err, "'assay %s --help' lists the options", cmd->name);
		return -EINVAL;
	}
	for (size_t i = 0; i < n; i++)
		names[i] = cmd->options[i].name;
	names[n] = "help";
	near = nearest_name(name, names);
	error_set(err, ERROR_USAGE, EINVAL, "unknown option '--%s'", name);
	if (near)
		error_hint(err, "did you mean '--%s'?", near);
	else
		error_hint(err, "'assay %s --help' lists the options", cmd->name);
	return -EINVAL;
}

static void build_getopt(const struct command *cmd, struct option *longs, struct buf *shorts)
{
	size_t n = option_count(cmd);

	buf_puts(shorts, ":h");
	for (size_t i = 0; i < n; i++) {
		const struct option_spec *o = &cmd->options[i];

		longs[i].name = o->name;
		longs[i].has_arg = !o->value		  ? no_argument
				   : value_is_optional(o) ? optional_argument
							  : required_argument;
		longs[i].val = VAL_BASE + (int)i;
		if (o->letter) {
			buf_putc(shorts, o->letter);
			if (o->value)
				buf_putc(shorts, ':');
		}
	}
	longs[n].name = "help";
	longs[n].val = 'h';
}

static const struct option_spec *option_of_val(const struct command *cmd, int val)
{
	if (val >= VAL_BASE)
		return &cmd->options[val - VAL_BASE];
	for (size_t i = 0; i < option_count(cmd); i++)
		if (cmd->options[i].letter == val)
			return &cmd->options[i];
	return NULL;
}

/* 1: --help was asked for. */
int options_parse(const struct command *cmd, int argc, char **argv, void *opts, int *ret_n_args,
		  char **ret_args, struct error *err)
{
	_cleanup_free_ struct option *longs = xcalloc(option_count(cmd) + 2, sizeof(struct option));
	_cleanup_buf_ struct buf shorts = {};
	int val, n = 0;

	build_getopt(cmd, longs, &shorts);
	optind = 0; /* glibc: start anew */
	opterr = 0;
	while ((val = getopt_long(argc, argv, buf_str(&shorts), longs, NULL)) != -1) {
		const struct option_spec *o;
		int r;

		if (val == 'h')
			return 1;
		if (val == ':') {
			o = option_of_val(cmd, optopt);
			error_set(err, ERROR_USAGE, EINVAL, "--%s wants a value: %s",
				  o ? o->name : "?", o && o->value ? o->value : "?");
			if (o)
				error_hint(err, "--%s %s: %s", o->name, o->value, o->doc);
			return -EINVAL;
		}
		if (val == '?') {
			char letter[3] = {'-', (char)optopt, 0};

			if (optopt >= VAL_BASE) /* a value for an option that takes none */
				return error_set(err, ERROR_USAGE, EINVAL, "--%s takes no value",
						 option_of_val(cmd, optopt)->name);
			return unknown_option(cmd, optopt ? letter : argv[optind - 1], err);
		}
		o = option_of_val(cmd, val);
		r = option_store(o, optarg, opts, err);
		if (r < 0)
			return r;
	}
	while (optind < argc)
		ret_args[n++] = argv[optind++];
	ret_args[n] = NULL;
	*ret_n_args = n;
	return 0;
}

/* Column in which the explanations begin. */
#define HELP_COLUMN 30
#define HELP_WIDTH  96

void print_wrapped(FILE *f, const char *text, int column)
{
	int at = column;

	while (*text) {
		size_t word = strcspn(text, " ");

		if (at > column && at + 1 + (int)word > HELP_WIDTH) {
			fprintf(f, "\n%*s", column, "");
			at = column;
		} else if (at > column) {
			fputc(' ', f);
			at++;
		}
		fwrite(text, 1, word, f);
		at += (int)word;
		text += word;
		while (*text == ' ')
			text++;
	}
	fputc('\n', f);
}

static void print_row(FILE *f, const char *left, const char *right)
{
	int len = 0;

	/* Columns, not bytes: continuation bytes of UTF-8 take none. */
	for (const char *p = left; *p; p++)
		len += (*p & 0xc0) != 0x80;
	fprintf(f, "  %s", left);
	if (len + 4 > HELP_COLUMN)
		fprintf(f, "\n%*s", HELP_COLUMN, "");
	else
		fprintf(f, "%*s", HELP_COLUMN - 2 - len, "");
	print_wrapped(f, right, HELP_COLUMN);
}

static char *option_left(const struct option_spec *o)
{
	char letter[5] = "    ";

	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	if (!o->value)
		return xasprintf("%s--%s", letter, o->name);
	return xasprintf(value_is_optional(o) ? "%s--%s%s" : "%s--%s %s", letter, o->name,
			 o->value);
}

void options_print_help(const struct command *cmd, const char *prefix, FILE *f)
{
	fprintf(f, "Usage: %s %s%s%s%s\n\n%s.\n", prefix, cmd->name,
		cmd->options ? " [OPTION…]" : "", cmd->args[0] ? " " : "", cmd->args, cmd->summary);
	if (cmd->sub) {
		fputs("\nCommands:\n", f);
		for (size_t i = 0; cmd->sub[i]; i++) {
			_cleanup_free_ char *left =
				xasprintf("%s %s", cmd->sub[i]->name, cmd->sub[i]->args);
			print_row(f, left, cmd->sub[i]->summary);
		}
	}
	fputs("\nOptions:\n", f);
	for (size_t i = 0; i < option_count(cmd); i++) {
		_cleanup_free_ char *left = option_left(&cmd->options[i]);

		print_row(f, left, cmd->options[i].doc);
	}
	print_row(f, "-h, --help", "print this help");
}

void options_print_overview(FILE *f)
{
	fputs("Usage: assay COMMAND [OPTION…] [ARG…]\n\n"
	      "System tests on real machines at the speed of unit tests.\n\nCommands:\n",
	      f);
	for (size_t i = 0; commands[i]; i++)
		if (!commands[i]->hidden)
			print_row(f, commands[i]->name, commands[i]->summary);
	fputs("\n'assay COMMAND --help' lists a command's options, 'assay help COMMAND' opens its "
	      "manual page,\n'assay doc' explains the test language.\n",
	      f);
}

const struct command *command_find(const struct command *const *list, const char *name)
{
	for (size_t i = 0; list[i]; i++)
		if (str_eq(list[i]->name, name))
			return list[i];
	return NULL;
}

/* In front of a command there are only these two. */
static int unknown_global(const char *word)
{
	static const char *const names[] = {"--help", "--version", NULL};
	const char *near = nearest_name(word, names);
	struct error err = {};

	error_set(&err, ERROR_USAGE, EINVAL, "unknown option '%s'", word);
	if (near)
		error_hint(&err, "did you mean '%s'?", near);
	else
		error_hint(&err, "options stand behind the command: assay run %s", word);
	report_error(&err);
	return 2;
}

static int unknown_command(const struct command *const *list, const char *prefix, const char *name)
{
	struct error err = {};
	_cleanup_free_ const char **names = NULL;
	size_t n = 0;
	const char *near;

	if (list == commands && name[0] == '-')
		return unknown_global(name);
	if (list == commands && strv_contains((char *const *)commands_unbuilt, name)) {
		error_set(&err, ERROR_USAGE, ENOSYS, "'assay %s' is not built yet", name);
		error_hint(&err,
			   "it is in the specification; this version of Assay does not have it");
		report_error(&err);
		return 2;
	}
	while (list[n])
		n++;
	names = xcalloc(n + 1, sizeof(*names));
	for (size_t i = 0, k = 0; i < n; i++)
		if (!list[i]->hidden)
			names[k++] = list[i]->name;
	near = nearest_name(name, names);
	error_set(&err, ERROR_USAGE, EINVAL, "'%s' is not a command of '%s'", name, prefix);
	if (near)
		error_hint(&err, "did you mean '%s %s'?", prefix, near);
	else
		error_hint(&err, "'%s --help' lists the commands", prefix);
	report_error(&err);
	return 2;
}

static int command_run(const struct command *cmd, const char *prefix, int argc, char **argv)
{
	_cleanup_free_ void *opts = xcalloc(1, cmd->opts_size + 1);
	_cleanup_free_ char **args = xcalloc((size_t)argc + 1, sizeof(*args));
	struct error err = {};
	int n_args = 0, r;

	if (cmd->defaults)
		memcpy(opts, cmd->defaults, cmd->opts_size);
	r = options_parse(cmd, argc, argv, opts, &n_args, args, &err);
	if (r == 1) {
		options_print_help(cmd, prefix, stdout);
		r = 0;
	} else if (r < 0) {
		report_error(&err);
		r = 2;
	} else if (n_args > 0 && !cmd->args[0]) {
		error_set(&err, ERROR_USAGE, EINVAL, "'%s %s' takes no '%s'", prefix, cmd->name,
			  args[0]);
		error_hint(&err, "'%s %s --help' lists what it takes", prefix, cmd->name);
		report_error(&err);
		r = 2;
	} else {
		r = cmd->run(cmd, opts, n_args, args);
	}
	if (cmd->done)
		cmd->done(opts);
	return r;
}

int command_dispatch(const struct command *const *list, const char *prefix, int argc, char **argv)
{
	const struct command *cmd;
	_cleanup_free_ char *inner = NULL;

	cmd = command_find(list, argv[0]);
	if (!cmd)
		return unknown_command(list, prefix, argv[0]);
	if (cmd->raw)
		return cmd->run(cmd, NULL, argc, argv);
	if (!cmd->sub)
		return command_run(cmd, prefix, argc, argv);
	if (argc < 2 || str_eq(argv[1], "--help") || str_eq(argv[1], "-h")) {
		options_print_help(cmd, prefix, argc < 2 ? stderr : stdout);
		return argc < 2 ? 2 : 0;
	}
	inner = xasprintf("%s %s", prefix, cmd->name);
	return command_dispatch(cmd->sub, inner, argc - 1, argv + 1);
}

void report_error(const struct error *err)
{
	fprintf(stderr, "assay: %s\n", err->message);
	if (err->hint[0])
		fprintf(stderr, "  hint: %s\n", err->hint);
}
