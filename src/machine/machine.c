/* SPDX-License-Identifier: MIT */
/* A machine's life from new to free, and the only calls of a backend's operations on it. */
#include "machine/machine-internal.h"

#include <assert.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

/*
 * Theory of operation
 *
 * A machine is a definition, a backend's vm, a console and an agent, watched all the time.
 *
 *	power.c  what the test asks for: start, shutdown, reset …; waits for `changed`
 *	watch.c  what happens: the VMM's end, a reset, hello, a closed channel; sets the state,
 *wakes panic.c  finds a kernel panic in the console's lines boot.c   how long the phases of a boot
 *took qmp.c    the VMM's events and commands recipe.c which image machine.c (here) everything that
 *calls the backend
 *
 * Requests never wait for one particular event and discard others: they look at the state, which
 * only the watchers set, and wait until it changed. Whatever ends the guest first calls
 * agent_fail(), so that every call under way ends at once with that as the reason, and sets the
 * state, which later calls look at first.
 *
 * Each run of the VMM has an agent of its own, for it has a stream of its own. Those of earlier
 *runs are kept, failed, until the machine goes: handles given out stay valid.
 */

static const char *const state_names[] = {
	[MACHINE_OFF] = "off",	     [MACHINE_STARTING] = "starting", [MACHINE_UP] = "up",
	[MACHINE_PAUSED] = "paused", [MACHINE_CRASHED] = "crashed",
};

const char *machine_state_name(enum machine_state s)
{
	assert((size_t)s < ARRAY_SIZE(state_names));
	return state_names[s];
}

/* A machine may be off for minutes while its backend cleans up; no longer. */
#define KILL_TIMEOUT_NS (30 * NS_PER_SEC)

int machine_new(const struct machine_spec *spec, const struct machine_env *env,
		struct machine **ret, struct error *err)
{
	_cleanup_free_ char *log_path = NULL, *name = NULL;
	const struct backend_ops *ops;
	struct machine *m;
	int r;

	r = backend_find(spec->backend, &ops, err);
	if (r >= 0 && ops->check)
		r = ops->check(spec, err);
	if (r < 0) {
		error_prefix(err, "machine '%s'", spec->name);
		return r;
	}
	m = xcalloc(1, sizeof(*m));
	*m = (struct machine){.spec = spec, .env = env, .ops = ops, .events = json_array()};
	m->panic.recent = xcalloc(PANIC_RECENT_LINES, sizeof(*m->panic.recent));
	if (env->dir) {
		name = xasprintf("console-%s.log", spec->name);
		log_path = path_join(env->dir, name);
	}
	m->console = console_new(log_path, &machine_console_callbacks, m, err);
	if (!m->console) {
		machine_free(m);
		return err ? -err->code : -EIO;
	}
	*ret = m;
	return 0;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	if (m->vmm_runs || m->vmm_starting || m->prestarted)
		vm_kill(m);
	timer_free(m->closed_timer);
	panic_done(m);
	agent_free(m->agent);
	for (size_t i = 0; i < m->n_retired; i++)
		agent_free(m->retired[i]);
	free(m->retired);
	if (m->vm)
		m->ops->close(m->vm);
	console_free(m->console);
	image_unref(m->image);
	json_decref(m->boot.times);
	json_decref(m->events);
	saved_unref(m->next_from);
	free(m);
}

const char *machine_name(const struct machine *m)
{
	return m->spec->name;
}

const struct machine_spec *machine_get_spec(const struct machine *m)
{
	return m->spec;
}

enum machine_state machine_get_state(const struct machine *m)
{
	return m->state;
}

struct console *machine_console(struct machine *m)
{
	return m->console;
}

const char *machine_accel(const struct machine *m)
{
	return m->accel;
}

bool machine_is_up(const struct machine *m)
{
	return m->state == MACHINE_UP;
}

json_t *machine_json_text(const char *text)
{
	json_t *ret = json_string(text);
	char *plain;

	if (ret)
		return ret;
	plain = xstrdup(text);
	for (char *c = plain; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	ret = json_string(plain);
	free(plain);
	return ret;
}

void machine_emit(struct machine *m, const char *type, json_t *fields)
{
	json_t *owned = fields ?: json_object();

	if (m->env->emit)
		m->env->emit(m->env->userdata, m->spec->name, type, owned);
	json_decref(owned);
}

void machine_set_state(struct machine *m, enum machine_state state, const char *reason)
{
	json_t *fields;

	if (state == m->state) {
		waiters_wake_all(&m->changed);
		return;
	}
	log_debug("machine '%s': %s -> %s%s%s", m->spec->name, state_names[m->state],
		  state_names[state], reason ? ": " : "", reason ?: "");
	m->state = state;
	fields = json_pack("{ss}", "state", state_names[state]);
	if (reason)
		json_object_set_new(fields, "reason", machine_json_text(reason));
	machine_emit(m, "state", fields);
	waiters_wake_all(&m->changed);
}

int machine_need_running(struct machine *m, const char *verb, struct error *err)
{
	if (m->vmm_runs)
		return 0;
	if (m->state == MACHINE_CRASHED)
		return error_propagate(err, &m->crash);
	error_set(err, ERROR_USAGE, ENOTCONN, "machine '%s' is off and cannot be %s", m->spec->name,
		  verb);
	error_hint(err, "start it first: m:start()");
	return -ENOTCONN;
}

/* --- the backend's operations --- */

/* The one standard error for what a backend cannot do. */
static int need_cap(struct machine *m, unsigned cap, bool has_op, const char *what,
		    struct error *err)
{
	if (has_op && (m->ops->caps() & cap))
		return 0;
	return error_set(err, ERROR_UNSUPPORTED, EOPNOTSUPP, "machine '%s': backend '%s' cannot %s",
			 m->spec->name, m->ops->name, what);
}

/* What every call ends with: a failure says why, and of which machine. */
static int finish(struct machine *m, const char *op, int r, struct error *own, struct error *err)
{
	if (r >= 0) {
		log_debug("machine '%s': %s: done", m->spec->name, op);
		return r;
	}
	log_debug("machine '%s': %s: %s", m->spec->name, op, own->message);
	assert(error_is_set(own));
	/* A machine that died in mid-call is told by what was seen of its end. */
	if (own->kind == ERROR_CRASH && m->state == MACHINE_CRASHED)
		return error_propagate(err, &m->crash);
	error_prefix(own, "machine '%s'", m->spec->name);
	return error_propagate(err, own);
}

int vm_open(struct machine *m, struct error *err)
{
	struct vm_init init = {
		.spec = m->spec,
		.env = m->env,
		.events = &machine_vm_events,
		.userdata = m,
	};
	struct error own = {};
	int r;

	if (m->vm)
		return 0;
	r = m->ops->open(&init, &m->vm, &own);
	return finish(m, "open", r, &own, err);
}

int vm_start(struct machine *m, const struct machine_start_opts *opts, struct saved *from,
	     struct vm_streams *ret, struct error *err)
{
	static const struct machine_start_opts no_opts;
	struct vm_start how = {
		.image = m->image,
		.opts = opts ?: &no_opts,
		.first = m->epoch_ns == 0,
		.from = from,
		.savable = (opts && opts->savable) || m->env->memory_dir,
	};
	struct error own = {};
	int r;

	assert(m->vm && !m->vmm_runs && !m->vmm_starting);
	log_debug("machine '%s': start", m->spec->name);
	m->vmm_starting = true;
	m->exited_early = false;
	m->prestarted = false;
	r = m->ops->start(m->vm, &how, ret, &own);
	m->vmm_starting = false;
	if (r >= 0) {
		assert(!ret->agent == !m->spec->agent);
		m->vmm_runs = true;
	}
	return finish(m, "start", r, &own, err);
}

void vm_kill(struct machine *m)
{
	struct fiber_shield shield;

	if (!m->vmm_runs && !m->prestarted) {
		m->killed_as = NULL;
		return;
	}
	log_debug("machine '%s': kill", m->spec->name);
	m->killing = true;
	fiber_shield_enter(&shield, KILL_TIMEOUT_NS);
	m->ops->kill(m->vm);
	fiber_shield_leave(&shield);
	assert(!m->vmm_runs); /* on_exit came */
	m->killing = m->prestarted = false;
	m->killed_as = NULL;
}

int vm_need_snapshots(struct machine *m, struct error *err)
{
	return need_cap(m, MACHINE_CAP_SNAPSHOT, m->ops->save, "save and restore machines", err);
}

int vm_save(struct machine *m, bool keep, struct saved **ret, struct error *err)
{
	struct error own = {};
	int r;

	assert(m->vm);
	log_debug("machine '%s': save", m->spec->name);
	m->killing = !keep && m->vmm_runs;
	m->killed_as = "saved";
	r = m->ops->save(m->vm, keep, ret, &own);
	m->killing = false;
	m->killed_as = NULL;
	if (!keep)
		vm_kill(m); /* what could not be saved */
	return finish(m, "save", r, &own, err);
}

void vm_prestart(struct machine *m, struct saved *from)
{
	static const struct machine_start_opts no_opts;
	struct vm_start how = {
		.image = m->image,
		.opts = &no_opts,
		.from = from,
		.savable = m->env->memory_dir != NULL,
	};

	assert(m->vm && !m->vmm_runs);
	if (!m->ops->prestart)
		return;
	m->prestarted = true;
	m->ops->prestart(m->vm, &how);
}

int vm_power_button(struct machine *m, struct error *err)
{
	struct error own = {};
	int r = need_cap(m, MACHINE_CAP_POWEROFF, m->ops->power_button, "press the power button",
			 err);

	assert(r < 0 || m->vmm_runs);
	return r < 0 ? r : finish(m, "power button", m->ops->power_button(m->vm, &own), &own, err);
}

int vm_reset(struct machine *m, struct error *err)
{
	struct error own = {};
	int r = need_cap(m, MACHINE_CAP_POWEROFF, m->ops->reset, "press the reset button", err);

	assert(r < 0 || m->vmm_runs);
	return r < 0 ? r : finish(m, "reset", m->ops->reset(m->vm, &own), &own, err);
}

int vm_pause(struct machine *m, struct error *err)
{
	struct error own = {};
	int r = need_cap(m, MACHINE_CAP_PAUSE, m->ops->pause, "pause a machine", err);

	assert(r < 0 || m->vmm_runs);
	return r < 0 ? r : finish(m, "pause", m->ops->pause(m->vm, &own), &own, err);
}

int vm_resume(struct machine *m, struct error *err)
{
	struct error own = {};
	int r = need_cap(m, MACHINE_CAP_PAUSE, m->ops->resume, "pause a machine", err);

	assert(r < 0 || m->vmm_runs);
	return r < 0 ? r : finish(m, "continue", m->ops->resume(m->vm, &own), &own, err);
}

int vm_eject(struct machine *m, const char *disk, struct error *err)
{
	struct error own = {};
	int r = need_cap(m, MACHINE_CAP_DISKS, m->ops->eject, "eject a disk", err);

	assert(r < 0 || m->vmm_runs);
	return r < 0 ? r : finish(m, "eject", m->ops->eject(m->vm, disk, &own), &own, err);
}

int vm_qmp(struct machine *m, const char *command, json_t *args, uint64_t timeout_ns, json_t **ret,
	   struct error *err)
{
	struct error own = {};
	int r = need_cap(m, MACHINE_CAP_QMP, m->ops->qmp, "speak QMP", err);

	assert(r < 0 || m->vmm_runs);
	if (r < 0)
		return r;
	r = m->ops->qmp(m->vm, command, args, timeout_ns, ret, &own);
	return finish(m, command, r, &own, err);
}
