/* SPDX-License-Identifier: MIT */
/* What the command line fills in and overrides; filters; names of folders; commands to paste. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/str.h"
/* cmocka has a macro of the name of our function. */
#undef run_tests
#include "runner/internal.h"

static void overridden(const struct run_opts *o, const char *machine, const char *key,
		       const char *value)
{
	json_t *m = json_loads(machine, 0, NULL), *got;

	assert_non_null(m);
	got = plan_override_machine(o, m);
	if (value)
		assert_string_equal(json_string_value(json_object_get(got, key)), value);
	else
		assert_null(json_object_get(got, key));
	json_decref(m);
	json_decref(got);
}

static void test_override_machine(void **state)
{
	struct run_opts fill = {.image = "tiny", .backend = "fake"},
			force = {.image = "tiny!", .backend = "fake!"};

	overridden(&fill, "{}", "image", "tiny");
	overridden(&fill, "{\"image\":\"debian-13\"}", "image", "debian-13");
	overridden(&force, "{\"image\":\"debian-13\"}", "image", "tiny");
	overridden(&fill, "{\"backend\":\"qemu\"}", "backend", "qemu");
	overridden(&force, "{\"backend\":\"qemu\"}", "backend", "fake");
	/* One that boots what it brings along is given no image. */
	overridden(&fill, "{\"kernel\":\"vmlinuz\"}", "image", NULL);
	overridden(&force, "{\"disks\":[\"1G\"]}", "image", NULL);
	overridden(&(struct run_opts){}, "{}", "image", NULL);
}

static void isolation(const char *option, const char *suite, const char *test, const char *want)
{
	struct run_opts o = {.isolation = option};
	json_t *s = json_pack("{s:s*}", "isolation", suite),
	       *t = json_pack("{s:s*}", "isolation", test);
	const char *got = plan_isolation(&o, s, t);

	assert_true(str_eq(got, want));
	json_decref(s);
	json_decref(t);
}

static void test_isolation(void **state)
{
	isolation(NULL, NULL, NULL, NULL);
	isolation(NULL, "shared", NULL, "shared");
	isolation(NULL, "shared", "boot", "boot");
	isolation("boot", NULL, NULL, "boot");
	isolation("boot", "shared", NULL, "shared");
	isolation("boot!", "shared", "fork", "boot");
	isolation("shared!", NULL, "fork", "shared");
}

static void matches(const struct run_opts *o, const char *suite, const char *test, int want)
{
	struct plan_file file = {.path = (char *)"tests/a.lua"};
	json_t *s = json_loads(suite, 0, NULL), *t = json_loads(test, 0, NULL);
	struct filter *f = NULL;

	assert_true(s && t);
	assert_int_equal(filter_new(o, &f, NULL), 0);
	assert_int_equal(filter_match(f, &file, s, t, "g/name", NULL), want);
	filter_free(f);
	json_decref(s);
	json_decref(t);
}

static void test_filter(void **state)
{
	char *tags[] = {(char *)"web", (char *)"db", NULL};
	struct error err = {};
	struct filter *f = NULL;

	matches(&(struct run_opts){}, "{}", "{}", 1);
	matches(&(struct run_opts){.filter = "^tests/a\\.lua: g/name$"}, "{}", "{}", 1);
	matches(&(struct run_opts){.filter = "NAME"}, "{}", "{}", 0);
	matches(&(struct run_opts){.filter = "(?i)NAME"}, "{}", "{}", 1);
	matches(&(struct run_opts){}, "{}", "{\"slow\":true}", FILTER_SLOW);
	matches(&(struct run_opts){}, "{\"slow\":true}", "{}", FILTER_SLOW);
	matches(&(struct run_opts){.filter = "other"}, "{\"slow\":true}", "{}", 0);
	matches(&(struct run_opts){}, "{\"slow\":true}", "{\"slow\":false}", 1);
	matches(&(struct run_opts){.slow = true}, "{}", "{\"slow\":true}", 1);
	matches(&(struct run_opts){.tags = tags}, "{}", "{}", 0);
	matches(&(struct run_opts){.tags = tags}, "{}", "{\"tags\":[\"db\"]}", 1);
	matches(&(struct run_opts){.tags = tags}, "{\"tags\":[\"web\"]}", "{\"tags\":[\"x\"]}", 1);
	assert_true(filter_new(&(struct run_opts){.filter = "("}, &f, &err) < 0);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_non_null(strstr(err.message, "--filter"));
}

static void test_folder_names(void **state)
{
	static const char *const wanted[][2] = {
		{"serves the welcome page", "nginx.serves-the-welcome-page"},
		{"serves: the welcome page!", "nginx.serves-the-welcome-page~2"},
		{"../../etc/passwd", "nginx.etc-passwd"},
		{"group/test", "nginx.group-test"},
		{"\xc3\xa4\n", "nginx"},
		{"", "nginx~2"},
	};
	struct plan_file file = {.path = (char *)"examples/nginx.lua"};
	struct run run = {};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		_cleanup_free_ char *name = outdir_test_name(&run, &file, wanted[i][0], 0);

		assert_string_equal(name, wanted[i][1]);
	}
	for (int i = 0; i < 2; i++) {
		char text[1000];
		_cleanup_free_ char *name = NULL;

		memset(text, 'x', sizeof(text));
		text[sizeof(text) - 1] = '\0';
		name = outdir_test_name(&run, &file, text, 3);
		assert_true(strlen(name) < 120);
	}
	strv_free(run.used_dirs);
}

static void test_reproduce(void **state)
{
	struct plan_file file = {.path = (char *)"a b.lua"};
	json_t *params = json_pack("{s:s}", "k", "it's"), *decl = json_object();
	struct run_opts o = {.seed = 7, .image = "tiny!", .params = params};
	struct run run = {.opts = &o};
	struct test_case t = {.file = &file, .id = (char *)"x (1)", .decl = decl};
	_cleanup_free_ char *command = outdir_reproduce(&run, &t);

	assert_true(str_starts(command, "cd "));
	assert_non_null(strstr(command, " run 'a b.lua' -k '^a b\\.lua: x \\(1\\)$'"));
	assert_non_null(strstr(command, " --seed 7"));
	assert_non_null(strstr(command, "--image=tiny!"));
	assert_non_null(strstr(command, " --param 'k=it'\\''s'"));
	json_decref(params);
	json_decref(decl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_override_machine), cmocka_unit_test(test_isolation),
		cmocka_unit_test(test_filter),		 cmocka_unit_test(test_folder_names),
		cmocka_unit_test(test_reproduce),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
