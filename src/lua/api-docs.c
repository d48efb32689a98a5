/* SPDX-License-Identifier: MIT */
/* The one description of the API: `assay doc`, the editor stub and assay-lua(3) come from it. */
#include "lua/script.h"

/*
 * One entry for each name of the API, in the order of the manual's sections:
 *
 *	{ name, section, signature, stub, text, built }
 *
 * name		"retry", "re.match", "machine:succeed" (a method), "machine.name" (a field)
 * stub		LuaLS annotations and the function's line. Blocks are parted by an empty line: the
 *		last is the entry's own, those before it are classes that it needs. A field's is
 *		one ---@field line, which goes into its class.
 * text		wrapped; paragraphs are parted by an empty line, four blanks mark an example,
 *		`backquotes` mark what is typed
 * built	false: in the specification, but a call raises `unsupported`
 *
 * The options of machine() are not here: they come from machine_options[] (machine/spec.h).
 */
const struct api_doc api_docs[] = {
#include "lua/api-docs-declare.inc"
#include "lua/api-docs-power.inc"
#include "lua/api-docs-guest.inc"
#include "lua/api-docs-outside.inc"
#include "lua/api-docs-flow.inc"
	{NULL},
};
