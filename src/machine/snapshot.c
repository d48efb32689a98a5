/* SPDX-License-Identifier: MIT */
/* Machines saved and restored: what the model knows goes with memory, devices and disks. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"
#include "machine/machine-internal.h"
#include "machine/recipe.h"

/*
 * Theory of operation
 *
 *	save	freeze the agent ─► backend's save() ─► thaw (keep) | off
 *		several at one instant: freeze all, pause all, save(), go on, thaw
 *	restore	kill what runs ─► backend's start(from) ─► thaw ─► up
 *
 * Saving and restoring are power switches: they hold the power lock. Between freeze and thaw the
 * agent's stream is silent, so no byte of it is saved half way.
 *
 * The guest goes on as if nothing had been; so must the model. saved->core holds what the guest's
 * past is to a test:
 *
 *	"state"		"up" or "off"
 *	"boot"		struct boot; times relative to its beginning
 *	"seen", "manager"	boot ids: see struct machine
 *	"console"	what it has said (console_save)
 *	"events"	what the VMM has told
 *
 * Console and events are taken at the very instant (on_saving), while the vCPUs stand still: what
 * the guest prints a moment later it will print again when it is restored.
 *
 * Calls of the test that were under way, processes that it has started: those of a restored machine
 * are others, though their counterparts live on in the guest. Calls fail as when the plug is
 * pulled, but with `was restored` as the reason.
 */

/* For what must be done whatever has become of it. */
#define GO_ON_TIMEOUT_NS (30 * NS_PER_SEC)

/* --- What the model knows ------------------------------------------------------------------- */

static json_t *relative(uint64_t ns, uint64_t zero)
{
	return json_integer((json_int_t)(ns > zero ? ns - zero : 1));
}

static json_t *save_boot(const struct boot *b)
{
	json_t *ret = json_pack("{s:o, s:I}", "id", machine_json_text(b->id), "hello_uptime_ns",
				(json_int_t)b->hello_uptime_ns);

	if (b->hello_ns)
		json_object_set_new(ret, "hello_ns", relative(b->hello_ns, b->begin_ns));
	if (b->ready_ns)
		json_object_set_new(ret, "ready_ns", relative(b->ready_ns, b->begin_ns));
	if (b->times)
		json_object_set(ret, "times", b->times);
	return ret;
}

void snapshot_on_saving(void *userdata)
{
	struct machine *m = userdata;

	console_catch_up(m->console);
	if (!m->saving)
		return;
	json_object_set_new(m->saving, "console", console_save(m->console));
	json_object_set_new(m->saving, "events", json_copy(m->events));
}

static json_t *save_core(struct machine *m)
{
	return json_pack("{s:s, s:o, s:s, s:s, s:o, s:o}", "state",
			 m->state == MACHINE_UP ? "up" : "off", "boot", save_boot(&m->boot), "seen",
			 m->seen_boot_id, "manager", m->manager_boot_id, "console",
			 console_save(m->console), "events", json_copy(m->events));
}

static void copy_id(char ret[BOOT_ID_MAX], json_t *object, const char *key)
{
	snprintf(ret, BOOT_ID_MAX, "%s", json_string_value(json_object_get(object, key)) ?: "");
}

static uint64_t number(json_t *object, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(object, key));

	return n > 0 ? (uint64_t)n : 0;
}

static void restore_boot(struct machine *m, json_t *saved)
{
	uint64_t hello = number(saved, "hello_ns"), ready = number(saved, "ready_ns");

	boot_begin(m, m->epoch_ns);
	copy_id(m->boot.id, saved, "id");
	m->boot.hello_uptime_ns = number(saved, "hello_uptime_ns");
	if (hello)
		m->boot.hello_ns = m->epoch_ns + hello;
	if (ready)
		m->boot.ready_ns = m->epoch_ns + ready;
	if (json_is_object(json_object_get(saved, "times")))
		m->boot.times = json_deep_copy(json_object_get(saved, "times"));
}

/* The VMM is off, or has been started from that state just now. */
static void restore_core(struct machine *m, json_t *core)
{
	json_t *events = json_object_get(core, "events");

	restore_boot(m, json_object_get(core, "boot"));
	copy_id(m->seen_boot_id, core, "seen");
	copy_id(m->manager_boot_id, core, "manager");
	m->reset_boot_id[0] = '\0';
	console_restore(m->console, json_object_get(core, "console"));
	/* What the VMM told since its start comes behind what was told then. */
	if (json_is_array(events)) {
		json_t *all = json_copy(events);

		json_array_extend(all, m->events);
		json_decref(m->events);
		m->events = all;
	}
	waiters_wake_all(&m->event_waiters);
}

/* --- Saving --------------------------------------------------------------------------------- */

static int check_saveable_now(struct machine *m, struct error *err)
{
	switch (m->state) {
	case MACHINE_OFF:
	case MACHINE_UP:
		return 0;
	case MACHINE_PAUSED:
		return power_paused_error(m, err);
	case MACHINE_STARTING:
		error_set(err, ERROR_USAGE, EBUSY, "machine '%s' boots, and cannot be saved now",
			  m->spec->name);
		error_hint(err, "wait until it is up: m:start() or m:wait_for_boot()");
		return -EBUSY;
	case MACHINE_CRASHED:
		error_set(err, ERROR_USAGE, ENOTCONN,
			  "machine '%s' has crashed: there is nothing "
			  "to be saved",
			  m->spec->name);
		error_hint(err, "the reason: %.400s", m->crash.message);
		return -ENOTCONN;
	}
	return 0;
}

/* One of the machines that are saved together. */
struct saving {
	struct machine *m;
	bool locked, frozen, paused;
	struct saved *saved;
};

/* Silence, and then nothing moves. Where there is one machine only, save() stops it itself. */
static int hold(struct saving *s, size_t n, uint64_t deadline, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r >= 0; i++) {
		if (s[i].m->state != MACHINE_UP || !s[i].m->spec->agent)
			continue;
		r = agent_freeze(s[i].m->agent, timeout_left(deadline), err);
		s[i].frozen = r >= 0;
		if (r < 0)
			machine_explain_crash(s[i].m, err);
	}
	for (size_t i = 0; i < n && n > 1 && r >= 0; i++) {
		if (s[i].m->state != MACHINE_UP)
			continue;
		s[i].m->held = true;
		/* One that was given up may yet come true. */
		s[i].paused = true;
		r = vm_pause(s[i].m, err);
	}
	/* While one was waited for, another may have died. */
	for (size_t i = 0; i < n && r >= 0; i++)
		r = check_saveable_now(s[i].m, err);
	return r;
}

/* Of a machine that was never started nothing is known but that. */
static int save_one(struct saving *s, bool keep, struct error *err)
{
	struct machine *m = s->m;
	int r;

	if (m->state == MACHINE_OFF && m->next_from) {
		s->saved = saved_ref(m->next_from);
		return 0;
	}
	m->saving = save_core(m);
	if (m->vm) {
		r = vm_save(m, keep, &s->saved, err);
		if (r < 0)
			machine_explain_crash(m, err);
	} else {
		s->saved = saved_new();
		r = 0;
	}
	if (r >= 0) {
		json_decref(s->saved->core);
		s->saved->core = json_incref(m->saving);
	}
	json_decref(TAKE_PTR(m->saving));
	return r;
}

/* One that stands still, or hears nothing, is of no use any more: all that is asked of it says so.
 */
static int stay_behind(struct machine *m, struct error *why, struct error *err)
{
	if (m->vmm_runs && m->state != MACHINE_CRASHED)
		machine_crash(m, why);
	return error_propagate(err, why);
}

static int go_on(struct saving *s, uint64_t timeout_ns, struct error *err)
{
	struct machine *m = s->m;
	struct error why = {};

	if (!m->vmm_runs)
		return 0;
	if (m->state == MACHINE_CRASHED)
		return error_propagate(err, &m->crash);
	/* A guest that has begun anew meanwhile has nothing to thaw. */
	if (!s->frozen || !agent_is_frozen(m->agent) ||
	    agent_thaw(m->agent, NULL, timeout_ns, &why) >= 0)
		return 0;
	machine_explain_crash(m, &why);
	if (!m->vmm_runs || !agent_is_frozen(m->agent))
		return error_propagate(err, &why);
	error_prefix(&why, "machine '%s' was saved and does not go on", m->spec->name);
	return stay_behind(m, &why, err);
}

/* They go on, whether they were saved or not, and though whoever waited may have given up; also
 * when saving has taken all the time that there was. */
static int let_go(struct saving *s, size_t n, uint64_t deadline, struct error *err)
{
	uint64_t timeout_ns = MAX(timeout_left(deadline), GO_ON_TIMEOUT_NS);
	struct fiber_shield shield;
	int r = 0, k;

	fiber_shield_enter(&shield, timeout_ns);
	for (size_t i = 0; i < n; i++) {
		struct error why = {};

		if (s[i].paused && s[i].m->vmm_runs && vm_resume(s[i].m, &why) < 0) {
			k = stay_behind(s[i].m, &why, r < 0 ? NULL : err);
			r = r < 0 ? r : k;
		}
		s[i].m->held = false;
	}
	for (size_t i = 0; i < n; i++) {
		k = go_on(&s[i], timeout_ns, r < 0 ? NULL : err);
		r = r < 0 ? r : k;
	}
	fiber_shield_leave(&shield);
	return r;
}

static int save_held(struct saving *s, size_t n, bool keep, uint64_t deadline, struct error *err)
{
	struct deadline_scope scope;
	struct error lost = {};
	int r = hold(s, n, deadline, err);

	deadline_enter(&scope, timeout_left(deadline), ERROR_TIMEOUT, "the time to save");
	for (size_t i = 0; i < n && r >= 0; i++)
		r = save_one(&s[i], keep, err);
	deadline_leave(&scope);
	/* A template is whole or is not. */
	for (size_t i = 0; i < n && !keep; i++) {
		s[i].m->killed_as = "saved";
		vm_kill(s[i].m);
	}
	if (let_go(s, n, deadline, &lost) < 0 && r >= 0)
		r = error_propagate(err, &lost);
	return r;
}

static int lock_all(struct saving *s, size_t n, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r >= 0; i++) {
		r = vm_need_snapshots(s[i].m, err);
		if (r >= 0)
			r = power_lock(s[i].m, err);
		s[i].locked = r >= 0;
		if (r >= 0)
			r = check_saveable_now(s[i].m, err);
	}
	return r;
}

int machine_save_all(struct machine *const *machines, size_t n, bool keep, uint64_t timeout_ns,
		     struct saved **ret, struct error *err)
{
	_cleanup_free_ struct saving *s = xcalloc(n + 1, sizeof(*s));
	uint64_t deadline = deadline_in(timeout_ns);
	struct error why = {};
	int r;

	for (size_t i = 0; i < n; i++)
		s[i].m = machines[i];
	r = lock_all(s, n, &why);
	if (r >= 0)
		r = save_held(s, n, keep, deadline, &why);
	for (size_t i = 0; i < n; i++) {
		if (s[i].locked)
			power_unlock(s[i].m);
		if (r >= 0)
			ret[i] = s[i].saved;
		else
			saved_unref(s[i].saved);
	}
	return r < 0 ? error_propagate(err, &why) : 0;
}

int machine_save(struct machine *m, bool keep, uint64_t timeout_ns, struct saved **ret,
		 struct error *err)
{
	return machine_save_all(&m, 1, keep, timeout_ns, ret, err);
}

/* --- Restoring ------------------------------------------------------------------------------ */

/* What runs ends; what was under way learns why. */
static int make_room(struct machine *m, struct error *err)
{
	int r;

	if (!m->prestarted || m->vmm_runs) {
		m->killed_as = "restored";
		vm_kill(m);
	}
	r = power_prepare(m, err);
	if (r >= 0)
		m->next_from = saved_unref(m->next_from);
	return r;
}

static int restore_off(struct machine *m, struct saved *from)
{
	m->next_from = saved_ref(from);
	/* For whoever still looks at what it was before. */
	error_clear(&m->crash);
	error_set(&m->crash, ERROR_CRASH, ENOTCONN, "machine '%s' was restored", m->spec->name);
	restore_core(m, from->core);
	machine_set_state(m, MACHINE_OFF, "restored");
	return 0;
}

/* The guest runs already; until the thaw it does not know that time has passed. */
static int wake_up(struct machine *m, const struct machine_restore_opts *opts, uint64_t deadline,
		   struct error *err)
{
	struct agent_thaw how = {.machine_id = opts->machine_id};
	struct error why = {};
	int r;

	if (!m->spec->agent) {
		machine_set_state(m, MACHINE_UP, NULL);
		return 0;
	}
	m->thawing = true;
	r = agent_thaw(m->agent, &how, timeout_left(deadline), &why);
	m->thawing = false;
	if (r >= 0 && m->state != MACHINE_UP)
		r = error_set(&why, ERROR_INFRA, EPROTO,
			      "machine '%s': its agent has thawed and is not ready", m->spec->name);
	if (r >= 0)
		return 0;
	machine_explain_crash(m, &why);
	return error_propagate(err, &why);
}

static void attach(struct machine *m, const struct vm_streams *s)
{
	if (s->console)
		console_resume(m->console, s->console, s->epoch_ns);
	if (s->agent)
		m->agent = agent_new_frozen(s->agent, &machine_agent_callbacks, m);
}

static int restore_running(struct machine *m, struct saved *from,
			   const struct machine_restore_opts *opts, uint64_t deadline,
			   struct error *err)
{
	struct machine_start_opts start = {.savable = opts->savable};
	uint64_t begin = now_ns();
	struct vm_streams streams = {};
	int r;

	power_begin(m);
	r = vm_start(m, &start, from, &streams, err);
	if (r < 0) {
		power_failed(m);
		return r;
	}
	m->epoch_ns = streams.epoch_ns;
	m->accel = streams.accel;
	restore_core(m, from->core);
	attach(m, &streams);
	power_emit_vmm(m, &streams);
	if (m->exited_early) {
		machine_vmm_ended(m, false, m->early_how);
		return error_propagate(err, &m->crash);
	}
	r = wake_up(m, opts, deadline, err);
	if (r < 0) {
		vm_kill(m);
		return r;
	}
	m->boot.fork_ns = now_ns() - begin;
	snprintf(m->seen_boot_id, sizeof(m->seen_boot_id), "%s", m->boot.id);
	machine_emit(m, "restored",
		     json_pack("{s:f}", "seconds", (double)m->boot.fork_ns / NS_PER_SEC));
	return 0;
}

int machine_restore(struct machine *m, struct saved *from, const struct machine_restore_opts *opts,
		    uint64_t timeout_ns, struct error *err)
{
	static const struct machine_restore_opts no_opts;
	uint64_t deadline = deadline_in(timeout_ns);
	struct error why = {};
	int r;

	if ((r = vm_need_snapshots(m, err)) < 0 || (r = power_lock(m, err)) < 0)
		return r;
	saved_ref(from);
	r = make_room(m, &why);
	if (r >= 0)
		r = from->devices_fd < 0
			    ? restore_off(m, from)
			    : restore_running(m, from, opts ?: &no_opts, deadline, &why);
	saved_unref(from);
	power_unlock(m);
	if (r >= 0)
		return 0;
	/* Whatever became of it, it is not the fault of what is tested. */
	if (why.kind == ERROR_CRASH || why.kind == ERROR_EXPECT || why.kind == ERROR_TIMEOUT)
		why.kind = ERROR_INFRA;
	return error_propagate(err, &why);
}

struct restoring {
	struct machine *m;
	struct saved *from;
	const struct machine_restore_opts *opts;
	uint64_t timeout_ns;
	struct error err;
};

static int restoring_main(void *userdata)
{
	struct restoring *r = userdata;

	return machine_restore(r->m, r->from, r->opts, r->timeout_ns, &r->err);
}

int machine_restore_all(struct machine *const *machines, struct saved *const *from, size_t n,
			const struct machine_restore_opts *opts, uint64_t timeout_ns,
			struct error *err)
{
	_cleanup_free_ struct restoring *all = xcalloc(n + 1, sizeof(*all));
	_cleanup_free_ struct fiber **fibers = xcalloc(n + 1, sizeof(*fibers));
	int r = 0;

	for (size_t i = 0; i < n; i++) {
		all[i] = (struct restoring){machines[i], from[i], opts, timeout_ns, {}};
		fiber_start("restore", restoring_main, &all[i], &fibers[i]);
	}
	for (size_t i = 0; i < n; i++) {
		struct error why = {};

		/* Cancelled: so are they, each of which cleans up. */
		if (fiber_join(fibers[i], NS_FOREVER, &why) < 0) {
			fiber_stop(fibers[i]);
			if (r >= 0)
				r = error_propagate(err, &why);
		} else if (fiber_result(fibers[i]) < 0 && r >= 0) {
			r = error_propagate(err, &all[i].err);
		}
		fiber_unref(fibers[i]);
	}
	return r;
}

void machine_prestart(struct machine *m, struct saved *from)
{
	if (m->power_busy || m->vmm_runs || !(m->ops->caps() & MACHINE_CAP_SNAPSHOT))
		return;
	if (power_lock(m, NULL) < 0)
		return;
	if (power_prepare(m, NULL) >= 0)
		vm_prestart(m, from);
	power_unlock(m);
}
