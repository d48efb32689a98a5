/* SPDX-License-Identifier: MIT */
/* JSON lines over a socket: bounds, garbage, and a reader that is slower than the writer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"
#include "runner/wire.h"

struct ends {
	int fd[2];
};

static struct ends make_ends(void)
{
	struct ends e;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, e.fd), 0);
	return e;
}

static void on_fiber(int (*fn)(void *userdata))
{
	assert_int_equal(loop_main("test", fn, NULL), 0);
}

static int lines_fiber(void *userdata)
{
	static const char text[] =
		"{\"a\":1}\nnonsense\n[1]\n{\"a\":2}\n\n{\"a\":1,\"a\":1}\n{\"a\":3}\n"
		"{\"cut\":";
	struct ends e = make_ends();
	_cleanup_io_ struct io *io = io_new(e.fd[0]);
	struct wire_reader r = {.io = io, .max = WIRE_EVENT_MAX_BYTES};
	json_t *msg;

	assert_int_equal(fd_write_all(e.fd[1], text, strlen(text)), 0);
	close(e.fd[1]);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(wire_read(&r, &msg, NS_PER_SEC, NULL), 1);
		assert_int_equal(json_integer_value(json_object_get(msg, "a")), i);
		json_decref(msg);
	}
	assert_int_equal(wire_read(&r, &msg, NS_PER_SEC, NULL), 0);
	assert_int_equal(r.dropped, 5);
	wire_reader_done(&r);
	return 0;
}

static void test_lines(void **state)
{
	on_fiber(lines_fiber);
}

struct writing {
	int fd;
	size_t len;
};

static int write_fiber(void *userdata)
{
	struct writing *w = userdata;
	_cleanup_io_ struct io *io = io_new(w->fd);
	_cleanup_free_ char *text = xmalloc(w->len);

	memset(text, 'x', w->len);
	assert_int_equal(io_write_all(io, text, w->len, NS_PER_SEC, NULL), 0);
	return io_write_all(io, "\n{\"a\":1}\n", 9, NS_PER_SEC, NULL);
}

/* A line without an end must not be kept. */
static int long_line_fiber(void *userdata)
{
	struct ends e = make_ends();
	_cleanup_io_ struct io *io = io_new(e.fd[0]);
	struct wire_reader r = {.io = io, .max = 1000};
	struct writing w = {.fd = e.fd[1], .len = 10 * MIB};
	_cleanup_fiber_ struct fiber *writer = NULL;
	json_t *msg;

	fiber_start("writer", write_fiber, &w, &writer);
	assert_int_equal(wire_read(&r, &msg, 5 * NS_PER_SEC, NULL), 1);
	assert_int_equal(json_integer_value(json_object_get(msg, "a")), 1);
	json_decref(msg);
	assert_int_equal(r.dropped, 1);
	assert_true(r.buf.cap < 512 * KIB);
	wire_reader_done(&r);
	return fiber_join(writer, NS_PER_SEC, NULL);
}

static void test_long_line(void **state)
{
	on_fiber(long_line_fiber);
}

static json_t *event(int i)
{
	json_t *e =
		json_pack("{s:i, s:s}", "i", i, "pad", "0123456789012345678901234567890123456789");

	assert_non_null(e);
	return e;
}

static int emit_fiber(void *userdata)
{
	struct outlet *o = userdata;

	for (int i = 0; i < 50000; i++)
		outlet_emit(o, event(i), true);
	outlet_flush(o, 10 * NS_PER_SEC);
	return 0;
}

/* Who may wait loses nothing, in order, whatever the size of the socket. */
static int backpressure_fiber(void *userdata)
{
	struct ends e = make_ends();
	_cleanup_io_ struct io *in = io_new(e.fd[0]), *out = io_new(e.fd[1]);
	struct wire_reader r = {.io = in, .max = 1000};
	struct outlet *o = outlet_new(out);
	_cleanup_fiber_ struct fiber *emitter = NULL;
	json_t *msg;

	fiber_start("emitter", emit_fiber, o, &emitter);
	for (int i = 0; i < 50000; i++) {
		assert_int_equal(wire_read(&r, &msg, 5 * NS_PER_SEC, NULL), 1);
		assert_int_equal(json_integer_value(json_object_get(msg, "i")), i);
		json_decref(msg);
	}
	assert_int_equal(fiber_join(emitter, NS_PER_SEC, NULL), 0);
	assert_int_equal(outlet_dropped(o), 0);
	outlet_free(o);
	wire_reader_done(&r);
	return 0;
}

static void test_backpressure(void **state)
{
	on_fiber(backpressure_fiber);
}

/* Who must not wait drops, and says how much. */
static int dropping_fiber(void *userdata)
{
	struct ends e = make_ends();
	_cleanup_io_ struct io *in = io_new(e.fd[0]), *out = io_new(e.fd[1]);
	struct outlet *o = outlet_new(out);

	for (int i = 0; i < 200000; i++)
		outlet_emit(o, event(i), false);
	assert_true(outlet_dropped(o) > 0);
	assert_true(outlet_dropped(o) < 200000);
	/* The reader goes away: nobody hangs. */
	io_free(TAKE_PTR(in));
	outlet_flush(o, 10 * NS_PER_SEC);
	outlet_emit(o, event(0), true);
	outlet_free(o);
	return 0;
}

static void test_dropping(void **state)
{
	on_fiber(dropping_fiber);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_long_line),
		cmocka_unit_test(test_backpressure),
		cmocka_unit_test(test_dropping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
