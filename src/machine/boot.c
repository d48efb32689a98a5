/* SPDX-License-Identifier: MIT */
/* How long the phases of a boot took. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "machine/machine-internal.h"

/*
 * Two clocks. The host's, zero at the VMM's start (or the reset), and the guest's CLOCK_BOOTTIME,
 * zero when its kernel takes over. The first hello ties them: it was sent at uptime U and
 * came at T, so the kernel's zero is at T - U, and that long the VMM, the firmware and the
 * decompressor took. systemd's own time stamps (org.freedesktop.systemd1(5):
 *UserspaceTimestampMonotonic, FinishTimestampMonotonic, in microseconds of CLOCK_MONOTONIC) split
 *the rest.
 *
 *	0 ──firmware──► kernel's zero ──kernel──► first hello ──initrd──► PID 1 ──userspace──►
 *settled
 */
struct systemd_times {
	uint64_t userspace_us, finish_us; /* 0: unknown */
};

static uint64_t property(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	if (!at || at[strlen(name)] != '=')
		return 0;
	return strtoull(at + strlen(name) + 1, NULL, 10);
}

static int ask_systemd(struct agent *a, uint64_t timeout_ns, struct systemd_times *ret,
		       struct error *err)
{
	const char *argv[] = {"systemctl", "show",
			      "-p",	   "UserspaceTimestampMonotonic",
			      "-p",	   "FinishTimestampMonotonic",
			      NULL};
	struct agent_command cmd = {.argv = (char *const *)argv};
	struct agent_result result = {};
	int r;

	r = agent_run(a, &cmd, timeout_ns, &result, err);
	if (r >= 0 && result.code == 0) {
		ret->userspace_us = property(buf_str(&result.out), "UserspaceTimestampMonotonic");
		ret->finish_us = property(buf_str(&result.out), "FinishTimestampMonotonic");
	}
	agent_result_done(&result);
	return r < 0 ? r : 0;
}

static void set_seconds(json_t *times, const char *key, int64_t ns)
{
	if (ns >= 0)
		json_object_set_new(times, key, json_real((double)ns / NS_PER_SEC));
}

static json_t *split(const struct boot *b, const struct systemd_times *s)
{
	int64_t zero = (int64_t)(b->hello_ns - b->begin_ns) - (int64_t)b->hello_uptime_ns;
	int64_t hello = (int64_t)b->hello_uptime_ns;
	int64_t user = (int64_t)(s->userspace_us * NS_PER_US);
	int64_t finish = (int64_t)(s->finish_us * NS_PER_US);
	int64_t agent = (int64_t)(b->ready_ns - b->begin_ns);
	json_t *times = json_object();

	set_seconds(times, "firmware", zero);
	set_seconds(times, "agent", agent);
	if (user > 0) {
		/* Without an initramfs of ours the first hello comes after PID 1 started. */
		set_seconds(times, "kernel", hello < user ? hello : user);
		if (hello < user)
			set_seconds(times, "initrd", user - hello);
		if (finish > user)
			set_seconds(times, "userspace", finish - user);
	} else {
		set_seconds(times, "kernel", hello);
	}
	set_seconds(times, "total", finish > 0 ? zero + finish : agent);
	return times;
}

int machine_boot_times(struct machine *m, uint64_t timeout_ns, json_t **ret, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	struct systemd_times systemd = {};
	struct error why = {};
	struct agent *agent;
	char state[32];
	int r;

	r = machine_agent(m, timeout_ns, &agent, err);
	if (r < 0)
		return r;
	if (!m->boot.times) {
		r = agent_wait_booted(agent, timeout_left(deadline), state, &why);
		if (r < 0 && why.kind != ERROR_UNSUPPORTED)
			return error_propagate(err, &why);
		if (r >= 0) {
			r = ask_systemd(agent, timeout_left(deadline), &systemd, err);
			if (r < 0)
				return r;
		}
		json_decref(m->boot.times);
		m->boot.times = split(&m->boot, &systemd);
	}
	*ret = json_deep_copy(m->boot.times);
	if (m->boot.fork_ns)
		set_seconds(*ret, "fork", (int64_t)m->boot.fork_ns);
	return 0;
}
