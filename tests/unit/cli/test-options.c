/* SPDX-License-Identifier: MIT */
/* Command lines: values land where they belong, mistakes name the nearest right word. */
#include "cli/options.h"

/* In front of cmocka, whose macro run_tests() the runner's function would meet. */
#include "cli/commands.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"

struct opts {
	bool flag;
	const char *word;
	char **words;
	int number, count;
	uint64_t seed, size;
	json_t *params;
	const char *maybe;
};

#define O(m) offsetof(struct opts, m)
static const struct option_spec specs[] = {
	{"flag", 'f', OPTION_FLAG, NULL, O(flag), "a flag", NULL},
	{"word", 'w', OPTION_STRING, "W", O(word), "a word", NULL},
	{"words", 0, OPTION_STRINGS, "W", O(words), "words", NULL},
	{"number", 'n', OPTION_INT, "N", O(number), "a number", NULL},
	{"verbose", 'v', OPTION_COUNT, NULL, O(count), "counts", NULL},
	{"seed", 0, OPTION_U64, "N", O(seed), "a seed", NULL},
	{"size", 0, OPTION_SIZE, "SIZE", O(size), "a size", NULL},
	{"param", 0, OPTION_PARAM, "K=V", O(params), "a parameter", NULL},
	{"maybe", 0, OPTION_STRING, "[=X]", O(maybe), "with or without", NULL},
	{NULL},
};
static const struct command cmd = {.name = "try", .args = "", .options = specs};

/* Parses the words up to NULL; the result of options_parse. */
static int parse(struct opts *o, char **args, int *n, struct error *err, ...)
{
	char *argv[20] = {(char *)"try"};
	int argc = 1;
	va_list ap;

	va_start(ap, err);
	while ((argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	return options_parse(&cmd, argc, argv, o, n, args, err);
}

static void test_values(void **state)
{
	struct opts o = {};
	char *args[20];
	struct error err = {};
	int n;

	assert_int_equal(parse(&o, args, &n, &err, "-f", "one", "--word=x", "--words", "a", "two",
			       "--words=b", "-n3", "-vv", "--seed", "18446744073709551615",
			       "--size=2G", "--param", "k=v=w", "--maybe", "--", "--three", NULL),
			 0);
	assert_true(o.flag);
	assert_string_equal(o.word, "x");
	assert_int_equal(strv_len(o.words), 2);
	assert_string_equal(o.words[1], "b");
	assert_int_equal(o.number, 3);
	assert_int_equal(o.count, 2);
	assert_true(o.seed == UINT64_MAX);
	assert_true(o.size == 2 * GIB);
	assert_string_equal(json_string_value(json_object_get(o.params, "k")), "v=w");
	assert_string_equal(o.maybe, "");
	assert_int_equal(n, 3);
	assert_string_equal(args[0], "one");
	assert_string_equal(args[2], "--three");
	strv_free(o.words);
	json_decref(o.params);
}

static void expect_error(const char *message, const char *hint, const char *word, const char *value)
{
	struct opts o = {};
	char *args[20];
	struct error err = {};
	int n;

	assert_int_equal(parse(&o, args, &n, &err, word, value, NULL), -EINVAL);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_string_equal(err.message, message);
	if (hint)
		assert_string_equal(err.hint, hint);
	strv_free(o.words);
	json_decref(o.params);
}

static void test_mistakes(void **state)
{
	expect_error("unknown option '--wrod'", "did you mean '--word'?", "--wrod", "x");
	expect_error("unknown option '--wrod'", "did you mean '--word'?", "--wrod=x", NULL);
	expect_error("unknown option '-q'", "'assay try --help' lists the options", "-q", NULL);
	expect_error("--number wants a number from 1, not 'x'", NULL, "--number", "x");
	expect_error("--number wants a number from 1, not '0'", NULL, "--number", "0");
	expect_error("--size wants a size such as 10G, not 'big'", NULL, "--size", "big");
	expect_error("--word wants a value: W", NULL, "--word", NULL);
	expect_error("--word wants a value: W", NULL, "-w", NULL);
	expect_error("--flag takes no value", NULL, "--flag=1", NULL);
	expect_error("--param 'novalue' has no name", "write --param NAME=VALUE", "--param",
		     "novalue");
}

static void test_help_is_a_result(void **state)
{
	struct opts o = {};
	char *args[20];
	int n;

	assert_int_equal(parse(&o, args, &n, NULL, "-f", "--help", NULL), 1);
}

/* What is not built yet is said so, and is not there. */
static void test_unbuilt(void **state)
{
	static const char *const unbuilt[] = {"later", "l", NULL};
	const struct command c = {.name = "try", .args = "", .options = specs, .unbuilt = unbuilt};
	char *argv[] = {(char *)"try", (char *)"--later", NULL}, *args[3];
	struct error err = {};
	struct opts o = {};
	int n;

	assert_int_equal(options_parse(&c, 2, argv, &o, &n, args, &err), -EINVAL);
	assert_string_equal(err.message, "--later is not built yet");
	for (size_t i = 0; commands_unbuilt[i]; i++)
		assert_null(command_find(commands, commands_unbuilt[i]));
	for (size_t i = 0; commands[i]; i++)
		for (const struct option_spec *s = commands[i]->options; s && s->name; s++)
			assert_false(commands[i]->unbuilt &&
				     strv_contains((char *const *)commands[i]->unbuilt, s->name));
}

/* Each option of each real command has what help, man page and completions need. */
static void check_command(const struct command *c)
{
	assert_non_null(c->summary);
	assert_non_null(c->args);
	assert_true(c->run || c->sub);
	for (const struct option_spec *o = c->options; o && o->name; o++) {
		assert_non_null(o->doc);
		assert_true(o->doc[strlen(o->doc) - 1] != '.');
		assert_int_equal(o->value != NULL,
				 o->type != OPTION_FLAG && o->type != OPTION_COUNT);
		for (const struct option_spec *p = o + 1; p->name; p++) {
			assert_string_not_equal(o->name, p->name);
			assert_true(!o->letter || o->letter != p->letter);
		}
	}
	for (size_t i = 0; c->sub && c->sub[i]; i++)
		check_command(c->sub[i]);
}

static void test_tables(void **state)
{
	for (size_t i = 0; commands[i]; i++)
		check_command(commands[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),		 cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_help_is_a_result), cmocka_unit_test(test_tables),
		cmocka_unit_test(test_unbuilt),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
