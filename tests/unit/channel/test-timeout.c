/* SPDX-License-Identifier: MIT */
/* Commands that do not end in time. Apart from the others: what ignores SIGTERM takes two seconds.
 */
#include <signal.h>

#include "agent-test.h"
#include "base/file.h"

const char *agent_program;

FIBER_TEST(sigterm_suffices)
{
	struct guest g;
	struct agent_command cmd = {.script = "echo $$; echo warning >&2; sleep 30"};
	struct agent_result r;
	struct error err = {};
	uint64_t start;

	guest_start(&g);
	start = now_ns();
	check(agent_run(g.agent, &cmd, 100 * MS, &r, &err) == -ETIMEDOUT);
	check(now_ns() - start < 2 * S);
	check(err.kind == ERROR_TIMEOUT && r.timed_out);
	check(str_starts(err.message, "timed out after 0.1 s waiting for command 'echo $$;"));
	check_str(buf_str(&r.err), "warning\n");
	check(r.signal == SIGTERM && is_gone(atoi(buf_str(&r.out))));
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(sigterm_is_ignored)
{
	struct guest g;
	struct agent_command cmd = {
		.script = "trap '' TERM; echo $$; sleep 30 & echo $!; while :; do wait; done",
		.plain_shell = true,
	};
	struct agent_result r;
	struct error err = {};
	uint64_t start, took;
	char *second;

	guest_start(&g);
	start = now_ns();
	check(agent_run(g.agent, &cmd, 200 * MS, &r, &err) == -ETIMEDOUT);
	took = now_ns() - start;
	check(took >= 2200 * MS && took < 10000 * MS);
	check(err.kind == ERROR_TIMEOUT && r.timed_out && r.signal == SIGKILL);
	/* All of them. */
	check(is_gone((pid_t)strtol(buf_str(&r.out), &second, 10)));
	check(is_gone((pid_t)strtol(second, NULL, 10)));
	agent_result_done(&r);
	check_ok(agent_ping(g.agent, S, &failure));
	guest_stop(&g);
}

/* A test may look at what a command leaves behind, or do the same again: when the call ends, so
 * has everything in its cgroup, which can be removed then; also what takes a while to die because
 * it has much memory to give back. */
FIBER_TEST(nothing_lives_when_it_returns)
{
	static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	struct guest g;
	struct agent_command cmd = {
		.script = "trap '' TERM; sed -n 's/^0:://p' /proc/self/cgroup;"
			  "(head -c 100000000 /dev/zero; echo >&2; sleep 30) | tail -c 100M >&2 &"
			  "wait",
		.plain_shell = true,
	};
	struct agent_result r;
	struct error err = {};

	guest_start(&g);
	check(agent_run(g.agent, &cmd, 500 * MS, &r, &err) == -ETIMEDOUT);
	check(r.signal == SIGKILL);
	check_str(buf_str(&r.err), "\n"); /* it has it all */
	r.out.data[strcspn(buf_str(&r.out), "\n")] = '\0';
	/* Where there is no cgroup to be had, nobody tells when the last is dead. */
	for (size_t i = 0; str_starts(r.out.data, "/assay/") && i < ARRAY_SIZE(places); i++) {
		_cleanup_free_ char *path = path_join(places[i], r.out.data + 1);

		check(access(path, F_OK) < 0 && errno == ENOENT);
	}
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(a_flood_at_the_time_out)
{
	struct guest g;
	/* Slow enough that what is collected stays small. */
	struct agent_command cmd = {.script = "while echo flood; do :; done"};
	struct agent_result r;
	struct error err = {};

	guest_start(&g);
	check(agent_run(g.agent, &cmd, 500 * MS, &r, &err) == -ETIMEDOUT);
	check(r.timed_out && r.signal == SIGTERM);
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(an_outer_deadline)
{
	struct guest g;
	struct agent_command cmd = {.script = "echo $$; sleep 30"};
	struct deadline_scope scope;
	struct agent_result r;
	struct error err = {};

	guest_start(&g);
	deadline_enter(&scope, 100 * MS, ERROR_DEADLINE, "the test's time-out of 0.1 s");
	check(agent_run(g.agent, &cmd, 60 * S, &r, &err) == -ETIMEDOUT);
	check(err.kind == ERROR_DEADLINE);
	deadline_leave(&scope);
	check(is_gone(atoi(buf_str(&r.out))));
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(a_guest_that_does_not_answer)
{
	struct guest g;
	struct error err = {};

	guest_start(&g);
	process_kill(g.process, SIGSTOP);
	check(agent_ping(g.agent, 50 * MS, &err) == -ETIMEDOUT);
	check(err.kind == ERROR_TIMEOUT && strstr(err.hint, "does not answer"));
	process_kill(g.process, SIGCONT);
	check_ok(agent_ping(g.agent, 5 * S, &failure));
	guest_stop(&g);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sigterm_suffices),
		cmocka_unit_test(sigterm_is_ignored),
		cmocka_unit_test(nothing_lives_when_it_returns),
		cmocka_unit_test(a_flood_at_the_time_out),
		cmocka_unit_test(an_outer_deadline),
		cmocka_unit_test(a_guest_that_does_not_answer),
	};

	assert_true(argc > 1);
	agent_program = argv[1];
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
