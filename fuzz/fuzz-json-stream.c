/* SPDX-License-Identifier: MIT */
/* Fuzzes the splitter of JSON streams: any division into pieces must give the same texts. */
#include <assert.h>
#include <string.h>

#include "base/str.h"
#include "proto/json-stream.h"

#define MAX_TEXT 4096

/* The texts, each with its length in front, then the final state. */
static void run(const uint8_t *data, size_t len, size_t step, struct buf *ret)
{
	struct json_stream s;
	size_t pos = 0;
	int r = 0;

	json_stream_init(&s, MAX_TEXT);
	while (pos < len && r >= 0) {
		size_t used, n = MIN(step, len - pos);

		r = json_stream_feed(&s, data + pos, n, &used);
		assert(used <= n);
		pos += used;
		if (r == 1) {
			assert(s.text.len >= 2 && s.text.len <= MAX_TEXT);
			buf_printf(ret, "%zu:", s.text.len);
			buf_append(ret, s.text.data, s.text.len);
		} else if (r == 0) {
			assert(used == n);
		}
	}
	buf_printf(ret, "%s", r < 0 ? "broken" : json_stream_is_idle(&s) ? "idle" : "open");
	json_stream_done(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_buf_ struct buf whole = {};
	_cleanup_buf_ struct buf pieces = {};

	run(data, len, len, &whole);
	run(data, len, len > 0 ? 1 + data[0] % 16 : 1, &pieces);
	assert(whole.len == pieces.len && memcmp(whole.data, pieces.data, whole.len) == 0);
	return 0;
}
