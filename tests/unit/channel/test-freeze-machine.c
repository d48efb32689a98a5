/* SPDX-License-Identifier: MIT */
/* What a frozen and thawed agent does to its machine: systemd's timers, entropy, identity. */
#include "agent-fixture.h"

#include "loop/loop.h"

const char *agent_program;
static const char *peer_program;

/* In a namespace with a systemd of that mode. False if there can be none here. */
static bool start(struct fixture *f, char *mode, const char *owns)
{
	char *as_root[] = {"unshare", "-m", (char *)peer_program, mode, NULL};
	char *as_user[] = {"unshare", "-Urm", (char *)peer_program, mode, NULL};
	char *probe[] = {"unshare", geteuid() == 0 ? "-m" : "-Urm", "true", NULL};
	struct run_result result = {};
	bool can = process_run(probe, NULL, NULL, 0, MIB, 20 * NS_PER_SEC, &result, NULL) >= 0 &&
		   result.status == 0;

	run_result_done(&result);
	if (can)
		fixture_start_owning(f, geteuid() == 0 ? as_root : as_user, owns);
	else
		fprintf(stderr, "not tested: no mount namespace can be made here\n");
	return can;
}

static void succeed(int rc, const struct error *err)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "%s\n", err->message);
	abort();
}

/* What a command on the agent's machine prints. */
static char *output_of(struct fixture *f, const char *script)
{
	struct agent_command cmd = {.script = script, .cwd = "/"};
	struct agent_result r;
	struct error err = {};
	char *text;

	succeed(agent_run(f->agent, &cmd, 20 * NS_PER_SEC, &r, &err), &err);
	text = xstrdup(buf_str(&r.out));
	agent_result_done(&r);
	return text;
}

#define STAMPS "/var/lib/systemd/timers"

FIBER_TEST(calendar_timers_rest)
{
	struct fixture f;
	struct error err = {};

	if (!start(&f, "timers", "timers"))
		return;
	{
		_cleanup_free_ char *none =
			output_of(&f, "mkdir -p " STAMPS "; cd " STAMPS
				      "; touch -d 2001-01-01 stamp-daily.timer stamp-often.timer");
		_cleanup_free_ char *stopped = NULL, *all = NULL, *stamps = NULL;

		succeed(agent_freeze(f.agent, 20 * NS_PER_SEC, &err), &err);
		succeed(agent_thaw(f.agent, NULL, 20 * NS_PER_SEC, &err), &err);
		all = output_of(&f, "sort /run/timers");
		check_str(all, "StartUnit daily.timer\nStartUnit weekly.timer\n"
			       "StopUnit daily.timer\nStopUnit weekly.timer\n");
		/* In that order: stopped before FROZEN, and started before THAWED. */
		stopped = output_of(&f, "head -n 2 /run/timers | cut -d' ' -f1 | sort -u");
		check_str(stopped, "StopUnit\n");
		/* So that it does not make up for the years. Others' stamps are theirs. */
		stamps = output_of(&f, "find " STAMPS " -newermt 2002-01-01 -type f");
		check_str(stamps, STAMPS "/stamp-daily.timer\n");
		check_str(none, "");
		/* The second time is like the first. */
		succeed(agent_freeze(f.agent, 20 * NS_PER_SEC, &err), &err);
		succeed(agent_thaw(f.agent, NULL, 20 * NS_PER_SEC, &err), &err);
		free(all);
		all = output_of(&f, "wc -l < /run/timers");
		check_str(all, "8\n");
	}
	fixture_stop(&f);
}

/* An agent that was not told that the machine is its own leaves its timers alone. */
FIBER_TEST(others_timers_go_on)
{
	struct fixture f;
	struct error err = {};

	if (!start(&f, "timers", NULL))
		return;
	succeed(agent_freeze(f.agent, 20 * NS_PER_SEC, &err), &err);
	succeed(agent_thaw(f.agent, NULL, 20 * NS_PER_SEC, &err), &err);
	{
		_cleanup_free_ char *all = output_of(&f, "ls /run/timers 2>/dev/null || :");

		check_str(all, "");
	}
	fixture_stop(&f);
}

FIBER_TEST(timers_that_cannot_be_stopped)
{
	struct fixture f;
	struct error err = {};

	if (!start(&f, "refuse", "timers"))
		return;
	check(agent_freeze(f.agent, 20 * NS_PER_SEC, &err) < 0);
	check(err.kind == ERROR_INFRA);
	check_str(err.message, "systemd does not list its timers (org.example.No)");
	/* Then nothing is frozen. */
	check(agent_ping(f.agent, 20 * NS_PER_SEC, NULL) == 0);
	fixture_stop(&f);
}

/* Given up by the host while systemd is waited for; then waited for to the end. */
FIBER_TEST(a_systemd_that_does_not_come)
{
	struct fixture f;
	struct error err = {};
	uint64_t begin;

	if (!start(&f, "silent", "timers"))
		return;
	check(agent_freeze(f.agent, 50 * NS_PER_MS, &err) == -ETIMEDOUT);
	check(agent_ping(f.agent, 20 * NS_PER_SEC, NULL) == 0);
	error_clear(&err);
	begin = now_ns();
	check(agent_freeze(f.agent, 60 * NS_PER_SEC, &err) == -ETIMEDOUT);
	check(now_ns() - begin < 30 * NS_PER_SEC);
	check_str(err.message, "systemd's calendar timers cannot be stopped: systemd is not up yet "
			       "('/run/systemd/private' does not exist)");
	check(agent_ping(f.agent, 20 * NS_PER_SEC, NULL) == 0);
	fixture_stop(&f);
}

FIBER_TEST(machine_id)
{
	static const char id[] = "0123456789abcdef0123456789abcdef";
	struct agent_thaw how = {.machine_id = id};
	struct fixture f;
	struct error err = {};

	if (!start(&f, "silent", "machine-id"))
		return;
	succeed(agent_freeze(f.agent, 20 * NS_PER_SEC, &err), &err);
	succeed(agent_thaw(f.agent, &how, 20 * NS_PER_SEC, &err), &err);
	{
		_cleanup_free_ char *text = output_of(&f, "cat /etc/machine-id; stat -c %a "
							  "/etc/machine-id");

		check_str(text, "0123456789abcdef0123456789abcdef\n444\n");
	}
	how.machine_id = "none";
	succeed(agent_freeze(f.agent, 20 * NS_PER_SEC, &err), &err);
	check(agent_thaw(f.agent, &how, 20 * NS_PER_SEC, &err) == -EINVAL);
	check_str(err.message, "cannot take on the machine id 'none': 32 hex digits were wanted");
	/* What could not be done is told, the guest has thawed all the same. */
	check(agent_ping(f.agent, 20 * NS_PER_SEC, NULL) == 0);
	fixture_stop(&f);
	if (!start(&f, "silent", NULL))
		return;
	error_clear(&err);
	how.machine_id = id;
	succeed(agent_freeze(f.agent, 20 * NS_PER_SEC, &err), &err);
	check(agent_thaw(f.agent, &how, 20 * NS_PER_SEC, &err) == -EINVAL);
	check(strstr(err.message, "the machine is not the agent's to change"));
	fixture_stop(&f);
}

/* The kernel is this machine's: it takes entropy from us gladly, if we may give it some. */
FIBER_TEST(entropy)
{
	struct fixture f;
	struct error err = {};

	fixture_start_owning(&f, NULL, "entropy");
	succeed(agent_freeze(f.agent, 20 * NS_PER_SEC, &err), &err);
	if (agent_thaw(f.agent, NULL, 20 * NS_PER_SEC, &err) < 0) {
		check(err.kind == ERROR_INFRA && err.code == EPERM);
		check(str_starts(err.message, "cannot give entropy to the guest's kernel: "));
		fprintf(stderr, "tested in part: no entropy may be given to the kernel here\n");
	}
	check(agent_ping(f.agent, 20 * NS_PER_SEC, NULL) == 0);
	fixture_stop(&f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calendar_timers_rest),
		cmocka_unit_test(others_timers_go_on),
		cmocka_unit_test(timers_that_cannot_be_stopped),
		cmocka_unit_test(a_systemd_that_does_not_come),
		cmocka_unit_test(machine_id),
		cmocka_unit_test(entropy),
	};

	assert_int_equal(argc, 3);
	agent_program = argv[1];
	peer_program = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
