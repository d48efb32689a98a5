/* SPDX-License-Identifier: MIT */
/* Fuzzes the stream of a tree: any division into pieces gives the same items, all of them sane. */
#include <assert.h>
#include <string.h>

#include "base/str.h"
#include "proto/tree-wire.h"

static void print_item(const struct tree_item *i, uint64_t *data_end, struct buf *ret)
{
	const struct tree_entry *e = &i->entry;

	switch (i->record) {
	case TREE_RECORD_ENTRY:
		assert(e->type >= TREE_DIR && e->type <= TREE_BLOCK && e->mode <= 07777);
		assert(!*e->name || tree_name_is_valid(e->name, strlen(e->name)));
		assert((e->type == TREE_SYMLINK) == (e->target != NULL));
		buf_printf(ret, "%d %s %s\n", e->type, e->name, e->target ? e->target : "");
		*data_end = 0;
		break;
	case TREE_RECORD_DATA:
		assert(i->len > 0 && i->offset >= *data_end && i->offset + i->len <= INT64_MAX);
		/* How the bytes of one record are cut is not the same. */
		if (i->offset != *data_end || *data_end == 0)
			buf_printf(ret, "@%llu:", (unsigned long long)i->offset);
		buf_append(ret, i->data, i->len);
		*data_end = i->offset + i->len;
		break;
	case TREE_RECORD_END_FILE:
		assert(i->size <= INT64_MAX);
		buf_printf(ret, "=%llu\n", (unsigned long long)i->size);
		break;
	default:
		buf_puts(ret, "T");
	}
}

static void run(const uint8_t *data, size_t len, size_t step, struct buf *ret)
{
	struct tree_decoder d = {};
	uint64_t data_end = 0;
	int rc = 0;

	while (len > 0 && rc >= 0) {
		size_t n = MIN(step, len), left = n;
		struct tree_item i;

		while ((rc = tree_decode(&d, &data, &left, &i)) > 0)
			print_item(&i, &data_end, ret);
		assert(rc < 0 || left == 0);
		len -= n;
	}
	buf_printf(ret, "%s", rc < 0 ? "broken" : d.finished ? "done" : "open");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_buf_ struct buf whole = {}, pieces = {};

	run(data, len, len, &whole);
	run(data, len, len > 0 ? 1 + data[len - 1] % 16 : 1, &pieces);
	assert(whole.len == pieces.len && memcmp(whole.data, pieces.data, whole.len) == 0);
	return 0;
}
