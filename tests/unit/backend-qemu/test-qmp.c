/* SPDX-License-Identifier: MIT */
/* The QMP client against a scripted peer on the other end of a socket pair. */
#include "backend/qemu/qmp.h"

#include <string.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/str.h"
#include "fiber-test.h"

#define SEC NS_PER_SEC
#define GREETING                                                                                   \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "         \
	"\"package\": \"Debian\"}, \"capabilities\": [\"oob\"]}}\r\n"

struct peer {
	struct io *io;
	struct qmp *qmp;
	struct buf heard;
	struct buf events; /* "NAME:data;" */
	struct error closed;
};

static void on_event(const char *name, json_t *data, uint64_t at_ns, void *userdata)
{
	struct peer *p = userdata;
	_cleanup_free_ char *text = data ? json_dumps(data, JSON_COMPACT) : NULL;

	buf_printf(&p->events, "%s:%s;", name, text ? text : "");
}

static void on_closed(const struct error *err, void *userdata)
{
	((struct peer *)userdata)->closed = *err;
}

static const struct qmp_callbacks callbacks = {.on_event = on_event, .on_closed = on_closed};

static void peer_init(struct peer *p)
{
	int fds[2];

	*p = (struct peer){};
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	p->io = io_new(fds[0]);
	p->qmp = qmp_new(io_new(fds[1]), &callbacks, p);
}

static void peer_done(struct peer *p)
{
	qmp_free(p->qmp);
	io_free(p->io);
	buf_done(&p->events);
	buf_done(&p->heard);
}

static void say(struct peer *p, const char *text)
{
	check(io_write_all(p->io, text, strlen(text), SEC, NULL) == 0);
}

/* The next command as one line of text. */
static char *hear(struct peer *p)
{
	char chunk[4096], *end, *line;

	while (!(end = memchr(buf_str(&p->heard), '\n', p->heard.len))) {
		ssize_t n = io_read(p->io, chunk, sizeof(chunk), SEC, NULL);

		check(n > 0);
		buf_append(&p->heard, chunk, (size_t)n);
	}
	check(end[-1] == '\r');
	line = xstrndup(p->heard.data, (size_t)(end - p->heard.data) - 1);
	buf_consume(&p->heard, (size_t)(end - p->heard.data) + 1);
	return line;
}

static void expect_heard(struct peer *p, const char *want)
{
	_cleanup_free_ char *got = hear(p);

	check_str(got, want);
}

struct call {
	struct qmp *qmp;
	int fd; /* 0: none */
	const char *command;
	json_t *args, *ret;
	uint64_t timeout_ns;
	struct error err;
	struct fiber *fiber;
};

static int call_main(void *userdata)
{
	struct call *c = userdata;

	if (c->fd)
		return qmp_call_fd(c->qmp, c->command, c->args, c->fd,
				   c->timeout_ns ? c->timeout_ns : SEC, &c->ret, &c->err);
	return qmp_call(c->qmp, c->command, c->args, c->timeout_ns ? c->timeout_ns : SEC, &c->ret,
			&c->err);
}

static void call_start(struct call *c, struct peer *p, const char *command)
{
	c->qmp = p->qmp;
	c->command = command;
	fiber_start(command, call_main, c, &c->fiber);
	fiber_yield(); /* so that calls are sent in the order in which they were started */
}

static int call_end(struct call *c)
{
	int r;

	check(fiber_join(c->fiber, SEC, NULL) == 0);
	r = fiber_result(c->fiber);
	c->fiber = fiber_unref(c->fiber);
	return r;
}

static int greet_main(void *userdata)
{
	struct qmp_version v;
	struct call *c = userdata;
	int r = qmp_greet(c->qmp, SEC, &v, &c->err);

	return r < 0 ? r : v.major * 10000 + v.minor * 100 + v.micro;
}

static void greet(struct peer *p)
{
	struct call c = {.qmp = p->qmp};

	fiber_start("greet", greet_main, &c, &c.fiber);
	say(p, GREETING);
	expect_heard(p, "{\"execute\":\"qmp_capabilities\",\"id\":1}");
	say(p, "{\"return\": {}, \"id\": 1}\r\n");
	check(call_end(&c) == 70222);
}

FIBER_TEST(replies_find_their_calls_in_any_order)
{
	struct call a = {}, b = {};
	struct peer p;

	peer_init(&p);
	greet(&p);
	b.args = json_pack("{s:s}", "id", "disk-cd");
	call_start(&a, &p, "query-status");
	call_start(&b, &p, "eject");
	expect_heard(&p, "{\"execute\":\"query-status\",\"id\":2}");
	expect_heard(&p, "{\"execute\":\"eject\",\"arguments\":{\"id\":\"disk-cd\"},\"id\":3}");
	say(&p, "{\"return\": {}, \"id\": 3}\r\n{\"event\": \"RESUME\", \"timestamp\": {}}\r\n"
		"{\"return\": {\"running\": true}, \"id\": 2}\r\n");
	check(call_end(&a) == 0 && call_end(&b) == 0);
	check(json_is_true(json_object_get(a.ret, "running")));
	check_str(buf_str(&p.events), "RESUME:;");
	json_decref(a.ret);
	json_decref(b.ret);
	json_decref(b.args);
	peer_done(&p);
}

FIBER_TEST(an_error_reply_says_what_and_why)
{
	struct call c = {};
	struct peer p;

	peer_init(&p);
	greet(&p);
	call_start(&c, &p, "device_add");
	free(hear(&p));
	say(&p, "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"Bus 'x' not "
		"found\"}}");
	check(call_end(&c) == -EREMOTEIO);
	check(c.err.kind == ERROR_EXPECT);
	check_str(c.err.message, "QMP 'device_add' failed: Bus 'x' not found (GenericError)");
	peer_done(&p);
}

FIBER_TEST(events_come_in_order_and_none_is_lost)
{
	_cleanup_buf_ struct buf all = {};
	_cleanup_buf_ struct buf want = {};
	struct call c = {};
	struct peer p;

	peer_init(&p);
	greet(&p);
	for (int i = 0; i < 3000; i++) {
		buf_printf(&all, "{\"event\": \"E%d\", \"data\": {\"n\": %d}}\r\n", i, i);
		buf_printf(&want, "E%d:{\"n\":%d};", i, i);
	}
	call_start(&c, &p, "stop");
	free(hear(&p));
	/* While nobody waits for events, and in front of a reply. */
	buf_puts(&all, "{\"return\": {}, \"id\": 2}\r\n");
	say(&p, buf_str(&all));
	check(call_end(&c) == 0);
	check_str(buf_str(&p.events), buf_str(&want));
	json_decref(c.ret);
	peer_done(&p);
}

FIBER_TEST(a_call_that_gave_up_leaves_the_rest_in_order)
{
	struct call late = {.timeout_ns = NS_PER_MS}, c = {};
	struct peer p;

	peer_init(&p);
	greet(&p);
	call_start(&late, &p, "query-block");
	free(hear(&p));
	check(call_end(&late) == -ETIMEDOUT);
	check_str(late.err.message, "timed out after 1 ms waiting for the reply to QMP "
				    "'query-block'");
	call_start(&c, &p, "cont");
	free(hear(&p));
	say(&p, "{\"return\": [1], \"id\": 2}\r\n{\"return\": [2], \"id\": 3}\r\n");
	check(call_end(&c) == 0);
	check(json_integer_value(json_array_get(c.ret, 0)) == 2);
	json_decref(c.ret);
	peer_done(&p);
}

FIBER_TEST(a_cancelled_call_ends_at_once)
{
	struct call c = {.timeout_ns = NS_FOREVER};
	struct peer p;

	peer_init(&p);
	greet(&p);
	call_start(&c, &p, "stop");
	free(hear(&p));
	fiber_stop(c.fiber);
	check(call_end(&c) == -ECANCELED);
	peer_done(&p);
}

FIBER_TEST(death_fails_all_calls_with_the_reason_that_the_owner_gives)
{
	struct call a = {}, b = {}, later = {};
	struct error reason = {};
	struct peer p;

	peer_init(&p);
	greet(&p);
	call_start(&a, &p, "a");
	call_start(&b, &p, "b");
	free(hear(&p));
	free(hear(&p));
	say(&p, "{\"event\": \"SHUTDOWN\"}\r\n");
	io_free(p.io);
	p.io = NULL;
	check(qmp_drain(p.qmp, SEC, NULL) == 0);
	check_str(p.closed.message, "the VMM closed its QMP connection");
	check_str(buf_str(&p.events), "SHUTDOWN:;");
	check(!fiber_is_done(a.fiber));

	(void)error_set(&reason, ERROR_CRASH, ECONNRESET, "QEMU was killed by signal 9");
	qmp_fail(p.qmp, &reason);
	check(call_end(&a) == -ECONNRESET && call_end(&b) == -ECONNRESET);
	check_str(a.err.message, "QEMU was killed by signal 9");
	check(b.err.kind == ERROR_CRASH);
	call_start(&later, &p, "later");
	check(call_end(&later) == -ECONNRESET);
	peer_done(&p);
}

FIBER_TEST(the_end_before_the_greeting)
{
	struct error err = {};
	struct peer p;

	peer_init(&p);
	say(&p, "{\"QMP\": {\"ver");
	io_free(p.io);
	p.io = NULL;
	check(qmp_greet(p.qmp, SEC, NULL, &err) == -ECONNRESET);
	check_str(err.message, "the VMM ended before it answered");
	check(err.kind == ERROR_CRASH);
	peer_done(&p);
}

static void check_broken_by(const char *text, const char *want)
{
	struct peer p;

	peer_init(&p);
	greet(&p);
	say(&p, text);
	check(qmp_drain(p.qmp, SEC, NULL) == 0);
	check_str(p.closed.message, want);
	peer_done(&p);
}

FIBER_TEST(what_is_no_qmp_is_refused)
{
	check_broken_by("hello\r\n", "QMP sent something that is no JSON");
	check_broken_by("{\"a\":}\r\n", "QMP sent invalid JSON: unexpected token near '}'");
	check_broken_by("{\"a\": 1}\r\n",
			"QMP sent something that is neither event nor reply: {\"a\": 1}");
}

/* More than a socket's buffer holds, to a peer that reads late, from a fiber that gives up. */
FIBER_TEST(a_long_command_is_never_cut)
{
	struct call big = {.timeout_ns = NS_PER_MS}, c = {};
	_cleanup_free_ char *text = xmalloc(MIB + 1), *heard = NULL;
	struct peer p;

	peer_init(&p);
	greet(&p);
	memset(text, 'x', MIB);
	text[MIB] = '\0';
	big.args = json_pack("{s:s}", "data", text);
	call_start(&big, &p, "big");
	check(call_end(&big) == -ETIMEDOUT);
	call_start(&c, &p, "small");
	heard = hear(&p);
	check(strlen(heard) > MIB);
	expect_heard(&p, "{\"execute\":\"small\",\"id\":3}");
	say(&p, "{\"return\": {}, \"id\": 3}\r\n");
	check(call_end(&c) == 0);
	json_decref(c.ret);
	json_decref(big.args);
	peer_done(&p);
}

FIBER_TEST(freed_before_its_fibers_ran)
{
	struct peer p;

	peer_init(&p);
	peer_done(&p);
}

/* One message; whether a descriptor came with its first byte. */
static bool hear_with_fd(struct peer *p, char *text, size_t len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = text, .iov_len = len - 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control)};
	ssize_t n;
	int fd;

	check(io_wait_readable(p->io, SEC, NULL) == 0);
	n = recvmsg(io_fd(p->io), &msg, MSG_CMSG_CLOEXEC);
	check(n > 0);
	text[n] = '\0';
	if (!CMSG_FIRSTHDR(&msg))
		return false;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	close(fd);
	return true;
}

/* QEMU has one place for descriptors that came: the second call must wait for the first's reply. */
FIBER_TEST(descriptors_come_one_by_one)
{
	struct call a = {.fd = STDERR_FILENO}, b = {.fd = STDERR_FILENO}, plain = {};
	char text[256];
	struct peer p;

	peer_init(&p);
	greet(&p);
	call_start(&a, &p, "getfd");
	call_start(&b, &p, "add-fd");
	check(hear_with_fd(&p, text, sizeof(text)));
	check_str(text, "{\"execute\":\"getfd\",\"id\":2}\r\n");
	call_start(&plain, &p, "stop");
	expect_heard(&p, "{\"execute\":\"stop\",\"id\":3}");
	say(&p, "{\"return\": {}, \"id\": 3}\r\n{\"return\": {}, \"id\": 2}\r\n");
	check(call_end(&a) == 0 && call_end(&plain) == 0);
	check(hear_with_fd(&p, text, sizeof(text)));
	check_str(text, "{\"execute\":\"add-fd\",\"id\":4}\r\n");
	say(&p, "{\"return\": {\"fdset-id\": 7}, \"id\": 4}\r\n");
	check(call_end(&b) == 0);
	check(json_integer_value(json_object_get(b.ret, "fdset-id")) == 7);
	json_decref(b.ret);
	json_decref(a.ret);
	json_decref(plain.ret);
	peer_done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replies_find_their_calls_in_any_order),
		cmocka_unit_test(an_error_reply_says_what_and_why),
		cmocka_unit_test(descriptors_come_one_by_one),
		cmocka_unit_test(events_come_in_order_and_none_is_lost),
		cmocka_unit_test(a_call_that_gave_up_leaves_the_rest_in_order),
		cmocka_unit_test(a_cancelled_call_ends_at_once),
		cmocka_unit_test(death_fails_all_calls_with_the_reason_that_the_owner_gives),
		cmocka_unit_test(the_end_before_the_greeting),
		cmocka_unit_test(what_is_no_qmp_is_refused),
		cmocka_unit_test(a_long_command_is_never_cut),
		cmocka_unit_test(freed_before_its_fibers_ran),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
