/* SPDX-License-Identifier: MIT */
/* Children: start, descriptors, signals, end, and process_run(). */
#include "loop/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/str.h"
#include "fiber-test.h"
#include "loop/io.h"

#define MS	  NS_PER_MS
#define ARGV(...) ((char *const[]){__VA_ARGS__, NULL})
#define SH(text)  ARGV((char *)"sh", (char *)"-c", (char *)(text))

static char *child_program; /* child.c */

/* Runs the command to its end and gives its output. */
static char *output_of(char *const *argv, const struct spawn_opts *opts)
{
	struct run_result r;
	struct error err = {};

	if (process_run(argv, opts, NULL, 0, 10000, 5 * NS_PER_SEC, &r, &err) < 0)
		return xstrdup(err.message);
	buf_done(&r.err);
	return buf_steal(&r.out, NULL);
}

static void check_output(const char *wanted, char *const *argv, const struct spawn_opts *opts)
{
	_cleanup_free_ char *got = output_of(argv, opts);

	check_str(got, wanted);
}

static int read_only_fd(const char *text)
{
	return memfd_from_data("text", text, strlen(text), NULL);
}

/* --- Starting ------------------------------------------------------------------------------- */

FIBER_TEST(missing_programs_are_errors_of_spawn)
{
	struct process *p = NULL;
	struct error err = {};

	check(process_spawn(ARGV((char *)"no-such-program"), NULL, &p, &err) == -ENOENT);
	check(err.kind == ERROR_INFRA);
	check_str(err.message, "program 'no-such-program' was not found in PATH");
	error_clear(&err);
	check(process_spawn(ARGV((char *)"/no/such/program"), NULL, &p, &err) == -ENOENT);
	check_str(err.message, "cannot start 'program': cannot execute '/no/such/program': "
			       "No such file or directory");
	error_clear(&err);
	check(process_spawn(ARGV((char *)"/etc/passwd"), NULL, &p, &err) == -EACCES);
	error_clear(&err);
	check(process_spawn(SH("true"), &(struct spawn_opts){.cwd = "/no/dir"}, &p, &err) ==
	      -ENOENT);
	check_str(err.message, "cannot start 'sh': cannot change to the working directory "
			       "'/no/dir': No such file or directory");
	error_clear(&err);
	check(process_spawn(SH("true"), &(struct spawn_opts){.stdout_fd = 999}, &p, &err) ==
	      -EBADF);
	check(!p);
}

FIBER_TEST(the_child_starts_from_a_known_state)
{
	struct spawn_opts session = {.new_session = true}, kept = {.detached = true};
	sigset_t mask, saved;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigprocmask(SIG_BLOCK, &mask, &saved);
	signal(SIGHUP, SIG_IGN);
	/* We ourselves ignore SIGPIPE. */
	check_output("ignored=0 blocked=0 death=9 leader=1 session=0 pid1=0",
		     ARGV(child_program, (char *)"describe"), NULL);
	check_output("ignored=0 blocked=0 death=9 leader=1 session=1 pid1=0",
		     ARGV(child_program, (char *)"describe"), &session);
	check_output("ignored=0 blocked=0 death=0 leader=1 session=0 pid1=0",
		     ARGV(child_program, (char *)"describe"), &kept);
	signal(SIGHUP, SIG_DFL);
	sigprocmask(SIG_SETMASK, &saved, NULL);
}

FIBER_TEST(environment_and_directory)
{
	char *const env[] = {(char *)"A=1", (char *)"HOME=/there", NULL};
	struct spawn_opts over = {.env = env, .cwd = "/"};
	struct spawn_opts only = {.env = env, .clear_env = true};
	struct spawn_opts none = {.clear_env = true};
	_cleanup_free_ char *env_text = NULL;

	setenv("OURS", "x", 1);
	setenv("HOME", "/here", 1);
	check_output("1 /there x /\n", SH("echo $A $HOME $OURS $(pwd)"), &over);
	check_output("1 /there\n", SH("echo $A $HOME $OURS"), &only);
	check_output("", ARGV((char *)"env"), &none);
	env_text = output_of(ARGV((char *)"env"), &over);
	/* Replaced, not there twice. */
	check(strstr(env_text, "HOME=/there\n") && !strstr(env_text, "HOME=/here\n"));
	unsetenv("OURS");
}

FIBER_TEST(only_listed_descriptors_are_passed)
{
	int a = read_only_fd("a"), b = read_only_fd("b");
	int leaked = fcntl(a, F_DUPFD, 50); /* not even close-on-exec */
	struct spawn_fd same[] = {{a, -1}};
	struct spawn_fd far[] = {{a, 70}, {b, 30}};
	struct spawn_opts opts = {};
	_cleanup_free_ char *wanted = xasprintf("0 1 2 %d=a", a);

	check_output("0 1 2", ARGV(child_program, (char *)"fds"), &opts);
	opts.fds = same;
	opts.n_fds = 1;
	check_output(wanted, ARGV(child_program, (char *)"fds"), &opts);
	opts.fds = far;
	opts.n_fds = 2;
	check_output("0 1 2 30=b 70=a", ARGV(child_program, (char *)"fds"), &opts);
	check(fcntl(a, F_GETFD) & FD_CLOEXEC); /* ours is as it was */
	close(leaked);
	close(a);
	close(b);
}

FIBER_TEST(overlapping_numbers_are_swapped)
{
	int a = read_only_fd("a"), b = read_only_fd("b"), c = read_only_fd("c");
	struct spawn_fd ring[] = {{a, b}, {b, c}, {c, a}};
	struct spawn_fd twice[] = {{a, a}, {a, b}};
	struct spawn_opts opts = {.fds = ring, .n_fds = 3};
	_cleanup_free_ char *wanted = xasprintf("0 1 2 %d=c %d=a %d=b", a, b, c);
	_cleanup_free_ char *wanted2 = xasprintf("0 1 2 %d=a %d=a", a, b);

	check(a < b && b < c);
	check_output(wanted, ARGV(child_program, (char *)"fds"), &opts);
	opts.fds = twice;
	opts.n_fds = 2;
	check_output(wanted2, ARGV(child_program, (char *)"fds"), &opts);
	close(a);
	close(b);
	close(c);
}

FIBER_TEST(a_pid_namespace_can_be_asked_for)
{
	struct spawn_opts opts = {.clone_flags = CLONE_NEWPID};

	if (geteuid() != 0)
		opts.clone_flags |= CLONE_NEWUSER;
	_cleanup_free_ char *got = output_of(ARGV(child_program, (char *)"describe"), &opts);

	/* Hosts may forbid it; then it must be an error that says so. */
	if (strstr(got, "cannot make a process for"))
		return;
	check_str(got, "ignored=0 blocked=0 death=9 leader=1 session=0 pid1=1");
}

/* --- The end -------------------------------------------------------------------------------- */

static int exits;

static void count_exit(struct process *p, void *userdata)
{
	check(!fiber_self());
	check(process_is_done(p));
	exits++;
	process_free(p); /* allowed here */
}

FIBER_TEST(status_and_callback)
{
	_cleanup_process_ struct process *p = NULL;
	_cleanup_free_ char *words = NULL;
	struct process *q;
	int status;

	check(process_spawn(SH("exit 3"), NULL, &p, NULL) == 0);
	check_str(process_name(p), "sh");
	check(process_wait(p, 5 * NS_PER_SEC, &status, NULL) == 0);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	check(process_is_done(p) && process_status(p) == status);
	check(process_wait(p, 0, NULL, NULL) == 0);
	words = process_describe_status(status);
	check_str(words, "exited with status 3");
	process_kill(p, SIGKILL); /* harmless */
	process_kill_group(p, SIGKILL);

	exits = 0;
	check(process_spawn(SH("true"), NULL, &q, NULL) == 0);
	process_on_exit(q, count_exit, NULL);
	while (!exits)
		check(fiber_sleep(MS, NULL) == 0);
	check(exits == 1);
}

FIBER_TEST(death_by_signal)
{
	_cleanup_process_ struct process *p = NULL;
	_cleanup_free_ char *words = NULL;
	struct error err = {};
	int status;

	check(process_spawn(ARGV((char *)"sleep", (char *)"100"),
			    &(struct spawn_opts){.name = "server"}, &p, NULL) == 0);
	check(process_wait(p, 10 * MS, NULL, &err) == -ETIMEDOUT);
	check_str(err.message, "timed out after 10 ms waiting for process 'server' to end");
	process_kill(p, SIGKILL);
	check(process_wait(p, 5 * NS_PER_SEC, &status, NULL) == 0);
	words = process_describe_status(status);
	check_str(words, "was killed by signal 9 (Killed)");
}

/* Starts a shell with a background child and returns a pipe that ends when both are gone. */
static struct process *spawn_group(const char *script, struct io **ret)
{
	struct process *p;
	char line[8];
	int fds[2];

	check(pipe2(fds, O_CLOEXEC) == 0);
	check(process_spawn(SH(script), &(struct spawn_opts){.stdout_fd = fds[1]}, &p, NULL) == 0);
	close(fds[1]);
	*ret = io_new(fds[0]);
	check(io_read(*ret, line, sizeof(line), 5 * NS_PER_SEC, NULL) == 3); /* "up\n" */
	return p;
}

static void check_all_gone(struct io *io)
{
	char c;

	check(io_read(io, &c, 1, 5 * NS_PER_SEC, NULL) == 0);
}

FIBER_TEST(kill_group_reaches_the_children_of_the_child)
{
	_cleanup_io_ struct io *io = NULL;
	_cleanup_process_ struct process *p = spawn_group("sleep 100 & echo up; wait", &io);

	process_kill_group(p, SIGKILL);
	check(process_wait(p, 5 * NS_PER_SEC, NULL, NULL) == 0);
	check_all_gone(io);
}

FIBER_TEST(stop_kills_what_ignores_sigterm)
{
	_cleanup_io_ struct io *io = NULL;
	_cleanup_process_ struct process *p =
		spawn_group("trap '' TERM; echo up; while :; do sleep 100; done", &io);
	uint64_t start = now_ns();

	process_stop(p, 30 * MS);
	check(now_ns() - start >= 30 * MS);
	check(process_is_done(p) && WIFSIGNALED(process_status(p)));
	check_all_gone(io);
}

FIBER_TEST(stop_is_gentle_first_and_leaves_nobody)
{
	_cleanup_io_ struct io *io = NULL;
	/* The leader says goodbye; its background child is deaf. */
	_cleanup_process_ struct process *p = spawn_group(
		"trap 'exit 7' TERM; (trap '' TERM; exec sleep 100) & echo up; wait", &io);

	process_stop(p, 5 * NS_PER_SEC);
	check(WEXITSTATUS(process_status(p)) == 7);
	check_all_gone(io);
}

FIBER_TEST(free_kills_the_group)
{
	_cleanup_io_ struct io *io = NULL;
	struct process *p = spawn_group("sleep 100 & echo up; wait", &io);

	process_free(p);
	process_free(NULL);
	check_all_gone(io);
}

static int wait_for_it(void *userdata)
{
	return process_wait(userdata, NS_FOREVER, NULL, NULL);
}

FIBER_TEST(free_wakes_whoever_waits)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	struct process *p;

	check(process_spawn(ARGV((char *)"sleep", (char *)"100"), NULL, &p, NULL) == 0);
	fiber_start("waiter", wait_for_it, p, &f);
	fiber_yield();
	process_free(p);
	check(fiber_join(f, NS_PER_SEC, NULL) == 0 && fiber_result(f) == -EBADF);
}

static int wait_and_free(void *userdata)
{
	int r = process_wait(userdata, NS_FOREVER, NULL, NULL);

	process_free(userdata);
	return r;
}

static int stop_it(void *userdata)
{
	process_stop(userdata, 5 * NS_PER_SEC);
	return 0;
}

/* Who waited first is woken first, and frees what the other is about to look at. */
FIBER_TEST(free_beside_stop)
{
	_cleanup_fiber_ struct fiber *owner = NULL, *stopper = NULL;
	struct process *p;

	check(process_spawn(ARGV((char *)"sleep", (char *)"100"), NULL, &p, NULL) == 0);
	fiber_start("owner", wait_and_free, p, &owner);
	fiber_yield();
	fiber_start("stopper", stop_it, p, &stopper);
	check(fiber_join(owner, NS_PER_SEC, NULL) == 0 && fiber_result(owner) == 0);
	check(fiber_join(stopper, NS_PER_SEC, NULL) == 0);
}

static pid_t left_over;

static int leave_one(void *userdata)
{
	struct process *p;

	check(process_spawn(ARGV((char *)"sleep", (char *)"100"), NULL, &p, NULL) == 0);
	left_over = process_pid(p);
	process_free(p);
	return 0;
}

static void the_end_of_the_loop_reaps_what_is_left(void **state)
{
	assert_int_equal(loop_main("leave", leave_one, NULL), 0);
	/* Not even a zombie. */
	assert_int_equal(waitpid(left_over, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

FIBER_TEST(children_die_with_their_parent)
{
	_cleanup_process_ struct process *parent = NULL;
	char line[32] = "";
	struct pollfd pfd;
	int fds[2], pid;

	/* The grandchild is given to us instead of init, so it can be waited for. */
	check(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	check(pipe2(fds, O_CLOEXEC) == 0);
	check(process_spawn(ARGV(child_program, (char *)"parent"),
			    &(struct spawn_opts){.stdout_fd = fds[1]}, &parent, NULL) == 0);
	check(read(fds[0], line, sizeof(line) - 1) > 0);
	check(parse_int(strtok(line, "\n"), &pid) == 0);
	pfd = (struct pollfd){.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	check(pfd.fd >= 0 && poll(&pfd, 1, 0) == 0); /* it runs */
	process_kill(parent, SIGKILL);		     /* the parent only, not its group */
	check(poll(&pfd, 1, 5000) == 1);
	check(waitpid(pid, NULL, 0) == pid);
	close(pfd.fd);
	close(fds[0]);
	close(fds[1]);
	check(prctl(PR_SET_CHILD_SUBREAPER, 0) == 0);
}

/* --- process_run() -------------------------------------------------------------------------- */

FIBER_TEST(run_keeps_outputs_apart_and_feeds_input)
{
	struct run_result r;
	const char input[] = "in\0put";

	check(process_run(SH("cat; echo bad >&2; exit 4"), NULL, input, 6, 1000, 5 * NS_PER_SEC, &r,
			  NULL) == 0);
	check(r.out.len == 6 && memcmp(r.out.data, input, 6) == 0);
	check_str(buf_str(&r.err), "bad\n");
	check(WEXITSTATUS(r.status) == 4);
	run_result_done(&r);
	/* Without input: the null device, not our terminal. */
	check_output("", ARGV((char *)"cat"), NULL);
}

FIBER_TEST(run_takes_large_output_of_both)
{
	struct run_result r;

	check(process_run(SH("head -c 3000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait"),
			  NULL, NULL, 0, 10 * MIB, 5 * NS_PER_SEC, &r, NULL) == 0);
	check(r.out.len == 3000000 && r.err.len == 2000000);
	run_result_done(&r);
}

FIBER_TEST(run_caps_output_and_says_so)
{
	struct run_result r;

	check(process_run(SH("head -c 1000000 /dev/zero | tr '\\0' x; printf 123456 >&2"), NULL,
			  NULL, 0, 6, 5 * NS_PER_SEC, &r, NULL) == 0);
	check_str(buf_str(&r.out), "xxxxxx\n[999994 more bytes were dropped]\n");
	check_str(buf_str(&r.err), "123456"); /* exactly full is not too much */
	check(r.status == 0);
	run_result_done(&r);
}

FIBER_TEST(run_ends_with_its_process)
{
	struct run_result r;
	uint64_t start = now_ns();

	check(process_run(SH("sleep 3 & echo done"), NULL, NULL, 0, 100, 5 * NS_PER_SEC, &r,
			  NULL) == 0);
	check(now_ns() - start < NS_PER_SEC);
	check_str(buf_str(&r.out), "done\n");
	run_result_done(&r);
}

FIBER_TEST(run_times_out)
{
	struct run_result r;
	struct error err = {};

	check(process_run(SH("echo first >&2; echo 'no disk' >&2; sleep 100"), NULL, NULL, 0, 100,
			  60 * MS, &r, &err) == -ETIMEDOUT);
	check(err.kind == ERROR_TIMEOUT);
	check_str(err.message, "timed out after 60 ms waiting for process 'sh' to end");
	check_str(err.hint, "the last line that it wrote to stderr: no disk");
	check(r.out.len == 0 && !r.out.data);
}

FIBER_TEST(run_lets_what_it_stops_clean_up)
{
	int pipe_fds[2];
	char text[4] = "";
	struct run_result r;

	check(pipe2(pipe_fds, O_CLOEXEC) == 0);
	check(process_run(SH("trap 'echo bye >&2; exit' TERM; sleep 100 & wait"),
			  &(struct spawn_opts){.stderr_fd = pipe_fds[1]}, NULL, 0, 100, 60 * MS, &r,
			  NULL) == -ETIMEDOUT);
	close(pipe_fds[1]);
	check(read(pipe_fds[0], text, 3) == 3);
	check_str(text, "bye");
	close(pipe_fds[0]);
}

static int run_long(void *userdata)
{
	struct run_result r;

	return process_run(SH("sleep 100"), NULL, NULL, 0, 100, NS_FOREVER, &r, userdata);
}

FIBER_TEST(run_can_be_cancelled)
{
	_cleanup_fiber_ struct fiber *f = NULL;
	struct error err = {};

	fiber_start("run", run_long, &err, &f);
	check(fiber_sleep(20 * MS, NULL) == 0);
	fiber_stop(f);
	check(fiber_result(f) == -ECANCELED && err.kind == ERROR_CANCELLED);
	check(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD); /* reaped */
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(missing_programs_are_errors_of_spawn),
		cmocka_unit_test(the_child_starts_from_a_known_state),
		cmocka_unit_test(environment_and_directory),
		cmocka_unit_test(only_listed_descriptors_are_passed),
		cmocka_unit_test(overlapping_numbers_are_swapped),
		cmocka_unit_test(a_pid_namespace_can_be_asked_for),
		cmocka_unit_test(status_and_callback),
		cmocka_unit_test(death_by_signal),
		cmocka_unit_test(kill_group_reaches_the_children_of_the_child),
		cmocka_unit_test(stop_kills_what_ignores_sigterm),
		cmocka_unit_test(stop_is_gentle_first_and_leaves_nobody),
		cmocka_unit_test(free_kills_the_group),
		cmocka_unit_test(free_wakes_whoever_waits),
		cmocka_unit_test(free_beside_stop),
		cmocka_unit_test(the_end_of_the_loop_reaps_what_is_left),
		cmocka_unit_test(children_die_with_their_parent),
		cmocka_unit_test(run_keeps_outputs_apart_and_feeds_input),
		cmocka_unit_test(run_takes_large_output_of_both),
		cmocka_unit_test(run_caps_output_and_says_so),
		cmocka_unit_test(run_ends_with_its_process),
		cmocka_unit_test(run_times_out),
		cmocka_unit_test(run_lets_what_it_stops_clean_up),
		cmocka_unit_test(run_can_be_cancelled),
	};

	if (argc != 2) {
		fprintf(stderr, "usage: test-process CHILD-PROGRAM\n");
		return 2;
	}
	child_program = argv[1];
	return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
