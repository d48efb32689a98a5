/* SPDX-License-Identifier: MIT */
/* One run of QEMU, a real one without a machine in it (-machine none): its events and its ends. */
#include "backend/qemu/run.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/qemu/probe.h"
#include "base/str.h"
#include "fiber-test.h"

#define SEC (NS_PER_SEC)

struct log {
	struct buf text; /* what was called back, one line each */
	struct qemu_run *run;
	bool exited;
};

static void on_exit_(const struct vm_exit *e, void *userdata)
{
	struct log *l = userdata;

	l->exited = true;
	buf_printf(&l->text, "exit clean=%d %s|%s\n", e->clean, e->how, e->last_lines);
}

static void on_reset(bool by_guest, const char *reason, void *userdata)
{
	buf_printf(&((struct log *)userdata)->text, "reset %d %s\n", by_guest, reason);
}

static void on_shutdown(bool by_guest, const char *reason, void *userdata)
{
	buf_printf(&((struct log *)userdata)->text, "shutdown %d %s\n", by_guest, reason);
}

static void on_panic(json_t *info, void *userdata)
{
	buf_puts(&((struct log *)userdata)->text, "panic\n");
}

static void on_stopped(bool stopped, const char *reason, void *userdata)
{
	buf_printf(&((struct log *)userdata)->text, "%s %s\n", stopped ? "stopped" : "resumed",
		   reason ? reason : "-");
}

static void on_event(const char *name, json_t *data, uint64_t at_ns, void *userdata)
{
	buf_printf(&((struct log *)userdata)->text, "event %s\n", name);
}

static const struct vm_events events = {
	.on_exit = on_exit_,
	.on_reset = on_reset,
	.on_shutdown = on_shutdown,
	.on_panic = on_panic,
	.on_stopped = on_stopped,
	.on_event = on_event,
};

/* argv[0] with the given arguments behind it; QMP is number 9. */
static int start(struct log *l, char *const *argv, const char *own_args, struct error *err)
{
	struct spawn_fd fd = {.child = 9};
	struct qemu_run_opts opts = {
		.argv = argv,
		.fds = &fd,
		.n_fds = 1,
		.hint_args = own_args,
		.events = &events,
		.userdata = l,
	};
	int fds[2], r;

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	fd.fd = fds[1];
	r = qemu_run_start(&opts, fds[0], &l->run, err);
	close(fds[1]);
	return r < 0 ? r : qemu_run_boot(&l->run, NULL, err);
}

#define QEMU                                                                                       \
	"qemu-system-x86_64", "-machine", "none", "-accel", "tcg", "-nodefaults", "-display",      \
		"none", "-S", "-chardev", "socket,id=qmp,fd=9", "-mon", "chardev=qmp,mode=control"

static void start_qemu(struct log *l)
{
	char *argv[] = {QEMU, NULL};
	struct error err = {};

	if (start(l, argv, NULL, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
}

static void done(struct log *l)
{
	qemu_run_kill(&l->run);
	check(!l->run);
	buf_done(&l->text);
}

FIBER_TEST(stop_and_resume)
{
	struct error err = {};
	struct log l = {};
	json_t *status = NULL;

	start_qemu(&l);
	check_str(buf_str(&l.text), "event RESUME\n"); /* of the start: no news */
	buf_truncate(&l.text, 0);
	check(qemu_run_call(l.run, "stop", NULL, SEC, NULL, &err) == 0);
	check_str(buf_str(&l.text), "event STOP\nstopped -\n");
	check(qemu_run_call(l.run, "query-status", NULL, SEC, &status, &err) == 0);
	check_str(json_string_value(json_object_get(status, "status")), "paused");
	json_decref(status);
	buf_truncate(&l.text, 0);
	check(qemu_run_call(l.run, "cont", NULL, SEC, NULL, &err) == 0);
	check_str(buf_str(&l.text), "event RESUME\nresumed -\n");
	buf_truncate(&l.text, 0);
	check(qemu_run_call(l.run, "system_reset", NULL, SEC, NULL, &err) == 0);
	done(&l);
}

FIBER_TEST(kill_reports_the_exit_before_it_returns)
{
	struct error err = {};
	struct log l = {};

	start_qemu(&l);
	buf_truncate(&l.text, 0);
	qemu_run_kill(&l.run);
	check(!l.run && l.exited);
	check_str(buf_str(&l.text),
		  "exit clean=0 qemu-system-x86_64 was killed by signal 9 (Killed)|\n");
	check(qemu_run_call(l.run, "stop", NULL, SEC, NULL, &err) == -ESRCH);
	check(err.kind == ERROR_CRASH);
	qemu_run_kill(&l.run); /* harmless */
	done(&l);
}

struct pending {
	struct log *l;
	struct error err;
};

static int call_main(void *userdata)
{
	struct pending *p = userdata;

	return qemu_run_call(p->l->run, "query-qmp-schema", NULL, 20 * SEC, NULL, &p->err);
}

FIBER_TEST(killed_in_the_middle_of_a_command)
{
	struct fiber *fiber;
	struct log l = {};
	struct pending p = {.l = &l};

	start_qemu(&l);
	check(kill(qemu_run_pid(l.run), SIGSTOP) == 0); /* so that it cannot answer any more */
	fiber_start("call", call_main, &p, &fiber);
	fiber_yield();
	check(kill(qemu_run_pid(l.run), SIGKILL) == 0);
	check(fiber_join(fiber, 10 * SEC, NULL) == 0);
	check(fiber_result(fiber) == -ECONNRESET);
	check(p.err.kind == ERROR_CRASH);
	check_str(p.err.message, "qemu-system-x86_64 was killed by signal 9 (Killed)");
	check(l.exited && !l.run);
	fiber_unref(fiber);
	done(&l);
}

FIBER_TEST(everything_that_qmp_said_comes_before_the_exit)
{
	struct error err = {};
	struct log l = {};

	start_qemu(&l);
	buf_truncate(&l.text, 0);
	check(qemu_run_call(l.run, "quit", NULL, 5 * SEC, NULL, &err) == 0 ||
	      err.kind == ERROR_CRASH);
	while (!l.exited)
		check(fiber_sleep(NS_PER_MS, NULL) == 0);
	/* No orderly end: it was us, not the guest. */
	check_str(buf_str(&l.text), "event SHUTDOWN\nshutdown 0 host-qmp-quit\n"
				    "exit clean=0 qemu-system-x86_64 exited with status 0|\n");
	done(&l);
}

/* A QEMU whose last words come when it is gone already: a child of its had the socket. */
FIBER_TEST(last_words_come_before_the_exit)
{
	char *argv[] = {"sh", "-c",
			"echo '{\"QMP\": {\"version\": {}}}' >&9; read x <&9;"
			"echo '{\"return\": {}, \"id\": 1}' >&9; read x <&9;"
			"echo '{\"return\": {}, \"id\": 2}' >&9;"
			"(sleep 0.1; echo '{\"event\": \"LATE\"}' >&9) >/dev/null 2>&1 & exit 0",
			NULL};
	struct error err = {};
	struct log l = {};

	check(start(&l, argv, NULL, &err) == 0);
	while (!l.exited)
		check(fiber_sleep(NS_PER_MS, NULL) == 0);
	check_str(buf_str(&l.text), "event LATE\nexit clean=0 sh exited with status 0|\n");
	done(&l);
}

static void check_start_fails(char *const *argv, const char *own_args, enum error_kind kind,
			      const char *want, const char *hint)
{
	struct error err = {};
	struct log l = {};

	check(start(&l, argv, own_args, &err) < 0);
	check_str(err.message, want);
	check_str(err.hint, hint);
	check(err.kind == kind);
	check(!l.run && !l.exited);
	done(&l);
}

FIBER_TEST(an_argument_that_qemu_refuses)
{
	char *argv[] = {QEMU, "-device", "nosuch,x=1", NULL};
	const char *want = "qemu-system-x86_64 exited with status 1: -device nosuch,x=1: 'nosuch' "
			   "is not a valid device model name";

	check_start_fails(argv, NULL, ERROR_INFRA, want, "");
	check_start_fails(argv, "-device\nnosuch,x=1", ERROR_USAGE, want,
			  "look at the option 'qemu_args'");
}

FIBER_TEST(ends_before_the_greeting)
{
	char *silent[] = {"sh", "-c", "exit 3", NULL};
	char *talks[] = {"sh", "-c", "seq 1 12 >&2; kill -SEGV $$", NULL};
	char *closes[] = {"sh", "-c", "exec 9>&-; kill -KILL $$", NULL};
	char *chatters[] = {"sh", "-c", "echo hello >&9; sleep 0.05; echo oops >&2; exit 1", NULL};
	char *missing[] = {"/nonexistent/qemu", NULL};
	struct error err = {};
	struct log l = {};

	check_start_fails(silent, NULL, ERROR_INFRA, "sh exited with status 3", "");
	check_start_fails(talks, NULL, ERROR_INFRA,
			  "sh was killed by signal 11 (Segmentation fault): "
			  "3\n4\n5\n6\n7\n8\n9\n10\n11\n12",
			  "");
	check_start_fails(closes, NULL, ERROR_INFRA, "sh was killed by signal 9 (Killed)", "");
	check_start_fails(chatters, NULL, ERROR_INFRA, "sh exited with status 1: oops", "");
	check(start(&l, missing, NULL, &err) == -ENOENT);
	check(!l.run);
}

/* What it says while it runs is bounded: the beginning and the end are kept. */
FIBER_TEST(a_flood_on_stderr)
{
	char *argv[] = {"sh", "-c", "yes line | head -c 3000000 >&2; echo last >&2; exit 1", NULL};

	check_start_fails(
		argv, NULL, ERROR_INFRA,
		"sh exited with status 1: line\nline\nline\nline\nline\nline\nline\nline\n"
		"line\nlast",
		"");
}

static int start_main(void *userdata)
{
	char *argv[] = {"sh", "-c", "exec sleep 1000", NULL};
	struct pending *p = userdata;

	return start(p->l, argv, NULL, &p->err);
}

FIBER_TEST(a_start_that_is_cancelled_leaves_nothing)
{
	struct fiber *fiber;
	struct log l = {};
	struct pending p = {.l = &l};

	fiber_start("start", start_main, &p, &fiber);
	check(fiber_sleep(20 * NS_PER_MS, NULL) == 0);
	check(!fiber_is_done(fiber));
	fiber_stop(fiber);
	check(fiber_result(fiber) == -ECANCELED);
	check(p.err.kind == ERROR_CANCELLED);
	check(!l.run && !l.exited);
	fiber_unref(fiber);
	done(&l);
}

static int save_main(void *userdata)
{
	struct pending *p = userdata;

	return qemu_run_save(p->l->run, STDERR_FILENO, false, &p->err);
}

/* Given up before QEMU has said that it begins: it may do so all the same, and would stop the
 * machine when it is done. */
FIBER_TEST(a_save_that_is_given_up_is_called_off)
{
	char *argv[] = {
		"sh", "-c",
		"answer() { read x <&9; echo '{\"return\": {}, \"id\": '$1'}' >&9; }\n"
		"echo '{\"QMP\": {\"version\": {}}}' >&9\n"
		"answer 1; answer 2; answer 3; answer 4; answer 5; read x <&9\n"
		"case $x in *migrate*fd:*) echo '{\"event\": \"SEEN\"}' >&9;; esac\n"
		"read x <&9\n"
		"case $x in *migrate_cancel*)\n"
		"	echo '{\"return\": {}, \"id\": 7}' >&9\n"
		"	echo '{\"event\": \"MIGRATION\", \"data\": {\"status\": \"cancelled\"}}' "
		">&9\n"
		"	answer 8;;\n"
		"esac\n"
		"exec sleep 1000",
		NULL};
	struct error err = {};
	struct fiber *fiber;
	struct log l = {};
	struct pending p = {.l = &l};

	check(start(&l, argv, NULL, &err) == 0);
	fiber_start("save", save_main, &p, &fiber);
	while (!strstr(buf_str(&l.text), "event SEEN\n"))
		check(fiber_sleep(NS_PER_MS, NULL) == 0);
	fiber_stop(fiber);
	check(fiber_result(fiber) == -ECANCELED);
	check_str(buf_str(&l.text), "event SEEN\nevent MIGRATION\n");
	fiber_unref(fiber);
	done(&l);
}

int main(void)
{
	_cleanup_free_ char *program = NULL;
	const struct CMUnitTest with_qemu[] = {
		cmocka_unit_test(stop_and_resume),
		cmocka_unit_test(kill_reports_the_exit_before_it_returns),
		cmocka_unit_test(killed_in_the_middle_of_a_command),
		cmocka_unit_test(everything_that_qmp_said_comes_before_the_exit),
		cmocka_unit_test(an_argument_that_qemu_refuses),
	};
	const struct CMUnitTest without[] = {
		cmocka_unit_test(last_words_come_before_the_exit),
		cmocka_unit_test(ends_before_the_greeting),
		cmocka_unit_test(a_flood_on_stderr),
		cmocka_unit_test(a_start_that_is_cancelled_leaves_nothing),
		cmocka_unit_test(a_save_that_is_given_up_is_called_off),
	};
	int r = cmocka_run_group_tests(without, NULL, NULL);

	if (qemu_find_program(&program, NULL) < 0) {
		print_message("no QEMU on this host: the rest is skipped\n");
		return r ? r : 77;
	}
	return r + cmocka_run_group_tests(with_qemu, NULL, NULL);
}
