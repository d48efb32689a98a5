/* SPDX-License-Identifier: MIT */
/* Waiting until a guest has come to rest. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "machine/machine-internal.h"

/*
 * An init says that it is done when its last job is; udev then still works off its queue, and
 * services go on starting by themselves. All forks of a machine saved in the middle of that would
 * do it once more, each in its first second, beside the test. There is no event for "nothing is
 * going on"; what there is are the counters of proc(5), "/proc/stat": user, nice, system, idle,
 * iowait, … in ticks since boot.
 */
#define WINDOW_NS    (250 * NS_PER_MS)
#define IDLE_PERCENT 90
#define STAT_MAX     (64 * KIB)

struct load {
	uint64_t idle, all;
};

static bool parse_load(const char *text, struct load *ret)
{
	uint64_t v[8] = {};

	if (sscanf(text,
		   "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
		   " %" SCNu64 " %" SCNu64,
		   &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]) < 5)
		return false;
	*ret = (struct load){.idle = v[3] + v[4]};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		ret->all += v[i];
	return true;
}

/* 1: known; 0: this guest does not tell. */
static int read_load(struct agent *a, uint64_t timeout_ns, struct load *ret, struct error *err)
{
	_cleanup_buf_ struct buf text = {};
	struct error why = {};
	int r = agent_read_file(a, "/proc/stat", STAT_MAX, timeout_ns, &text, &why);

	if (r >= 0)
		return parse_load(buf_str(&text), ret);
	if (why.kind == ERROR_CRASH || why.kind == ERROR_CANCELLED)
		return error_propagate(err, &why);
	return 0;
}

/* Whether there is such a program, and what it says, is not our affair. */
static int run(struct agent *a, const struct agent_command *cmd, uint64_t timeout_ns,
	       struct error *err)
{
	struct agent_result result = {};
	struct error why = {};
	int r = agent_run(a, cmd, timeout_ns, &result, &why);

	agent_result_done(&result);
	if (r < 0 && (why.kind == ERROR_CRASH || why.kind == ERROR_CANCELLED))
		return error_propagate(err, &why);
	return 0;
}

/* A shell is what most tests begin with: from now on it is in the guest's page cache, unpacked. */
static int warm_up(struct agent *a, uint64_t timeout_ns, struct error *err)
{
	return run(a, &(struct agent_command){.script = "true"}, timeout_ns, err);
}

static int wait_udev(struct agent *a, uint64_t timeout_ns, struct error *err)
{
	const char *argv[] = {"udevadm", "settle", NULL};

	return run(a, &(struct agent_command){.argv = (char *const *)argv}, timeout_ns, err);
}

int machine_wait_idle(struct machine *m, uint64_t timeout_ns, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	struct load before = {}, now = {};
	struct agent *agent;
	int r = machine_agent(m, timeout_ns, &agent, err);

	if (r >= 0 && m->image)
		r = warm_up(agent, timeout_left(deadline), err);
	if (r >= 0 && m->image && image_has_systemd(m->image))
		r = wait_udev(agent, timeout_left(deadline), err);
	if (r >= 0)
		r = read_load(agent, timeout_left(deadline), &before, err);
	while (r > 0 && timeout_left(deadline) > WINDOW_NS) {
		r = fiber_sleep(WINDOW_NS, err);
		if (r >= 0)
			r = read_load(agent, timeout_left(deadline), &now, err);
		if (r <= 0 || (now.idle - before.idle) * 100 >=
				      (now.all - before.all) * (uint64_t)IDLE_PERCENT)
			break;
		before = now;
	}
	return r < 0 ? r : 0;
}
