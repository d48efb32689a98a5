/* SPDX-License-Identifier: MIT */
/* What a test asks of a machine's power: on, off, reset, pause, and the waits for it. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "machine/machine-internal.h"
#include "machine/recipe.h"

/*
 * Theory of operation
 *
 * A request changes what is asked for (off_asked, reset_asked), calls the backend or the guest's
 * init, and then waits for `changed` until the state is the wanted one. It never sets UP or CRASHED
 * itself: that is the watchers' part, who may also have done it before the request got to wait.
 *
 * Starting and pulling the plug are the two that must not overlap; they take the power lock. All
 * others may run beside anything: shutdown while another fiber waits for a boot is a test's own
 * affair, and both learn from the state what became of it.
 *
 * Which boot. A test that says wait_for_boot means one that it has not met yet, however early the
 * guest came back. So the last boot id that a call of the test ran under is remembered
 * (seen_boot_id) and not the one at the moment of the wait.
 */

/* --- one at a time --- */

int power_lock(struct machine *m, struct error *err)
{
	while (m->power_busy) {
		int r = fiber_wait(&m->power_waiters, NS_FOREVER, "another fiber's power switch",
				   err);

		if (r < 0)
			return r;
	}
	m->power_busy = true;
	return 0;
}

void power_unlock(struct machine *m)
{
	m->power_busy = false;
	waiters_wake_one(&m->power_waiters);
}

/* --- on --- */

/* The test has met this boot; machine_wait_boot() waits for another. */
static void mark_seen(struct machine *m)
{
	snprintf(m->seen_boot_id, sizeof(m->seen_boot_id), "%s", m->boot.id);
}

int power_paused_error(struct machine *m, struct error *err)
{
	error_set(err, ERROR_USAGE, EBUSY, "machine '%s' is paused", m->spec->name);
	error_hint(err, "let it go on first: m:continue()");
	return -EBUSY;
}

/* Turns a plain time-out into one that says how far the boot came. */
static int boot_timeout(struct machine *m, struct error *why, struct error *err)
{
	if (why->kind != ERROR_TIMEOUT && why->kind != ERROR_DEADLINE)
		return error_propagate(err, why);
	if (m->panic.present) {
		error_set(err, why->kind, why->code, "%s; it had panicked: %.400s", why->message,
			  m->panic.message);
	} else if (m->boot.resets > 0) {
		error_set(err, why->kind, why->code, "%s; it has reset itself %u time%s meanwhile",
			  why->message, m->boot.resets, m->boot.resets == 1 ? "" : "s");
	} else if (m->boot.ready_ns) {
		error_set(err, why->kind, why->code, "%s; it still runs what it ran before",
			  why->message);
	} else if (m->boot.id[0]) {
		error_set(err, why->kind, why->code, "%s; it got no further than its initramfs",
			  why->message);
	} else {
		error_propagate(err, why);
	}
	error_hint(err, "console-%s.log in the test's folder shows how far it came", m->spec->name);
	return -why->code;
}

/*
 * Until the machine is up, under another boot id than `other_than` if that is not NULL. A crash
 * ends the wait, but one for another boot goes on over a reset, and over the crash that was there
 * before (a kernel that panicked may reboot by itself), as long as the VMM lives.
 */
static int wait_up(struct machine *m, const char *other_than, uint64_t deadline_ns,
		   uint64_t timeout_ns, struct error *err)
{
	unsigned n_crashes = m->n_crashes;
	struct error why = {};
	char what[128];
	int r;

	snprintf(what, sizeof(what), "the agent of machine '%s'", m->spec->name);
	for (;;) {
		bool other = !other_than || !str_eq(m->boot.id, other_than);
		bool may_return = other_than && m->vmm_runs &&
				  (m->crash_is_reset || m->n_crashes == n_crashes);

		if (m->state == MACHINE_UP && !m->agent_closed && other)
			return 0;
		if (m->state == MACHINE_OFF || (m->state == MACHINE_CRASHED && !may_return))
			return error_propagate(err, &m->crash);
		if (m->state == MACHINE_PAUSED)
			return power_paused_error(m, err);
		r = fiber_wait_until(&m->changed, deadline_ns, timeout_ns, what, &why);
		if (r < 0)
			return boot_timeout(m, &why, err);
	}
}

/*
 * wait_up(), and then until systemd takes requests where it is the init. The agent answers a second
 * or so before that; a test whose first command is a systemctl must not run into the gap.
 */
static int wait_ready(struct machine *m, const char *other_than, uint64_t deadline_ns,
		      uint64_t timeout_ns, struct error *err)
{
	static const struct agent_socket_wait manager = {.type = AGENT_SOCKET_UNIX,
							 .address = "/run/systemd/private"};
	struct error why = {};
	int r;

	r = wait_up(m, other_than, deadline_ns, timeout_ns, err);
	if (r < 0 || !m->spec->agent || !m->image || !image_has_systemd(m->image) ||
	    str_eq(m->manager_boot_id, m->boot.id))
		return r;
	r = agent_wait_socket(m->agent, &manager, timeout_left(deadline_ns), &why);
	if (r < 0) {
		if (why.kind == ERROR_TIMEOUT) {
			error_set(err, why.kind, why.code,
				  "systemd of machine '%s' never took a request", m->spec->name);
			error_hint(err, "console-%s.log in the test's folder shows how far it came",
				   m->spec->name);
			return -why.code;
		}
		machine_explain_crash(m, &why);
		return error_propagate(err, &why);
	}
	snprintf(m->manager_boot_id, sizeof(m->manager_boot_id), "%s", m->boot.id);
	return 0;
}

int power_prepare(struct machine *m, struct error *err)
{
	struct error why = {};
	int r;

	if (!m->image) {
		r = machine_image(m->spec, m->env->base_dir, NULL, &m->image, &why);
		if (r < 0) {
			error_prefix(&why, "machine '%s'", m->spec->name);
			return error_propagate(err, &why);
		}
	}
	return vm_open(m, err);
}

static void take_streams(struct machine *m, const struct vm_streams *s)
{
	m->epoch_ns = s->epoch_ns;
	m->accel = s->accel;
	boot_begin(m, s->epoch_ns);
	if (s->console)
		console_attach(m->console, s->console, s->epoch_ns);
	if (s->agent)
		m->agent = agent_new(s->agent, &machine_agent_callbacks, m);
}

void power_emit_vmm(struct machine *m, const struct vm_streams *s)
{
	json_t *fields = json_object();

	if (s->pid > 0)
		json_object_set_new(fields, "pid", json_integer(s->pid));
	if (s->accel)
		json_object_set_new(fields, "accel", json_string(s->accel));
	if (s->pid > 0) {
		char *file = xasprintf("vmm-%s.txt", m->spec->name);

		json_object_set_new(fields, "file", machine_json_text(file));
		free(file);
	}
	machine_emit(m, "vmm", fields);
}

void power_begin(struct machine *m)
{
	json_array_clear(m->events);
	m->off_asked = m->reset_asked = false;
	error_clear(&m->crash);
	machine_set_state(m, MACHINE_STARTING, NULL);
}

void power_failed(struct machine *m)
{
	error_set(&m->crash, ERROR_CRASH, ENOTCONN, "machine '%s' could not be started",
		  m->spec->name);
	machine_set_state(m, MACHINE_OFF, "the VMM could not be started");
}

/* With the lock held, and the machine off or crashed. */
static int power_on(struct machine *m, const struct machine_start_opts *opts, struct error *err)
{
	struct vm_streams streams = {};
	int r;

	vm_kill(m); /* what crashed may still be there */
	r = power_prepare(m, err);
	if (r < 0)
		return r;
	power_begin(m);
	r = vm_start(m, opts, m->next_from, &streams, err);
	if (r < 0) {
		power_failed(m);
		return r;
	}
	m->next_from = saved_unref(m->next_from);
	take_streams(m, &streams);
	power_emit_vmm(m, &streams);
	if (m->exited_early) {
		machine_vmm_ended(m, false, m->early_how);
		return error_propagate(err, &m->crash);
	}
	if (!m->spec->agent)
		machine_set_state(m, MACHINE_UP, NULL);
	return 0;
}

int machine_start(struct machine *m, const struct machine_start_opts *opts, uint64_t timeout_ns,
		  struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	int r;

	r = power_lock(m, err);
	if (r < 0)
		return r;
	if (m->state == MACHINE_OFF || m->state == MACHINE_CRASHED)
		r = power_on(m, opts, err);
	power_unlock(m);
	if (r < 0 || (opts && opts->no_wait))
		return r;
	r = wait_ready(m, NULL, deadline, timeout_ns, err);
	if (r >= 0)
		mark_seen(m);
	return r;
}

static int need_agent(struct machine *m, struct error *err)
{
	if (m->spec->agent)
		return 0;
	error_set(err, ERROR_USAGE, EOPNOTSUPP, "machine '%s' has no agent (agent = false)",
		  m->spec->name);
	error_hint(err, "its console and its VMM can be used; commands and files cannot");
	return -EOPNOTSUPP;
}

int machine_agent(struct machine *m, uint64_t timeout_ns, struct agent **ret, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	int r = need_agent(m, err);

	if (r < 0)
		return r;
	if (m->state == MACHINE_OFF) {
		r = machine_start(m, NULL, timeout_ns, err);
		if (r < 0)
			return r;
	}
	r = wait_ready(m, NULL, deadline, timeout_ns, err);
	if (r < 0)
		return r;
	mark_seen(m);
	*ret = m->agent;
	return 0;
}

/* --- off --- */

static int wait_off(struct machine *m, uint64_t deadline_ns, uint64_t timeout_ns, struct error *err)
{
	char what[128];

	snprintf(what, sizeof(what), "machine '%s' to turn itself off", m->spec->name);
	while (m->state != MACHINE_OFF) {
		int r;

		if (m->state == MACHINE_CRASHED)
			return error_propagate(err, &m->crash);
		r = fiber_wait_until(&m->changed, deadline_ns, timeout_ns, what, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Asks the guest's init through the agent, within the caller's time-out. */
static int ask_init(struct machine *m, enum agent_power how, uint64_t deadline_ns,
		    uint64_t timeout_ns, struct error *err)
{
	char duration[FORMAT_MAX], what[64];
	struct deadline_scope scope;
	int r;

	snprintf(what, sizeof(what), "the time-out of %s", format_duration(timeout_ns, duration));
	deadline_enter(&scope, timeout_left(deadline_ns), ERROR_TIMEOUT, what);
	r = agent_power(m->agent, how, err);
	deadline_leave(&scope);
	return r;
}

/* Asks for an orderly end: the agent, or without one the power button. */
static int ask_off(struct machine *m, uint64_t deadline_ns, uint64_t timeout_ns, struct error *err)
{
	struct error why = {};
	int r;

	if (!m->spec->agent) {
		r = machine_need_running(m, "shut down", err);
		m->off_asked = r >= 0;
		return r < 0 ? r : vm_power_button(m, err);
	}
	r = wait_ready(m, NULL, deadline_ns, timeout_ns, err);
	if (r < 0)
		return r;
	m->off_asked = true;
	r = ask_init(m, AGENT_POWEROFF, deadline_ns, timeout_ns, &why);
	/* The end may be faster than the answer. */
	if (r < 0 && m->state != MACHINE_OFF)
		return error_propagate(err, &why);
	return 0;
}

int machine_shutdown(struct machine *m, uint64_t timeout_ns, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	int r;

	/* Off, but another fiber is about to start it: what it is then is what counts. */
	while (m->state == MACHINE_OFF) {
		if (!m->power_busy)
			return 0;
		r = power_lock(m, err);
		if (r < 0)
			return r;
		power_unlock(m);
	}
	if (m->state == MACHINE_PAUSED)
		return power_paused_error(m, err);
	r = ask_off(m, deadline, timeout_ns, err);
	if (r >= 0)
		r = wait_off(m, deadline, timeout_ns, err);
	if (r < 0)
		m->off_asked = false;
	return r;
}

int machine_wait_shutdown(struct machine *m, uint64_t timeout_ns, struct error *err)
{
	return wait_off(m, deadline_in(timeout_ns), timeout_ns, err);
}

int machine_unplug(struct machine *m, struct error *err)
{
	int r = power_lock(m, err);

	if (r < 0)
		return r;
	vm_kill(m);
	machine_set_state(m, MACHINE_OFF, NULL); /* from CRASHED, when the VMM was gone already */
	power_unlock(m);
	return 0;
}

/* --- again --- */

int machine_wait_boot(struct machine *m, uint64_t timeout_ns, struct error *err)
{
	char seen[BOOT_ID_MAX];
	int r = need_agent(m, err);

	if (r < 0)
		return r;
	if (m->state == MACHINE_OFF)
		return machine_start(m, NULL, timeout_ns, err);
	snprintf(seen, sizeof(seen), "%s", m->seen_boot_id);
	/* A kernel that panicked may start another one, and no VMM tells of that. */
	if (m->state == MACHINE_CRASHED && m->vmm_runs)
		agent_revive(m->agent);
	r = wait_ready(m, seen, deadline_in(timeout_ns), timeout_ns, err);
	if (r >= 0)
		mark_seen(m);
	return r;
}

int machine_reboot(struct machine *m, uint64_t timeout_ns, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	char before[BOOT_ID_MAX];
	struct error why = {};
	struct agent *agent;
	int r;

	r = machine_agent(m, timeout_ns, &agent, err);
	if (r < 0)
		return r;
	snprintf(before, sizeof(before), "%s", m->boot.id);
	m->reset_asked = true;
	r = ask_init(m, AGENT_REBOOT, deadline, timeout_ns, &why);
	/* It may be faster than its answer: then a new boot has begun. */
	if (r < 0 && why.kind == ERROR_CRASH && !str_eq(before, m->boot.id) && m->vmm_runs)
		r = 0;
	if (r < 0) {
		m->reset_asked = false;
		return error_propagate(err, &why);
	}
	r = wait_ready(m, before, deadline, timeout_ns, err);
	if (r >= 0)
		mark_seen(m);
	return r;
}

int machine_reset(struct machine *m, struct error *err)
{
	struct error why = {};
	int r = machine_need_running(m, "reset", err);

	if (r < 0)
		return r;
	m->reset_asked = true;
	r = vm_reset(m, err);
	if (r < 0) {
		m->reset_asked = false;
		return r;
	}
	if (!m->spec->agent || !m->vmm_runs)
		return 0;
	/* The VMM tells of the reset in its own time; no call may reach the old boot until then. */
	panic_finish(m);
	if (m->boot.id[0])
		snprintf(m->reset_boot_id, sizeof(m->reset_boot_id), "%s", m->boot.id);
	error_set(&why, ERROR_CRASH, ECONNRESET, "machine '%s' was reset", m->spec->name);
	machine_new_session(m, &why);
	if (m->state == MACHINE_PAUSED)
		m->unpaused = MACHINE_STARTING;
	else
		machine_set_state(m, MACHINE_STARTING, why.message);
	return 0;
}

/* --- vCPUs, disks --- */

int machine_pause(struct machine *m, struct error *err)
{
	int r = machine_need_running(m, "paused", err);

	if (r < 0 || m->state == MACHINE_PAUSED)
		return r;
	return vm_pause(m, err);
}

int machine_continue(struct machine *m, struct error *err)
{
	int r = machine_need_running(m, "continued", err);

	if (r < 0)
		return r;
	if (m->state != MACHINE_PAUSED)
		return 0;
	return vm_resume(m, err);
}

int machine_eject(struct machine *m, const char *disk, struct error *err)
{
	const char **names = xcalloc(m->spec->n_disks + 1, sizeof(*names));
	bool known = false;
	int r;

	for (size_t i = 0; i < m->spec->n_disks; i++) {
		names[i] = m->spec->disks[i].name;
		known |= str_eq(names[i], disk);
	}
	if (!known) {
		const char *near = nearest_name(disk, names);

		r = error_set(err, ERROR_USAGE, ENOENT, "machine '%s' has no disk '%.80s'",
			      m->spec->name, disk);
		if (near)
			error_hint(err, "did you mean '%s'?", near);
	} else {
		r = machine_need_running(m, "changed", err);
		if (r >= 0)
			r = vm_eject(m, disk, err);
	}
	free(names);
	return r;
}
