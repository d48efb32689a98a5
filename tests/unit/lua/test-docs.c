/* SPDX-License-Identifier: MIT */
/* The table of the API: complete, well-formed, and what is rendered from it is accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"
#include "lua/lua-internal.h"
#include "machine/backend.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

static const struct api_doc *find_doc(const char *name)
{
	for (const struct api_doc *d = api_docs; d->name; d++)
		if (str_eq(d->name, name))
			return d;
	return NULL;
}

static bool is_field(const struct api_doc *d)
{
	return str_starts(d->stub, "---@field ");
}

static void test_names_are_unique(void **state)
{
	for (const struct api_doc *d = api_docs; d->name; d++)
		if (find_doc(d->name) != d)
			fail_msg("'%s' is there twice", d->name);
}

static void test_sections_stand_together(void **state)
{
	const char *sections[32];
	size_t n = 0;

	for (const struct api_doc *d = api_docs; d->name; d++) {
		if (n > 0 && str_eq(sections[n - 1], d->section))
			continue;
		for (size_t i = 0; i < n; i++)
			if (str_eq(sections[i], d->section))
				fail_msg("'%s' is not beside the rest of '%s'", d->name,
					 d->section);
		assert_true(n < ARRAY_SIZE(sections));
		sections[n++] = d->section;
	}
	assert_string_equal(sections[0], "Declaring");
	assert_string_equal(sections[n - 1], "Assertions and helpers");
}

/* The part of a name behind ':' or '.', which signature and stub must have. */
static const char *last_part(const char *name)
{
	const char *mark = strpbrk(name, ":.");

	return mark ? mark + 1 : name;
}

static void test_texts(void **state)
{
	for (const struct api_doc *d = api_docs; d->name; d++) {
		size_t ticks = 0;

		/* An example may be the end; else a sentence is. */
		if (!str_ends(d->text, ".") && !strstr(d->text, "\n\n    "))
			fail_msg("%s: the text does not end with a full stop", d->name);
		if (!strstr(d->signature, last_part(d->name)))
			fail_msg("%s: not in its signature: %s", d->name, d->signature);
		if (!strstr(d->stub, last_part(d->name)))
			fail_msg("%s: not in its stub: %s", d->name, d->stub);
		for (const char *p = d->text; *p; p++)
			ticks += *p == '`';
		if (ticks % 2)
			fail_msg("%s: a backquote is not closed", d->name);
		for (const char *p = d->text; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
			if (strcspn(p, "\n") > 90)
				fail_msg("%s: a line of the text is too long", d->name);
	}
}

/* What has an entry but no function: a value, or one that is set otherwise. */
static bool is_value(const struct api_doc *d)
{
	return is_field(d) || str_eq(d->name, "params") || str_eq(d->name, "host");
}

static bool is_bound(const char *name)
{
	for (const struct binding *const *t = all_bindings; *t; t++)
		for (const struct binding *b = *t; b->name; b++)
			if (str_eq(b->name, name))
				return true;
	return false;
}

static void test_bindings_have_entries(void **state)
{
	for (const struct binding *const *t = all_bindings; *t; t++)
		for (const struct binding *b = *t; b->name; b++) {
			const struct api_doc *d = find_doc(b->name);

			if (!d)
				fail_msg("'%s' has no entry", b->name);
			else if (!d->built)
				fail_msg("'%s' is built, its entry says that it is not", b->name);
		}
	for (const struct api_doc *d = api_docs; d->name; d++)
		if (d->built && !is_value(d) && !is_bound(d->name))
			fail_msg("'%s' has an entry but no function", d->name);
}

static void test_stub_is_lua(void **state)
{
	_cleanup_free_ char *stub = api_render_stub();
	lua_State *L = luaL_newstate();

	if (luaL_loadbufferx(L, stub, strlen(stub), "=assay.lua", "t") != LUA_OK)
		fail_msg("%s", lua_tostring(L, -1));
	lua_close(L);
	/* Each option of a machine, once, and nothing of one function twice. */
	for (const struct option_desc *o = machine_options; o->name; o++) {
		_cleanup_free_ char *line = xasprintf("---@field %s? %s ", o->name, o->type);

		if (!strstr(stub, line))
			fail_msg("the stub lacks the machine option '%s'", o->name);
	}
	for (const struct api_doc *d = api_docs; d->name; d++) {
		const char *own = strrchr(d->stub, '\n');
		const char *first = strstr(stub, own ?: d->stub);

		if (!first)
			fail_msg("the stub lacks '%s'", d->name);
		else if (own && strstr(first + 1, own))
			fail_msg("the stub has '%s' twice", own + 1);
	}
}

static void test_man_is_scdoc(void **state)
{
	_cleanup_free_ char *man = api_render_man();
	_cleanup_free_ char *plain = xcalloc(1, strlen(man) + 1);
	FILE *f;

	for (const char *from = man, *p = plain; *from; from++)
		if (*from != '\\')
			plain[p++ - plain] = *from;
	for (const struct api_doc *d = api_docs; d->name; d++)
		if (!strstr(plain, d->signature))
			fail_msg("the manual page lacks '%s'", d->signature);
	if (system("command -v scdoc >/dev/null") != 0)
		skip();
	f = popen("scdoc >/dev/null", "w");
	assert_non_null(f);
	assert_int_equal(fwrite(man, 1, strlen(man), f), strlen(man));
	assert_int_equal(pclose(f), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_are_unique),
		cmocka_unit_test(test_sections_stand_together),
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_bindings_have_entries),
		cmocka_unit_test(test_stub_is_lua),
		cmocka_unit_test(test_man_is_scdoc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
