/* SPDX-License-Identifier: MIT */
/* The greeting and what disturbs it: versions, garbage, torn frames, restarts; both ends. */
#include <fcntl.h>

#include "agent-test.h"
#include "base/file.h"
#include "peer.h"

const char *agent_program;

static int run_ping(void *userdata)
{
	struct guest *g = userdata;

	error_clear(&g->closed);
	return agent_ping(g->agent, 2 * S, &g->closed);
}

static void answer_ping(struct peer *p, uint64_t nonce)
{
	struct wire_header h;
	struct wire_fields f;

	peer_expect(p, WIRE_CALL, &h, &f);
	check(h.arg == WIRE_OP_PING && h.nonce == nonce);
	peer_send(p, (struct wire_header){.type = WIRE_REPLY, .call = h.call, .nonce = nonce}, NULL,
		  0);
}

/* --- the host's end --------------------------------------------------------------------------- */

FIBER_TEST(host_refuses_another_version)
{
	struct guest g;
	struct peer p;
	uint64_t id;
	struct error err = {};

	client_start(&g, &p, &id);
	send_hello(&p, 7, 0, 1, "boot-a", "system");
	check(agent_wait_hello(g.agent, NULL, 2 * S, &err) < 0);
	check(err.kind == ERROR_INFRA);
	check(strstr(err.message, "version 7") && strstr(err.message, "c0ffee"));
	check(strstr(err.message, "version 2") && strstr(err.message, agent_binary_build()));
	check(g.n_closed == 1 && g.n_hello == 0);
	error_clear(&err);
	check(agent_ping(g.agent, S, &err) < 0 && strstr(err.message, "version 7"));
	agent_free(g.agent);
	peer_done(&p);
}

FIBER_TEST(host_greets_and_calls)
{
	struct guest g;
	struct peer p;
	struct fiber *f;
	uint64_t id;

	client_start(&g, &p, &id);
	check(!agent_last_hello(g.agent));
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "initramfs");
	check_ok(agent_wait_hello(g.agent, NULL, 2 * S, &failure));
	check_str(agent_last_hello(g.agent)->boot_id, "boot-a");
	check_str(agent_last_hello(g.agent)->phase, "initramfs");
	check(g.n_hello == 1);
	fiber_start("ping", run_ping, &g, &f);
	answer_ping(&p, 5);
	check(fiber_join(f, S, NULL) == 0 && fiber_result(f) == 0);
	fiber_unref(f);
	/* Twice the same is no news; another phase is. */
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "initramfs");
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "system");
	while (!str_eq(agent_last_hello(g.agent)->phase, "system"))
		check_ok(fiber_sleep(MS, &failure));
	check(g.n_hello == 2);
	agent_free(g.agent);
	peer_done(&p);
}

FIBER_TEST(host_sees_a_reboot)
{
	struct guest g;
	struct peer p;
	struct fiber *f;
	struct wire_header h;
	struct wire_fields in;
	uint64_t id;
	struct error err = {};

	client_start(&g, &p, &id);
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "system");
	check_ok(agent_wait_hello(g.agent, NULL, 2 * S, &failure));
	fiber_start("ping", run_ping, &g, &f);
	peer_expect(&p, WIRE_CALL, &h, &in);
	send_hello(&p, WIRE_VERSION, 0, 0, "boot-b", "initramfs");
	check(fiber_join(f, S, NULL) == 0 && fiber_result(f) < 0);
	fiber_unref(f);
	check(g.closed.kind == ERROR_CRASH);
	check_str(g.closed.message, "the guest has rebooted");
	/* The reply of the old session does no harm, whatever call it may hit. */
	peer_send(&p, (struct wire_header){.type = WIRE_REPLY, .call = h.call, .nonce = 5}, NULL,
		  0);
	check(agent_wait_hello(g.agent, "boot-a", 50 * MS, &err) == -ETIMEDOUT);
	peer_expect(&p, WIRE_ATTACH, &h, &in);
	send_hello(&p, WIRE_VERSION, id, 6, "boot-b", "initramfs");
	check_ok(agent_wait_hello(g.agent, "boot-a", 2 * S, &failure));
	fiber_start("ping", run_ping, &g, &f);
	peer_expect(&p, WIRE_CALL, &h, &in);
	peer_send(&p, (struct wire_header){.type = WIRE_REPLY, .call = h.call, .nonce = 5}, NULL,
		  0);
	check(fiber_join(f, 50 * MS, NULL) == -ETIMEDOUT);
	peer_send(&p, (struct wire_header){.type = WIRE_REPLY, .call = h.call, .nonce = 6}, NULL,
		  0);
	check(fiber_join(f, S, NULL) == 0 && fiber_result(f) == 0);
	fiber_unref(f);
	agent_free(g.agent);
	peer_done(&p);
}

FIBER_TEST(host_hears_that_the_guest_cannot_boot)
{
	struct guest g;
	struct peer p;
	uint64_t id;
	struct error err = {};

	client_start(&g, &p, &id);
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "failed");
	while (g.n_hello == 0)
		check_ok(fiber_sleep(MS, &failure));
	check(agent_ping(g.agent, S, &err) < 0 && err.kind == ERROR_CRASH);
	check_str(err.message, "the guest cannot boot: no disk");
	agent_free(g.agent);
	peer_done(&p);
}

FIBER_TEST(host_survives_garbage_and_a_torn_frame)
{
	struct guest g;
	struct peer p;
	struct fiber *f;
	uint8_t frame[WIRE_HEADER + 100] = {};
	struct wire_header torn = {.type = WIRE_DATA, .len = WIRE_PAYLOAD_MAX, .nonce = 5};
	uint8_t end[WIRE_TRAILER];
	uint64_t id;

	client_start(&g, &p, &id);
	check_ok(io_write_all(p.io,
			      "\x95"
			      "ASY garbage \x95\x95"
			      "A",
			      17, S, &failure));
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "system");
	check_ok(agent_wait_hello(g.agent, NULL, 2 * S, &failure));
	/* A frame that promises 64 KiB and breaks off; then the next life. */
	wire_seal(&torn, frame, end);
	check_ok(io_write_all(p.io, frame, sizeof(frame), S, &failure));
	send_hello(&p, WIRE_VERSION, 0, 0, "boot-b", "initramfs");
	peer_send(&p, (struct wire_header){.type = WIRE_PAD}, NULL, WIRE_PAYLOAD_MAX);
	send_hello(&p, WIRE_VERSION, id, 6, "boot-b", "initramfs");
	check_ok(agent_wait_hello(g.agent, "boot-a", 2 * S, &failure));
	fiber_start("ping", run_ping, &g, &f);
	for (;;) {
		struct wire_header h;
		struct wire_fields in;

		check(peer_receive(&p, &h, &in));
		if (h.type != WIRE_CALL)
			continue;
		peer_send(&p, (struct wire_header){.type = WIRE_REPLY, .call = h.call, .nonce = 6},
			  NULL, 0);
		break;
	}
	check(fiber_join(f, S, NULL) == 0 && fiber_result(f) == 0);
	fiber_unref(f);
	agent_free(g.agent);
	peer_done(&p);
}

FIBER_TEST(host_bounds_what_a_guest_sends)
{
	struct guest g;
	struct peer p;
	struct agent_command cmd = {.script = "x"};
	struct wire_header h;
	struct wire_fields in;
	struct agent_process *process;
	struct agent_result r;
	struct error err = {};
	uint64_t id;
	struct fiber *f;

	client_start(&g, &p, &id);
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "system");
	fiber_start("ping", run_ping, &g, &f);
	answer_ping(&p, 5);
	check(fiber_join(f, S, NULL) == 0);
	fiber_unref(f);
	fiber_start("ping", run_ping, &g, &f);
	peer_expect(&p, WIRE_CALL, &h, &in);
	/* Nobody grants anything to a ping: more than the window is too much. */
	for (size_t i = 0; i <= WIRE_WINDOW / WIRE_PAYLOAD_MAX; i++)
		peer_send(&p,
			  (struct wire_header){
				  .type = WIRE_DATA,
				  .arg = WIRE_STREAM_OUT,
				  .call = h.call,
				  .nonce = 5,
			  },
			  NULL, WIRE_PAYLOAD_MAX);
	check(fiber_join(f, S, NULL) == 0 && fiber_result(f) < 0);
	fiber_unref(f);
	check(strstr(g.closed.message, "more than it was allowed"));
	check(g.n_closed == 1 && g.closed.kind == ERROR_CRASH);
	check(agent_process_start(g.agent, &cmd, &process, &err) < 0);
	check(agent_run(g.agent, &cmd, S, &r, NULL) < 0);
	agent_result_done(&r);
	agent_free(g.agent);
	peer_done(&p);
}

FIBER_TEST(host_refuses_a_malformed_reply)
{
	struct guest g;
	struct peer p;
	struct wire_header h;
	struct wire_fields in;
	uint64_t id;
	struct fiber *f;

	client_start(&g, &p, &id);
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "system");
	fiber_start("ping", run_ping, &g, &f);
	peer_expect(&p, WIRE_CALL, &h, &in);
	peer_send(&p, (struct wire_header){.type = WIRE_REPLY, .call = h.call, .nonce = 5}, "junk",
		  4);
	check(fiber_join(f, S, NULL) == 0 && fiber_result(f) < 0);
	fiber_unref(f);
	check(g.n_closed == 1 && g.closed.kind == ERROR_CRASH);
	check_str(g.closed.message, "the guest agent's reply is malformed");
	agent_free(g.agent);
	peer_done(&p);
}

/* A guest that goes with our bytes unread in its socket: ECONNRESET, not the end of a file. */
FIBER_TEST(host_sees_a_reset_connection)
{
	struct guest g;
	struct peer p;
	struct fiber *f;
	uint64_t id;

	client_start(&g, &p, &id);
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "system");
	check_ok(agent_wait_hello(g.agent, NULL, 2 * S, &failure));
	fiber_start("ping", run_ping, &g, &f);
	check_ok(fiber_sleep(10 * MS, &failure)); /* its frame is out */
	peer_done(&p);
	check(fiber_join(f, S, NULL) == 0 && fiber_result(f) < 0);
	fiber_unref(f);
	check(g.n_closed == 1 && g.closed.kind == ERROR_CRASH);
	check_str(g.closed.message, "the connection to the guest agent has ended");
	agent_free(g.agent);
}

static int run_long_script(void *userdata)
{
	struct guest *g = userdata;
	_cleanup_free_ char *script = xcalloc(1, 8 * MIB);
	struct agent_command cmd = {.script = memset(script, 'x', 8 * MIB - 1)};
	struct agent_result r;
	int e;

	error_clear(&g->closed);
	e = agent_run(g->agent, &cmd, 5 * S, &r, &g->closed);
	agent_result_done(&r);
	return e;
}

/* A call that is refused after its first frames: the guest keeps it in mind until it has all of
 * them, or is told that they will not come. */
FIBER_TEST(host_takes_back_what_was_refused_half_way)
{
	struct guest g;
	struct peer p;
	struct wire_header h, first;
	struct wire_fields in;
	_cleanup_buf_ struct buf b = {};
	struct error err = {};
	struct fiber *f;
	uint64_t id;

	client_start(&g, &p, &id);
	send_hello(&p, WIRE_VERSION, id, 5, "boot-a", "system");
	fiber_start("long", run_long_script, &g, &f);
	peer_expect(&p, WIRE_CALL, &first, &in);
	check(first.flags & WIRE_MORE);
	error_set(&err, ERROR_INFRA, EBUSY, "no");
	wire_put_error(&b, &err);
	peer_send(&p, (struct wire_header){.type = WIRE_REPLY, .call = first.call, .nonce = 5},
		  b.data, b.len);
	for (h = first; h.type == WIRE_CALL;) {
		check(h.flags & WIRE_MORE);
		check(peer_receive(&p, &h, &in));
	}
	check(h.type == WIRE_CANCEL && h.call == first.call);
	check(fiber_join(f, S, NULL) == 0 && fiber_result(f) == -EBUSY);
	fiber_unref(f);
	agent_free(g.agent);
	peer_done(&p);
}

/* --- the agent's end -------------------------------------------------------------------------- */

FIBER_TEST(agent_refuses_another_version)
{
	struct guest g;
	struct peer p;
	struct wire_header h;
	struct wire_fields f;
	uint32_t version;
	uint64_t nonce;

	agent_peer_start(&g, &p, 11, &nonce);
	expect_ping(&p, nonce, 1);
	send_attach(&p, 9, 12);
	/* It names its own version, so that the other side can say both; and does nothing more. */
	peer_expect(&p, WIRE_HELLO, &h, &f);
	check(wire_get_u32(&f, TAG_VERSION, &version) && version == WIRE_VERSION);
	peer_send(&p,
		  (struct wire_header){
			  .type = WIRE_CALL, .arg = WIRE_OP_PING, .call = 2, .nonce = h.nonce},
		  NULL, 0);
	check(!peer_receive(&p, &h, &f));
	agent_peer_stop(&g, &p);
}

FIBER_TEST(agent_ignores_old_sessions)
{
	struct guest g;
	struct peer p;
	struct wire_header h;
	struct wire_fields f;
	uint64_t old, nonce;

	agent_peer_start(&g, &p, 11, &old);
	/* The same host again: nothing changes. */
	send_attach(&p, WIRE_VERSION, 11);
	peer_expect(&p, WIRE_HELLO, &h, &f);
	check(h.nonce == old);
	send_attach(&p, WIRE_VERSION, 12);
	peer_expect(&p, WIRE_HELLO, &h, &f);
	nonce = h.nonce;
	check(nonce != old);
	peer_send(&p,
		  (struct wire_header){
			  .type = WIRE_CALL, .arg = WIRE_OP_PING, .call = 1, .nonce = old},
		  NULL, 0);
	expect_ping(&p, nonce, 2);
	agent_peer_stop(&g, &p);
}

FIBER_TEST(agent_survives_garbage)
{
	struct guest g;
	struct peer p;
	uint8_t junk[4096];
	uint32_t seed = 1;
	uint64_t nonce;

	agent_peer_start(&g, &p, 11, &nonce);
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16);
	memcpy(junk + 100,
	       "\x95"
	       "ASY",
	       4);
	for (int i = 0; i < 50; i++) {
		check_ok(io_write_all(p.io, junk, sizeof(junk) - (size_t)i, S, &failure));
		expect_ping(&p, nonce, (uint32_t)i + 1);
	}
	agent_peer_stop(&g, &p);
}

/* A call that is wrong: an error comes back, the next one works. */
static void expect_error(struct peer *p, struct wire_header h, const void *payload, size_t len,
			 int code)
{
	struct wire_fields f;
	struct error err = {};

	peer_send(p, h, payload, len);
	peer_expect(p, WIRE_REPLY, &h, &f);
	check(wire_get_error(&f, &err) && err.code == code && err.message[0]);
	expect_ping(p, h.nonce, h.call + 1000);
}

FIBER_TEST(agent_answers_wrong_calls)
{
	struct guest g;
	struct peer p;
	struct wire_header h = {.type = WIRE_CALL};
	_cleanup_buf_ struct buf b = {};

	agent_peer_start(&g, &p, 11, &h.nonce);
	h.call = 1;
	h.arg = 9999;
	expect_error(&p, h, NULL, 0, EOPNOTSUPP);
	h.call = 2;
	h.arg = WIRE_OP_EXEC;
	expect_error(&p, h, "\x20\x00\xff\xff\xff\xff", 6, EBADMSG);
	h.call = 3;
	expect_error(&p, h, NULL, 0, EINVAL);
	h.call = 4;
	wire_put_bytes(&b, TAG_ARG, "a\0b", 3);
	expect_error(&p, h, b.data, b.len, EINVAL);
	h.call = 5;
	h.arg = WIRE_OP_POWER;
	buf_truncate(&b, 0);
	wire_put_str(&b, TAG_HOW, "explode");
	expect_error(&p, h, b.data, b.len, EINVAL);
	h.call = 6;
	h.arg = WIRE_OP_SET_CLOCK;
	expect_error(&p, h, NULL, 0, EBADMSG);
	/* Frames for calls that never were. */
	h = (struct wire_header){.type = WIRE_DATA, .call = 77, .nonce = h.nonce};
	peer_send(&p, h, "x", 1);
	h.type = WIRE_CANCEL;
	peer_send(&p, h, NULL, 0);
	h.type = 200;
	peer_send(&p, h, NULL, 0);
	expect_ping(&p, h.nonce, 7);
	agent_peer_stop(&g, &p);
}

/* Refused in the midst of its body, a call's number is taken until the rest has come or is taken
 * back. */
FIBER_TEST(agent_forgets_what_was_refused)
{
	struct guest g;
	struct peer p;
	struct wire_header h = {.type = WIRE_CALL, .arg = 9999, .flags = WIRE_MORE, .call = 1};
	struct wire_fields f;

	agent_peer_start(&g, &p, 11, &h.nonce);
	expect_error(&p, h, "x", 1, EOPNOTSUPP);
	peer_send(&p, h, "x", 1); /* swallowed */
	h.flags = 0;
	peer_send(&p, h, "x", 1); /* the last of it */
	expect_ping(&p, h.nonce, 1);
	h.flags = WIRE_MORE;
	h.call = 2;
	expect_error(&p, h, "x", 1, EOPNOTSUPP);
	peer_send(
		&p,
		(struct wire_header){
			.type = WIRE_CANCEL, .arg = WIRE_CANCEL_GONE, .call = 2, .nonce = h.nonce},
		NULL, 0);
	expect_ping(&p, h.nonce, 2);
	check(!peer_receive(&p, &h, &f));
	agent_peer_stop(&g, &p);
}

FIBER_TEST(agent_bounds_what_a_host_sends)
{
	struct guest g;
	struct peer p;
	struct wire_header h = {.type = WIRE_CALL, .arg = WIRE_OP_EXEC, .call = 1};
	struct wire_fields f;
	_cleanup_buf_ struct buf b = {};
	struct error err = {};

	agent_peer_start(&g, &p, 11, &h.nonce);
	wire_put_str(&b, TAG_SCRIPT, "sleep 20");
	wire_put_u32(&b, TAG_EXEC_FLAGS, WIRE_EXEC_STDIN);
	peer_send(&p, h, b.data, b.len);
	/* Its pipe takes some, which is granted again. */
	for (size_t i = 0; i <= 4 * WIRE_WINDOW / WIRE_PAYLOAD_MAX; i++) {
		h.type = WIRE_DATA;
		h.arg = WIRE_STREAM_IN;
		peer_send(&p, h, NULL, WIRE_PAYLOAD_MAX);
	}
	do
		check(peer_receive(&p, &h, &f));
	while (h.type != WIRE_REPLY);
	check(wire_get_error(&f, &err) && err.code == EPROTO);
	expect_ping(&p, h.nonce, 2);
	agent_peer_stop(&g, &p);
}

FIBER_TEST(agent_ends_with_its_stream)
{
	struct guest g;
	struct peer p;
	uint64_t nonce;
	int status;

	agent_peer_start(&g, &p, 11, &nonce);
	peer_done(&p);
	check_ok(process_wait(g.process, 2 * S, &status, &failure));
	check(status == 0);
	process_free(g.process);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_refuses_another_version),
		cmocka_unit_test(host_greets_and_calls),
		cmocka_unit_test(host_sees_a_reboot),
		cmocka_unit_test(host_hears_that_the_guest_cannot_boot),
		cmocka_unit_test(host_survives_garbage_and_a_torn_frame),
		cmocka_unit_test(host_bounds_what_a_guest_sends),
		cmocka_unit_test(host_refuses_a_malformed_reply),
		cmocka_unit_test(host_sees_a_reset_connection),
		cmocka_unit_test(host_takes_back_what_was_refused_half_way),
		cmocka_unit_test(agent_refuses_another_version),
		cmocka_unit_test(agent_ignores_old_sessions),
		cmocka_unit_test(agent_survives_garbage),
		cmocka_unit_test(agent_answers_wrong_calls),
		cmocka_unit_test(agent_forgets_what_was_refused),
		cmocka_unit_test(agent_bounds_what_a_host_sends),
		cmocka_unit_test(agent_ends_with_its_stream),
	};

	assert_true(argc > 1);
	agent_program = argv[1];
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
