/* SPDX-License-Identifier: MIT */
/* Reads what lua_dump() writes. */
#include "lua/bytecode.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/util.h"

#define INSTRUCTION_SIZE sizeof(uint32_t)
#define NESTING_MAX	 250

/* lobject.h: types with their variant bits. */
enum {
	TYPE_NIL = 0x00,
	TYPE_FALSE = 0x01,
	TYPE_TRUE = 0x11,
	TYPE_INTEGER = 0x03,
	TYPE_FLOAT = 0x13,
	TYPE_SHORT_TEXT = 0x04,
	TYPE_LONG_TEXT = 0x14,
};
/* lopcodes.h */
enum { OP_GETUPVAL = 9, OP_SETUPVAL = 10, OP_GETTABUP = 11, OP_SETTABUP = 15 };

struct reader {
	const uint8_t *p, *end;
	const struct bytecode_sink *sink;
	bool whole_env;
};

/* What a function's instructions refer to. */
struct function {
	const uint8_t *code;
	size_t n_code;
	const char **texts; /* of each constant; NULL: it is none */
	size_t *lengths;
	size_t n_constants;
};

static bool take(struct reader *r, size_t len, const uint8_t **ret)
{
	if ((size_t)(r->end - r->p) < len)
		return false;
	*ret = r->p;
	r->p += len;
	return true;
}

static bool take_byte(struct reader *r, uint8_t *ret)
{
	const uint8_t *p;

	if (!take(r, 1, &p))
		return false;
	*ret = *p;
	return true;
}

/* Seven bits a byte, the highest first; the last byte has its top bit set. */
static bool take_size(struct reader *r, size_t *ret)
{
	size_t n = 0;
	uint8_t b;

	do {
		if (n > SIZE_MAX >> 7 || !take_byte(r, &b))
			return false;
		n = n << 7 | (b & 0x7f);
	} while (!(b & 0x80));
	*ret = n;
	return true;
}

/* NULL text: there is none. */
static bool take_text(struct reader *r, const char **ret, size_t *ret_len)
{
	const uint8_t *p = NULL;
	size_t n;

	if (!take_size(r, &n) || (n && !take(r, n - 1, &p)))
		return false;
	*ret = (const char *)p;
	*ret_len = n ? n - 1 : 0;
	return true;
}

static void tell_code(struct reader *r, const void *data, size_t len)
{
	r->sink->code(data, len, r->sink->userdata);
}

static void tell_number(struct reader *r, uint64_t n)
{
	tell_code(r, &n, sizeof(n));
}

static bool read_constant(struct reader *r, const char **ret, size_t *ret_len)
{
	const uint8_t *number;
	uint8_t type;

	*ret = NULL;
	*ret_len = 0;
	if (!take_byte(r, &type))
		return false;
	tell_code(r, &type, 1);
	switch (type) {
	case TYPE_NIL:
	case TYPE_FALSE:
	case TYPE_TRUE:
		return true;
	case TYPE_INTEGER:
	case TYPE_FLOAT:
		if (!take(r, 8, &number))
			return false;
		tell_code(r, number, 8);
		return true;
	case TYPE_SHORT_TEXT:
	case TYPE_LONG_TEXT:
		if (!take_text(r, ret, ret_len) || !*ret)
			return false;
		tell_number(r, *ret_len);
		tell_code(r, *ret, *ret_len);
		r->sink->text(*ret, *ret_len, r->sink->userdata);
		return true;
	default:
		return false;
	}
}

static bool read_constants(struct reader *r, struct function *f)
{
	if (!take_size(r, &f->n_constants) || f->n_constants > (size_t)(r->end - r->p))
		return false;
	tell_number(r, f->n_constants);
	f->texts = calloc(f->n_constants + 1, sizeof(*f->texts));
	f->lengths = calloc(f->n_constants + 1, sizeof(*f->lengths));
	if (!f->texts || !f->lengths)
		return false;
	for (size_t i = 0; i < f->n_constants; i++)
		if (!read_constant(r, &f->texts[i], &f->lengths[i]))
			return false;
	return true;
}

static void tell_global(struct reader *r, const struct function *f, unsigned constant)
{
	if (constant < f->n_constants && f->texts[constant])
		r->sink->global(f->texts[constant], f->lengths[constant], r->sink->userdata);
	else
		r->whole_env = true;
}

/* iABC: opcode 7 bits, A 8, k 1, B 8, C 8. */
static void read_instructions(struct reader *r, const struct function *f, int env)
{
	for (size_t i = 0; i < f->n_code; i++) {
		uint32_t code;
		unsigned op, a, b, c;

		memcpy(&code, f->code + i * INSTRUCTION_SIZE, sizeof(code));
		op = code & 0x7f;
		a = code >> 7 & 0xff;
		b = code >> 16 & 0xff;
		c = code >> 24;
		if ((op == OP_GETUPVAL || op == OP_SETUPVAL) && (int)b == env)
			r->whole_env = true;
		else if (op == OP_GETTABUP && (int)b == env)
			tell_global(r, f, c);
		else if (op == OP_SETTABUP && (int)a == env)
			tell_global(r, f, b);
	}
}

/* Stripped: there is nothing in it, but for the counts. */
static bool skip_debug(struct reader *r)
{
	const uint8_t *p;
	const char *name;
	size_t n, x, y;

	if (!take_size(r, &n) || !take(r, n, &p) || !take_size(r, &n)) /* lines */
		return false;
	for (; n > 0; n--)
		if (!take_size(r, &x) || !take_size(r, &y))
			return false;
	if (!take_size(r, &n)) /* local variables */
		return false;
	for (; n > 0; n--)
		if (!take_text(r, &name, &x) || !take_size(r, &x) || !take_size(r, &y))
			return false;
	if (!take_size(r, &n)) /* names of upvalues */
		return false;
	for (; n > 0; n--)
		if (!take_text(r, &name, &x))
			return false;
	return true;
}

/* Which upvalue of a function is the environment: one that is not on the enclosing function's
 * stack, but the one there with the index `outer`. */
static int inner_env(const uint8_t *upvalues, size_t n, int outer)
{
	for (size_t i = 0; outer >= 0 && i < n; i++)
		if (!upvalues[3 * i] && upvalues[3 * i + 1] == outer)
			return (int)i;
	return -1;
}

static bool read_function(struct reader *r, int env, bool is_inner, unsigned depth);

/* From the code to the functions within it. */
static bool read_body(struct reader *r, struct function *f, int env, bool is_inner, unsigned depth)
{
	const uint8_t *upvalues;
	size_t n;

	if (!take_size(r, &f->n_code) || f->n_code > (size_t)(r->end - r->p) / INSTRUCTION_SIZE ||
	    !take(r, f->n_code * INSTRUCTION_SIZE, &f->code))
		return false;
	tell_number(r, f->n_code);
	tell_code(r, f->code, f->n_code * INSTRUCTION_SIZE);
	if (!read_constants(r, f) || !take_size(r, &n) || n > UINT8_MAX ||
	    !take(r, 3 * n, &upvalues))
		return false;
	tell_number(r, n);
	tell_code(r, upvalues, 3 * n); /* in_stack, index, kind of each */
	if (is_inner)
		env = inner_env(upvalues, n, env);
	read_instructions(r, f, env);
	if (!take_size(r, &n))
		return false;
	tell_number(r, n);
	for (; n > 0; n--)
		if (!read_function(r, env, true, depth + 1))
			return false;
	return true;
}

/* env: its own, or that of the function around it (is_inner). */
static bool read_function(struct reader *r, int env, bool is_inner, unsigned depth)
{
	struct function f = {};
	const uint8_t *fixed;
	const char *source;
	size_t len, line;
	bool good;

	if (depth > NESTING_MAX || !take_text(r, &source, &len) || !take_size(r, &line) ||
	    !take_size(r, &line) || !take(r, 3, &fixed))
		return false;
	tell_code(r, fixed, 3); /* parameters, varargs, stack */
	good = read_body(r, &f, env, is_inner, depth) && skip_debug(r);
	free(f.texts);
	free(f.lengths);
	return good;
}

int bytecode_read(const void *dump, size_t len, int env, const struct bytecode_sink *sink,
		  bool *ret_whole_env)
{
	/* Signature, version, format, data that line ends would break; sizes of an instruction, an
	 * integer, a number. An integer and a number as samples of both follow. */
	static const char header[] = "\x1bLua\x54\0\x19\x93\r\n\x1a\n\4\10\10";
	struct reader r = {.p = dump, .sink = sink};
	const uint8_t *p;

	if (len == 0)
		return -EINVAL; /* a native function has no dump */
	r.end = r.p + len;
	if (!take(&r, sizeof(header) - 1, &p) || memcmp(p, header, sizeof(header) - 1) != 0 ||
	    !take(&r, 16, &p) || !take(&r, 1, &p) || !read_function(&r, env, false, 0) ||
	    r.p != r.end)
		return -EINVAL;
	*ret_whole_env = r.whole_env;
	return 0;
}
