/* SPDX-License-Identifier: MIT */
/* A worker's machines, forked from templates: opened, begun early, restored, measured. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "machine/saved.h"
#include "machine/template.h"
#include "report/text.h"
#include "runner/worker.h"

/*
 * Theory of operation
 *
 * The job names the templates: one of all machines after the group's setup, or one for each machine
 * that has booted. They are opened, and VMMs begin to start, before the script is loaded, so that
 * both take their time together. Then all that were running go on side by side.
 *
 * A template that is gone or does not restore is no fault of the test's: nothing of it has run by
 * then, so the worker only says which one it is and ends; the runner has it made anew and starts
 * the test again.
 */
#define RESTORE_TIMEOUT_NS (60 * NS_PER_SEC)

static const char *const not_there = "it is not there any more";

/* key is borrowed by ret, too. */
static struct template *open_template(const char *key, struct fork_failure *ret)
{
	struct template *t = NULL;
	int r = template_open(key, &t, &ret->error);

	if (r > 0)
		return t;
	snprintf(ret->key, sizeof(ret->key), "%s", key);
	if (r == 0)
		error_set(&ret->error, ERROR_INFRA, ENOENT, "%s", not_there);
	return NULL;
}

static const struct template_machine *find_saved(const struct template *t, const char *name)
{
	for (size_t i = 0; i < t->n_machines; i++)
		if (str_eq(t->machines[i].name, name))
			return &t->machines[i];
	return NULL;
}

/* Of a machine that has booted, whatever it was called: files that define the same machine under
 * another name have a key of their own, so there is one machine and it is the right one. */
static int open_booted(struct worker *w, json_t *keys, struct fork_failure *ret)
{
	for (size_t i = 0; i < w->n_machines; i++) {
		struct worker_machine *m = &w->machines[i];
		const char *key = json_string_value(json_object_get(keys, m->spec->name));

		if (!key)
			continue;
		m->template = open_template(key, ret);
		if (!m->template)
			return -ret->error.code;
		m->from = m->template->n_machines > 0 ? m->template->machines[0].saved : NULL;
	}
	return 0;
}

int fork_open(struct worker *w, struct fork_failure *ret)
{
	json_t *templates = json_object_get(w->job, "templates");
	const char *key = json_string_value(json_object_get(templates, "setup"));

	if (!key)
		return open_booted(w, json_object_get(templates, "boot"), ret);
	w->group_template = open_template(key, ret);
	if (!w->group_template)
		return -ret->error.code;
	for (size_t i = 0; i < w->n_machines; i++) {
		const struct template_machine *saved =
			find_saved(w->group_template, w->machines[i].spec->name);

		w->machines[i].from = saved ? saved->saved : NULL;
	}
	return 0;
}

void fork_done(struct worker *w)
{
	for (size_t i = 0; i < w->n_machines; i++) {
		w->machines[i].from = NULL;
		template_free(TAKE_PTR(w->machines[i].template));
	}
	template_free(TAKE_PTR(w->group_template));
}

/* --- going on ------------------------------------------------------------------------------ */

static int prestart_fiber(void *userdata)
{
	struct worker_machine *m = userdata;

	machine_prestart(m->machine, m->from);
	return 0;
}

void fork_prestart(struct worker *w)
{
	for (size_t i = 0; i < w->n_machines; i++) {
		struct worker_machine *m = &w->machines[i];

		if (m->from && m->from->devices_fd >= 0)
			fiber_start("prestart", prestart_fiber, m, &m->prestart);
	}
	/* They run up to where they wait for their VMMs. */
	fiber_yield();
}

static bool has_from(const struct worker_machine *m)
{
	return m->from != NULL;
}

static int restore_one(struct worker *w, struct worker_machine *m, struct error *err)
{
	struct machine_restore_opts opts = {.savable = w->env.memory_dir != NULL};
	int r = 0;

	if (m->prestart)
		r = fiber_join(m->prestart, NS_FOREVER, err);
	if (r == 0)
		r = machine_restore(m->machine, m->from, &opts,
				    worker_scaled(w, RESTORE_TIMEOUT_NS), err);
	if (r < 0 && !w->broken_template)
		w->broken_template = m->template ? m->template : w->group_template;
	return r;
}

/* Whether that is the host's fault and not the template's. */
static bool is_hosts_fault(const struct error *err)
{
	static const int codes[] = {ENOMEM, EMFILE, ENFILE, ENOSPC, EDQUOT, EAGAIN};

	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		if (err->code == codes[i])
			return true;
	return err->kind == ERROR_CANCELLED;
}

/* A template whose machines did not go on for want of the host's memory or descriptors, or because
 * somebody gave up, is no worse than it was. */
int fork_restore(struct worker *w, struct fork_failure *ret)
{
	static const struct machines_call call = {has_from, restore_one, "machines to go on"};
	uint64_t start_ns = now_ns();
	int r;

	worker_phase(w, "fork", worker_scaled(w, RESTORE_TIMEOUT_NS));
	r = machines_each(w, &call, &ret->error);
	if (r < 0) {
		if (w->broken_template && !is_hosts_fault(&ret->error))
			snprintf(ret->key, sizeof(ret->key), "%s", w->broken_template->key);
		return r;
	}
	worker_emit(
		w, "fork",
		json_pack("{s:f}", "seconds", (double)(now_ns() - start_ns) / (double)NS_PER_SEC));
	return 0;
}

void fork_tell_broken(struct worker *w, const struct fork_failure *f)
{
	worker_emit(w, "template-broken",
		    json_pack("{s:s, s:o}", "key", f->key, "message", text_json(f->error.message)));
}

/* --- what it takes ------------------------------------------------------------------------- */

/* Memory that a process has for itself alone and that cannot be had back: what it wrote. Pages of
 * the template that it only reads are the page cache's. 0: not known. */
static uint64_t private_bytes(pid_t pid)
{
	static const char *const fields[] = {"Private_Dirty:", "Private_Hugetlb:", "Swap:"};
	_cleanup_buf_ struct buf b = {};
	char path[64];
	uint64_t total = 0;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	if (pid <= 0 || buf_read_file(&b, path, 64 * KIB) < 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		const char *line = strstr(buf_str(&b), fields[i]);
		uint64_t kib;

		if (line && sscanf(line + strlen(fields[i]), "%" SCNu64, &kib) == 1)
			total += kib * KIB;
	}
	return total;
}

void fork_tell_cost(struct worker *w)
{
	json_t *costs = json_object();

	for (size_t i = 0; i < w->n_machines; i++) {
		const struct worker_machine *m = &w->machines[i];
		const struct template *t = m->template ? m->template : w->group_template;
		json_int_t before;

		if (!m->from || !t || machine_get_state(m->machine) == MACHINE_OFF)
			continue;
		before = json_integer_value(json_object_get(costs, t->key));
		json_object_set_new(costs, t->key,
				    json_integer(before + (json_int_t)private_bytes(m->pid)));
	}
	if (json_object_size(costs) > 0)
		worker_emit(w, "fork-cost", json_pack("{s:O}", "bytes", costs));
	json_decref(costs);
}
