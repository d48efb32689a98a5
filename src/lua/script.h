/* SPDX-License-Identifier: MIT */
/* A test file: evaluated in a sandboxed Lua state, its declarations read, its functions called. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "machine/machine.h"

/*
 * One `struct script` is one Lua state. The same file is evaluated in several processes: by the
 * planning worker (script_load, script_declarations) and again by each worker that runs a test
 * (script_load, compare declarations, bind machines, call). Only src/lua includes lua.h.
 *
 * Declarations are one JSON object, the same bytes each time for the same file and parameters:
 *
 *	{ "version": 1, "file": "examples/nginx.lua",
 *	  "suite": { "name":, "timeout_ms":, "tags": [], "priority":, "slow":, "isolation": },
 *	  "images": { "<name>": { from, packages, files, run, size } },
 *	  "groups": [ { "name": "" (top level) | "…", "machines": [ {machine JSON} ],
 *	     "machine_lines": [ of each ],
 *	     "setup": { "line":, "cache":, "digest":, "uses": [] } | null, "teardown": true,
 *	     "tests": [ { "name":, "kind": "test"|"bench", "line":, "timeout_ms":, "tags": [],
 *	                  "slow":, "isolation":, "needs": [], "retries":, "xfail":, "runs":,
 *	                  "warmup":, "cold": } ] } ] }
 *
 * A setup's "digest" is that of its code and of all that it can reach (digest.c): it stays the same
 * when tests are edited. "uses" says what else its result may depend on: "files" (of the host),
 * "host", "random" (the seed).
 *
 * Absent options are absent keys, so that the command line can fill them in. A test's id is
 * "<group>/<name>" or "<name>" at top level.
 */

struct script;

struct script_opts {
	const char *path; /* the .lua file */
	json_t *params;	  /* object of strings; borrowed; may be NULL */
	uint64_t seed;
	double timeout_scale;	   /* 1 while planning */
	const char *scale_reason;  /* "TCG", for error texts; may be NULL */
	size_t memory_limit_bytes; /* of the Lua state; 0: 256 MiB */
	uint64_t load_timeout_ns;  /* for the top level; 0: 10 s */
	bool check_only;	   /* `assay check`: also report what runs would only find later */
	/* What happens in the script: "subtest-start", "command", "wait", "log", "metric",
	 * "artifact", …: docs/events.md. Takes the reference of fields. May be NULL. */
	void (*emit)(void *userdata, const char *type, json_t *fields);
	void *userdata;
	const char *artifact_dir; /* report folder of the test; NULL while planning */
};

/* Runs on a fiber. Errors are ERROR_USAGE with file, line and the line itself. */
int script_load(const struct script_opts *opts, struct script **ret, struct error *err);
void script_free(struct script *s);
/* A new reference. */
json_t *script_declarations(struct script *s);

/* Ties the handle that the file calls `machine(name)` in this group to a machine. */
int script_bind_machine(struct script *s, const char *group, const char *name, struct machine *m,
			struct error *err);

/* A failure with everything that a person wants to know. */
struct script_failure {
	struct error error;
	json_t *detail; /* object: output, exit code, unit status, journal, console tail …; or NULL
			 */
	json_t *trace;	/* array of { "file":, "line":, "source":, "function": }, innermost first */
};
void script_failure_done(struct script_failure *f);

/* Each runs the function on the calling fiber; the enclosing deadline scope bounds it (and, by the
 * instruction hook, a script that computes for ever). 0, or -errno with ret filled. */
int script_call_setup(struct script *s, const char *group, json_t **ret_value,
		      struct script_failure *ret);
int script_call_test(struct script *s, const char *group, const char *test, json_t *setup_value,
		     struct script_failure *ret);
int script_call_teardown(struct script *s, const char *group, struct script_failure *ret);
/* Kills what m:spawn() left running in the guests, cancels fibers of the test. */
void script_end_test(struct script *s);

/* What script_call_setup() read of the host's files: a list of { "path": absolute, "digest": of
 * path_digest(), "stamp": of path_stamp(), "missing": bool }; both are empty of what cannot be
 * read. A new reference. */
json_t *script_files_read(struct script *s);
/* The values of all variables that tests of the group can see, as digests: what script_call_setup()
 * changes there is lost when tests run in another process. NULL: out of the script's memory. */
json_t *script_visible_values(struct script *s, const char *group);
/* What differs between two of them: a list of "local 'x'", "global 'y'". */
json_t *script_values_changed(json_t *before, json_t *after);

/* --- the one description of the API -------------------------------------------------------- */

struct api_doc {
	const char *name;      /* "machine:succeed", "retry", "re.match" */
	const char *section;   /* "Machine: commands" */
	const char *signature; /* "m:succeed(cmd, …, [opts]) -> string" */
	const char *stub;      /* LuaLS annotations, lines joined by '\n' */
	const char *text;      /* a paragraph or more, plain text */
	bool built;	       /* false: named in the specification, raises the standard error */
};
extern const struct api_doc api_docs[]; /* ends with .name == NULL */
/* The editor stub assay.lua and the man page source (scdoc) of assay-lua(3); malloc'd. */
char *api_render_stub(void);
char *api_render_man(void);
