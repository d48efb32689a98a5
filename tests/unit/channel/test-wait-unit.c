/* SPDX-License-Identifier: MIT */
/* Waiting for units, with the real agent and a scripted systemd that sd-bus speaks for. */
#include "agent-fixture.h"

const char *agent_program;
static const char *peer_program;

static int wait_unit(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	struct agent_unit_wait w = {.unit = arg};

	return agent_wait_unit(f->agent, &w, timeout_ns, err);
}

static int wait_failed(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	struct agent_unit_wait w = {.unit = arg, .state = "failed"};

	return agent_wait_unit(f->agent, &w, timeout_ns, err);
}

static int wait_booted(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	char state[32] = "";
	int rc = agent_wait_booted(f->agent, timeout_ns, state, err);

	check(rc < 0 || str_eq(state, "degraded"));
	return rc;
}

/* False if there can be no mount namespace here. */
static bool start(struct fixture *f, char *mode)
{
	char *as_root[] = {"unshare", "-m", (char *)peer_program, mode, NULL};
	char *as_user[] = {"unshare", "-Urm", (char *)peer_program, mode, NULL};
	char *probe[] = {"unshare", geteuid() == 0 ? "-m" : "-Urm", "true", NULL};
	struct run_result result = {};
	bool can = process_run(probe, NULL, NULL, 0, MIB, 20 * NS_PER_SEC, &result, NULL) >= 0 &&
		   result.status == 0;

	run_result_done(&result);
	if (can)
		fixture_start(f, geteuid() == 0 ? as_root : as_user);
	else
		fprintf(stderr, "not tested: no mount namespace can be made here\n");
	return can;
}

#define WAIT(how, name)                                                                            \
	{                                                                                          \
		.wait = how, .f = &f, .arg = name, .timeout_ns = 20 * NS_PER_SEC                   \
	}

/* All at once, begun before there is anything to connect to. */
FIBER_TEST(test_units)
{
	static struct fixture f;
	static struct waiting good[] = {
		WAIT(wait_unit, "ready"),
		WAIT(wait_unit, "soon.service"),
		WAIT(wait_unit, "late"),
		WAIT(wait_unit, "reexec"),
		WAIT(wait_unit, "alias"),
		WAIT(wait_unit, "oneshot"),
		WAIT(wait_failed, "failing"),
		WAIT(wait_failed, "crash"),
		WAIT(wait_booted, "the end of booting"),
	};
	static struct waiting failing = WAIT(wait_unit, "failing");
	static struct waiting crash = WAIT(wait_unit, "crash");
	static struct waiting idle = WAIT(wait_unit, "idle");
	static struct waiting absent = WAIT(wait_unit, "absent");
	static struct waiting masked = WAIT(wait_unit, "masked.service");
	static struct waiting job = WAIT(wait_unit, "job");
	struct waiting *bad[] = {&failing, &crash, &idle, &absent, &masked, &job};

	if (!start(&f, "serve"))
		return;
	job.timeout_ns = NS_PER_SEC;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		waiting_begin(&good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		waiting_begin(bad[i]);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		waiting_succeeds(&good[i], now_ns());
	waiting_fails(
		&failing, ERROR_EXPECT,
		"unit 'failing.service' failed (Result=exit-code, status 3) 0.4 s after start");
	waiting_fails(&crash, ERROR_EXPECT, "unit 'crash.service' failed");
	waiting_fails(&idle, ERROR_EXPECT, "is inactive (x) and no job is queued for it");
	waiting_fails(&absent, ERROR_EXPECT, "unit 'absent.service' does not exist");
	waiting_fails(&masked, ERROR_EXPECT, "unit 'masked.service' is masked");
	waiting_fails(&job, ERROR_TIMEOUT, "it is inactive (x), with job 7 queued");
	fixture_stop(&f);
}

FIBER_TEST(test_nothing_there)
{
	struct fixture f;
	struct agent_unit_wait w = {.unit = "x", .user = "surely-no-such-user"};
	struct waiting booted = {
		.wait = wait_booted, .f = &f, .arg = "", .timeout_ns = 20 * NS_PER_MS};
	struct error err = {};

	if (!start(&f, "silent"))
		return;
	waiting_begin(&booted);
	waiting_fails(&booted, ERROR_TIMEOUT, "systemd is not up yet");
	check(agent_wait_unit(f.agent, &w, NS_PER_SEC, &err) == -ENOENT);
	check(strstr(err.message, "no user 'surely-no-such-user'"));
	w.user = "4294967";
	err = (struct error){};
	check(agent_wait_unit(f.agent, &w, 20 * NS_PER_MS, &err) < 0);
	check(strstr(err.message, "user 4294967 has no systemd of their own"));
	fixture_stop(&f);
}

/* Here PID 1 is whatever this machine has; if that is no systemd, it is said at once. */
FIBER_TEST(test_no_systemd)
{
	struct fixture f;
	struct error err = {};

	if (access("/run/systemd/system", F_OK) == 0)
		return;
	fixture_start(&f, NULL);
	check(agent_wait_booted(f.agent, 20 * NS_PER_SEC, NULL, &err) < 0);
	check(err.kind == ERROR_UNSUPPORTED && strstr(err.message, "not systemd"));
	fixture_stop(&f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_units),
		cmocka_unit_test(test_nothing_there),
		cmocka_unit_test(test_no_systemd),
	};

	assert_int_equal(argc, 3);
	agent_program = argv[1];
	peer_program = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
