/* SPDX-License-Identifier: MIT */
/* Scripts from strings, for the tests of src/lua. */
#pragma once

#include <string.h>

#include "../loop/fiber-test.h"

#include "base/file.h"
#include "base/str.h"
#include "lua/script.h"
#include "machine/backend.h"

#define MS   NS_PER_MS
#define SOON (20 * NS_PER_SEC)

#define TEST_HEAD "test('t', function()\n"
#define TEST_TAIL "\nend)\n"

/* What a script told while it was loaded or ran: "type message" lines. */
struct told {
	struct buf text;
};

static inline void on_told(void *userdata, const char *type, json_t *fields)
{
	struct told *told = userdata;
	char *line = json_dumps(fields, JSON_COMPACT | JSON_SORT_KEYS);

	if (told)
		buf_printf(&told->text, "%s %s\n", type, line);
	free(line);
	json_decref(fields);
}

/* Loads the text as <dir>/t.lua in a fresh folder of its own. */
static inline int load_text(const char *text, struct script_opts opts, struct script **ret,
			    struct error *err)
{
	char dir[] = "/tmp/assay-script-XXXXXX";
	_cleanup_free_ char *path = NULL;
	int r;

	check(mkdtemp(dir) != NULL);
	path = path_join(dir, "t.lua");
	check(file_write_atomic(path, text, strlen(text), 0644, err) == 0);
	opts.path = path;
	r = script_load(&opts, ret, err);
	if (r < 0 && getenv("SHOW"))
		fprintf(stderr, "%s\n", err->message);
	check(path_remove_tree(dir, NULL) == 0);
	return r;
}

/* The error that loading ends with. */
static inline struct error load_error(const char *text, struct script_opts opts)
{
	struct script *s = NULL;
	struct error err = {};

	check(load_text(text, opts, &s, &err) < 0);
	check(!s && err.kind != ERROR_NONE);
	return err;
}

#define check_contains(text, part)                                                                 \
	do {                                                                                       \
		const char *text_ = (text), *part_ = (part);                                       \
		if (!strstr(text_, part_)) {                                                       \
			fprintf(stderr, "%s:%d: '%s' is not in '%s'\n", __FILE__, __LINE__, part_, \
				text_);                                                            \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* Runs the body of one test, at most timeout_ns long; the failure, or nothing. */
static inline int run_body(const char *body, struct script_opts opts, uint64_t timeout_ns,
			   struct script_failure *ret)
{
	_cleanup_free_ char *text = xasprintf(TEST_HEAD "%s" TEST_TAIL, body);
	struct deadline_scope scope;
	struct script *s = NULL;
	int r;

	if (load_text(text, opts, &s, &ret->error) < 0) {
		fprintf(stderr, "%s\n", ret->error.message);
		abort();
	}
	deadline_enter(&scope, timeout_ns, ERROR_DEADLINE, "the test's time-out");
	r = script_call_test(s, "", "t", NULL, ret);
	deadline_leave(&scope);
	script_end_test(s);
	script_free(s);
	return r;
}

/* The kind that a body's failure has; its message in ret_message (512 bytes) if that is given. */
static inline enum error_kind body_kind(const char *body, uint64_t timeout_ns, char *ret_message)
{
	struct script_failure f = {};
	enum error_kind kind;

	run_body(body, (struct script_opts){}, timeout_ns, &f);
	kind = f.error.kind;
	if (ret_message)
		snprintf(ret_message, 512, "%.500s", f.error.message);
	script_failure_done(&f);
	return kind;
}
