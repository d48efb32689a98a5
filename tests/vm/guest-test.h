/* SPDX-License-Identifier: MIT */
/* A real guest (tiny) for tests in C: made, started, asked. */
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "fiber-test.h"
#include "image/image.h"
#include "machine/machine.h"

/* Wall time that a busy host may need; nothing here waits for time to pass. */
#define LONG (300 * NS_PER_SEC)

static char dir[] = "/var/tmp/assay-test-XXXXXX";

struct guest {
	struct machine_spec *spec;
	struct machine_env env;
	struct machine *m;
	struct agent *agent;
	struct buf events; /* types, one a line */
	char *vmm_pid;
};

static inline int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static inline int remove_dir(void **state)
{
	return path_remove_tree(dir, NULL);
}

#define must(expr)                                                                                 \
	do {                                                                                       \
		struct error must_err_ = {};                                                       \
		struct error *err = &must_err_;                                                    \
		if ((expr) < 0) {                                                                  \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expr,              \
				must_err_.message);                                                \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static inline void on_emit(void *userdata, const char *machine, const char *type, json_t *fields)
{
	struct guest *g = userdata;
	char *text = fields ? json_dumps(fields, JSON_COMPACT) : NULL;

	buf_printf(&g->events, "%s %s\n", type, text ? text : "");
	free(text);
}

static inline void guest_init(struct guest *g, const char *definition)
{
	static const struct image_spec tiny = {.from = "tiny"};
	static const struct image_build_opts opts = {};
	_cleanup_image_ struct image *image = NULL;
	json_t *json = json_loads(definition, 0, NULL);

	must(image_ensure(&tiny, &opts, &image, err));

	check(json);
	*g = (struct guest){};
	g->env = (struct machine_env){.dir = dir,
				      .work_dir = dir,
				      .base_dir = dir,
				      .accel = "auto",
				      .emit = on_emit,
				      .userdata = g};
	must(machine_spec_parse(json, &g->spec, err));
	json_decref(json);
	must(machine_new(g->spec, &g->env, &g->m, err));
}

static inline void guest_done(struct guest *g)
{
	machine_free(g->m);
	machine_spec_free(g->spec);
	buf_done(&g->events);
}

/* The output of a script in the guest, without its last newline. */
static inline char *guest_run(struct guest *g, const char *script)
{
	struct agent_command cmd = {.script = script};
	struct agent_result result = {};
	char *text;

	must(machine_agent(g->m, LONG, &g->agent, err));
	must(agent_run(g->agent, &cmd, LONG, &result, err));
	if (result.code != 0) {
		fprintf(stderr, "%s: exit status %d: %s\n", script, result.code,
			buf_str(&result.err));
		abort();
	}
	if (result.out.len > 0 && result.out.data[result.out.len - 1] == '\n')
		buf_truncate(&result.out, result.out.len - 1);
	text = xstrdup(buf_str(&result.out));
	agent_result_done(&result);
	return text;
}

static inline void expect_run(struct guest *g, const char *script, const char *want)
{
	_cleanup_free_ char *got = guest_run(g, script);

	check_str(got, want);
}

/* Of the last start. */
static inline pid_t vmm_pid(struct guest *g)
{
	const char *at = NULL;

	for (const char *next = buf_str(&g->events); (next = strstr(next, "\"pid\":")); next++)
		at = next;
	check(at);
	return (pid_t)atoi(at + strlen("\"pid\":"));
}
