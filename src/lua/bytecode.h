/* SPDX-License-Identifier: MIT */
/* Reads what lua_dump() writes: a function's code, apart from where it stands in its file. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/*
 * A stripped dump of Lua 5.4 still has the lines in which a function begins and ends; so two dumps
 * of one function differ when somebody adds a line above it. This goes through the format (ldump.c,
 * lundump.c, lopcodes.h of 5.4; LUAC_VERSION 0x54) and gives the rest.
 */
struct bytecode_sink {
	/* Pieces of the code and its constants, in order; the same for the same function. */
	void (*code)(const void *data, size_t len, void *userdata);
	/* A text among its constants: names of fields and methods are there, too. */
	void (*text)(const char *text, size_t len, void *userdata);
	/* A global that it reads or writes by name. */
	void (*global)(const char *name, size_t len, void *userdata);
	void *userdata;
};

/* env: which upvalue (from 0) is the table of globals, -1: none is. *ret_whole_env: the table as a
 * whole may be used (`_ENV[name]`). -EINVAL: this is no such dump, and what the sink got is a part
 * of it. */
int bytecode_read(const void *dump, size_t len, int env, const struct bytecode_sink *sink,
		  bool *ret_whole_env);
