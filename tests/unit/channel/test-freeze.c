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

/* --- the agent's end, frame by frame ---------------------------------------------------------- */

static void ask(struct peer *p, enum wire_type type, uint32_t number, uint64_t nonce,
		const struct buf *b)
{
	peer_send(p, (struct wire_header){.type = type, .call = number, .nonce = nonce},
		  b ? b->data : NULL, b ? b->len : 0);
}

static void put_thaw(struct buf *b, uint32_t version, uint64_t host_id)
{
	struct timespec ts;

	buf_truncate(b, 0);
	wire_put_u32(b, TAG_VERSION, version);
	wire_put_u64(b, TAG_HOST_ID, host_id);
	/* The time as it is: should the agent set the clock of this machine, it does no harm. */
	clock_gettime(CLOCK_REALTIME, &ts);
	wire_put_u64(b, TAG_REALTIME_NS, (uint64_t)ts.tv_sec * S + (uint64_t)ts.tv_nsec);
}

/* The answer to the request of that number; its error's code, or 0. */
static int answer(struct peer *p, enum wire_type type, uint32_t number, struct wire_header *h)
{
	struct wire_fields f;
	struct error err = {};
	uint64_t delta;

	peer_expect(p, type, h, &f);
	check(h->call == number);
	/* It was not told that the machine is its own. */
	check(!wire_get_u64(&f, TAG_DELTA_NS, &delta));
	return wire_get_error(&f, &err) ? err.code : 0;
}

FIBER_TEST(agent_answers_each_request)
{
	struct guest g;
	struct peer p;
	struct wire_header h, ping = {.type = WIRE_CALL, .arg = WIRE_OP_PING, .call = 1};
	struct wire_fields f;
	_cleanup_buf_ struct buf b = {};
	uint64_t nonce;

	agent_peer_start(&g, &p, 11, &nonce);
	ping.nonce = nonce;
	put_thaw(&b, WIRE_VERSION, 11);
	ask(&p, WIRE_THAW, 5, nonce, &b);
	check(answer(&p, WIRE_THAWED, 5, &h) == EALREADY);
	expect_ping(&p, nonce, 2);
	/* Not in this session: not heard. */
	ask(&p, WIRE_FREEZE, 6, nonce + 1, NULL);
	expect_ping(&p, nonce, 3);
	ask(&p, WIRE_FREEZE, 7, nonce, NULL);
	check(answer(&p, WIRE_FROZEN, 7, &h) == 0);
	ask(&p, WIRE_FREEZE, 8, nonce, NULL);
	check(answer(&p, WIRE_FROZEN, 8, &h) == 0);
	/* Frozen, it takes no calls. */
	peer_send(&p, ping, NULL, 0);
	check(!peer_receive(&p, &h, &f));
	put_thaw(&b, WIRE_VERSION + 1, 11);
	ask(&p, WIRE_THAW, 9, nonce, &b);
	check(answer(&p, WIRE_THAWED, 9, &h) == EPROTO);
	put_thaw(&b, WIRE_VERSION, 0);
	ask(&p, WIRE_THAW, 10, nonce, &b);
	check(answer(&p, WIRE_THAWED, 10, &h) == EPROTO);
	/* Any nonce will do, the session goes on under its own. */
	put_thaw(&b, WIRE_VERSION, 11);
	ask(&p, WIRE_THAW, 11, 0, &b);
	check(answer(&p, WIRE_THAWED, 11, &h) == 0);
	check(h.nonce == nonce);
	expect_ping(&p, nonce, 4);
	/* Another host: another session. */
	ask(&p, WIRE_FREEZE, 12, nonce, NULL);
	check(answer(&p, WIRE_FROZEN, 12, &h) == 0);
	put_thaw(&b, WIRE_VERSION, 12);
	ask(&p, WIRE_THAW, 1, 0, &b);
	check(answer(&p, WIRE_THAWED, 1, &h) == 0);
	check(h.nonce != nonce);
	peer_send(&p, ping, NULL, 0);
	expect_ping(&p, h.nonce, 5);
	agent_peer_stop(&g, &p);
}

FIBER_TEST(agent_goes_on_for_a_host_that_attaches)
{
	struct guest g;
	struct peer p;
	struct wire_header h;
	struct wire_fields f;
	uint64_t nonce;

	agent_peer_start(&g, &p, 11, &nonce);
	ask(&p, WIRE_FREEZE, 1, nonce, NULL);
	check(answer(&p, WIRE_FROZEN, 1, &h) == 0);
	send_attach(&p, WIRE_VERSION, 12);
	peer_expect(&p, WIRE_HELLO, &h, &f);
	check(h.nonce != nonce);
	expect_ping(&p, h.nonce, 2);
	agent_peer_stop(&g, &p);
}

/* --- the host's end --------------------------------------------------------------------------- */

struct request {
	struct agent *agent;
	uint64_t timeout_ns;
	struct fiber *fiber;
	struct error err;
};

static int run_freeze(void *userdata)
{
	struct request *r = userdata;

	return agent_freeze(r->agent, r->timeout_ns, &r->err);
}

static int run_thaw(void *userdata)
{
	struct request *r = userdata;

	return agent_thaw(r->agent, NULL, r->timeout_ns, &r->err);
}

/* The request's frame, whose number is returned. */
static uint32_t begin(struct request *r, struct agent *a, bool freeze, uint64_t timeout_ns,
		      struct peer *p, struct wire_fields *f)
{
	struct wire_header h;

	*r = (struct request){.agent = a, .timeout_ns = timeout_ns};
	fiber_start("request", freeze ? run_freeze : run_thaw, r, &r->fiber);
	peer_expect(p, freeze ? WIRE_FREEZE : WIRE_THAW, &h, f);
	return h.call;
}

static int finish(struct request *r)
{
	int rc;

	check(fiber_join(r->fiber, 5 * S, NULL) == 0);
	rc = fiber_result(r->fiber);
	r->fiber = fiber_unref(r->fiber);
	return rc;
}

static void check_ping(struct agent *a, struct peer *p, uint64_t nonce)
{
	struct wire_header h;
	struct wire_fields f;
	struct fiber *ping;

	fiber_start("ping", run_ping, a, &ping);
	peer_expect(p, WIRE_CALL, &h, &f);
	check(h.nonce == nonce && h.arg == WIRE_OP_PING);
	peer_send(p, (struct wire_header){.type = WIRE_REPLY, .call = h.call, .nonce = nonce}, NULL,
		  0);
	check(fiber_join(ping, 5 * S, NULL) == 0 && fiber_result(ping) == 0);
	fiber_unref(ping);
}

FIBER_TEST(host_gives_a_freeze_up)
{
	struct guest g;
	struct peer p;
	struct request r;
	struct wire_header h;
	struct wire_fields f;
	_cleanup_buf_ struct buf b = {};
	struct error why = {};
	uint32_t first, second;
	const uint8_t *seed;
	size_t len;
	uint64_t id;

	client_start(&g, &p, &id);
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "system");
	check_ok(agent_wait_hello(g.agent, NULL, 2 * S, &failure));
	first = begin(&r, g.agent, true, 50 * MS, &p, &f);
	check(finish(&r) == -ETIMEDOUT);
	check(r.err.kind == ERROR_INFRA);
	check_str(r.err.message, "the guest agent did not freeze within 50 ms");
	/* Whatever the guest has done by now, it is undone, and changes nothing. */
	peer_expect(&p, WIRE_THAW, &h, &f);
	check(!wire_get_u64(&f, TAG_REALTIME_NS, &id) &&
	      !wire_get_bytes(&f, TAG_SEED, &seed, &len));
	check_ping(g.agent, &p, 5);
	/* Late answers are not those to the next question. */
	second = begin(&r, g.agent, true, 5 * S, &p, &f);
	check(second != first && second != h.call);
	peer_send(&p, (struct wire_header){.type = WIRE_FROZEN, .call = first, .nonce = 5}, NULL,
		  0);
	peer_send(&p, (struct wire_header){.type = WIRE_THAWED, .call = h.call, .nonce = 5}, NULL,
		  0);
	check(fiber_join(r.fiber, 50 * MS, NULL) == -ETIMEDOUT);
	error_set(&why, ERROR_INFRA, EIO, "systemd is asleep");
	wire_put_error(&b, &why);
	peer_send(&p, (struct wire_header){.type = WIRE_FROZEN, .call = second, .nonce = 5}, b.data,
		  b.len);
	check(finish(&r) == -EIO);
	check_str(r.err.message, "systemd is asleep");
	/* Then nothing is frozen. */
	check_ping(g.agent, &p, 5);
	check(agent_thaw(g.agent, NULL, S, NULL) == -EALREADY);
	agent_free(g.agent);
	peer_done(&p);
}

static void send_thawed(struct peer *p, uint32_t number, uint64_t host_id, uint64_t nonce,
			bool clock_set)
{
	_cleanup_buf_ struct buf b = {};

	wire_put_u32(&b, TAG_VERSION, WIRE_VERSION);
	wire_put_u64(&b, TAG_HOST_ID, host_id);
	wire_put_str(&b, TAG_BOOT_ID, "boot-a");
	wire_put_str(&b, TAG_PHASE, "system");
	if (clock_set)
		wire_put_u64(&b, TAG_DELTA_NS, 1);
	peer_send(p, (struct wire_header){.type = WIRE_THAWED, .call = number, .nonce = nonce},
		  b.data, b.len);
}

/* A client for a guest that was saved: its first frame is THAW. */
static uint32_t frozen_start(struct guest *g, struct peer *p, struct request *r,
			     uint64_t timeout_ns, struct wire_fields *f)
{
	int ends[2];

	*g = (struct guest){};
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	g->agent = agent_new_frozen(io_new(ends[0]), &guest_callbacks, g);
	peer_init(p, ends[1]);
	/* What the guest may say to its host of old means nothing. */
	send_hello(p, WIRE_VERSION, 99, 3, "boot-a", "system");
	check_ok(fiber_sleep(20 * MS, &failure));
	check(!agent_last_hello(g->agent));
	return begin(r, g->agent, false, timeout_ns, p, f);
}

FIBER_TEST(host_thaws_a_copy)
{
	struct guest g;
	struct peer p;
	struct request r;
	struct wire_header h;
	struct wire_fields f;
	struct timespec ts;
	uint64_t id, when;
	const uint8_t *seed;
	uint32_t number, first;
	size_t len;

	first = frozen_start(&g, &p, &r, 30 * MS, &f);
	check(wire_get_u64(&f, TAG_HOST_ID, &id) && id != 0 && id != 99);
	check(wire_get_bytes(&f, TAG_SEED, &seed, &len) && len >= 32);
	check(wire_get_u64(&f, TAG_REALTIME_NS, &when));
	clock_gettime(CLOCK_REALTIME, &ts);
	check((uint64_t)ts.tv_sec * S + (uint64_t)ts.tv_nsec - when < 5 * S);
	check(finish(&r) == -ETIMEDOUT && r.err.kind == ERROR_INFRA);
	check_str(r.err.message, "the guest agent did not thaw within 30 ms");
	check(g.n_hello == 0);
	/* Once more. The late answer to the first, and one for somebody else, are none. */
	number = begin(&r, g.agent, false, 5 * S, &p, &f);
	send_thawed(&p, first, id, 7, false);
	check(fiber_join(r.fiber, 50 * MS, NULL) == -ETIMEDOUT);
	send_thawed(&p, number, 99, 7, false);
	check(finish(&r) == -EPROTO);
	number = begin(&r, g.agent, false, 5 * S, &p, &f);
	/* After so long, the clock is in doubt. */
	check_ok(fiber_sleep(50 * MS, &failure));
	send_thawed(&p, number, id, 8, true);
	peer_expect(&p, WIRE_CALL, &h, &f);
	check(h.arg == WIRE_OP_SET_CLOCK && h.nonce == 8);
	check(g.n_hello == 1 && str_eq(agent_last_hello(g.agent)->phase, "system"));
	peer_send(&p, (struct wire_header){.type = WIRE_REPLY, .call = h.call, .nonce = 8}, NULL,
		  0);
	check(finish(&r) == 0);
	check_ping(g.agent, &p, 8);
	agent_free(g.agent);
	peer_done(&p);
}

FIBER_TEST(host_sees_the_guest_restart_instead)
{
	struct guest g;
	struct peer p;
	struct request r;
	struct wire_header h;
	struct wire_fields f;
	struct error err = {};
	uint64_t id;

	frozen_start(&g, &p, &r, 5 * S, &f);
	send_hello(&p, WIRE_VERSION, 0, 0, "boot-b", "initramfs");
	check(finish(&r) < 0 && r.err.kind == ERROR_CRASH);
	check_str(r.err.message, "the guest has rebooted");
	peer_expect(&p, WIRE_ATTACH, &h, &f);
	check(wire_get_u64(&f, TAG_HOST_ID, &id));
	send_hello(&p, WIRE_VERSION, id, 6, "boot-b", "initramfs");
	check_ok(agent_wait_hello(g.agent, NULL, 2 * S, &failure));
	check_ping(g.agent, &p, 6);
	/* The machine's own end is told as such. */
	begin(&r, g.agent, true, 5 * S, &p, &f);
	error_set(&err, ERROR_CRASH, EIO, "the VMM has died");
	agent_fail(g.agent, &err);
	check(finish(&r) == -EIO);
	check_str(r.err.message, "the VMM has died");
	check(agent_freeze(g.agent, S, NULL) == -EIO && agent_thaw(g.agent, NULL, S, NULL) == -EIO);
	agent_free(g.agent);
	peer_done(&p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_in_place),
		cmocka_unit_test(a_copy_leaves_commands_alive),
		cmocka_unit_test(agent_answers_each_request),
		cmocka_unit_test(agent_goes_on_for_a_host_that_attaches),
		cmocka_unit_test(host_gives_a_freeze_up),
		cmocka_unit_test(host_thaws_a_copy),
		cmocka_unit_test(host_sees_the_guest_restart_instead),
	};

	assert_true(argc > 1);
	agent_program = argv[1];
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
