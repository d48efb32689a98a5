/* SPDX-License-Identifier: MIT */
/* Commands and their options: one table each; the parser, --help, man pages and completions read
 * it. */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "base/error.h"

/* How an option's value is stored, at `offset` in the command's own struct. */
enum option_type {
	OPTION_FLAG,	/* bool */
	OPTION_STRING,	/* const char *, borrowed from argv */
	OPTION_STRINGS, /* char **, a strv; may be given several times */
	OPTION_INT,	/* int, at least 1 */
	OPTION_U64,	/* uint64_t */
	OPTION_SIZE,	/* uint64_t bytes, "10G" */
	OPTION_PARAM,	/* json_t *, an object of strings; "K=V", several times */
	OPTION_COUNT,	/* int, counts how often it was given */
};

struct option_spec {
	const char *name; /* long name, without dashes */
	char letter;	  /* 0: none */
	enum option_type type;
	const char
		*value; /* name of the value in the help: "N"; NULL for flags; "[=SEED]" optional */
	size_t offset;
	const char *doc;     /* one sentence, without a full stop */
	const char *choices; /* for completions: "auto kvm tcg"; NULL: none */
};

struct command {
	const char *name;
	const char *args;    /* "[PATH…]" */
	const char *summary; /* one line */
	const char *doc;     /* paragraphs for the man page, scdoc; the help prints none of it */
	const struct option_spec *options; /* ends with .name == NULL; may be NULL */
	size_t opts_size;		   /* of the struct that `offset`s point into */
	const void *defaults;		   /* such a struct; NULL: all zero */
	void (*done)(void *opts);	   /* frees what the parser put there; may be NULL */
	/* args: what is left of argv, NULL-terminated. Returns the exit status. */
	int (*run)(const struct command *cmd, void *opts, int n_args, char **args);
	bool hidden;			  /* not in help, man pages, completions */
	bool raw;			  /* run gets argv as it is; no parsing */
	const struct command *const *sub; /* subcommands instead of run; NULL-terminated */
	/* Long options that the design names and that this version does not have; may be NULL. */
	const char *const *unbuilt;
};

extern const struct command *const commands[]; /* NULL-terminated; registry.c */
extern const char *const commands_unbuilt[];   /* named by the design, not in this version */
const struct command *command_find(const struct command *const *list, const char *name);

/* Parses argv[1…] into opts and moves the rest to args. ERROR_USAGE with the nearest option. */
int options_parse(const struct command *cmd, int argc, char **argv, void *opts, int *ret_n_args,
		  char **ret_args, struct error *err);
/* The words of text in lines of at most 96 columns; all but the first begin in this column. */
void print_wrapped(FILE *f, const char *text, int column);
/* `prefix` is "assay" or "assay image". */
void options_print_help(const struct command *cmd, const char *prefix, FILE *f);
void options_print_overview(FILE *f);
/* Finds the command for argv[0…], parses, runs. Prints errors. Returns the exit status. */
int command_dispatch(const struct command *const *list, const char *prefix, int argc, char **argv);

/* scdoc source of assay-<name>(1), or of assay(1) when cmd is NULL. */
void man_render(const struct command *cmd, FILE *f);
/* shell: "bash", "zsh", "fish". */
int completion_render(const char *shell, FILE *f, struct error *err);

/* "assay: message", and the hint on a line of its own. */
void report_error(const struct error *err);
