/* SPDX-License-Identifier: MIT */
/* The format in which a file tree travels between host and agent. */
#pragma once

#include "base/buf.h"
#include "base/tree.h"

/*
 * Format, version 1. Numbers are little endian. The stream starts with the eight bytes "ASYTREE1";
 * records follow, each a type byte and its fields:
 *
 *	D  mode:2 mtime:8 nsec:4 name			a directory; what follows is in it, until U
 *	U						leaves it
 *	F  mode:2 mtime:8 nsec:4 size:8 link:4 name	a file; B* and E follow
 *	B  offset:8 len:4 data				its bytes; what no B covers is a hole
 *	E  size:8					its end, and where that is
 *	L  mode:2 mtime:8 nsec:4 name target		a symbolic link
 *	H  link:4 name					one more name of the file of that number
 *	P  mode:2 mtime:8 nsec:4 name			a fifo
 *	C, K  mode:2 mtime:8 nsec:4 major:4 minor:4 name	a character or block device
 *	T  entries:8					the end; the number of records D F L H P C K
 *
 * A name or target is a length (2 bytes) and that many bytes without NUL. The first entry is the
 * top, with an empty name; if it is a D, T follows its U. Links are numbered from 1 in the order
 * of the files that have further names.
 */

/* In the call of COPY_IN, beside TAG_PATH: the last part of the source's name (str). A file that is
 * copied to a directory keeps it. */
#define TREE_TAG_SOURCE_NAME 96

#define TREE_WIRE_DATA_MAX (1 * MIB) /* of one B record */

/* --- writing --- */

void tree_encode_start(struct buf *out);
void tree_encode_entry(struct buf *out, const struct tree_entry *e);
void tree_encode_data(struct buf *out, uint64_t offset, const void *data, size_t len);
/* The head of a B record of len bytes at offset, for data that are put behind it by other means. */
#define TREE_WIRE_DATA_HEAD 13
void tree_encode_data_head(uint8_t head[TREE_WIRE_DATA_HEAD], uint64_t offset, uint32_t len);
void tree_encode_end_file(struct buf *out, uint64_t size);
void tree_encode_finish(struct buf *out, uint64_t entries);

/* --- reading --- */

enum tree_record {
	TREE_RECORD_ENTRY = 1,
	TREE_RECORD_DATA,
	TREE_RECORD_END_FILE,
	TREE_RECORD_FINISH,
};

/* The longest record, a B without its data: a symbolic link. */
#define TREE_WIRE_RECORD_MAX (1 + 14 + 2 + TREE_NAME_MAX + 2 + TREE_TARGET_MAX)

/* Zero is initialised; there is nothing to free. */
struct tree_decoder {
	bool started, have_top, in_file, finished;
	uint32_t depth;
	uint32_t links;
	uint64_t entries;
	uint64_t data_offset; /* of the B record that is being read */
	uint32_t data_left;
	uint64_t data_end;		    /* of the file so far: data come in order */
	uint8_t held[TREE_WIRE_RECORD_MAX]; /* a record whose rest has not come yet */
	size_t held_len;
	char name[TREE_NAME_MAX + 1];
	char target[TREE_TARGET_MAX + 1];
};

struct tree_item {
	enum tree_record record;
	struct tree_entry entry;
	uint64_t offset; /* of data */
	const uint8_t *data;
	size_t len;
	uint64_t size; /* of the ended file */
};

/*
 * Takes bytes from *data (advancing it and *len) until an item is complete: 1. 0: all were taken
 * and more are needed; -EBADMSG: this is no tree, and never will be again. ret's strings live until
 * the next call; its data are pieces of what was given, never copied.
 */
int tree_decode(struct tree_decoder *d, const uint8_t **data, size_t *len, struct tree_item *ret);
