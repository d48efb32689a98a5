/* SPDX-License-Identifier: MIT */
/* A worker's machines: made, started side by side, ended. */
#include "base/str.h"
#include "loop/loop.h"
#include "report/event.h"
#include "runner/worker.h"

#define END_TIMEOUT_NS (20 * NS_PER_SEC)

static struct worker_machine *find_machine(struct worker *w, const char *name)
{
	for (size_t i = 0; i < w->n_machines; i++)
		if (w->machines[i].spec && str_eq(w->machines[i].spec->name, name))
			return &w->machines[i];
	return NULL;
}

static void on_machine_event(void *userdata, const char *machine, const char *type, json_t *fields)
{
	struct worker *w = userdata;
	struct worker_machine *m = find_machine(w, machine);
	_cleanup_free_ char *name = xasprintf("machine-%s", type);
	json_t *copy;

	if (m && str_eq(type, "state") &&
	    !str_eq(json_string_value(json_object_get(fields, "state")), "off"))
		m->was_started = true;
	if (m && json_object_get(fields, "pid"))
		m->pid = (pid_t)json_integer_value(json_object_get(fields, "pid"));
	if (event_type_find(name)) {
		copy = fields ? json_copy(fields) : json_object();
	} else {
		copy = json_pack("{s:s, s:O*}", "event", type, "data", fields);
		free(name);
		name = xstrdup("machine-event");
	}
	json_object_set_new(copy, "machine", json_string(machine));
	worker_emit_now(w, name, copy);
}

int machines_make(struct worker *w, struct error *err)
{
	json_t *machines = json_object_get(w->job, "machines"), *json;
	const char *path = json_string_value(json_object_get(w->job, "path"));
	_cleanup_free_ char *absolute = path_absolute(path);
	size_t i;

	w->base_dir = path_dirname(absolute);
	w->env.dir = json_string_value(json_object_get(w->job, "dir"));
	if (!w->env.work_dir)
		w->env.work_dir = json_string_value(json_object_get(w->job, "work_dir"));
	w->env.base_dir = w->base_dir;
	w->env.accel = json_string_value(json_object_get(w->job, "accel"));
	w->env.debug_boot = json_is_true(json_object_get(w->job, "debug_boot"));
	w->env.tell_console = json_is_true(json_object_get(w->job, "tell_console"));
	w->env.emit = on_machine_event;
	w->env.userdata = w;
	w->machines = xcalloc(json_array_size(machines) + 1, sizeof(*w->machines));
	json_array_foreach(machines, i, json)
	{
		struct worker_machine *m = &w->machines[w->n_machines++];
		int r;

		r = machine_spec_parse(json, &m->spec, err);
		if (r == 0)
			r = machine_new(m->spec, &w->env, &m->machine, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int machines_bind(struct worker *w, struct error *err)
{
	const char *group = json_string_value(json_object_get(w->job, "group"));
	int r = 0;

	for (size_t i = 0; i < w->n_machines && r == 0; i++)
		r = script_bind_machine(w->script, group, w->machines[i].spec->name,
					w->machines[i].machine, err);
	return r;
}

/* --- side by side -------------------------------------------------------------------------- */

struct calls {
	struct worker *w;
	const struct machines_call *call;
	size_t n_pending;
	struct waiters ended;
	struct error failed; /* the first */
};

struct one_call {
	struct calls *all;
	struct worker_machine *machine;
	struct fiber *fiber;
};

static int call_fiber(void *userdata)
{
	struct one_call *c = userdata;
	struct calls *all = c->all;
	struct error err = {};
	int r = all->call->fn(all->w, c->machine, &err);

	if (r < 0 && !error_is_set(&all->failed))
		all->failed = err;
	all->n_pending--;
	waiters_wake_all(&all->ended);
	return r;
}

int machines_each(struct worker *w, const struct machines_call *call, struct error *err)
{
	struct one_call *calls = xcalloc(w->n_machines + 1, sizeof(*calls));
	struct calls all = {.w = w, .call = call};
	int r = 0;

	for (size_t i = 0; i < w->n_machines; i++) {
		if (!call->wanted(&w->machines[i]))
			continue;
		calls[i] = (struct one_call){.all = &all, .machine = &w->machines[i]};
		all.n_pending++;
		fiber_start(w->machines[i].spec->name, call_fiber, &calls[i], &calls[i].fiber);
	}
	while (r == 0 && all.n_pending > 0 && !error_is_set(&all.failed))
		r = fiber_wait(&all.ended, NS_FOREVER, call->what, err);
	if (r == 0 && error_is_set(&all.failed))
		r = error_propagate(err, &all.failed);
	/* At once, and only then one after the other to their ends. */
	for (size_t i = 0; i < w->n_machines; i++)
		if (calls[i].fiber)
			fiber_cancel(calls[i].fiber);
	for (size_t i = 0; i < w->n_machines; i++) {
		if (!calls[i].fiber)
			continue;
		fiber_stop(calls[i].fiber);
		fiber_unref(calls[i].fiber);
	}
	free(calls);
	return r;
}

static bool starts_itself(const struct worker_machine *m)
{
	return m->spec->autostart;
}

static int start_one(struct worker *w, struct worker_machine *m, struct error *err)
{
	struct machine_start_opts opts = {.savable = w->env.memory_dir != NULL};

	return machine_start(m->machine, &opts, worker_scaled(w, BOOT_TIMEOUT_NS), err);
}

int machines_boot(struct worker *w, struct error *err)
{
	static const struct machines_call call = {starts_itself, start_one, "machines to start"};

	if (w->n_machines == 0)
		return 0;
	worker_phase(w, "boot", worker_scaled(w, BOOT_TIMEOUT_NS));
	return machines_each(w, &call, err);
}

void machines_end(struct worker *w)
{
	worker_phase(w, "end", END_TIMEOUT_NS);
	/* First the script: what its handles free belongs to the machines. */
	script_free(w->script);
	w->script = NULL;
	for (size_t i = 0; i < w->n_machines; i++) {
		struct worker_machine *m = &w->machines[i];

		if (m->prestart) {
			fiber_stop(m->prestart);
			m->prestart = fiber_unref(m->prestart);
		}
		machine_free(TAKE_PTR(m->machine));
	}
}
