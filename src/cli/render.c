/* SPDX-License-Identifier: MIT */
/* Manual pages (as scdoc source) and shell completions, from the command tables. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/options.h"

/* scdoc takes '_' and '*' as markup. */
static void put_escaped(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (strchr("_*\\<>#`~[]", *s))
			fputc('\\', f);
		fputc(*s, f);
	}
}

static void man_option(FILE *f, const struct option_spec *o)
{
	fputs("*", f);
	if (o->letter)
		fprintf(f, "-%c*, *", o->letter);
	fprintf(f, "--%s*", o->name);
	if (o->value) {
		fputs(o->value[0] == '[' ? "" : " ", f);
		put_escaped(f, o->value);
	}
	fputs("\n\t", f);
	put_escaped(f, o->doc);
	fputs(".\n\n", f);
}

static void man_options(FILE *f, const struct option_spec *options)
{
	for (const struct option_spec *o = options; o && o->name; o++)
		man_option(f, o);
}

static void man_overview(FILE *f)
{
	fputs("assay(1)\n\n# NAME\n\nassay - system tests on real machines\n\n# SYNOPSIS\n\n"
	      "*assay* COMMAND \\[OPTION…\\] \\[ARG…\\]\n\n# DESCRIPTION\n\n"
	      "A test file in Lua declares machines and tests. Assay builds or finds the images, "
	      "boots "
	      "the\nmachines, runs the tests and keeps everything that a person needs when one "
	      "fails.\n\n# COMMANDS\n\n",
	      f);
	for (size_t i = 0; commands[i]; i++) {
		if (commands[i]->hidden)
			continue;
		fprintf(f, "*%s*\n\t", commands[i]->name);
		put_escaped(f, commands[i]->summary);
		fprintf(f, ". See *assay-%s*(1).\n\n", commands[i]->name);
	}
	fputs("# ENVIRONMENT\n\n"
	      "*ASSAY_CACHE*\n\tFolder of images and templates; default "
	      "_$XDG\\_CACHE\\_HOME/assay_.\n\n"
	      "*ASSAY_CACHE_MAX*\n\tWhat templates may take together, such as 4G. See "
	      "*assay-cache*(1).\n\n"
	      "*ASSAY_TMPFS*\n\tThe tmpfs for memory of saved machines; default _/dev/shm_. "
	      "Empty: none.\n\n"
	      "*ASSAY_DEBIAN_MIRROR*\n\tMirror for Debian images instead of the host's own.\n\n"
	      "*ASSAY_DEBUG*\n\tSet to 1: debug messages on stderr.\n\n"
	      "*NO_COLOR*\n\tNo colours.\n\n*CI*\n\tSet: *assay run* is strict.\n\n"
	      "# SEE ALSO\n\n*assay-lua*(3)\n",
	      f);
}

void man_render(const struct command *cmd, FILE *f)
{
	if (!cmd) {
		man_overview(f);
		return;
	}
	fprintf(f, "assay-%s(1)\n\n# NAME\n\nassay-%s - ", cmd->name, cmd->name);
	put_escaped(f, cmd->summary);
	fprintf(f, "\n\n# SYNOPSIS\n\n*assay %s*%s ", cmd->name,
		cmd->options ? " \\[OPTION…\\]" : "");
	put_escaped(f, cmd->args);
	fputs("\n\n# DESCRIPTION\n\n", f);
	if (cmd->doc)
		fputs(cmd->doc, f);
	for (size_t i = 0; cmd->sub && cmd->sub[i]; i++) {
		fprintf(f, "\n# %s %s ", cmd->name, cmd->sub[i]->name);
		put_escaped(f, cmd->sub[i]->args);
		fputs("\n\n", f);
		put_escaped(f, cmd->sub[i]->summary);
		fputs(".\n\n", f);
		man_options(f, cmd->sub[i]->options);
	}
	if (cmd->options) {
		fputs("\n# OPTIONS\n\n", f);
		man_options(f, cmd->options);
	}
	fputs("\n# SEE ALSO\n\n*assay*(1), *assay-lua*(3)\n", f);
}

/* --- completions ------------------------------------------------------------------------------ */

static void words(FILE *f, const struct option_spec *options)
{
	for (const struct option_spec *o = options; o && o->name; o++)
		fprintf(f, " --%s", o->name);
	fputs(" --help", f);
}

/* name: of the command, with its parent's in front ("image build") and a blank at the end. */
static void bash_choices(FILE *f, const struct command *cmd, const char *parent)
{
	for (const struct option_spec *o = cmd->options; o && o->name; o++)
		if (o->choices)
			fprintf(f,
				"\t\t%s%s:--%s) COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); "
				"return;;\n",
				parent, cmd->name, o->name, o->choices);
	for (size_t k = 0; cmd->sub && cmd->sub[k]; k++) {
		_cleanup_free_ char *name = xasprintf("%s/", cmd->name);

		bash_choices(f, cmd->sub[k], name);
	}
}

static void bash_command(FILE *f, const struct command *c, const char *parent)
{
	fprintf(f, "\t%s%s)\n", parent, c->name);
	if (c->sub) {
		fputs("\t\tCOMPREPLY=($(compgen -W \"", f);
		for (size_t k = 0; c->sub[k]; k++)
			fprintf(f, "%s ", c->sub[k]->name);
		fputs("--help\" -- \"$cur\"));;\n", f);
		for (size_t k = 0; c->sub[k]; k++) {
			_cleanup_free_ char *name = xasprintf("%s/", c->name);

			bash_command(f, c->sub[k], name);
		}
		return;
	}
	fputs("\t\t[[ $cur == -* ]] && COMPREPLY=($(compgen -W \"", f);
	words(f, c->options);
	fputs("\" -- \"$cur\"));;\n", f);
}

static void complete_bash(FILE *f)
{
	fputs("# bash completion for assay; rendered by the build\n_assay() {\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} "
	      "cmd=${COMP_WORDS[1]}\n\tCOMPREPLY=()\n\tif ((COMP_CWORD == 1)); then\n"
	      "\t\tCOMPREPLY=($(compgen -W \"",
	      f);
	for (size_t i = 0; commands[i]; i++)
		if (!commands[i]->hidden)
			fprintf(f, "%s ", commands[i]->name);
	fputs("\" -- \"$cur\"))\n\t\treturn\n\tfi\n\tif ((COMP_CWORD > 2)); then\n\t\tcase $cmd "
	      "in\n",
	      f);
	for (size_t i = 0; commands[i]; i++)
		if (commands[i]->sub)
			fprintf(f, "\t\t%s) cmd+=/${COMP_WORDS[2]};;\n", commands[i]->name);
	fputs("\t\tesac\n\tfi\n\tcase $cmd:$prev in\n", f);
	for (size_t i = 0; commands[i]; i++)
		if (!commands[i]->hidden)
			bash_choices(f, commands[i], "");
	fputs("\tesac\n\tcase $cmd in\n", f);
	for (size_t i = 0; commands[i]; i++)
		if (!commands[i]->hidden)
			bash_command(f, commands[i], "");
	fputs("\tesac\n}\ncomplete -o default -F _assay assay\n", f);
}

static void zsh_quoted(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '\'')
			fputs("'\\'", f);
		if (strchr("[]:\\", *s))
			fputc('\\', f);
		fputc(*s, f);
	}
}

static void zsh_arguments(FILE *f, const struct command *c, const char *indent)
{
	fputs(" _arguments", f);
	for (const struct option_spec *o = c->options; o && o->name; o++) {
		fprintf(f, " \\\n%s'--%s%s[", indent, o->name, o->value ? "=" : "");
		zsh_quoted(f, o->doc);
		fputs("]", f);
		if (o->value)
			fprintf(f, ":value:%s%s%s", o->choices ? "(" : "",
				o->choices ? o->choices : "", o->choices ? ")" : "");
		fputs("'", f);
	}
	fputs(" '*:file:_files'", f);
}

static void zsh_inner(FILE *f, const struct command *c)
{
	fputs("\n\t\tif ((CURRENT == 2)); then\n\t\t\tcompadd", f);
	for (size_t k = 0; c->sub[k]; k++)
		fprintf(f, " %s", c->sub[k]->name);
	fputs("\n\t\t\treturn\n\t\tfi\n\t\tcase $words[2] in\n", f);
	for (size_t k = 0; c->sub[k]; k++) {
		fprintf(f, "\t\t%s) shift words; ((CURRENT--));", c->sub[k]->name);
		zsh_arguments(f, c->sub[k], "\t\t\t");
		fputs(";;\n", f);
	}
	fputs("\t\tesac", f);
}

static void complete_zsh(FILE *f)
{
	fputs("#compdef assay\n# rendered by the build\n_assay() {\n\tlocal -a "
	      "commands\n\tcommands=(\n",
	      f);
	for (size_t i = 0; commands[i]; i++) {
		if (commands[i]->hidden)
			continue;
		fprintf(f, "\t\t'%s:", commands[i]->name);
		zsh_quoted(f, commands[i]->summary);
		fputs("'\n", f);
	}
	fputs("\t)\n\tif ((CURRENT == 2)); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n"
	      "\tcase $words[2] in\n",
	      f);
	for (size_t i = 0; commands[i]; i++) {
		const struct command *c = commands[i];

		if (c->hidden)
			continue;
		fprintf(f, "\t%s) shift words; ((CURRENT--));", c->name);
		if (c->sub)
			zsh_inner(f, c);
		else
			zsh_arguments(f, c, "\t\t");
		fputs(";;\n", f);
	}
	fputs("\tesac\n}\n_assay \"$@\"\n", f);
}

static void fish_quoted(FILE *f, const char *s)
{
	fputc('\'', f);
	for (; *s; s++) {
		if (*s == '\'' || *s == '\\')
			fputc('\\', f);
		fputc(*s, f);
	}
	fputc('\'', f);
}

static void fish_options(FILE *f, const struct command *c, const char *seen)
{
	for (const struct option_spec *o = c->options; o && o->name; o++) {
		fprintf(f, "complete -c assay -n '__fish_seen_subcommand_from %s' -l %s", seen,
			o->name);
		if (o->letter)
			fprintf(f, " -s %c", o->letter);
		if (o->value)
			fputs(" -r", f);
		if (o->choices)
			fprintf(f, " -f -a '%s'", o->choices);
		fputs(" -d ", f);
		fish_quoted(f, o->doc);
		fputc('\n', f);
	}
}

static void complete_fish(FILE *f)
{
	fputs("# fish completion for assay; rendered by the build\n", f);
	for (size_t i = 0; commands[i]; i++) {
		const struct command *c = commands[i];

		if (c->hidden)
			continue;
		fprintf(f, "complete -c assay -n __fish_use_subcommand -a %s -d ", c->name);
		fish_quoted(f, c->summary);
		fputc('\n', f);
		for (size_t k = 0; c->sub && c->sub[k]; k++) {
			fprintf(f,
				"complete -c assay -n '__fish_seen_subcommand_from %s' -a %s -d ",
				c->name, c->sub[k]->name);
			fish_quoted(f, c->sub[k]->summary);
			fputc('\n', f);
		}
		fish_options(f, c, c->name);
		for (size_t k = 0; c->sub && c->sub[k]; k++) {
			_cleanup_free_ char *both = xasprintf(
				"%s; and __fish_seen_subcommand_from %s", c->name, c->sub[k]->name);

			fish_options(f, c->sub[k], both);
		}
	}
}

int completion_render(const char *shell, FILE *f, struct error *err)
{
	if (str_eq(shell, "bash"))
		complete_bash(f);
	else if (str_eq(shell, "zsh"))
		complete_zsh(f);
	else if (str_eq(shell, "fish"))
		complete_fish(f);
	else
		return error_set(err, ERROR_USAGE, EINVAL, "no completion for '%s'", shell);
	return 0;
}
