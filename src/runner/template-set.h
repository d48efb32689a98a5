/* SPDX-License-Identifier: MIT */
/* What the files about templates share. */
#pragma once

#include "base/file.h"
#include "machine/template.h"
#include "runner/internal.h"

enum set_state { SET_OPEN, SET_READY, SET_BOOT, SET_FAILED };

struct set_machine {
	struct machine_spec *spec;
	json_t *json; /* borrowed from the job */
	char key[DIGEST_HEX_MAX];
};

/* What all tests of a group start from (templates.c). */
struct template_set {
	struct template_set *next;
	struct run *run;
	char *identity;
	struct job *job; /* one of those that want it: file, group, machines, scale */
	enum set_state state;
	unsigned round; /* how often it was settled */
	struct fiber *fiber;
	char *base_dir;
	struct set_machine *machines; /* sorted by name */
	size_t n_machines;
	char setup_key[DIGEST_HEX_MAX];
	bool is_temporary;
	struct template **held;
	size_t n_held;
	json_t *costs; /* object: key → bytes that a fork was seen to take */
	uint64_t build_cost;
	char *note;	 /* BOOT: why */
	json_t *error;	 /* FAILED: as in events */
	char *error_dir; /* folder of the worker that failed; NULL: there was none */
};

/* One of the templates that a set consists of. */
struct wanted {
	const char *key;
	const struct set_machine *machine; /* NULL: the group after its setup */
	char *title;
	char *id; /* for a folder */
};
/* "boot" or "setup" */
const char *wanted_level(const struct wanted *w);

/* --- template-report.c --- */

void report_start(struct template_set *s, const struct wanted *w, const char *dir);
void report_made(struct template_set *s, const struct wanted *w, const char *dir, uint64_t start_ns,
		 struct collector *kept, json_t *error);
/* One that was there; told once in a run. */
void report_found(struct template_set *s, const struct wanted *w, const struct template *t);
