/* SPDX-License-Identifier: MIT */
/* The agent's frames and fields. */
#include "proto/agent-wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/str.h"

static void put_frame(struct buf *b, enum wire_type type, uint32_t call, const void *data,
		      size_t len)
{
	struct wire_header h = {
		.type = (uint8_t)type,
		.flags = WIRE_FIN,
		.arg = 0x1234,
		.call = call,
		.len = (uint32_t)len,
		.nonce = 0x1122334455667788,
	};
	uint8_t *p;

	buf_reserve(b, WIRE_OVERHEAD + len);
	p = (uint8_t *)b->data + b->len;
	memset(p + WIRE_HEADER, 0, len);
	if (data)
		memcpy(p + WIRE_HEADER, data, len);
	wire_seal(&h, p, p + WIRE_HEADER + len);
	b->len += WIRE_OVERHEAD + len;
}

static void feed(struct wire_decoder *d, const char *data, size_t len)
{
	size_t room;
	void *space = wire_decoder_space(d, &room);

	assert_true(len <= room);
	memcpy(space, data, len);
	wire_decoder_fill(d, len);
}

/* RFC 3720, appendix B.4, and the usual check value. */
static void crc_is_castagnolis(void **state)
{
	uint8_t zeros[32] = {};

	assert_int_equal(wire_crc32c("123456789", 9), 0xe3069283);
	assert_int_equal(wire_crc32c(zeros, sizeof(zeros)), 0x8a9136aa);
}

/* The bytes themselves: two builds of different years must agree on them. */
static void layout_is_fixed(void **state)
{
	static const uint8_t wanted[] = {
		0x95, 'A',  'S',  'Y',	0x08, 0x01, 0x34, 0x12, 0x02, 0x00, 0x00, 0x00,
		0x02, 0x00, 0x00, 0x00, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
	};
	_cleanup_buf_ struct buf b = {};
	uint32_t check, end;

	put_frame(&b, WIRE_DATA, 2, "xy", 2);
	assert_int_equal(b.len, 28 + 2 + 4);
	assert_memory_equal(b.data, wanted, sizeof(wanted));
	memcpy(&check, b.data + 24, 4);
	memcpy(&end, b.data + 30, 4);
	assert_int_equal(check, wire_crc32c(b.data, 24));
	assert_int_equal(end, ~check);
}

static void frames_come_out_as_they_went_in(void **state)
{
	_cleanup_buf_ struct buf b = {};
	struct wire_decoder d;
	struct wire_header h;
	const uint8_t *payload;
	uint32_t next = 0;

	for (uint32_t i = 0; i < 40; i++)
		put_frame(&b, WIRE_CALL, i, NULL, i * 1600);
	wire_decoder_init(&d);
	for (size_t pos = 0; pos < b.len;) {
		size_t n = MIN((size_t)4096, b.len - pos);

		feed(&d, b.data + pos, n);
		pos += n;
		while (wire_decoder_next(&d, &h, &payload)) {
			assert_int_equal(h.call, next);
			assert_int_equal(h.len, next * 1600);
			assert_int_equal(h.nonce, 0x1122334455667788);
			assert_int_equal(h.arg, 0x1234);
			next++;
		}
	}
	assert_int_equal(next, 40);
	assert_int_equal(d.skipped, 0);
	wire_decoder_done(&d);
}

static void expect_one(struct wire_decoder *d, uint32_t call)
{
	struct wire_header h;
	const uint8_t *payload;

	assert_true(wire_decoder_next(d, &h, &payload));
	assert_int_equal(h.call, call);
}

static void expect_none(struct wire_decoder *d)
{
	struct wire_header h;
	const uint8_t *payload;

	assert_false(wire_decoder_next(d, &h, &payload));
}

static void garbage_is_skipped(void **state)
{
	static const char noise[] = "noise\x95"
				    "AS\x95\x95"
				    "ASYnot a header, but long enough to be one";
	_cleanup_buf_ struct buf b = {};
	struct wire_decoder d;

	buf_append(&b, noise, sizeof(noise) - 1);
	put_frame(&b, WIRE_CALL, 7, "abc", 3);
	wire_decoder_init(&d);
	feed(&d, b.data, b.len);
	expect_one(&d, 7);
	expect_none(&d);
	assert_int_equal(d.skipped, sizeof(noise) - 1);
	wire_decoder_done(&d);
}

static void every_flipped_bit_is_noticed(void **state)
{
	_cleanup_buf_ struct buf b = {};

	put_frame(&b, WIRE_CALL, 7, NULL, 0);
	for (size_t bit = 0; bit < 8 * b.len; bit++) {
		struct wire_decoder d;

		b.data[bit / 8] ^= (char)(1 << bit % 8);
		wire_decoder_init(&d);
		feed(&d, b.data, b.len);
		expect_none(&d);
		wire_decoder_done(&d);
		b.data[bit / 8] ^= (char)(1 << bit % 8);
	}
}

/* A guest dies in mid-frame; its next life greets. Wherever it broke off, the greeting is found,
 * once PAD has come. */
static void a_torn_frame_hides_nothing(void **state)
{
	_cleanup_buf_ struct buf torn = {};

	put_frame(&torn, WIRE_DATA, 1, NULL, WIRE_PAYLOAD_MAX);
	for (size_t cut = 1; cut < torn.len; cut += 977) {
		_cleanup_buf_ struct buf b = {};
		struct wire_decoder d;

		buf_append(&b, torn.data, cut);
		put_frame(&b, WIRE_HELLO, 2, "hello", 5);
		put_frame(&b, WIRE_PAD, 3, NULL, WIRE_PAYLOAD_MAX);
		wire_decoder_init(&d);
		feed(&d, b.data, b.len);
		expect_one(&d, 2);
		expect_one(&d, 3);
		assert_int_equal(d.torn, cut >= WIRE_HEADER ? 1 : 0);
		wire_decoder_done(&d);
	}
}

static void a_length_beyond_the_limit_is_no_header(void **state)
{
	_cleanup_buf_ struct buf b = {};
	struct wire_decoder d;
	uint32_t check;

	put_frame(&b, WIRE_CALL, 7, NULL, 0);
	memcpy(b.data + 12, "\x01\x00\x01\x00", 4); /* 64 KiB + 1 */
	check = wire_crc32c(b.data, 24);
	memcpy(b.data + 24, &check, 4);
	put_frame(&b, WIRE_CALL, 8, NULL, 0);
	wire_decoder_init(&d);
	feed(&d, b.data, b.len);
	expect_one(&d, 8);
	wire_decoder_done(&d);
}

static void fields_come_out_as_they_went_in(void **state)
{
	_cleanup_buf_ struct buf b = {};
	_cleanup_strv_ char **args = NULL;
	_cleanup_free_ char *cwd = NULL;
	struct wire_fields f;
	uint32_t u32;
	uint64_t u64;
	char text[4];

	wire_put_str(&b, TAG_ARG, "one");
	wire_put_u32(&b, TAG_MODE, 0644);
	wire_put_str(&b, TAG_ARG, "");
	wire_put_u64(&b, TAG_MAX, UINT64_MAX - 1);
	wire_put_str(&b, TAG_ARG, "three");
	wire_put_str(&b, TAG_CWD, "/tmp");
	wire_put_str(&b, TAG_USER, NULL);
	f = (struct wire_fields){.data = (const uint8_t *)b.data, .len = b.len};
	assert_true(wire_fields_valid(f.data, f.len));
	assert_true(wire_dup_strv(&f, TAG_ARG, 3, &args));
	assert_int_equal(strv_len(args), 3);
	assert_string_equal(args[0], "one");
	assert_string_equal(args[1], "");
	assert_string_equal(args[2], "three");
	assert_true(wire_get_u32(&f, TAG_MODE, &u32) && u32 == 0644);
	assert_true(wire_get_u64(&f, TAG_MAX, &u64) && u64 == UINT64_MAX - 1);
	/* Another size is not that number. */
	assert_false(wire_get_u32(&f, TAG_MAX, &u32));
	cwd = wire_dup_str(&f, TAG_CWD, 4);
	assert_string_equal(cwd, "/tmp");
	assert_null(wire_dup_str(&f, TAG_CWD, 3));
	assert_null(wire_dup_str(&f, TAG_USER, 100));
	assert_true(wire_copy_str(&f, TAG_CWD, text, sizeof(text)));
	assert_string_equal(text, "/tm");
	assert_false(wire_copy_str(&f, TAG_USER, text, sizeof(text)));
	assert_string_equal(text, "");
}

static void malformed_fields(void **state)
{
	_cleanup_buf_ struct buf b = {};
	struct wire_fields f;
	char **args = NULL;

	wire_put_bytes(&b, TAG_ARG, "a\0b", 3);
	f = (struct wire_fields){.data = (const uint8_t *)b.data, .len = b.len};
	assert_true(wire_fields_valid(f.data, f.len));
	assert_null(wire_dup_str(&f, TAG_ARG, 100));
	assert_false(wire_dup_strv(&f, TAG_ARG, 100, &args));
	assert_null(args);
	for (size_t cut = 1; cut < b.len; cut++)
		assert_false(wire_fields_valid(b.data, b.len - cut));
	memset(b.data + 2, 0xff, 4);
	assert_false(wire_fields_valid(b.data, b.len));
	assert_true(wire_fields_valid(NULL, 0));
}

static void errors_travel(void **state)
{
	_cleanup_buf_ struct buf b = {};
	struct error in = {}, out = {};
	struct wire_fields f;

	wire_put_error(&b, &in);
	assert_int_equal(b.len, 0);
	error_set(&in, ERROR_EXPECT, ENOENT, "no such thing");
	error_hint(&in, "look elsewhere");
	wire_put_error(&b, &in);
	f = (struct wire_fields){.data = (const uint8_t *)b.data, .len = b.len};
	assert_true(wire_get_error(&f, &out));
	assert_int_equal(out.kind, ERROR_EXPECT);
	assert_int_equal(out.code, ENOENT);
	assert_string_equal(out.message, "no such thing");
	assert_string_equal(out.hint, "look elsewhere");
	/* A guest cannot say what only the host may decide. */
	buf_truncate(&b, 0);
	in.kind = ERROR_SKIP;
	wire_put_error(&b, &in);
	f = (struct wire_fields){.data = (const uint8_t *)b.data, .len = b.len};
	assert_true(wire_get_error(&f, &out));
	assert_int_equal(out.kind, ERROR_INFRA);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc_is_castagnolis),
		cmocka_unit_test(layout_is_fixed),
		cmocka_unit_test(frames_come_out_as_they_went_in),
		cmocka_unit_test(garbage_is_skipped),
		cmocka_unit_test(every_flipped_bit_is_noticed),
		cmocka_unit_test(a_torn_frame_hides_nothing),
		cmocka_unit_test(a_length_beyond_the_limit_is_no_header),
		cmocka_unit_test(fields_come_out_as_they_went_in),
		cmocka_unit_test(malformed_fields),
		cmocka_unit_test(errors_travel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
