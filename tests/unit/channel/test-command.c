/* SPDX-License-Identifier: MIT */
/* Commands through a real agent. */
#include <fcntl.h>
#include <signal.h>

#include "agent-test.h"
#include "base/file.h"
#include "proto/agent-wire.h"

const char *agent_program;

FIBER_TEST(exit_codes_and_signals)
{
	struct guest g;
	struct agent_result r;

	guest_start(&g);
	r = run_script(&g, "echo hello");
	check(r.code == 0 && r.signal == 0 && r.ns > 0);
	check_str(buf_str(&r.out), "hello\n");
	check_str(buf_str(&r.err), "");
	agent_result_done(&r);
	r = run_script(&g, "exit 17");
	check(r.code == 17 && r.signal == 0);
	agent_result_done(&r);
	r = run_script(&g, "kill -SEGV $$");
	check(r.code == -1 && r.signal == SIGSEGV);
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(stdout_and_stderr_are_apart)
{
	struct guest g;
	struct agent_result r;

	guest_start(&g);
	r = run_script(&g, "echo out; echo err >&2; echo out2");
	check_str(buf_str(&r.out), "out\nout2\n");
	check_str(buf_str(&r.err), "err\n");
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(a_script_is_strict_unless_plain)
{
	struct guest g;
	struct agent_command cmd = {.script = "false; echo reached; false | true; echo $unset_one"};
	struct agent_result r;

	guest_start(&g);
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check(r.code == 1 && r.out.len == 0);
	agent_result_done(&r);
	cmd.plain_shell = true;
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check(r.code == 0);
	check_str(buf_str(&r.out), "reached\n\n");
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(argv_is_taken_as_it_is)
{
	struct guest g;
	char *argv[] = {"printf", "%s|", "a b", "$HOME", "", "x'\"\\", NULL};
	struct agent_command cmd = {.argv = argv};
	struct agent_result r;

	guest_start(&g);
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check_str(buf_str(&r.out), "a b|$HOME||x'\"\\|");
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(environment_and_directory)
{
	struct guest g;
	char *env[] = {"LANG=de_DE.UTF-8", "NEW=1", NULL};
	struct agent_command cmd = {.script = "pwd; echo $LANG $NEW; echo $PATH", .env = env};
	struct agent_result r;
	struct error err = {};

	guest_start(&g);
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check(str_starts(buf_str(&r.out), "/tmp\nde_DE.UTF-8 1\n/usr/local/"));
	agent_result_done(&r);
	cmd.cwd = "/proc/self";
	cmd.script = "pwd -P";
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check(str_starts(buf_str(&r.out), "/proc/"));
	agent_result_done(&r);
	cmd.cwd = "/no/such/directory";
	check(agent_run(g.agent, &cmd, 10 * S, &r, &err) == -ENOENT);
	check(err.kind == ERROR_EXPECT);
	check(strstr(err.message, "'/no/such/directory'"));
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(a_command_that_does_not_exist)
{
	struct guest g;
	char *argv[] = {"no-such-command-here", NULL};
	struct agent_command cmd = {.argv = argv};
	struct agent_process *p = NULL;
	struct agent_result r;
	struct error err = {};

	guest_start(&g);
	check(agent_run(g.agent, &cmd, 10 * S, &r, &err) == -ENOENT);
	check(err.kind == ERROR_EXPECT && strstr(err.message, "no-such-command-here"));
	agent_result_done(&r);
	error_clear(&err);
	check(agent_process_start(g.agent, &cmd, &p, &err) == -ENOENT && !p);
	guest_stop(&g);
}

FIBER_TEST(bytes_are_bytes)
{
	struct guest g;
	char all[256];
	struct agent_command cmd = {.script = "cat", .stdin_data = all, .stdin_len = sizeof(all)};
	struct agent_result r;

	for (size_t i = 0; i < sizeof(all); i++)
		all[i] = (char)i;
	guest_start(&g);
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check(r.out.len == sizeof(all) && memcmp(r.out.data, all, sizeof(all)) == 0);
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(ten_megabytes_both_ways)
{
	struct guest g;
	struct agent_command cmd = {.script = "cat"};
	struct agent_result r;
	size_t len = 10 * MIB;
	uint32_t *data = xmalloc(len);

	for (size_t i = 0; i < len / 4; i++)
		data[i] = (uint32_t)i * 2654435761u;
	cmd.stdin_data = data;
	cmd.stdin_len = len;
	guest_start(&g);
	check_ok(agent_run(g.agent, &cmd, 60 * S, &r, &failure));
	check(r.code == 0 && r.out.len == len && memcmp(r.out.data, data, len) == 0);
	agent_result_done(&r);
	free(data);
	guest_stop(&g);
}

FIBER_TEST(input_that_nobody_reads)
{
	struct guest g;
	struct agent_command cmd = {.script = "exit 3"};
	struct agent_result r;
	size_t len = 4 * MIB;
	char *data = xcalloc(1, len);

	cmd.stdin_data = data;
	cmd.stdin_len = len;
	guest_start(&g);
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check(r.code == 3);
	agent_result_done(&r);
	free(data);
	guest_stop(&g);
}

FIBER_TEST(no_input_is_an_empty_one)
{
	struct guest g;
	struct agent_result r;

	guest_start(&g);
	r = run_script(&g, "cat; readlink /proc/self/fd/0");
	check_str(buf_str(&r.out), "/dev/null\n");
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(only_its_own_descriptors)
{
	struct guest g;
	struct agent_result r;

	guest_start(&g);
	/* 3 is ls's own, of the directory. */
	r = run_script(&g, "ls /proc/self/fd");
	check_str(buf_str(&r.out), "0\n1\n2\n3\n");
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(a_script_of_a_megabyte)
{
	struct guest g;
	_cleanup_buf_ struct buf script = {};
	struct agent_result r;

	buf_puts(&script, "n=0\n");
	while (script.len < MIB)
		buf_puts(&script, "# a line that makes it long, and does nothing\n");
	buf_puts(&script, "echo \"end $0 $(cat)\"\nfalse\necho not reached\n");
	guest_start(&g);
	r = run_script(&g, buf_str(&script));
	check(r.code == 1);
	check(str_starts(buf_str(&r.out), "end ") && !strstr(buf_str(&r.out), "not reached"));
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(an_argument_that_is_too_long)
{
	struct guest g;
	char *argv[] = {"echo", NULL, NULL};
	struct agent_command cmd = {.argv = argv};
	struct agent_result r;
	struct error err = {};

	guest_start(&g);
	argv[1] = xmalloc(200 * KIB + 1);
	memset(argv[1], 'x', 200 * KIB);
	argv[1][200 * KIB] = '\0';
	check(agent_run(g.agent, &cmd, 10 * S, &r, &err) == -E2BIG);
	check(strstr(err.message, "128 KiB"));
	agent_result_done(&r);
	argv[1][100 * KIB] = '\0';
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check(r.out.len == 100 * KIB + 1);
	agent_result_done(&r);
	free(argv[1]);
	guest_stop(&g);
}

static long peak_rss_kib(void)
{
	_cleanup_buf_ struct buf b = {};
	const char *p;

	check(buf_read_file(&b, "/proc/self/status", MIB) == 0);
	p = strstr(buf_str(&b), "VmHWM:");
	check(p);
	return strtol(p + 6, NULL, 10);
}

FIBER_TEST(a_flood_is_stopped_at_the_limit)
{
	struct guest g;
	struct agent_command cmd = {
		.script = "head -c 1G /dev/zero",
		.max_output = MIB,
	};
	struct agent_result r;
	struct error err = {};
	long before;
	uint64_t start = now_ns();

	guest_start(&g);
	before = peak_rss_kib();
	check(agent_run(g.agent, &cmd, 60 * S, &r, &err) == -EMSGSIZE);
	check(err.kind == ERROR_EXPECT);
	check_str(err.message, "the command wrote more than 1 MiB to its stdout");
	check(r.out.len == MIB);
	check(peak_rss_kib() - before < 8 * 1024);
	/* It was killed, not read to its end. */
	check(now_ns() - start < 5 * S);
	agent_result_done(&r);
	check_ok(agent_ping(g.agent, 5 * S, &failure));
	guest_stop(&g);
}

FIBER_TEST(a_background_process_does_not_delay_the_end)
{
	struct guest g;
	struct agent_result r;
	uint64_t start = now_ns();
	char *end;
	long pid;

	guest_start(&g);
	r = run_script(&g, "(sleep 0.3; echo late; echo later; exec sleep 20) & echo $!");
	check(now_ns() - start < 1 * S);
	check(r.code == 0);
	pid = strtol(buf_str(&r.out), &end, 10);
	check(pid > 1 && *end == '\n');
	agent_result_done(&r);
	/* It lives on, also after it has written to a stdout that nobody reads any more. */
	fiber_sleep(500 * MS, NULL);
	check(!is_dead((pid_t)pid));
	kill((pid_t)pid, SIGKILL);
	guest_stop(&g);
}

FIBER_TEST(all_output_up_to_the_exit_arrives)
{
	struct guest g;

	guest_start(&g);
	for (int i = 0; i < 20; i++) {
		struct agent_result r = run_script(&g, "sleep 10 & head -c 60000 /dev/zero");

		check(r.out.len == 60000);
		agent_result_done(&r);
	}
	check_ok(agent_ping(g.agent, 5 * S, &failure));
	guest_stop(&g);
}

static int run_one(void *userdata)
{
	struct guest *g = userdata;
	struct agent_result r = run_script(g, "echo $$; sleep 0.05");
	int n = atoi(buf_str(&r.out));

	agent_result_done(&r);
	return n;
}

FIBER_TEST(fifty_at_once)
{
	struct guest g;
	struct fiber *f[50];

	guest_start(&g);
	for (size_t i = 0; i < ARRAY_SIZE(f); i++)
		fiber_start("runner", run_one, &g, &f[i]);
	for (size_t i = 0; i < ARRAY_SIZE(f); i++) {
		check(fiber_join(f[i], 30 * S, NULL) == 0);
		check(fiber_result(f[i]) > 1);
		fiber_unref(f[i]);
	}
	guest_stop(&g);
}

struct victim {
	struct guest *g;
	const char *script;
	int r;
	struct error err;
};

static int run_victim(void *userdata)
{
	struct victim *v = userdata;
	struct agent_command cmd = {.script = v->script};
	struct agent_result r;

	v->r = agent_run(v->g->agent, &cmd, 60 * S, &r, &v->err);
	agent_result_done(&r);
	return 0;
}

/* Waits until a file that a script makes is there. */
static void await_file(struct guest *g, const char *path)
{
	_cleanup_free_ char *script = xasprintf("while [ ! -s %s ]; do sleep 0.01; done", path);
	struct agent_result r = run_script(g, script);

	check(r.code == 0);
	agent_result_done(&r);
}

FIBER_TEST(cancelling_kills_the_command)
{
	struct guest g;
	char path[] = "/tmp/assay-test-XXXXXX";
	_cleanup_free_ char *script = NULL;
	_cleanup_buf_ struct buf b = {};
	struct victim v = {.g = &g};
	struct fiber *f;
	uint64_t start;
	pid_t pid;

	close(mkstemp(path));
	script = xasprintf("echo $$ > %s; exec sleep 30", path);
	v.script = script;
	guest_start(&g);
	fiber_start("victim", run_victim, &v, &f);
	await_file(&g, path);
	start = now_ns();
	fiber_stop(f);
	fiber_unref(f);
	check(v.r == -ECANCELED && now_ns() - start < 100 * MS);
	check(buf_read_file(&b, path, 100) == 0);
	pid = atoi(buf_str(&b));
	check(pid > 1);
	check(is_gone(pid));
	unlink(path);
	guest_stop(&g);
}

FIBER_TEST(the_agents_death_ends_a_command_at_once)
{
	struct guest g;
	struct victim v = {.g = &g, .script = "sleep 30"};
	struct fiber *f;
	uint64_t start;

	guest_start(&g);
	fiber_start("victim", run_victim, &v, &f);
	fiber_sleep(50 * MS, NULL);
	start = now_ns();
	process_kill(g.process, SIGKILL);
	check(fiber_join(f, 5 * S, NULL) == 0);
	fiber_unref(f);
	check(now_ns() - start < 500 * MS);
	check(v.r < 0 && v.err.kind == ERROR_CRASH);
	check(g.n_closed == 1 && g.closed.kind == ERROR_CRASH);
	/* Later ones fail as well, and at once. */
	run_victim(&v);
	check(v.r < 0 && v.err.kind == ERROR_CRASH);
	guest_stop(&g);
}

FIBER_TEST(failing_and_reviving)
{
	struct guest g;
	struct victim v = {.g = &g, .script = "sleep 30"};
	struct error why = {};
	struct fiber *f;

	guest_start(&g);
	fiber_start("victim", run_victim, &v, &f);
	fiber_sleep(20 * MS, NULL);
	error_set(&why, ERROR_CRASH, EIO, "kernel panic: attempted to kill init");
	agent_fail(g.agent, &why);
	check(fiber_join(f, 5 * S, NULL) == 0);
	fiber_unref(f);
	check(v.err.kind == ERROR_CRASH);
	check_str(v.err.message, why.message);
	error_clear(&why);
	check(agent_ping(g.agent, S, &why) < 0 && why.kind == ERROR_CRASH);
	agent_revive(g.agent);
	check_ok(agent_ping(g.agent, 5 * S, &failure));
	guest_stop(&g);
}

FIBER_TEST(a_terminal)
{
	struct guest g;
	struct agent_command cmd = {.script = "tty; stty size; echo err >&2", .want_tty = true};
	struct agent_result r;

	guest_start(&g);
	check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
	check(r.code == 0);
	check(str_starts(buf_str(&r.out), "/dev/pts/"));
	check(strstr(buf_str(&r.out), "24 80\r\n") && strstr(buf_str(&r.out), "err\r\n"));
	check(r.err.len == 0);
	agent_result_done(&r);
	guest_stop(&g);
}

FIBER_TEST(another_user)
{
	struct guest g;
	struct agent_command cmd = {.script = "id -un; echo $HOME $USER", .user = "nobody"};
	struct agent_result r;
	struct error err = {};

	guest_start(&g);
	if (geteuid() == 0) {
		check_ok(agent_run(g.agent, &cmd, 10 * S, &r, &failure));
		check(r.code == 0);
		check_str(buf_str(&r.out), "nobody\n/nonexistent nobody\n");
		agent_result_done(&r);
	}
	cmd.user = "no-such-user";
	check(agent_run(g.agent, &cmd, 10 * S, &r, &err) == -ENOENT);
	check_str(err.message, "user 'no-such-user' does not exist in the guest");
	agent_result_done(&r);
	guest_stop(&g);
}

/* --- processes -------------------------------------------------------------------------------- */

static void read_until(struct agent_process *p, struct buf *b, const char *wanted)
{
	int stream;

	while (!strstr(buf_str(b), wanted))
		check(agent_process_read(p, b, &stream, 10 * S, NULL) > 0);
}

FIBER_TEST(talking_to_a_process)
{
	struct guest g;
	struct agent_command cmd = {
		.script = "while read -r line; do echo \"got $line\"; done; echo bye >&2; exit 4",
		.keep_stdin = true,
	};
	_cleanup_buf_ struct buf b = {};
	struct agent_process *p;
	struct agent_result r;
	struct error err = {};

	guest_start(&g);
	check_ok(agent_process_start(g.agent, &cmd, &p, &failure));
	check(agent_process_pid(p) > 1 && !agent_process_is_done(p));
	check_ok(agent_process_write(p, "one\n", 4, S, &failure));
	read_until(p, &b, "got one\n");
	check_ok(agent_process_write(p, "two\n", 4, S, &failure));
	read_until(p, &b, "got two\n");
	check(agent_process_wait(p, 20 * MS, &r, &err) == -ETIMEDOUT);
	check(r.timed_out && err.kind == ERROR_TIMEOUT);
	agent_result_done(&r);
	check_ok(agent_process_close_stdin(p, &failure));
	check_ok(agent_process_wait(p, 10 * S, &r, &failure));
	check(r.code == 4 && agent_process_is_done(p));
	check_str(buf_str(&r.err), "bye\n");
	agent_result_done(&r);
	agent_process_free(p);
	guest_stop(&g);
}

FIBER_TEST(signalling_a_process)
{
	struct guest g;
	struct agent_command cmd = {
		.script = "trap 'echo hup' HUP; echo ready; while :; do sleep 0.02; done",
		.plain_shell = true,
	};
	_cleanup_buf_ struct buf b = {};
	struct agent_process *p;
	struct agent_result r;

	guest_start(&g);
	check_ok(agent_process_start(g.agent, &cmd, &p, &failure));
	read_until(p, &b, "ready\n");
	check_ok(agent_process_kill(p, SIGHUP, &failure));
	read_until(p, &b, "hup\n");
	check_ok(agent_process_kill(p, SIGKILL, &failure));
	check_ok(agent_process_wait(p, 10 * S, &r, &failure));
	check(r.code == -1 && r.signal == SIGKILL);
	agent_result_done(&r);
	agent_process_free(p);
	guest_stop(&g);
}

FIBER_TEST(a_reader_that_is_slow_stops_the_writer)
{
	struct guest g;
	struct agent_command cmd = {.script = "head -c 8M /dev/zero"};
	struct agent_process *p;
	struct agent_result r;
	size_t total = 0;
	int stream, n;

	guest_start(&g);
	check_ok(agent_process_start(g.agent, &cmd, &p, &failure));
	fiber_sleep(100 * MS, NULL);
	check(!agent_process_is_done(p));
	for (;;) {
		_cleanup_buf_ struct buf b = {};

		n = agent_process_read(p, &b, &stream, 10 * S, NULL);
		if (n <= 0)
			break;
		check(b.len <= WIRE_WINDOW);
		total += b.len;
	}
	check(n == 0 && total == 8 * MIB);
	check_ok(agent_process_wait(p, S, &r, &failure));
	check(r.code == 0 && r.out.len == 0);
	agent_result_done(&r);
	agent_process_free(p);
	guest_stop(&g);
}

/* --- files ------------------------------------------------------------------------------------ */

FIBER_TEST(files)
{
	struct guest g;
	char dir[] = "/tmp/assay-test-XXXXXX";
	_cleanup_free_ char *path = NULL;
	_cleanup_buf_ struct buf b = {};
	size_t len = 3 * MIB + 17;
	_cleanup_free_ char *data = xmalloc(len);
	struct error err = {};
	struct stat st;

	memset(data, 'x', len);
	data[1000] = '\0';
	check(mkdtemp(dir));
	path = xasprintf("%s/file", dir);
	guest_start(&g);
	check_ok(agent_write_file(g.agent, path, data, len, 0, NULL, 10 * S, &failure));
	check(stat(path, &st) == 0 && st.st_size == (off_t)len && (st.st_mode & 07777) == 0644);
	check_ok(agent_read_file(g.agent, path, len, 10 * S, &b, &failure));
	check(b.len == len && memcmp(b.data, data, len) == 0);
	buf_truncate(&b, 0);
	check(agent_read_file(g.agent, path, len - 1, 10 * S, &b, &err) == -EFBIG);
	check(b.len == 0 && strstr(err.message, path));
	check_ok(agent_write_file(g.agent, path, "x", 1, 04750, NULL, 10 * S, &failure));
	check(stat(path, &st) == 0 && st.st_size == 1 && (st.st_mode & 07777) == 04750);
	error_clear(&err);
	unlink(path);
	check(agent_read_file(g.agent, path, 10, 10 * S, &b, &err) == -ENOENT);
	check(err.kind == ERROR_EXPECT);
	error_clear(&err);
	check(agent_write_file(g.agent, "/no/such/dir/x", data, len, 0, NULL, 10 * S, &err) ==
	      -ENOENT);
	check(strstr(err.message, "/no/such/dir/x"));
	/* What has no size in advance. */
	buf_truncate(&b, 0);
	check_ok(agent_read_file(g.agent, "/proc/version", MIB, 10 * S, &b, &failure));
	check(str_starts(buf_str(&b), "Linux version"));
	rmdir(dir);
	guest_stop(&g);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exit_codes_and_signals),
		cmocka_unit_test(stdout_and_stderr_are_apart),
		cmocka_unit_test(a_script_is_strict_unless_plain),
		cmocka_unit_test(argv_is_taken_as_it_is),
		cmocka_unit_test(environment_and_directory),
		cmocka_unit_test(a_command_that_does_not_exist),
		cmocka_unit_test(bytes_are_bytes),
		cmocka_unit_test(ten_megabytes_both_ways),
		cmocka_unit_test(input_that_nobody_reads),
		cmocka_unit_test(no_input_is_an_empty_one),
		cmocka_unit_test(only_its_own_descriptors),
		cmocka_unit_test(a_script_of_a_megabyte),
		cmocka_unit_test(an_argument_that_is_too_long),
		cmocka_unit_test(a_flood_is_stopped_at_the_limit),
		cmocka_unit_test(a_background_process_does_not_delay_the_end),
		cmocka_unit_test(all_output_up_to_the_exit_arrives),
		cmocka_unit_test(fifty_at_once),
		cmocka_unit_test(cancelling_kills_the_command),
		cmocka_unit_test(the_agents_death_ends_a_command_at_once),
		cmocka_unit_test(failing_and_reviving),
		cmocka_unit_test(a_terminal),
		cmocka_unit_test(another_user),
		cmocka_unit_test(talking_to_a_process),
		cmocka_unit_test(signalling_a_process),
		cmocka_unit_test(a_reader_that_is_slow_stops_the_writer),
		cmocka_unit_test(files),
	};

	assert_true(argc > 1);
	agent_program = argv[1];
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
