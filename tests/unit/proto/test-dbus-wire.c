/* SPDX-License-Identifier: MIT */
/* D-Bus messages: exchanged with sd-bus, which did not learn the format from us; and damaged ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>
#include <systemd/sd-bus.h>

#include "base/str.h"
#include "proto/dbus-wire.h"

/* The server's end: sd-bus on one end of a socket pair, our bytes on the other. */
struct fixture {
	sd_bus *bus;
	int fd;
	struct buf in;
	char *seen; /* what the server was asked */
};

static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct fixture *f = userdata;
	const char *a = "", *b = "";

	if (!sd_bus_message_get_member(m) || !sd_bus_message_get_path(m))
		return 0;
	if (str_eq(sd_bus_message_get_signature(m, 1), "ss"))
		assert_true(sd_bus_message_read(m, "ss", &a, &b) > 0);
	else if (str_eq(sd_bus_message_get_signature(m, 1), "asas"))
		assert_true(sd_bus_message_read(m, "asas", 1, &a, 1, &b) > 0);
	free(f->seen);
	f->seen = xasprintf("%s %s %s(%s,%s)", sd_bus_message_get_path(m),
			    sd_bus_message_get_interface(m), sd_bus_message_get_member(m), a, b);
	if (str_eq(sd_bus_message_get_member(m), "Fail"))
		return sd_bus_reply_method_errorf(m, "org.example.No", "not %s", "today");
	return sd_bus_reply_method_return(m, "a{sv}u", 5, "ActiveState", "s", "active", "Job",
					  "(uo)", 7, "/job/7", "Long", "a(sasbttuui)", 1, "/bin/x",
					  2, "a", "bc", 0, 1ULL, 2ULL, 3, 4, 5, "When", "t",
					  123456789012ULL, "Yes", "b", 1, 42u);
}

static void pump(struct fixture *f)
{
	while (sd_bus_process(f->bus, NULL) > 0)
		;
}

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	int fds[2];
	sd_id128_t id = {};
	char line[128] = {};

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds),
			 0);
	f->fd = fds[1];
	assert_true(sd_bus_new(&f->bus) >= 0);
	assert_true(sd_bus_set_fd(f->bus, fds[0], fds[0]) >= 0);
	assert_true(sd_bus_set_server(f->bus, 1, id) >= 0);
	assert_true(sd_bus_set_anonymous(f->bus, 1) >= 0);
	assert_true(sd_bus_start(f->bus) >= 0);
	assert_true(sd_bus_add_filter(f->bus, NULL, on_message, f) >= 0);
	assert_int_equal(write(f->fd, "\0AUTH EXTERNAL 30\r\nBEGIN\r\n", 26), 26);
	pump(f);
	assert_true(read(f->fd, line, sizeof(line) - 1) > 0);
	assert_memory_equal(line, "OK ", 3);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	sd_bus_close(f->bus);
	sd_bus_unref(f->bus);
	close(f->fd);
	buf_done(&f->in);
	free(f->seen);
	free(f);
	return 0;
}

/* Sends a call and takes the answer's bytes. */
static void call(struct fixture *f, const char *member, const char *sig, const char *const *args)
{
	_cleanup_buf_ struct buf out = {};
	char data[4096];
	ssize_t n;

	dbus_wire_call(&out, 9, "/org/x", "org.x.Y", member, sig, args);
	assert_int_equal(write(f->fd, out.data, out.len), out.len);
	pump(f);
	buf_truncate(&f->in, 0);
	while ((n = read(f->fd, data, sizeof(data))) > 0)
		buf_append(&f->in, data, n);
}

static void test_call_is_understood(void **state)
{
	struct fixture *f = *state;
	struct dbus_message m;

	call(f, "Get", "ss", (const char *const[]){"first", "the second"});
	assert_string_equal(f->seen, "/org/x org.x.Y Get(first,the second)");
	assert_int_equal(dbus_wire_parse(f->in.data, f->in.len, &m), f->in.len);
	assert_int_equal(m.type, DBUS_METHOD_RETURN);
	assert_int_equal(m.reply_serial, 9);
	call(f, "List", "asas", (const char *const[]){"active", "*.timer"});
	assert_string_equal(f->seen, "/org/x org.x.Y List(active,*.timer)");
	call(f, "Plain", "", NULL);
	assert_string_equal(f->seen, "/org/x org.x.Y Plain(,)");
}

static void test_properties_are_read(void **state)
{
	struct fixture *f = *state;
	const char *name, *sig, *text = NULL, *path = NULL;
	uint64_t when = 0;
	uint32_t job = 0, last = 0;
	struct dbus_message m;
	struct dbus_reader r;
	bool yes = false;
	size_t end;
	int n;

	call(f, "Get", "", NULL);
	assert_true(dbus_wire_parse(f->in.data, f->in.len, &m) > 0);
	assert_string_equal(m.signature, "a{sv}u");
	dbus_reader_init(&r, &m);
	assert_int_equal(dbus_read_array(&r, 8, &end), 0);
	while ((n = dbus_read_property(&r, end, &name, &sig)) > 0) {
		if (str_eq(name, "ActiveState") && str_eq(sig, "s")) {
			dbus_read_string(&r, &text);
		} else if (str_eq(name, "Job") && str_eq(sig, "(uo)")) {
			dbus_read_struct(&r);
			dbus_read_u32(&r, &job);
			dbus_read_string(&r, &path);
		} else if (str_eq(name, "When") && str_eq(sig, "t")) {
			dbus_read_u64(&r, &when);
		} else if (str_eq(name, "Yes") && str_eq(sig, "b")) {
			dbus_read_bool(&r, &yes);
		} else {
			assert_string_equal(name, "Long");
			assert_int_equal(dbus_skip(&r, sig, &sig), 0);
			assert_string_equal(sig, "");
		}
	}
	assert_int_equal(n, 0);
	assert_int_equal(dbus_read_u32(&r, &last), 0);
	assert_int_equal(last, 42);
	assert_string_equal(text, "active");
	assert_int_equal(job, 7);
	assert_string_equal(path, "/job/7");
	assert_true(yes);
	assert_int_equal(when, 123456789012ULL);
	assert_int_equal(dbus_read_u32(&r, &last), -EBADMSG);
}

static void test_error_is_read(void **state)
{
	struct fixture *f = *state;
	struct dbus_message m;
	struct dbus_reader r;
	const char *text;

	call(f, "Fail", "", NULL);
	assert_true(dbus_wire_parse(f->in.data, f->in.len, &m) > 0);
	assert_int_equal(m.type, DBUS_ERROR);
	assert_string_equal(m.error_name, "org.example.No");
	dbus_reader_init(&r, &m);
	assert_int_equal(dbus_read_string(&r, &text), 0);
	assert_string_equal(text, "not today");
}

/* Any number of bytes short: more are asked for, and the message is the same afterwards. */
static void test_cut_message_waits(void **state)
{
	struct fixture *f = *state;
	struct dbus_message m;

	call(f, "Get", "", NULL);
	for (size_t n = 0; n < f->in.len; n++)
		assert_int_equal(dbus_wire_parse(f->in.data, n, &m), 0);
	assert_int_equal(dbus_wire_parse(f->in.data, f->in.len, &m), f->in.len);
}

/* Reads all that a message may hold; what it says does not matter. */
static void read_everything(const struct dbus_message *m)
{
	const char *sig = m->signature;
	struct dbus_reader r;

	dbus_reader_init(&r, m);
	while (*sig && dbus_skip(&r, sig, &sig) == 0)
		;
}

/* Every byte replaced by others: refused or read as something else, never out of bounds (ASan). */
static void test_damage_is_harmless(void **state)
{
	static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff, 'a', '(', 'v'};
	struct fixture *f = *state;
	size_t refused = 0;

	call(f, "Get", "", NULL);
	for (size_t i = 0; i < f->in.len; i++) {
		for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
			/* In memory of its own, so that one byte too far is seen. */
			uint8_t *copy = xmemdup(f->in.data, f->in.len);
			struct dbus_message m;
			ssize_t n;

			copy[i] = values[v];
			n = dbus_wire_parse(copy, f->in.len, &m);
			if (n > 0)
				read_everything(&m);
			refused += n < 0;
			free(copy);
		}
	}
	assert_true(refused > 100);
}

static void test_too_large_is_refused(void **state)
{
	static const uint8_t large[16] = {'l', 2, 0, 1, 0, 0, 0, 8, 1};
	static const uint8_t fields[16] = {'l', 2, 0, 1, 0,   0,   0,	0,
					   1,	0, 0, 0, 255, 255, 255, 255};
	struct dbus_message m;

	assert_int_equal(dbus_wire_parse(large, sizeof(large), &m), -EMSGSIZE);
	assert_int_equal(dbus_wire_parse(fields, sizeof(fields), &m), -EMSGSIZE);
}

static void test_deep_variants_are_refused(void **state)
{
	_cleanup_buf_ struct buf body = {};
	struct dbus_message m = {.signature = "v"};
	struct dbus_reader r;
	const char *rest;

	for (int i = 0; i < 200; i++)
		buf_append(&body, "\1v", 3);
	buf_append(&body, "\1y\0\7", 4);
	m.body = (const uint8_t *)body.data;
	m.body_len = body.len;
	dbus_reader_init(&r, &m);
	assert_int_equal(dbus_skip(&r, "v", &rest), -EBADMSG);
	/* … and shallow ones are not. */
	m.body += 3 * 190;
	m.body_len -= 3 * 190;
	dbus_reader_init(&r, &m);
	assert_int_equal(dbus_skip(&r, "v", &rest), 0);
	assert_int_equal(r.pos, r.end);
}

/* The other byte order, by hand: a method return with one u32. */
static void test_big_endian(void **state)
{
	static const uint8_t msg[] = {'B', 2, 1, 1, 0, 0, 0, 4, 0,   0, 0, 3,	0, 0, 0, 15, 5, 1,
				      'u', 0, 0, 0, 0, 9, 8, 1, 'g', 0, 1, 'u', 0, 0, 0, 0,  1, 2};
	struct dbus_message m;
	struct dbus_reader r;
	uint32_t v;

	assert_int_equal(dbus_wire_parse(msg, sizeof(msg), &m), sizeof(msg));
	assert_int_equal(m.serial, 3);
	assert_int_equal(m.reply_serial, 9);
	assert_string_equal(m.signature, "u");
	dbus_reader_init(&r, &m);
	assert_int_equal(dbus_read_u32(&r, &v), 0);
	assert_int_equal(v, 258);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_call_is_understood, setup, teardown),
		cmocka_unit_test_setup_teardown(test_properties_are_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_error_is_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut_message_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damage_is_harmless, setup, teardown),
		cmocka_unit_test(test_too_large_is_refused),
		cmocka_unit_test(test_deep_variants_are_refused),
		cmocka_unit_test(test_big_endian),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
