/* SPDX-License-Identifier: MIT */
/* The stream of a tree: what is written is read, however it is cut; what is wrong is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/str.h"
#include "proto/tree-wire.h"

static const struct tree_entry top = {
	.type = TREE_DIR, .mode = 0755, .mtime_sec = 1, .mtime_nsec = 2, .name = ""};

/* One of everything. */
static void encode_all(struct buf *b)
{
	tree_encode_start(b);
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_FILE,
						  .mode = 04711,
						  .mtime_sec = -5,
						  .mtime_nsec = 999999999,
						  .size = 1ULL << 40,
						  .link = 1,
						  .name = "fi\nle\xff"});
	tree_encode_data(b, 0, "head", 4);
	tree_encode_data(b, 1ULL << 39, "middle", 6);
	tree_encode_end_file(b, 1ULL << 40);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_DIR, .mode = 01777, .name = "sub"});
	tree_encode_entry(b,
			  &(struct tree_entry){.type = TREE_HARDLINK, .link = 1, .name = "again"});
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_SYMLINK,
						  .mode = 0777,
						  .name = "link",
						  .target = "../../anywhere"});
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_UP, .name = ""});
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_FIFO, .mode = 0600, .name = "fifo"});
	tree_encode_entry(
		b,
		&(struct tree_entry){
			.type = TREE_CHAR, .mode = 0666, .major = 1, .minor = 3, .name = "null"});
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_BLOCK, .major = 7, .name = "loop"});
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_UP, .name = ""});
	tree_encode_finish(b, 8);
}

/* The stream as text; pieces of data that belong together are joined. */
static int decode_text(const uint8_t *bytes, size_t len, size_t piece, struct buf *text)
{
	struct tree_decoder d = {};
	uint64_t next = UINT64_MAX;
	int rc = 0;

	while (len > 0 && rc >= 0) {
		/* In memory of its own, so that reading beyond the piece is seen by ASan. */
		size_t n = MIN(len, piece), left = n;
		uint8_t *copy = xmemdup(bytes, n);
		const uint8_t *p = copy;
		struct tree_item i;

		while ((rc = tree_decode(&d, &p, &left, &i)) > 0) {
			const struct tree_entry *e = &i.entry;

			if (i.record == TREE_RECORD_DATA) {
				if (i.offset != next)
					buf_printf(text, " @%llx:", (unsigned long long)i.offset);
				buf_append(text, i.data, i.len);
				next = i.offset + i.len;
			} else if (i.record == TREE_RECORD_END_FILE) {
				buf_printf(text, " =%llx\n", (unsigned long long)i.size);
				next = UINT64_MAX;
			} else if (i.record == TREE_RECORD_FINISH) {
				buf_puts(text, "T");
			} else {
				buf_printf(text, "%d %o %lld.%u %llx %u %u:%u '%s' '%s'\n", e->type,
					   e->mode, (long long)e->mtime_sec, e->mtime_nsec,
					   (unsigned long long)e->size, e->link, e->major, e->minor,
					   e->name, e->target ? e->target : "");
			}
		}
		assert_true(rc < 0 || left == 0);
		free(copy);
		bytes += n;
		len -= n;
	}
	return rc < 0 ? rc : d.finished;
}

static const char expected[] = "1 755 1.2 0 0 0:0 '' ''\n"
			       "3 4711 -5.999999999 10000000000 1 0:0 'fi\nle\xff' ''\n"
			       " @0:head @8000000000:middle =10000000000\n"
			       "1 1777 0.0 0 0 0:0 'sub' ''\n"
			       "5 0 0.0 0 1 0:0 'again' ''\n"
			       "4 777 0.0 0 0 0:0 'link' '../../anywhere'\n"
			       "2 0 0.0 0 0 0:0 '' ''\n"
			       "6 600 0.0 0 0 0:0 'fifo' ''\n"
			       "7 666 0.0 0 0 1:3 'null' ''\n"
			       "8 0 0.0 0 0 7:0 'loop' ''\n"
			       "2 0 0.0 0 0 0:0 '' ''\n"
			       "T";

static void test_round_trip_in_pieces(void **state)
{
	static const size_t pieces[] = {1, 2, 3, 7, 13, 64, 100000};
	_cleanup_buf_ struct buf b = {};

	encode_all(&b);
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		_cleanup_buf_ struct buf text = {};

		assert_int_equal(decode_text((uint8_t *)b.data, b.len, pieces[i], &text), 1);
		assert_string_equal(buf_str(&text), expected);
	}
}

static void test_longest_texts(void **state)
{
	_cleanup_buf_ struct buf b = {}, text = {};
	char name[TREE_NAME_MAX + 1] = {}, target[TREE_TARGET_MAX + 1] = {};

	memset(name, 'n', sizeof(name) - 1);
	memset(target, 't', sizeof(target) - 1);
	tree_encode_start(&b);
	tree_encode_entry(&b, &top);
	for (int i = 0; i < 3; i++)
		tree_encode_entry(
			&b,
			&(struct tree_entry){.type = TREE_SYMLINK, .name = name, .target = target});
	tree_encode_entry(&b, &(struct tree_entry){.type = TREE_UP, .name = ""});
	tree_encode_finish(&b, 4);
	for (size_t piece = 4000; piece < 4500; piece += 7) {
		buf_truncate(&text, 0);
		assert_int_equal(decode_text((uint8_t *)b.data, b.len, piece, &text), 1);
	}
}

static void test_cut_stream_is_unfinished(void **state)
{
	_cleanup_buf_ struct buf b = {};

	encode_all(&b);
	for (size_t n = 0; n < b.len; n++) {
		_cleanup_buf_ struct buf text = {};

		assert_int_equal(decode_text((uint8_t *)b.data, n, 100000, &text), 0);
	}
}

static void test_damage_is_harmless(void **state)
{
	static const uint8_t values[] = {0, 1, 2, 0x7f, 0xff, '/', '.', 'D', 'U', 'T', 'B'};
	_cleanup_buf_ struct buf b = {};

	encode_all(&b);
	for (size_t i = 0; i < b.len; i++)
		for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
			_cleanup_buf_ struct buf text = {};
			uint8_t saved = b.data[i];

			b.data[i] = values[v];
			decode_text((uint8_t *)b.data, b.len, 1 + i % 50, &text);
			b.data[i] = saved;
		}
}

struct refused {
	const char *what;
	void (*encode)(struct buf *b);
};

static void file_named(struct buf *b, const char *name)
{
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_FILE, .name = name});
}

#define NAMED(function, text)                                                                      \
	static void function(struct buf *b)                                                        \
	{                                                                                          \
		file_named(b, text);                                                               \
	}
NAMED(name_dots, "..")
NAMED(name_dot, ".")
NAMED(name_slash, "a/b")
NAMED(name_absolute, "/etc")
NAMED(name_empty, "")

static void name_with_nul(struct buf *b)
{
	file_named(b, "abc");
	b->data[b->len - 2] = 0;
}

static void top_with_name(struct buf *b)
{
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_DIR, .name = "x"});
}

static void two_tops(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_UP, .name = ""});
	tree_encode_entry(b, &top);
}

static void up_too_far(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_UP, .name = ""});
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_UP, .name = ""});
}

static void entry_in_file(struct buf *b)
{
	file_named(b, "a");
	tree_encode_entry(b, &top);
}

static void data_without_file(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_data(b, 0, "x", 1);
}

static void data_backwards(struct buf *b)
{
	file_named(b, "a");
	tree_encode_data(b, 10, "xy", 2);
	tree_encode_data(b, 11, "x", 1);
}

static void data_at_the_end_of_the_world(struct buf *b)
{
	file_named(b, "a");
	tree_encode_data(b, INT64_MAX, "xy", 2);
}

static void negative_size(struct buf *b)
{
	file_named(b, "a");
	tree_encode_end_file(b, UINT64_MAX);
}

static void link_to_nothing(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_HARDLINK, .link = 1, .name = "a"});
}

static void link_out_of_order(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_FILE, .link = 2, .name = "a"});
}

static void empty_target(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_SYMLINK, .name = "a", .target = ""});
}

static void wrong_count(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_UP, .name = ""});
	tree_encode_finish(b, 2);
}

static void end_within_directory(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_finish(b, 1);
}

static void more_behind_the_end(struct buf *b)
{
	tree_encode_entry(b, &top);
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_UP, .name = ""});
	tree_encode_finish(b, 1);
	buf_putc(b, 'T');
}

static void mode_too_large(struct buf *b)
{
	tree_encode_entry(b, &(struct tree_entry){.type = TREE_DIR, .mode = 0170000, .name = ""});
}

static void test_wrong_streams_are_refused(void **state)
{
#define CASE(f)                                                                                    \
	{                                                                                          \
#f, f                                                                              \
	}
	static const struct refused cases[] = {
		CASE(name_dots),	   CASE(name_dot),
		CASE(name_slash),	   CASE(name_absolute),
		CASE(name_empty),	   CASE(name_with_nul),
		CASE(top_with_name),	   CASE(two_tops),
		CASE(up_too_far),	   CASE(entry_in_file),
		CASE(data_without_file),   CASE(data_backwards),
		CASE(negative_size),	   CASE(data_at_the_end_of_the_world),
		CASE(link_to_nothing),	   CASE(link_out_of_order),
		CASE(empty_target),	   CASE(wrong_count),
		CASE(mode_too_large),	   CASE(end_within_directory),
		CASE(more_behind_the_end),
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_buf_ struct buf b = {}, text = {};

		tree_encode_start(&b);
		cases[i].encode(&b);
		if (decode_text((uint8_t *)b.data, b.len, 100000, &text) != -EBADMSG)
			fail_msg("%s was not refused", cases[i].what);
	}
	_cleanup_buf_ struct buf text = {};
	assert_int_equal(decode_text((const uint8_t *)"ASYTREE2", 8, 8, &text), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip_in_pieces),
		cmocka_unit_test(test_longest_texts),
		cmocka_unit_test(test_cut_stream_is_unfinished),
		cmocka_unit_test(test_damage_is_harmless),
		cmocka_unit_test(test_wrong_streams_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
