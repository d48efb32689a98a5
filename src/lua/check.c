/* SPDX-License-Identifier: MIT */
/* `assay check`: mistakes in the bodies of tests that are found without running them. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/check-internal.h"

/*
 * Theory of operation
 *
 * Evaluating a file finds what is wrong with its declarations; what stands in the bodies would come
 * out only in a run, maybe after minutes. This reads the file's tokens (no grammar, no types) and
 * tells what is wrong beyond doubt: a call of a function or method that does not exist, that
 * nothing in the file defines, and whose name is near one that does exist; a method that needs
 * the agent, of a machine without one; and arguments (check-args.c). It had rather miss a mistake
 * than invent one.
 */
/* --- the lexer -------------------------------------------------------------------------------- */

/* Length of a long bracket `[==[ … ]==]` at p, 0 if there is none. */
static size_t long_bracket(const char *p)
{
	size_t level = 0;
	const char *q;

	if (*p != '[')
		return 0;
	while (p[1 + level] == '=')
		level++;
	if (p[1 + level] != '[')
		return 0;
	for (q = p + 2 + level; *q; q++) {
		size_t n = 0;

		if (*q != ']')
			continue;
		while (q[1 + n] == '=')
			n++;
		if (n == level && q[1 + n] == ']')
			return (size_t)(q + 2 + n - p);
	}
	return (size_t)(q - p);
}

static size_t quoted(const char *p)
{
	const char *q = p + 1;

	while (*q && *q != *p && *q != '\n')
		q += *q == '\\' && q[1] ? 2 : 1;
	return (size_t)(q - p) + (*q == *p);
}

static size_t name_length(const char *p)
{
	size_t n = 0;

	while (isalnum((unsigned char)p[n]) || p[n] == '_')
		n++;
	return n;
}

/* Blanks and comments. */
static size_t space(const char *p)
{
	size_t n;

	if (isspace((unsigned char)*p))
		return 1;
	if (p[0] != '-' || p[1] != '-')
		return 0;
	n = long_bracket(p + 2);
	return n ? n + 2 : strcspn(p, "\n");
}

static struct token next_token(const char *p)
{
	struct token t = {.type = TOKEN_OTHER, .at = p, .len = 1};

	if (!*p)
		t.type = TOKEN_END;
	else if (isalpha((unsigned char)*p) || *p == '_')
		t = (struct token){TOKEN_NAME, p, name_length(p), 0};
	else if (isdigit((unsigned char)*p))
		t.len = name_length(p);
	else if (*p == '"' || *p == '\'')
		t = (struct token){TOKEN_STRING, p, quoted(p), 0};
	else if (*p == '[' && long_bracket(p))
		t = (struct token){TOKEN_STRING, p, long_bracket(p), 0};
	else if (strchr("=~<>", *p) && p[1] == '=')
		t.len = 2;
	return t;
}

static void read_tokens(const char *text, struct tokens *ret)
{
	size_t cap = 0;
	int line = 1;

	for (const char *p = text;;) {
		size_t skip = space(p);
		struct token t;

		if (skip == 0) {
			t = next_token(p);
			t.line = line;
			if (ret->n + 3 > cap)
				ret->list = xrealloc(ret->list,
						     (cap = 2 * cap + 256) * sizeof(*ret->list));
			ret->list[ret->n++] = t;
			if (t.type == TOKEN_END)
				return;
			skip = t.len;
		}
		for (; skip > 0; skip--)
			line += *p++ == '\n';
	}
}

/* --- reading it ----------------------------------------------------------------------------------
 */

bool token_is(const struct token *t, const char *text)
{
	return t->len == strlen(text) && memcmp(t->at, text, t->len) == 0;
}

bool token_same(const struct token *a, const struct token *b)
{
	return a->type == b->type && a->len == b->len && memcmp(a->at, b->at, a->len) == 0;
}

/* Is list[i] a name that is called? */
static bool is_call(const struct tokens *t, size_t i)
{
	const struct token *next = &t->list[i + 1];

	return t->list[i].type == TOKEN_NAME &&
	       (token_is(next, "(") || token_is(next, "{") || next->type == TOKEN_STRING);
}

bool token_is_after(const struct tokens *t, size_t i, const char *text)
{
	return i > 0 && token_is(&t->list[i - 1], text);
}

static bool is_keyword(const struct token *t)
{
	static const char *const words[] = {
		"and",	    "break",  "do",   "else", "elseif", "end",	"false", "for",
		"function", "goto",   "if",   "in",   "local",	"nil",	"not",	 "or",
		"repeat",   "return", "then", "true", "until",	"while"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (token_is(t, words[i]))
			return true;
	return false;
}

/* function name(…), function x.y:name(…) */
static bool is_definition(const struct tokens *t, size_t i)
{
	while (i >= 2 && (token_is_after(t, i, ".") || token_is_after(t, i, ":")))
		i -= 2;
	return token_is_after(t, i, "function");
}

bool token_occurs_otherwise(const struct tokens *t, size_t i, const char *mark)
{
	for (size_t k = 0; k < t->n; k++) {
		if (!token_same(&t->list[k], &t->list[i]))
			continue;
		if (!is_call(t, k) || token_is_after(t, k, mark) == (*mark == '.'))
			return true;
		if (is_definition(t, k))
			return true;
	}
	return false;
}

void check_tell(struct script *s, int line, const char *hint, const char *fmt, ...)
{
	va_list ap;
	char *message;
	json_t *f;

	va_start(ap, fmt);
	message = xvasprintf(fmt, ap);
	va_end(ap);
	f = json_pack("{s:s, s:o, s:i}", "kind", "usage", "message",
		      json_text(message, strlen(message), 0), "line", line);
	if (hint)
		json_object_set_new(f, "hint", json_string(hint));
	emit(s, "error", f);
	free(message);
}

/* Globals of the state after the file was evaluated, NULL-terminated; names belong to Lua. */
static const char **global_names(lua_State *L)
{
	const char **names = xcalloc(1, sizeof(*names));
	size_t n = 0;

	if (!lua_checkstack(L, 4))
		return names;
	lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
	for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
		if (lua_type(L, -2) == LUA_TSTRING) {
			names = xrealloc(names, (n + 2) * sizeof(*names));
			names[n++] = lua_tostring(L, -2);
		}
	lua_pop(L, 1);
	names[n] = NULL;
	return names;
}

/* All methods: of our classes, and of texts. */
static const char **method_names(void)
{
	static const char *const text_methods[] = {
		"byte",	 "char", "find",     "format", "gmatch",  "gsub", "len",    "lower",
		"match", "pack", "packsize", "rep",    "reverse", "sub",  "unpack", "upper"};
	const char **names;
	size_t n = 0;

	for (const struct api_doc *d = api_docs; d->name; d++)
		n++;
	names = xcalloc(n + ARRAY_SIZE(text_methods) + 1, sizeof(*names));
	n = 0;
	for (const struct api_doc *d = api_docs; d->name; d++)
		if (strchr(d->name, ':'))
			names[n++] = strchr(d->name, ':') + 1;
	for (size_t i = 0; i < ARRAY_SIZE(text_methods); i++)
		names[n++] = text_methods[i];
	return names;
}

static void check_call(struct script *s, const struct tokens *t, size_t i, const char *const *names,
		       bool method)
{
	_cleanup_free_ char *name = xstrndup(t->list[i].at, t->list[i].len);
	_cleanup_free_ char *hint = NULL;
	const char *near;

	for (const char *const *n = names; *n; n++)
		if (str_eq(*n, name))
			return;
	near = nearest_name(name, names);
	if (!near || token_occurs_otherwise(t, i, method ? ":" : "."))
		return;
	hint = xasprintf("did you mean '%s'?", near);
	check_tell(s, t->list[i].line, hint, "there is no %s '%s'", method ? "method" : "function",
		   name);
}

/* What stands in there is wrong on purpose. */
static bool expects_error(const struct tokens *t, size_t i)
{
	static const char *const names[] = {"assert_error", "pcall", "xpcall"};

	for (size_t k = 0; k < ARRAY_SIZE(names); k++)
		if (token_is(&t->list[i], names[k]))
			return token_is(&t->list[i + 1], "(");
	return false;
}

/* The parenthesis that closes the arguments of the call at i. */
static size_t end_of_call(const struct tokens *t, size_t i)
{
	int nest = 0;

	for (i++; t->list[i].type != TOKEN_END; i++) {
		nest += token_is(&t->list[i], "(") - token_is(&t->list[i], ")");
		if (nest == 0)
			break;
	}
	return i;
}

/* --- machines without an agent
 * ----------------------------------------------------------------------- */

static bool needs_agent(const struct token *method)
{
	static const char *const also[] = {"guest_screenshot", "wait_for_boot", "forward_port"};

	if (token_is(method, "get_console_log"))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(also); i++)
		if (token_is(method, also[i]))
			return true;
	for (const struct api_doc *d = api_docs; d->name; d++)
		if (str_starts(d->name, "machine:") &&
		    token_is(method, d->name + strlen("machine:")))
			return str_eq(d->section, "Machine: commands") ||
			       str_eq(d->section, "Machine: waiting for a state") ||
			       str_eq(d->section, "Machine: files, logs");
	return false;
}

/* `v = machine("name"`: the token of v, or NULL. */
static const struct token *variable_of(const struct tokens *t, const struct handle *h)
{
	size_t len = strlen(h->name);

	for (size_t i = 2; i + 2 < t->n; i++) {
		const struct token *arg = &t->list[i + 2];

		if (token_is(&t->list[i], "machine") && token_is(&t->list[i - 1], "=") &&
		    t->list[i - 2].type == TOKEN_NAME && token_is(&t->list[i + 1], "(") &&
		    arg->type == TOKEN_STRING && arg->len == len + 2 &&
		    memcmp(arg->at + 1, h->name, len) == 0)
			return &t->list[i - 2];
	}
	return NULL;
}

const struct handle *token_machine(struct script *s, const struct tokens *t,
				   const struct token *variable)
{
	for (size_t g = 0; g < s->n_groups; g++)
		for (size_t i = 0; i < s->groups[g]->n_machines; i++) {
			const struct handle *h = s->groups[g]->machines[i];
			const struct token *own = variable_of(t, h);

			if (own && token_same(own, variable))
				return h;
		}
	return NULL;
}

/* Groups may each have a variable of this name. */
static bool may_have_agent(struct script *s, const struct tokens *t, const struct token *variable)
{
	for (size_t g = 0; g < s->n_groups; g++)
		for (size_t i = 0; i < s->groups[g]->n_machines; i++) {
			const struct handle *h = s->groups[g]->machines[i];
			const struct token *own = variable_of(t, h);

			if (own && token_same(own, variable) &&
			    !json_is_false(json_object_get(h->spec, "agent")))
				return true;
		}
	return false;
}

static void check_agentless(struct script *s, const struct tokens *t, const struct handle *h)
{
	const struct token *variable = variable_of(t, h);

	if (!variable || may_have_agent(s, t, variable))
		return;
	for (size_t i = 0; i + 2 < t->n; i++) {
		if (expects_error(t, i))
			i = end_of_call(t, i);
		else if (token_same(&t->list[i], variable) && token_is(&t->list[i + 1], ":") &&
			 needs_agent(&t->list[i + 2]))
			check_tell(s, t->list[i].line, NULL,
				   "machine '%s' has agent = false, but '%.*s' needs the agent",
				   h->name, (int)t->list[i + 2].len, t->list[i + 2].at);
	}
}

void check_source(struct script *s)
{
	_cleanup_free_ const char **globals = global_names(s->L), **methods = method_names();
	struct tokens t = {};
	const char *text = NULL;

	for (struct source *src = s->sources; src; src = src->next)
		if (str_eq(src->path, s->path))
			text = src->text;
	if (!text)
		return;
	read_tokens(text, &t);
	for (size_t i = 0; i < t.n; i++) {
		if (!is_call(&t, i) || is_keyword(&t.list[i]))
			continue;
		check_arguments(s, &t, i);
		if (expects_error(&t, i))
			i = end_of_call(&t, i);
		else if (token_is_after(&t, i, "."))
			continue;
		else if (token_is_after(&t, i, ":"))
			check_call(s, &t, i, methods, true);
		else
			check_call(s, &t, i, globals, false);
	}
	for (size_t g = 0; g < s->n_groups; g++)
		for (size_t i = 0; i < s->groups[g]->n_machines; i++)
			if (json_is_false(
				    json_object_get(s->groups[g]->machines[i]->spec, "agent")))
				check_agentless(s, &t, s->groups[g]->machines[i]);
	free(t.list);
}
