/* SPDX-License-Identifier: MIT */
/* What the two halves of `assay check` share: the tokens of a file. */
#pragma once

#include "lua/lua-internal.h"

enum token_type { TOKEN_END, TOKEN_NAME, TOKEN_STRING, TOKEN_OTHER };

struct token {
	enum token_type type;
	const char *at;
	size_t len;
	int line;
};

struct tokens {
	struct token *list;
	size_t n;
};

/* Is the token this text? */
bool token_is(const struct token *t, const char *text);
/* Have both the same text? */
bool token_same(const struct token *a, const struct token *b);
/* Does the token at i come right behind this text? */
bool token_is_after(const struct tokens *t, size_t i, const char *text);
/* Does the name at i occur anywhere but as a plain call (as a local, a parameter, a field, a
 * function's definition)? Then it may be anything. mark: "." for functions, ":" for methods. */
bool token_occurs_otherwise(const struct tokens *t, size_t i, const char *mark);
/* The machine of the file whose variable this is: `v = machine("name", …)`; NULL: none. */
const struct handle *token_machine(struct script *s, const struct tokens *t,
				   const struct token *variable);
/* Reports a mistake. hint may be NULL. */
void check_tell(struct script *s, int line, const char *hint, const char *fmt, ...) _printf_(4, 5);

/* check-args.c: options and regular expressions of the call whose name is the token at i. */
void check_arguments(struct script *s, const struct tokens *t, size_t i);
