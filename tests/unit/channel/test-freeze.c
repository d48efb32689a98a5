/* SPDX-License-Identifier: MIT */
/* Freezing and thawing the agent: in place, as a copy, and what disturbs it. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "agent-fixture.h"
#include "base/file.h"
#include "peer.h"

const char *agent_program;

/* Long enough for an agent that goes on to be heard. */
#define SILENCE_MS 200

/* --- a guest whose stream the test can look at ------------------------------------------------ */

struct saved {
	struct guest g;
	int fd; /* the host's end, once more */
};

static void saved_start(struct saved *s)
{
	int fd = guest_spawn(&s->g);

	s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	s->g.agent = agent_new(io_new(fd), &guest_callbacks, &s->g);
	check_ok(agent_wait_hello(s->g.agent, NULL, 10 * S, &failure));
}

static void saved_stop(struct saved *s)
{
	int status;

	close(s->fd);
	agent_free(s->g.agent);
	check_ok(process_wait(s->g.process, 20 * S, &status, &failure));
	check(status == 0);
	process_free(s->g.process);
}

/* Nothing is on its way to the host, nor comes. */
static void check_silence(const struct saved *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLIN};

	check(poll(&p, 1, SILENCE_MS) == 0);
}

/* The frozen guest is another host's from now on, which has not said anything. */
static void saved_copy(struct saved *s)
{
	int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);

	agent_free(s->g.agent);
	check_silence(s);
	s->g.n_hello = s->g.n_closed = 0;
	s->g.agent = agent_new_frozen(io_new(fd), &guest_callbacks, &s->g);
}

/* --- commands that tell whether a byte was lost ----------------------------------------------- */

/* Reads what `seq` writes, up to `until` bytes or its end, and checks each. */
struct sequence {
	struct agent_process *process;
	uint64_t next; /* number */
	struct buf rest;
	size_t bytes;
};

static void sequence_check(struct sequence *q)
{
	char *line = q->rest.data, *end;
	size_t left = q->rest.len;

	while (left > 0 && (end = memchr(line, '\n', left))) {
		*end = '\0';
		if (strtoull(line, NULL, 10) != q->next) {
			fprintf(stderr, "'%s' came, %llu was wanted\n", line,
				(unsigned long long)q->next);
			abort();
		}
		q->next++;
		left -= (size_t)(end + 1 - line);
		line = end + 1;
	}
	buf_consume(&q->rest, q->rest.len - left);
}

static void sequence_read(struct sequence *q, size_t until)
{
	int stream, n;

	while (q->bytes < until) {
		n = agent_process_read(q->process, &q->rest, &stream, 20 * S, &failure);
		check_ok(n);
		if (n == 0)
			break;
		check(stream == 1);
		q->bytes += (size_t)n;
		sequence_check(q);
	}
}

static int run_ping(void *userdata)
{
	return agent_ping(userdata, 20 * S, NULL);
}

static int wait_for_file(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	return agent_wait_file(f->agent, arg, false, timeout_ns, err);
}

static bool match_never(const char *cmdline, void *userdata)
{
	return false;
}

static int wait_for_process(struct fixture *f, const char *arg, uint64_t timeout_ns,
			    struct error *err)
{
	return agent_wait_process(f->agent, match_never, NULL, arg, timeout_ns, err);
}

static int wait_for_port(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	/* The discard port, of which nobody knows on a machine of today. */
	struct agent_socket_wait w = {.address = "127.0.0.1", .port = 9};

	return agent_wait_socket(f->agent, &w, timeout_ns, err);
}

/* --- in place --------------------------------------------------------------------------------- */

FIBER_TEST(nothing_is_lost_in_place)
{
	struct saved s;
	struct fixture f = {.dir = "/tmp/test-freeze-XXXXXX"};
	struct agent_command cmd = {.script = "exec seq 2000000"};
	struct sequence q = {.next = 1};
	struct agent_result r;
	struct fiber *ping;

	check(mkdtemp(f.dir));
	saved_start(&s);
	f.agent = s.g.agent;
	{
		_cleanup_free_ char *path = path_join(f.dir, "appears");
		struct waiting file = {.wait = wait_for_file, .f = &f, .arg = path};
		struct waiting process = {.wait = wait_for_process, .f = &f, .arg = "a process"};
		struct waiting port = {.wait = wait_for_port, .f = &f, .arg = "port 9"};

		process.timeout_ns = port.timeout_ns = 3 * S;
		waiting_begin(&file);
		waiting_begin(&process);
		waiting_begin(&port);
		check_ok(agent_process_start(s.g.agent, &cmd, &q.process, &failure));
		for (size_t i = 1; i <= 10; i++) {
			sequence_read(&q, i * MIB);
			check_ok(agent_freeze(s.g.agent, 10 * S, &failure));
			/* Once more is no harm. */
			check_ok(agent_freeze(s.g.agent, 10 * S, &failure));
			if (i == 3)
				sh(&f, "touch appears");
			fiber_start("ping", run_ping, s.g.agent, &ping);
			check(fiber_join(ping, 20 * MS, NULL) == -ETIMEDOUT);
			check(i < 3 || i > 3 || !fiber_is_done(file.fiber));
			check_ok(agent_thaw(s.g.agent, NULL, 10 * S, &failure));
			check(fiber_join(ping, 20 * S, NULL) == 0 && fiber_result(ping) == 0);
			fiber_unref(ping);
			if (i == 3)
				waiting_succeeds(&file, now_ns());
		}
		sequence_read(&q, SIZE_MAX);
		check(q.next == 2000001 && q.rest.len == 0);
		check_ok(agent_process_wait(q.process, 10 * S, &r, &failure));
		check(r.code == 0);
		waiting_fails(&process, ERROR_TIMEOUT, "");
		waiting_fails(&port, ERROR_TIMEOUT, "");
	}
	check(s.g.n_hello == 1 && s.g.n_closed == 0);
	agent_result_done(&r);
	agent_process_free(q.process);
	buf_done(&q.rest);
	saved_stop(&s);
	sh(&f, "rm -f appears; rmdir \"$PWD\"");
}

/* --- as a copy -------------------------------------------------------------------------------- */

/* How far a file's counter has come; 0 without it. */
static uint64_t counter(const struct fixture *f, const char *name)
{
	_cleanup_free_ char *path = path_join(f->dir, name);
	_cleanup_buf_ struct buf b = {};

	if (buf_read_file(&b, path, 4096) < 0)
		return 0;
	return strtoull(buf_str(&b), NULL, 10);
}

/* It comes at least so much further than it is, in good time. */
static void check_goes_on(const struct fixture *f, const char *name, uint64_t by)
{
	uint64_t from = counter(f, name), deadline = deadline_in(20 * S);

	while (counter(f, name) < from + by) {
		check(timeout_left(deadline) > 0);
		check_ok(fiber_sleep(5 * MS, &failure));
	}
}

FIBER_TEST(a_copy_leaves_commands_alive)
{
	/* Much more than a pipe and a window hold: it can only go on if somebody reads it. */
	static const char flood[] = "i=0; line=$(printf %4095s); while :; do echo \"$line\"; "
				    "i=$((i + 1)); echo $i > flood; done";
	struct saved s;
	struct fixture f = {.dir = "/tmp/test-freeze-XXXXXX"};
	struct agent_command cmd = {.script = flood, .cwd = f.dir};
	struct agent_command cat = {.script = "cat > input", .cwd = f.dir, .keep_stdin = true};
	struct waiting wait = {.wait = wait_for_process, .f = &f, .arg = "a process"};
	struct agent_process *flooding, *reading;
	char boot_id[40];
	pid_t pids[2];

	check(mkdtemp(f.dir));
	saved_start(&s);
	f.agent = s.g.agent;
	snprintf(boot_id, sizeof(boot_id), "%s", agent_last_hello(s.g.agent)->boot_id);
	check_ok(agent_process_start(s.g.agent, &cmd, &flooding, &failure));
	check_ok(agent_process_start(s.g.agent, &cat, &reading, &failure));
	check_ok(agent_process_write(reading, "once\n", 5, 10 * S, &failure));
	pids[0] = agent_process_pid(flooding);
	pids[1] = agent_process_pid(reading);
	waiting_begin(&wait);
	for (int copy = 0; copy < 3; copy++) {
		check_ok(agent_freeze(s.g.agent, 10 * S, &failure));
		saved_copy(&s);
		if (copy == 0) {
			waiting_fails(&wait, ERROR_CANCELLED, "closed");
			check(agent_process_is_done(flooding));
			agent_process_free(flooding);
			agent_process_free(reading);
		}
		check(s.g.n_hello == 0);
		check_ok(agent_thaw(s.g.agent, NULL, 10 * S, &failure));
		check(s.g.n_hello == 1);
		check_str(agent_last_hello(s.g.agent)->phase, "system");
		check_str(agent_last_hello(s.g.agent)->boot_id, boot_id);
		check_ok(agent_ping(s.g.agent, 10 * S, &failure));
		check_goes_on(&f, "flood", 4 * MIB / 4096);
		check(!is_dead(pids[1]));
	}
	kill(-pids[0], SIGKILL);
	kill(-pids[1], SIGKILL);
	check(is_gone(pids[0]) && is_gone(pids[1]));
	check_ok(agent_ping(s.g.agent, 10 * S, &failure));
	saved_stop(&s);
	sh(&f, "grep -q once input; rm -f flood input; rmdir \"$PWD\"");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_in_place),
		cmocka_unit_test(a_copy_leaves_commands_alive),
	};

	assert_true(argc > 1);
	agent_program = argv[1];
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
