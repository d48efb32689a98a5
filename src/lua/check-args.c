/* SPDX-License-Identifier: MIT */
/* `assay check`: options that do not exist and regular expressions that are wrong, in calls. */
#include <string.h>

#include "base/str.h"
#include "lua/check-internal.h"

/*
 * Theory of operation
 *
 * What a function takes is read from api_docs, where the editor's stub has it: the classes of its
 * options with their fields, and which argument is a `regex`. What a call gives is read from the
 * tokens: a table that is an argument itself, and its keys; a text that is the whole argument. What
 * is computed is not looked at.
 *
 * Nobody knows what `x` in `x:succeed()` is. So an unknown option is told only when x was assigned
 * from machine(), or when the key is near to one that exists; and nothing about a name that the
 * file uses for something of its own.
 */

/* --- what functions take ------------------------------------------------------------------------
 */

/* Do these words of the file call what the entry describes? For methods any class will do. */
static bool describes(const struct api_doc *d, const struct tokens *t, size_t i)
{
	const struct token *name = &t->list[i];
	const char *own = strpbrk(d->name, ":.");

	if (token_is_after(t, i, ":"))
		return own && *own == ':' && token_is(name, own + 1);
	if (!token_is_after(t, i, "."))
		return token_is(name, d->name);
	/* "re.match", but not "x.re.match" */
	return own && *own == '.' && token_is(name, own + 1) && i >= 2 &&
	       t->list[i - 2].len == (size_t)(own - d->name) &&
	       strncmp(t->list[i - 2].at, d->name, t->list[i - 2].len) == 0 &&
	       !token_is_after(t, i - 2, ".") && !token_is_after(t, i - 2, ":");
}

static void add_key(char ***keys, const char *key, size_t len)
{
	_cleanup_free_ char *copy = xstrndup(key, len);

	if (!strv_contains(*keys, copy))
		strv_push_take(keys, TAKE_PTR(copy));
}

/* The fields of "assay.RetryOptions" and of what it is derived from. */
static void add_fields(char ***keys, const char *class, size_t len, unsigned depth)
{
	_cleanup_free_ char *head = xasprintf("---@class %.*s", (int)len, class);

	if (str_eq(head, "---@class assay.TimeoutOptions")) {
		add_key(keys, "timeout", strlen("timeout"));
		add_key(keys, "exact", strlen("exact"));
		return;
	}
	for (const struct api_doc *d = api_docs; d->name && depth < 8; d++) {
		const char *p = d->stub ? strstr(d->stub, head) : NULL;

		if (!p || !strchr("\n:", p[strlen(head)]))
			continue;
		p += strlen(head);
		if (*p == ':')
			add_fields(keys, p + 2, strcspn(p + 2, "\n"), depth + 1);
		for (p = strchr(p, '\n'); p && str_starts(p, "\n---@field ");
		     p = strchr(p + 1, '\n')) {
			const char *field = p + strlen("\n---@field ");

			add_key(keys, field, strcspn(field, "? \n"));
		}
		return;
	}
}

/* All options that functions of this name take; NULL: none is known. */
static char **option_keys(const struct tokens *t, size_t i)
{
	char **keys = NULL;

	for (const struct api_doc *d = api_docs; d->name; d++) {
		if (!describes(d, t, i))
			continue;
		/* Every class of options that it mentions and does not define. */
		for (const char *p = d->stub; p && (p = strstr(p, "assay.")); p++) {
			size_t len =
				strspn(p, "abcdefghijklmnopqrstuvwxyz.ABCDEFGHIJKLMNOPQRSTUVWXYZ");

			if (len > 7 && strncmp(p + len - 7, "Options", 7) == 0 &&
			    (p < d->stub + 10 || strncmp(p - 10, "---@class ", 10) != 0))
				add_fields(&keys, p, len, 0);
		}
	}
	return keys;
}

/* Which argument is a regular expression, from 0; -1: none, or not the same one everywhere. */
static int regex_argument(const struct tokens *t, size_t i)
{
	int found = -1;

	for (const struct api_doc *d = api_docs; d->name; d++) {
		const char *p = strchr(d->signature, '(');
		int n = 0;

		if (!p || !describes(d, t, i))
			continue;
		for (p++; !str_starts(p, "regex") && *p && *p != ')'; p++)
			n += *p == ',';
		if (!str_starts(p, "regex"))
			continue;
		if (found >= 0 && found != n)
			return -1;
		found = n;
	}
	return found;
}

/* --- what calls give ----------------------------------------------------------------------------
 */

struct arguments {
	struct script *script;
	const struct tokens *tokens;
	size_t name;  /* index of the function's */
	char **keys;  /* that it knows */
	bool certain; /* it is ours beyond doubt */
	int regex;    /* index of the argument */
	int nest;     /* brackets */
	int blocks;   /* function … end */
};

static void tell_key(const struct arguments *a, const struct token *key)
{
	_cleanup_free_ char *name = xstrndup(key->at, key->len), *hint = NULL, *all = NULL;
	const char *near;

	if (strv_contains(a->keys, name))
		return;
	near = nearest_name(name, (const char *const *)a->keys);
	if (!near && !a->certain)
		return;
	all = strv_join(a->keys, " ");
	hint = near ? xasprintf("did you mean '%s'?", near) : xasprintf("known here: %s", all);
	check_tell(a->script, key->line, hint, "unknown option '%s' for %.*s", name,
		   (int)a->tokens->list[a->name].len, a->tokens->list[a->name].at);
}

/* Counts brackets and blocks; true outside of all of them. */
static bool is_outside(struct arguments *a, const struct token *t)
{
	static const char *const begins[] = {"function", "if", "do", "repeat"};

	if (t->len == 1 && strchr("([{", *t->at))
		a->nest++;
	else if (t->len == 1 && strchr(")]}", *t->at))
		a->nest--;
	else if (token_is(t, "end") || token_is(t, "until"))
		a->blocks--;
	for (size_t k = 0; t->type == TOKEN_NAME && k < ARRAY_SIZE(begins); k++)
		a->blocks += token_is(t, begins[k]);
	return a->nest == 0 && a->blocks == 0;
}

/* The table that begins at i: `name =` at its own level. Returns where it ends. */
static size_t read_table(const struct arguments *outer, size_t i)
{
	const struct tokens *t = outer->tokens;
	struct arguments a = *outer;

	a.nest = a.blocks = 0;
	for (i++; t->list[i].type != TOKEN_END; i++) {
		const struct token *key = &t->list[i];

		if (a.nest == 0 && a.blocks == 0 && token_is(key, "}"))
			return i;
		if (is_outside(&a, key) && key->type == TOKEN_NAME && outer->keys &&
		    token_is(key + 1, "=") &&
		    (token_is(key - 1, "{") || token_is(key - 1, ",") || token_is(key - 1, ";")))
			tell_key(outer, key);
	}
	return i;
}

/* What the text between the quotes says is Lua's to know. */
static void read_regex(const struct arguments *a, const struct token *text)
{
	_cleanup_free_ char *chunk = xasprintf("return %.*s", (int)text->len, text->at);
	lua_State *L = a->script->L;
	struct regex *regex = NULL;
	struct error err = {};

	if (!lua_checkstack(L, 4))
		return;
	if (luaL_loadbufferx(L, chunk, strlen(chunk), "=check", "t") == LUA_OK &&
	    lua_pcall(L, 0, 1, 0) == LUA_OK && lua_type(L, -1) == LUA_TSTRING &&
	    regex_compile(lua_tostring(L, -1), &regex, &err) < 0)
		check_tell(a->script, text->line, *err.hint ? err.hint : NULL, "%.*s: %s",
			   (int)a->tokens->list[a->name].len, a->tokens->list[a->name].at,
			   err.message);
	regex_free(regex);
	lua_pop(L, 1);
}

static void read_arguments(struct arguments *a)
{
	const struct tokens *t = a->tokens;
	int n = 0;

	for (size_t i = a->name + 2; t->list[i].type != TOKEN_END; i++) {
		const struct token *token = &t->list[i];
		bool whole = a->nest == 0 && a->blocks == 0 &&
			     (token_is(token - 1, "(") || token_is(token - 1, ","));

		if (a->nest == 0 && a->blocks == 0 && token_is(token, ")"))
			return;
		if (whole && token_is(token, "{")) {
			i = read_table(a, i);
			continue;
		}
		if (whole && n == a->regex && token->type == TOKEN_STRING &&
		    (token_is(token + 1, ")") || token_is(token + 1, ",")))
			read_regex(a, token);
		if (is_outside(a, token) && token_is(token, ","))
			n++;
	}
}

/* `local re = …`: not our table. */
static bool library_is_hidden(const struct tokens *t, size_t i)
{
	for (size_t k = 1; k + 1 < t->n; k++)
		if (token_same(&t->list[k], &t->list[i - 2]) &&
		    (token_is(&t->list[k + 1], "=") || token_is(&t->list[k - 1], "local")))
			return true;
	return false;
}

void check_arguments(struct script *s, const struct tokens *t, size_t i)
{
	bool method = token_is_after(t, i, ":"), library = token_is_after(t, i, ".");
	struct arguments a = {.script = s, .tokens = t, .name = i};

	a.keys = option_keys(t, i);
	a.regex = regex_argument(t, i);
	if ((!a.keys && a.regex < 0) ||
	    (library ? library_is_hidden(t, i)
		     : token_occurs_otherwise(t, i, method ? ":" : "."))) {
		strv_free(a.keys);
		return;
	}
	a.certain = !method || (i >= 2 && token_machine(s, t, &t->list[i - 2]));
	if (token_is(&t->list[i + 1], "("))
		read_arguments(&a);
	else if (token_is(&t->list[i + 1], "{"))
		read_table(&a, i + 1);
	else if (a.regex == 0)
		read_regex(&a, &t->list[i + 1]);
	strv_free(a.keys);
}
