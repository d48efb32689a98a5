/* SPDX-License-Identifier: MIT */
/* Fuzzes the agent's frames and fields: any division into pieces gives the same frames, and nothing
 * reaches beyond what it was given. */
#include <assert.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"
#include "proto/agent-wire.h"

static volatile uint8_t sink;

static void touch(const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sink ^= data[i];
}

/* Everything that reads a body; the copy lets ASan see each byte too far. */
static void read_fields(const uint8_t *payload, size_t len)
{
	_cleanup_free_ uint8_t *copy = xmalloc(len + !len);
	struct wire_fields f = {.data = copy, .len = len};
	struct wire_field field;
	struct error err;
	char text[16];
	size_t pos = 0, sum = 0;
	uint64_t u64;
	uint32_t u32;

	if (len > 0)
		memcpy(copy, payload, len);
	while (wire_field_next(&f, &pos, &field)) {
		_cleanup_strv_ char **all = NULL;
		_cleanup_free_ char *one = wire_dup_str(&f, field.tag, 64);

		assert(!one || strlen(one) <= 64);
		assert(field.data >= copy && field.data + field.len <= copy + len);
		touch(field.data, field.len);
		sum += 6 + field.len;
		(void)wire_get_u32(&f, field.tag, &u32);
		(void)wire_get_u64(&f, field.tag, &u64);
		assert(wire_copy_str(&f, field.tag, text, sizeof(text)));
		assert(strlen(text) < sizeof(text));
		if (sum < 4096 && wire_dup_strv(&f, field.tag, 8, &all))
			assert(strv_len(all) >= 1 && strv_len(all) <= 8);
	}
	assert(pos == sum && wire_fields_valid(copy, len) == (sum == len));
	if (wire_get_error(&f, &err))
		assert(err.kind != ERROR_NONE && err.code > 0);
}

static void run(const uint8_t *data, size_t len, size_t step, struct buf *ret)
{
	struct wire_decoder d;
	uint64_t bytes = 0, total = len;

	wire_decoder_init(&d);
	while (len > 0) {
		struct wire_header h;
		const uint8_t *payload;
		size_t room, n;
		void *space = wire_decoder_space(&d, &room);

		assert(room > 0);
		n = MIN(MIN(step, len), room);
		memcpy(space, data, n);
		wire_decoder_fill(&d, n);
		data += n;
		len -= n;
		while (wire_decoder_next(&d, &h, &payload)) {
			assert(h.len <= WIRE_PAYLOAD_MAX);
			touch(payload, h.len);
			bytes += WIRE_OVERHEAD + h.len;
			buf_printf(ret, "%u %u %u %u %u %llu\n", h.type, h.flags, h.arg, h.call,
				   h.len, (unsigned long long)h.nonce);
			if (step > 100)
				read_fields(payload, h.len);
		}
	}
	/* Each byte is a frame's, skipped, or still waited on. */
	assert(bytes + d.skipped + (d.end - d.start) == total);
	buf_printf(ret, "%llu %llu", (unsigned long long)d.skipped, (unsigned long long)d.torn);
	wire_decoder_done(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_buf_ struct buf whole = {};
	_cleanup_buf_ struct buf pieces = {};

	run(data, len, SIZE_MAX, &whole);
	run(data, len, 7, &pieces);
	assert(whole.len == pieces.len && memcmp(whole.data, pieces.data, whole.len) == 0);
	/* A fuzzer hardly guesses a check sum: the fields also as if they stood in a good frame. */
	read_fields(data, len);
	return 0;
}
