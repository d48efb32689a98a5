/* SPDX-License-Identifier: MIT */
/* What happens to a machine: the VMM's end, resets, hellos, closed channels, console lines. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "machine/machine-internal.h"

/*
 * Nothing in here waits: the callbacks come from any context.
 *
 * Which deaths are asked for. `killing`: the plug was pulled; `off_asked`: machine_shutdown() runs;
 * `reset_asked`: machine_reset() or machine_reboot(). A guest that turns itself off is simply off
 * (a test may well have told it so by a command), but a guest that resets itself unasked has
 * crashed, until it has booted again.
 */

/* The agent's stream ends a moment before the VMM's death is known, which explains it better. */
#define CLOSED_GRACE_NS (250 * NS_PER_MS)

static const char *name(const struct machine *m)
{
	return m->spec->name;
}

void boot_begin(struct machine *m, uint64_t begin_ns)
{
	json_decref(m->boot.times);
	m->boot = (struct boot){.begin_ns = begin_ns};
}

/* The guest begins anew: what is under way fails, and its next hello is listened to. */
void machine_new_session(struct machine *m, const struct error *why)
{
	agent_fail(m->agent, why);
	agent_revive(m->agent);
}

static void fail_agent(struct machine *m, const struct error *err)
{
	if (m->agent)
		agent_fail(m->agent, err);
}

void machine_crash(struct machine *m, const struct error *err)
{
	m->crash = *err;
	m->crash_is_reset = false;
	m->n_crashes++;
	m->boot.ready = false;
	fail_agent(m, err);
	machine_set_state(m, MACHINE_CRASHED, err->message);
}

/* --- the VMM --- */

static void retire_agent(struct machine *m)
{
	if (!m->agent)
		return;
	m->retired = xrealloc(m->retired, (m->n_retired + 1) * sizeof(*m->retired));
	m->retired[m->n_retired++] = TAKE_PTR(m->agent);
	m->agent_closed = false;
	timer_free(TAKE_PTR(m->closed_timer));
}

static void tell_dropped(struct machine *m)
{
	uint64_t dropped = console_log_dropped(m->console);

	if (dropped == m->console_dropped)
		return;
	machine_emit(m, "console-dropped",
		     json_pack("{sI}", "bytes", (json_int_t)(dropped - m->console_dropped)));
	m->console_dropped = dropped;
}

void machine_vmm_ended(struct machine *m, bool clean, const char *how)
{
	bool was_crashed = m->state == MACHINE_CRASHED, was_up = m->boot.ready;
	struct error why = {};

	m->vmm_runs = false;
	console_drain(m->console); /* the last words: there may be a panic in them */
	panic_finish(m);
	was_crashed |= m->state == MACHINE_CRASHED;
	tell_dropped(m);
	machine_emit(m, "vmm", json_pack("{so}", "status", machine_json_text(how)));

	if (m->killing)
		error_set(&why, ERROR_CRASH, ECONNRESET, "machine '%s' was %s", name(m),
			  m->killed_as ?: "unplugged");
	else if (clean && m->off_asked)
		error_set(&why, ERROR_CRASH, ECONNRESET, "machine '%s' was shut down", name(m));
	else if (clean)
		error_set(&why, ERROR_CRASH, ECONNRESET, "machine '%s' has turned itself off",
			  name(m));
	else
		error_set(&why, ERROR_CRASH, ECONNRESET, "machine '%s' died%s: %s", name(m),
			  was_up ? "" : " while it booted", how);
	if (!was_crashed || m->killing)
		m->crash = why;
	fail_agent(m, &m->crash);
	retire_agent(m);
	console_fail(m->console, &m->crash);
	m->boot.ready = false;
	m->off_asked = m->reset_asked = false;
	waiters_wake_all(&m->event_waiters);
	/* A panic stays a crash however the VMM ended after it, but for the plug. */
	machine_set_state(m, m->killing || (clean && !was_crashed) ? MACHINE_OFF : MACHINE_CRASHED,
			  why.message);
}

static void on_vmm_exit(const struct vm_exit *e, void *userdata)
{
	struct machine *m = userdata;
	_cleanup_free_ char *how = NULL;

	how = *e->last_lines ? xasprintf("%s: %s", e->how, e->last_lines) : xstrdup(e->how);
	if (m->vmm_starting) {
		/* It ended between its start and our learning of it. */
		m->exited_early = true;
		snprintf(m->early_how, sizeof(m->early_how), "%s", how);
		return;
	}
	assert(m->vmm_runs);
	machine_vmm_ended(m, e->clean, how);
}

static void on_reset(bool by_guest, const char *reason, void *userdata)
{
	struct machine *m = userdata;
	bool asked = !by_guest || m->reset_asked;
	bool had_hello = m->boot.id[0] != '\0';
	unsigned resets = m->boot.resets;
	struct error why = {};

	panic_finish(m);
	if (!m->spec->agent)
		return; /* installers and boot loaders do that; nobody calls an agent */
	boot_begin(m, now_ns());
	if (!had_hello)
		m->boot.resets =
			resets + 1; /* firmware and kernels may do that before they are up */
	if (m->state == MACHINE_CRASHED) {
		agent_revive(m->agent); /* it may come back: let its hello be heard */
		return;
	}
	if (!had_hello && !asked)
		return;
	if (asked) {
		error_set(&why, ERROR_CRASH, ECONNRESET, "machine '%s' was %s", name(m),
			  by_guest ? "rebooted" : "reset");
		machine_new_session(m, &why);
		/* Its vCPUs stand still until machine_continue(). */
		if (m->state == MACHINE_PAUSED)
			m->unpaused = MACHINE_STARTING;
		else
			machine_set_state(m, MACHINE_STARTING, why.message);
		return;
	}
	error_set(&why, ERROR_CRASH, ECONNRESET, "machine '%s' reset itself unexpectedly%s%s%s",
		  name(m), reason ? " (" : "", reason ?: "", reason ? ")" : "");
	error_hint(&why, "for a reboot on purpose use m:reboot(), or m:spawn(\"reboot\") and "
			 "m:wait_for_boot()");
	machine_crash(m, &why);
	m->crash_is_reset = true;
	agent_revive(m->agent);
}

static void on_shutdown(bool by_guest, const char *reason, void *userdata)
{
	struct machine *m = userdata;

	/* The VMM's end follows and says all; but a panic collected until now is complete. */
	panic_finish(m);
}

static void on_panic(json_t *info, void *userdata)
{
	panic_from_vmm(userdata);
}

static void on_stopped(bool stopped, const char *reason, void *userdata)
{
	struct machine *m = userdata;

	if (stopped && reason) {
		struct error why = {};

		error_set(&why, ERROR_INFRA, EIO, "machine '%s' was stopped by its VMM: %s",
			  name(m), reason);
		error_hint(&why, "is the host's disk full?");
		machine_crash(m, &why);
	} else if (m->held) {
		return;
	} else if (stopped && (m->state == MACHINE_UP || m->state == MACHINE_STARTING)) {
		m->unpaused = m->state;
		machine_set_state(m, MACHINE_PAUSED, NULL);
	} else if (!stopped && m->state == MACHINE_PAUSED) {
		machine_set_state(m, m->unpaused, NULL);
	}
}

static void on_event(const char *event, json_t *data, uint64_t at_ns, void *userdata)
{
	struct machine *m = userdata;
	double seconds = at_ns > m->epoch_ns ? (double)(at_ns - m->epoch_ns) / NS_PER_SEC : 0;
	json_t *e = json_pack("{so, sf}", "name", machine_json_text(event), "seconds", seconds);

	if (data)
		json_object_set(e, "data", data);
	json_array_append_new(m->events, e);
	waiters_wake_all(&m->event_waiters);
}

const struct vm_events machine_vm_events = {
	.on_exit = on_vmm_exit,
	.on_reset = on_reset,
	.on_shutdown = on_shutdown,
	.on_panic = on_panic,
	.on_stopped = on_stopped,
	.on_saving = snapshot_on_saving,
	.on_event = on_event,
};

/* --- the agent --- */

static void emit_boot(struct machine *m, const struct agent_hello *hello)
{
	double seconds = (double)(now_ns() - m->epoch_ns) / NS_PER_SEC;

	machine_emit(m, "boot",
		     json_pack("{so, so, sf}", "boot_id", machine_json_text(hello->boot_id),
			       "phase", machine_json_text(hello->phase), "seconds", seconds));
}

static void on_hello(struct agent *a, const struct agent_hello *hello, void *userdata)
{
	struct machine *m = userdata;
	struct error why = {};

	if (a != m->agent)
		return;
	/* The button was pressed, and the boot before it has got a word in. */
	if (str_eq(hello->boot_id, m->reset_boot_id))
		return;
	if (!str_eq(hello->boot_id, m->boot.id)) {
		/* A guest that boots another kernel by itself (kexec) is not reset by the VMM. */
		if (m->boot.id[0])
			boot_begin(m, now_ns());
		snprintf(m->boot.id, sizeof(m->boot.id), "%s", hello->boot_id);
	}
	if (!m->boot.hello_ns) {
		m->boot.hello_ns = now_ns();
		m->boot.hello_uptime_ns = hello->uptime_ns;
	}
	if (!m->thawing) /* that boot was long ago */
		emit_boot(m, hello);
	if (str_eq(hello->phase, "failed")) {
		error_set(&why, ERROR_INFRA, EIO, "machine '%s' could not boot: %s", name(m),
			  *hello->message ? hello->message : "its initramfs gave up");
		error_hint(&why, "the end of console-%s.log may tell more", name(m));
		machine_crash(m, &why);
		return;
	}
	if (str_eq(hello->phase, "initramfs")) {
		waiters_wake_all(&m->changed);
		return; /* commands run in the real root; it is not there yet */
	}
	if (!m->boot.ready_ns)
		m->boot.ready_ns = now_ns();
	m->boot.ready = true;
	m->reset_asked = false;
	if (m->state == MACHINE_PAUSED)
		m->unpaused = MACHINE_UP;
	else
		machine_set_state(m, MACHINE_UP, NULL);
	waiters_wake_all(&m->changed);
}

int machine_explain_crash(struct machine *m, struct error *err)
{
	uint64_t deadline = deadline_in(2 * CLOSED_GRACE_NS);
	struct fiber_shield shield;

	if (!err || err->kind != ERROR_CRASH)
		return err ? -err->code : 0;
	fiber_shield_enter(&shield, 2 * CLOSED_GRACE_NS);
	/* Its end, or a panic's last lines, may be on their way. */
	while (((m->agent_closed && m->vmm_runs && m->state != MACHINE_CRASHED) ||
		m->panic.collecting) &&
	       fiber_wait_until(&m->changed, deadline, CLOSED_GRACE_NS, "its end", NULL) >= 0)
		;
	fiber_shield_leave(&shield);
	if (error_is_set(&m->crash) && (m->state == MACHINE_CRASHED || m->state == MACHINE_OFF))
		*err = m->crash;
	return -err->code;
}

static void on_closed_grace(void *userdata)
{
	struct machine *m = userdata;

	timer_free(TAKE_PTR(m->closed_timer));
	if (m->agent_closed && m->vmm_runs)
		machine_crash(m, &m->agent_closed_why);
}

static void on_closed(struct agent *a, const struct error *err, void *userdata)
{
	struct machine *m = userdata;

	if (a != m->agent || m->agent_closed)
		return;
	m->agent_closed = true;
	m->agent_closed_why = *err;
	error_prefix(&m->agent_closed_why, "machine '%s'", name(m));
	if (m->agent_closed_why.kind != ERROR_CRASH) {
		machine_crash(m, &m->agent_closed_why); /* it speaks another version, say */
		return;
	}
	m->closed_timer = timer_start(now_ns() + CLOSED_GRACE_NS, on_closed_grace, m);
}

const struct agent_callbacks machine_agent_callbacks = {
	.on_hello = on_hello,
	.on_closed = on_closed,
};

/* --- the console --- */

static void on_line(struct console *c, const char *line, void *userdata)
{
	struct machine *m = userdata;

	if (m->env->tell_console)
		machine_emit(m, "console", json_pack("{so}", "text", machine_json_text(line)));
	panic_line(m, line);
}

const struct console_callbacks machine_console_callbacks = {
	.on_line = on_line,
};
