/* SPDX-License-Identifier: MIT */
/* The fake backend's guest, as calls of the agent see it. */
#include <signal.h>

#include "base/file.h"
#include "machine-test.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

static struct agent *agent_of(struct rig *rig)
{
	struct agent *a = NULL;

	check_ok(machine_agent(rig->m, SOON, &a, &why));
	return a;
}

/* Runs a command and compares all that it did. */
static void check_run(struct rig *rig, struct agent_command cmd, int code, const char *out,
		      const char *err_text)
{
	struct agent_result result = {};

	check_ok(agent_run(agent_of(rig), &cmd, SOON, &result, &why));
	check_str(buf_str(&result.out), out);
	check_str(buf_str(&result.err), err_text);
	if (result.code != code) {
		fprintf(stderr, "code %d, signal %d\n", result.code, result.signal);
		abort();
	}
	agent_result_done(&result);
}
#define RUN(script_, code, out, err_text)                                                          \
	check_run(&rig, (struct agent_command){.script = script_}, code, out, err_text)

FIBER_TEST(commands_that_work_for_themselves)
{
	char *const argv[] = {"echo", "a", "b", NULL};
	RIG(rig, "'fake': {'files': {'/etc/motd': 'welcome'}}");

	RUN("true", 0, "", "");
	RUN("false", 1, "", "");
	RUN("exit 42", 42, "", "");
	RUN("echo \"hello world\"", 0, "hello world\n", "");
	RUN("echo oops >&2", 0, "", "oops\n");
	RUN("cat /etc/motd", 0, "welcome", "");
	RUN("cat /nope", 1, "", "cat: /nope: No such file or directory\n");
	RUN("hostname", 0, "web\n", "");
	RUN("whoami", 0, "root\n", "");
	RUN("nonsense --flag", 127, "",
	    "nonsense --flag: command not found (the fake machine has no answer for it)\n");
	check_run(&rig, (struct agent_command){.argv = argv}, 0, "a b\n", "");
	check_run(&rig,
		  (struct agent_command){.script = "cat", .stdin_data = "typed", .stdin_len = 5}, 0,
		  "typed", "");
	check_run(&rig, (struct agent_command){.script = "whoami", .user = "alice"}, 0, "alice\n",
		  "");
}

FIBER_TEST(scripted_answers)
{
	char *const env[] = {"LANG=C", "COLOR=red", NULL};
	RIG(rig, "'fake': {'exec': {"
		 " 'nginx -v': 'nginx/1.26\\n',"
		 " 'both': {'stdout': 'o', 'stderr': 'e', 'code': 3},"
		 " '~^curl .*/(ok|fine)$': 'page',"
		 " 'n': {'answers': [{'code': 1}, {'code': 2}, 'three']},"
		 " 'who': '%user% in %cwd% likes %env:COLOR% 100%',"
		 " 'upper': {'stdin': true, 'stdout': '<%stdin%>'}}}");

	RUN("nginx -v", 0, "nginx/1.26\n", "");
	RUN("both", 3, "o", "e");
	RUN("curl -s http://x/fine", 0, "page", "");
	RUN("curl -s http://x/bad", 127, "",
	    "curl -s http://x/bad: command not found (the fake machine has no answer for it)\n");
	RUN("n", 1, "", "");
	RUN("n", 2, "", "");
	RUN("n", 0, "three", "");
	RUN("n", 0, "three", "");
	check_run(&rig,
		  (struct agent_command){.script = "who", .user = "bob", .cwd = "/srv", .env = env},
		  0, "bob in /srv likes red 100%", "");
	check_run(&rig,
		  (struct agent_command){.script = "upper", .stdin_data = "x\0y", .stdin_len = 3},
		  0, "<x", ""); /* check_str stops at the NUL */
}

FIBER_TEST(a_command_ends_by_signal_or_time_out)
{
	struct agent_result result = {};
	struct agent_command cmd = {.script = "boom"};
	struct error err = {};
	uint64_t before;
	RIG(rig, "'fake': {'exec': {'boom': {'signal': 11, 'stdout': 'x'},"
		 " 'slow': {'delay': '20ms', 'stdout': 'done'}}}");

	check_ok(agent_run(agent_of(&rig), &cmd, SOON, &result, &why));
	check(result.signal == SIGSEGV && result.code == -1);
	agent_result_done(&result);
	before = now_ns();
	RUN("slow", 0, "done", "");
	check(now_ns() - before >= 20 * MS);
	cmd.script = "sleep 100";
	result = (struct agent_result){};
	before = now_ns();
	check(agent_run(agent_of(&rig), &cmd, 30 * MS, &result, &err) < 0);
	check(err.kind == ERROR_TIMEOUT && result.timed_out);
	check(now_ns() - before < NS_PER_SEC);
	agent_result_done(&result);
}

FIBER_TEST(a_process_beside_the_test)
{
	struct agent_command cmd = {.script = "cat", .keep_stdin = true};
	struct agent_result result = {};
	struct agent_process *p = NULL;
	_cleanup_buf_ struct buf out = {};
	int stream;
	RIG(rig, "'fake': {}");

	check_ok(agent_process_start(agent_of(&rig), &cmd, &p, &why));
	check(agent_process_pid(p) > 1000);
	check_ok(agent_process_write(p, "one\n", 4, SOON, &why));
	while (out.len < 4)
		check(agent_process_read(p, &out, &stream, SOON, NULL) > 0);
	check_str(buf_str(&out), "one\n");
	check(stream == 1);
	check_ok(agent_process_close_stdin(p, &why));
	check_ok(agent_process_wait(p, SOON, &result, &why));
	check(result.code == 0);
	agent_result_done(&result);
	agent_process_free(p);

	cmd = (struct agent_command){.script = "sleep 100"};
	check_ok(agent_process_start(agent_of(&rig), &cmd, &p, &why));
	check_ok(agent_process_kill(p, SIGTERM, &why));
	result = (struct agent_result){};
	check_ok(agent_process_wait(p, SOON, &result, &why));
	check(result.signal == SIGTERM);
	agent_result_done(&result);
	agent_process_free(p);
}

FIBER_TEST(a_flood_is_cut_off_at_the_limit)
{
	struct agent_command cmd = {.script = "yes", .max_output = MIB};
	struct agent_result result = {};
	struct error err = {};
	RIG(rig,
	    "'fake': {'exec': {'yes': {'stdout': 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
	    "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy',"
	    " 'repeat': 1000000}}}");

	check(agent_run(agent_of(&rig), &cmd, SOON, &result, &err) < 0);
	check(err.kind == ERROR_EXPECT);
	agent_result_done(&result);
	RUN("true", 0, "", ""); /* and the session lives */
}

FIBER_TEST(units)
{
	struct agent_unit_wait w = {.unit = "nginx"};
	RIG(rig,
	    "'fake': {'units': {"
	    " 'nginx.service': {'state': 'active', 'after': '15ms'},"
	    " 'bad.service': {'state': 'failed', 'result': 'exit-code'},"
	    " 'idle.service': 'inactive', 'once.service': {'state': 'inactive', 'type': 'oneshot'},"
	    " 'queued.service': {'state': 'inactive', 'job': true}},"
	    " 'exec': {'fix': {'units': {'queued.service': 'active'}}}}");

	struct agent *a = agent_of(&rig);

	check_ok(agent_wait_unit(a, &w, SOON, &why));
	w.unit = "bad.service";
	check_fails(agent_wait_unit(a, &w, SOON, &why), ERROR_EXPECT,
		    "unit 'bad.service' failed (Result=exit-code)");
	w.unit = "idle";
	check_fails(agent_wait_unit(a, &w, SOON, &why), ERROR_EXPECT,
		    "unit 'idle.service' is inactive (dead), and nothing is going to start it");
	w.unit = "once";
	check_ok(agent_wait_unit(a, &w, SOON, &why));
	w.unit = "ngnix";
	check_fails(agent_wait_unit(a, &w, SOON, &why), ERROR_EXPECT,
		    "unit 'ngnix.service' does not exist (LoadState=not-found)");
	w.unit = "queued";
	check(agent_wait_unit(a, &w, 20 * MS, NULL) == -ETIMEDOUT);
	RUN("fix", 0, "", "");
	check_ok(agent_wait_unit(a, &w, SOON, &why));
	w = (struct agent_unit_wait){.unit = "bad", .state = "failed"};
	check_ok(agent_wait_unit(a, &w, SOON, &why));
}

FIBER_TEST(systemctl_and_journalctl)
{
	char state[32];
	RIG(rig, "'fake': {'units': {'a.service': {'state': 'inactive', 'journal': 'a said so'},"
		 " 'bad.service': 'failed'}, 'journal': 'all', 'systemd': 'degraded'}");

	RUN("systemctl is-active a", 3, "inactive\n", "");
	RUN("systemctl start a.service", 0, "", "");
	RUN("systemctl is-active a", 0, "active\n", "");
	RUN("systemctl show -p ActiveState --value a.service", 0, "active\n", "");
	RUN("systemctl show --property=ActiveState,SubState 'a.service'", 0,
	    "ActiveState=active\nSubState=running\n", "");
	RUN("systemctl stop nope", 5, "",
	    "Failed to stop nope.service: Unit nope.service not found.\n");
	RUN("systemctl --failed", 0, "bad.service loaded failed failed bad.service\n", "");
	RUN("journalctl -u a -n 10", 0, "a said so\n", "");
	RUN("journalctl", 0, "all\n", "");
	check_ok(agent_wait_booted(agent_of(&rig), SOON, state, &why));
	check_str(state, "degraded");
}

FIBER_TEST(waits_for_files_ports_and_more)
{
	struct agent_socket_wait w = {.type = AGENT_SOCKET_TCP, .port = 80};
	RIG(rig, "'fake': {'ports': {'80': '15ms', '22': 0}, 'mounts': ['/mnt'],"
		 " 'sockets': ['/run/x.sock'], 'files': {'/etc/a.conf': ''},"
		 " 'exec': {'mk': {'write': {'/tmp/new': 'x'}, 'remove': ['/etc/a.conf'],"
		 " 'close_port': 22, 'open_port': 8080}}}");
	struct agent *a = agent_of(&rig);

	check_ok(agent_wait_socket(a, &w, SOON, &why));
	w.port = 22;
	w.closed = true;
	check(agent_wait_socket(a, &w, 20 * MS, NULL) == -ETIMEDOUT);
	check_ok(agent_wait_file(a, "/etc/*.conf", false, SOON, &why));
	check_ok(agent_wait_file(a, "/etc", false, SOON, &why));
	check(agent_wait_file(a, "/tmp/new", false, 20 * MS, NULL) == -ETIMEDOUT);
	RUN("mk", 0, "", "");
	check_ok(agent_wait_file(a, "/tmp/new", false, SOON, &why));
	check_ok(agent_wait_file(a, "/etc/a.conf", true, SOON, &why));
	check_ok(agent_wait_socket(a, &w, SOON, &why));
	w = (struct agent_socket_wait){.type = AGENT_SOCKET_TCP, .port = 8080};
	check_ok(agent_wait_socket(a, &w, SOON, &why));
	w = (struct agent_socket_wait){.type = AGENT_SOCKET_UNIX, .address = "/run/x.sock"};
	check_ok(agent_wait_socket(a, &w, SOON, &why));
	check_ok(agent_wait_mount(a, "/mnt", SOON, &why));
	check(agent_wait_mount(a, "/srv", 20 * MS, NULL) == -ETIMEDOUT);
}

static bool is_nginx(const char *cmdline, void *userdata)
{
	return str_starts(cmdline, "nginx: ");
}

FIBER_TEST(processes)
{
	RIG(rig, "'fake': {'processes': ['sshd -D', 'nginx: master']}");
	check_ok(agent_wait_process(agent_of(&rig), is_nginx, NULL, "nginx", SOON, &why));
	{
		RIG(other, "'fake': {}");
		check(agent_wait_process(agent_of(&other), is_nginx, NULL, "nginx", 20 * MS,
					 NULL) == -ETIMEDOUT);
	}
}

FIBER_TEST(files_both_ways)
{
	_cleanup_buf_ struct buf b = {};
	char *big = xmalloc(3 * MIB);
	struct error err = {};
	RIG(rig, "'fake': {'files': {'/etc/motd': 'hi'}}, 'files': {'/from/definition': 'yes'}");
	struct agent *a = agent_of(&rig);

	for (size_t i = 0; i < 3 * MIB; i++)
		big[i] = (char)(i * 7);
	check_ok(agent_read_file(a, "/etc/motd", 100, SOON, &b, &why));
	check_str(buf_str(&b), "hi");
	check(agent_read_file(a, "/nope", 100, SOON, &b, &err) == -ENOENT);
	check(err.kind == ERROR_EXPECT);
	check_ok(agent_write_file(a, "/big", big, 3 * MIB, 0600, NULL, SOON, &why));
	buf_truncate(&b, 0);
	check_ok(agent_read_file(a, "/big", 4 * MIB, SOON, &b, &why));
	check(b.len == 3 * MIB && memcmp(b.data, big, b.len) == 0);
	buf_truncate(&b, 0);
	check_ok(agent_read_file(a, "/from/definition", 100, SOON, &b, &why));
	check_str(buf_str(&b), "yes");
	free(big);
}

FIBER_TEST(trees_both_ways)
{
	char dir[] = "/tmp/assay-fake-test-XXXXXX";
	_cleanup_free_ char *src = NULL, *sub = NULL, *one = NULL, *two = NULL, *back = NULL,
			    *two_back = NULL;
	_cleanup_buf_ struct buf b = {};
	struct error err = {};
	RIG(rig, "'fake': {}");
	struct agent *a = agent_of(&rig);

	check(mkdtemp(dir));
	src = path_join(dir, "src");
	sub = path_join(src, "sub");
	one = path_join(src, "one");
	two = path_join(sub, "two");
	check_ok(path_make_dirs(sub, 0755, &why));
	check_ok(file_write_atomic(one, "1", 1, 0644, &why));
	check_ok(file_write_atomic(two, "22", 2, 0600, &why));
	check_ok(agent_copy_in(a, src, "/srv/www", SOON, &why));
	check_ok(agent_read_file(a, "/srv/www/sub/two", 100, SOON, &b, &why));
	check_str(buf_str(&b), "22");
	back = path_join(dir, "back");
	two_back = path_join(back, "sub/two");
	check_ok(agent_copy_out(a, "/srv/www", back, SOON, &why));
	buf_truncate(&b, 0);
	check_ok(file_read(two_back, 100, &b, &why));
	check_str(buf_str(&b), "22");
	check(agent_copy_out(a, "/nope", back, SOON, &err) < 0);
	check(err.kind == ERROR_EXPECT);
	check_ok(path_remove_tree(dir, &why));
}

FIBER_TEST(a_dialogue_on_the_console)
{
	struct console *c;
	RIG(rig,
	    "'fake': {'boot_text': ['Linux version 6', 'web login: '],"
	    " 'console': {'root': 'Password: ', 'secret': 'Welcome\\n# ', 'id': 'uid=0\\n# '}}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	c = machine_console(rig.m);
	check_ok(console_wait_text(c, "login: ", false, SOON, NULL, &why));
	check_ok(console_send(c, "root\n", 5, SOON, &why));
	check_ok(console_wait_text(c, "Password: ", false, SOON, NULL, &why));
	check_ok(console_send(c, "secret\n", 7, SOON, &why));
	check_ok(console_wait_text(c, "^# ", false, SOON, NULL, &why));
	check_ok(console_send(c, "id\n", 3, SOON, &why));
	/* "id" itself is only the echo; the answer has it too. */
	check_ok(console_wait_text(c, "id=0", false, SOON, NULL, &why));
}

FIBER_TEST(it_hangs)
{
	struct error err = {};
	RIG(rig, "'fake': {'hang_after': '10ms'}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	fiber_sleep(15 * MS, NULL);
	check(agent_ping(agent_of(&rig), 30 * MS, &err) == -ETIMEDOUT);
	check(err.kind == ERROR_TIMEOUT);
}

static int one_call(void *userdata)
{
	return run(userdata, "sleep 0.02", SOON, NULL);
}

FIBER_TEST(many_calls_side_by_side)
{
	struct fiber *f[50];
	uint64_t before;
	RIG(rig, "'fake': {}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	before = now_ns();
	for (size_t i = 0; i < ARRAY_SIZE(f); i++)
		fiber_start("call", one_call, &rig, &f[i]);
	for (size_t i = 0; i < ARRAY_SIZE(f); i++) {
		check(fiber_join(f[i], SOON, NULL) == 0);
		check(fiber_result(f[i]) == 0);
		fiber_unref(f[i]);
	}
	check(now_ns() - before < 500 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(commands_that_work_for_themselves),
		cmocka_unit_test(scripted_answers),
		cmocka_unit_test(a_command_ends_by_signal_or_time_out),
		cmocka_unit_test(a_process_beside_the_test),
		cmocka_unit_test(a_flood_is_cut_off_at_the_limit),
		cmocka_unit_test(units),
		cmocka_unit_test(systemctl_and_journalctl),
		cmocka_unit_test(waits_for_files_ports_and_more),
		cmocka_unit_test(processes),
		cmocka_unit_test(files_both_ways),
		cmocka_unit_test(trees_both_ways),
		cmocka_unit_test(a_dialogue_on_the_console),
		cmocka_unit_test(it_hangs),
		cmocka_unit_test(many_calls_side_by_side),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
