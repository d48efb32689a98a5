/* SPDX-License-Identifier: MIT */
/* What the files of src/lua share: the state behind a script, calls, errors, values, options. */
#pragma once

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/util.h"
#include "lua/script.h"

/*
 * Rules of this directory
 *
 * A Lua error is a longjmp: it skips clean-up attributes. So a binding has three phases: take the
 * arguments (may raise, owns nothing), call the core (cannot raise, may own), push the results (may
 * raise, owns nothing). What a call needs from the heap in between lives in a `struct call`, which
 * is a userdata with __gc, made first.
 *
 * A fiber may switch inside every call of the core and in the instruction hook: other Lua functions
 * of the same state run meanwhile, on Lua threads of their own. Nothing that a binding keeps may
 * be held by a Lua table alone that such a function can change: it stays on the Lua stack.
 *
 * No function here has more than about 1 KiB of locals: 200 nested C calls (LUAI_MAXCCALLS) must
 * fit on a fiber's stack, together with Lua's own frames (str_gsub: 1.8 KiB).
 */

#define DEFAULT_TIMEOUT_NS (120 * NS_PER_SEC)
#define BOOT_TIMEOUT_NS	   (120 * NS_PER_SEC)
/* Diagnostics after a failure may take this long, whatever the test has left. */
#define GRACE_NS     (10 * NS_PER_SEC)
#define TAIL_BYTES   4096
#define CONSOLE_TAIL 30 /* lines */
#define FIBERS_MAX   1000

enum script_phase { PHASE_LOAD, PHASE_IDLE, PHASE_SETUP, PHASE_TEST, PHASE_TEARDOWN };

struct group;

/* A machine as the file declares it, and the one it was bound to. */
struct handle {
	struct script *script;
	struct group *group;
	char *name;
	json_t *spec;
	unsigned line;
	struct machine *machine; /* NULL until script_bind_machine() */
};

struct test_decl {
	char *name;
	json_t *json;
	int fn_ref;
};

struct group {
	char *name;
	struct handle **machines;
	size_t n_machines;
	struct test_decl *tests;
	size_t n_tests;
	int setup_ref, teardown_ref; /* LUA_NOREF */
	json_t *setup;		     /* {"line":, "cache":} or NULL */
};

/* The text of a file that was loaded, for showing its lines. */
struct source {
	char *path;
	char *text;
	struct source *next;
};

struct script {
	lua_State *L;
	char *path, *dir;
	json_t *params;
	uint64_t seed;
	double timeout_scale;
	char *scale_reason;
	bool check_only;
	void (*emit)(void *userdata, const char *type, json_t *fields);
	void *userdata;
	char *artifact_dir;

	size_t memory_used, memory_limit;
	uint64_t last_yield_ns;
	enum script_phase phase;
	struct group *running; /* its function is called */

	json_t *suite, *images;
	json_t *setup_value;   /* that the last test was given */
	struct group **groups; /* the first is the top level */
	size_t n_groups;
	struct group *declaring; /* where declarations go */
	bool suite_seen;

	struct source *sources;
	struct process_handle *processes; /* started by m:spawn() */
	json_t *files_read;		  /* of the host, by setup(): script_files_read() */
	unsigned n_fibers;
	int64_t next_id; /* ties start and end events together */
};

struct script *script_of(lua_State *L);

/* --- errors (raise.c) ----------------------------------------------------------------------- */

/* Raises { kind, message, hint, detail, trace }. detail is borrowed and may be NULL. */
_noreturn_ void raise_error(lua_State *L, const struct error *err, json_t *detail);
_noreturn_ void raise_usage(lua_State *L, const char *hint, const char *fmt, ...) _printf_(3, 4);
/* `machine:screenshot is not built yet` */
_noreturn_ void raise_unsupported(lua_State *L, const char *name);
void raise_init(lua_State *L);
/* An error that nobody may catch: a deadline, a cancellation, skip(). */
bool error_is_final(lua_State *L, int idx);
/* Any error value becomes an error table with a trace: the message handler of every protected
 * call that is not the user's own. */
int on_error(lua_State *L);
/* lua_pcall() with that handler. */
int call_traced(lua_State *L, int n, int n_results);
/* Appends the calling frames to the trace of the error table at idx (it crossed a fiber). */
void error_extend_trace(lua_State *L, int idx);
/* The error value at idx, read without raising. */
void error_from_lua(lua_State *L, int idx, struct error *ret);
void failure_from_lua(lua_State *L, int idx, struct script_failure *ret);
/* "file:line" of the innermost Lua function that has one; line 0 if there is none. */
int current_line(lua_State *L, char *file, size_t len);
/* The line of a loaded file, without surrounding blanks; "" if not known. malloc'd. */
char *source_line(struct script *s, const char *file, int line);
void source_add(struct script *s, const char *path, const char *text, size_t len);

/* --- values (value.c) ----------------------------------------------------------------------- */

/* Never raises. NULL with err filled for what JSON cannot carry. Tables with keys 1..n become
 * lists, other keys become text, sorted; machines and networks become their names. */
json_t *json_from_lua(lua_State *L, int idx, struct error *err);
/* May raise (memory). null becomes json.null. */
void push_json(lua_State *L, json_t *j);
/* The same for captures: "0", "1" become numbers. */
void push_captures(lua_State *L, json_t *captures);
/* Text for JSON: what is not UTF-8 becomes U+FFFD, at most the last max bytes (0: all). */
json_t *json_text(const char *data, size_t len, size_t max);
/* Appends the value as Lua would write it, on one line, bounded (assert.c). May raise: b belongs to
 * a call. */
void show_value(lua_State *L, int idx, struct buf *b);
/* The machine's handle at idx, or NULL. */
struct handle *to_handle(lua_State *L, int idx);
/* The last (or first) max bytes with a note in front of how much was left out; malloc'd. */
char *text_tail(const char *data, size_t len, size_t max);
/* Keys of the table at idx in a fixed order, as a new list on the stack. May raise. */
void push_sorted_keys(lua_State *L, int idx);
int keys_compare(lua_State *L, int a, int b);

/* --- options (options.c) --------------------------------------------------------------------- */

enum option_type {
	OPT_STRING,   /* const char * */
	OPT_DURATION, /* uint64_t ns */
	OPT_BOOL,     /* bool */
	OPT_INT,      /* int64_t */
	OPT_NUMBER,   /* double */
	OPT_FUNCTION, /* int: index on the stack */
	OPT_VALUE,    /* int: index on the stack */
};
struct option {
	const char *name;
	enum option_type type;
	size_t offset;
};
struct time_options {	     /* the first member of every options struct that waits */
	uint64_t timeout_ns; /* 0: not given */
	bool exact;
};
#define TIME_OPTIONS                                                                               \
	{"timeout", OPT_DURATION, offsetof(struct time_options, timeout_ns)},                      \
	{                                                                                          \
		"exact", OPT_BOOL, offsetof(struct time_options, exact)                            \
	}
extern const struct option time_options[]; /* these two alone */
/*
 * Reads the table at idx (none or nil: nothing is given) into ret, which the caller has filled with
 * the defaults. The values stay on the Lua stack: a caller's table may change meanwhile. what: the
 * function's name, for messages.
 */
void read_options(lua_State *L, int idx, const char *what, const struct option *options, void *ret);
/* A duration at idx, in ns; raises. */
uint64_t check_duration(lua_State *L, int idx, const char *what);
/* Text at idx; numbers are accepted; raises with the argument's name. */
const char *check_text(lua_State *L, int idx, const char *function, const char *argument,
		       size_t *ret_len);
void check_function(lua_State *L, int idx, const char *function, const char *argument);
/* Raises for a key that is not among names (NULL-terminated). */
_noreturn_ void raise_unknown(lua_State *L, const char *kind, const char *name, const char *where,
			      const char *const *names);

/* --- calls (call.c) --------------------------------------------------------------------------- */

struct call {
	struct script *script;
	struct handle *handle; /* NULL: not a machine's method */
	struct machine *machine;
	struct agent *agent;
	const char *method; /* "succeed" */
	struct error err;
	json_t *detail, *json;
	struct buf buf;
	struct agent_result result, attempt; /* the second while it is not known which one counts */
	char **env;
	char *text;
	struct regex *regex;
	uint64_t timeout_ns; /* scaled */
	double scale;	     /* that it was scaled with */
	uint64_t start_ns;
	int64_t id;
	char what[200];
};

void call_init(lua_State *L);
/* Leaves the call on the stack. */
struct call *call_push(lua_State *L, const char *method);
/* The same; only while a function of the script runs. */
struct call *call_new(lua_State *L, const char *method);
/* The machine at index 1, bound; raises otherwise. */
struct call *call_machine(lua_State *L, const char *method);
void call_timeout(struct call *c, const struct time_options *o, uint64_t default_ns);
/* The agent of the machine, which is started if it is off. Raises. */
void call_agent(lua_State *L, struct call *c);
/* Raises what c->err says, with c->detail, a time-out in the user's numbers and the console's
 * tail. */
_noreturn_ void call_raise(lua_State *L, struct call *c);
/* Frees early what the collector would free late. */
void call_done(struct call *c);
void call_detail(struct call *c, const char *key, json_t *value /* takes */);

/* Takes fields; nothing when nobody listens. */
void emit(struct script *s, const char *type, json_t *fields);
/* "wait" events around a wait. `what` completes "waiting for …". */
void call_wait_start(struct call *c, const char *fmt, ...) _printf_(2, 3);
/* Ends it; raises if r < 0. */
void call_wait_end(lua_State *L, struct call *c, int r);
/* The same as "call" events. */
void call_start(struct call *c, const char *fmt, ...) _printf_(2, 3);
void call_end(lua_State *L, struct call *c, int r);

/* --- the rest ----------------------------------------------------------------------------------
 */

void sandbox_open(lua_State *L);
void sandbox_reseed(lua_State *L, const char *id);
void on_count(lua_State *L, lua_Debug *ar);
/* 0, or -errno with err filled when the file cannot be read or has a syntax error; else its
 * function is on the stack. May raise (memory). */
int load_file(lua_State *L, const char *path, struct error *err);
int sandbox_require(lua_State *L);

/* Bindings: name as in api_docs. Tables end with NULL. */
struct binding {
	const char *name;
	lua_CFunction fn;
};
extern const struct binding declare_bindings[], control_bindings[], fiber_bindings[],
	report_bindings[], assert_bindings[], helper_bindings[], power_bindings[],
	command_bindings[], process_bindings[], unit_bindings[], wait_bindings[], file_bindings[],
	journal_bindings[], console_bindings[], qmp_bindings[], result_bindings[],
	snapshot_bindings[];
extern const struct binding *const all_bindings[]; /* NULL-terminated */
void bindings_open(lua_State *L);
/* Classes of userdata: "assay.machine", … with methods from the bindings. */
void class_open(lua_State *L, const char *class, lua_CFunction gc);
void push_handle(lua_State *L, struct handle *h);
void snapshot_open(lua_State *L); /* the classes of snapshots */

struct script_fiber; /* fibers.c */
/* Calls the function at fn_idx on a fiber of its own. */
int fiber_call_all(lua_State *L, const char *what, int first, int n);

struct group *group_new(struct script *s, const char *name);
struct group *group_find(struct script *s, const char *name);
void group_free(struct group *g);
struct handle *handle_find(struct group *g, const char *name);
void check_source(struct script *s); /* check.c */
/* Notes what is not of the script's own making; before the file is evaluated. May raise. */
void digest_open(lua_State *L);
/* Adds "digest" and "uses" to each setup's declaration; -ENOMEM. */
int digest_setups(struct script *s);
/* A host file or folder is about to be read or looked for; of interest while setup() runs. What
 * cannot be read is the reader's to tell. */
void note_file_read(struct script *s, const char *path);

/* What a command's options are (command.c), shared with spawn, wait_until_…. */
struct command_options {
	struct time_options time;
	const char *user, *cwd;
	const char *stdin_data;
	size_t stdin_len;
	int env;    /* index on the stack, 0: none */
	int stdin_; /* the same */
	bool trim;
	uint64_t interval_ns;
};
void read_command_options(lua_State *L, int idx, const char *what, struct command_options *o,
			  bool waits);
void fill_command(struct call *c, const struct command_options *o, struct agent_command *cmd);
void env_of_machine(struct call *c);
void env_from_table(lua_State *L, int idx, const char *what, char ***ret);
/* A table { code, signal, stdout, stderr, seconds } from c->result. */
void push_result(lua_State *L, struct call *c);
/* Runs a helper command in the guest; 0 also for a non-zero exit (c->result). */
int run_plain(struct call *c, const char *script, const char *user, uint64_t timeout_ns);
/* "command 'curl …'" for messages: one line, not too long. */
void command_title(char *buf, size_t len, const char *command);
/* Adds stdout, stderr and the exit code of a result to the call's detail. */
void call_detail_result(struct call *c, const struct agent_result *r);
/* "exit code 7", "signal 9 (Killed)". */
void describe_end(char *buf, size_t len, const struct agent_result *r);
/* Unit status, journal, failed units, into the detail; under a grace deadline. */
void diagnose_unit(struct call *c, const char *unit, const char *user);
void processes_end(struct script *s); /* kills them */
void processes_free(struct script *s);
int signal_from_name(const char *name); /* 0: unknown */
