/* SPDX-License-Identifier: MIT */
/* A console's log: raw bytes with a time stamp before each line, in a file that stays bounded. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "console/console-internal.h"

/*
 * Theory of operation
 *
 * The file is right at every moment, whoever is killed, and never larger than its bound:
 *
 *	head ............ | gap line | tail A | tail B
 *
 * The head is the beginning of the log and is never touched again. When it is full, text goes to
 *the tail, which has two halves of TAIL_HALF. When B is full, B is copied over A and B begins anew;
 * what A held is lost and counted in the gap line, which has a fixed length. So the last TAIL_HALF
 *bytes at least are always there.
 */
#define TAIL_HALF_MAX (8 * MIB)
#define GAP_FORMAT    "\n[   ......] %20llu bytes of the console left out here: too many\n"
#define GAP_LEN	      73
#define STAMP_MAX     24

struct log_file {
	int fd;
	char *path;
	uint64_t head_max, tail_half;
	uint64_t size;	     /* of the file */
	uint64_t tail_start; /* where tail A begins; 0: still in the head */
	uint64_t dropped;
	bool at_line_start;
	struct buf out; /* one chunk, formatted */
};

int log_file_open(const char *path, uint64_t max_bytes, struct log_file **ret, struct error *err)
{
	struct log_file *l;
	struct stat st;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write '%s'", path);
	if (fstat(fd, &st) < 0)
		st.st_size = 0;
	l = xcalloc(1, sizeof(*l));
	l->fd = fd;
	l->path = xstrdup(path);
	l->tail_half = MIN(TAIL_HALF_MAX, max_bytes / 4);
	l->head_max = max_bytes - 2 * l->tail_half - GAP_LEN;
	l->size = (uint64_t)st.st_size;
	l->at_line_start = true;
	*ret = l;
	return 0;
}

void log_file_close(struct log_file *l)
{
	if (!l)
		return;
	close(l->fd);
	buf_done(&l->out);
	free(l->path);
	free(l);
}

uint64_t log_file_dropped(const struct log_file *l)
{
	return l ? l->dropped : 0;
}

/* At an offset, all of it. A disk that is full loses log, not the machine. */
static bool put(struct log_file *l, uint64_t at, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = pwrite(l->fd, data, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return true;
}

static void put_gap(struct log_file *l)
{
	char line[GAP_LEN + 32];
	int n = snprintf(line, sizeof(line), GAP_FORMAT, (unsigned long long)l->dropped);

	assert(n > 0);
	(void)put(l, l->tail_start - GAP_LEN, line, MIN((size_t)n, (size_t)GAP_LEN));
}

/* B over A. */
static void rotate(struct log_file *l)
{
	_cleanup_free_ char *half = xmalloc(l->tail_half);
	size_t have = 0;

	while (have < l->tail_half) {
		ssize_t n = pread(l->fd, half + have, l->tail_half - have,
				  (off_t)(l->tail_start + l->tail_half + have));

		if (n <= 0)
			break;
		have += (size_t)n;
	}
	l->dropped += l->tail_half;
	put_gap(l);
	(void)put(l, l->tail_start, half, have);
	l->size = l->tail_start + l->tail_half;
	(void)!ftruncate(l->fd, (off_t)l->size);
}

static void append(struct log_file *l, const char *data, size_t len)
{
	while (len > 0) {
		uint64_t limit = l->tail_start ? l->tail_start + 2 * l->tail_half : l->head_max;
		size_t part = (size_t)MIN((uint64_t)len, limit - MIN(limit, l->size));

		if (part == 0) {
			if (l->tail_start) {
				rotate(l);
			} else {
				l->tail_start = l->size + GAP_LEN;
				l->size = l->tail_start;
				put_gap(l);
			}
			continue;
		}
		if (!put(l, l->size, data, part)) {
			(void)!ftruncate(l->fd, (off_t)l->size); /* no torn line */
			l->dropped += len;
			return;
		}
		l->size += part;
		data += part;
		len -= part;
	}
}

static size_t format_stamp(char *stamp, uint64_t ns)
{
	int n = snprintf(stamp, STAMP_MAX, "[%5llu.%03llu] ", (unsigned long long)(ns / NS_PER_SEC),
			 (unsigned long long)(ns % NS_PER_SEC / NS_PER_MS));

	return (size_t)n;
}

void log_file_feed(struct log_file *l, const void *data, size_t len, uint64_t ns)
{
	const char *p = data, *end = p + len;
	char stamp[STAMP_MAX];
	size_t stamp_len;

	if (!l)
		return;
	stamp_len = format_stamp(stamp, ns);
	l->out.len = 0;
	while (p < end) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		const char *next = nl ? nl + 1 : end;

		if (l->at_line_start)
			buf_append(&l->out, stamp, stamp_len);
		buf_append(&l->out, p, (size_t)(next - p));
		l->at_line_start = nl != NULL;
		p = next;
	}
	append(l, buf_str(&l->out), l->out.len);
}

void log_file_note(struct log_file *l, const char *text, uint64_t ns)
{
	if (!l)
		return;
	if (!l->at_line_start)
		append(l, "\n", 1);
	l->at_line_start = true;
	log_file_feed(l, text, strlen(text), ns);
	append(l, "\n", 1);
	l->at_line_start = true;
}

void log_file_read_text(const struct log_file *l, struct buf *ret)
{
	_cleanup_buf_ struct buf raw = {}, lines = {};
	struct filter filter = {};

	if (buf_read_file(&raw, l->path, SIZE_MAX / 2) < 0)
		return;
	for (size_t i = 0; i < raw.len;) {
		const char *line = raw.data + i;
		const char *nl = memchr(line, '\n', raw.len - i);
		size_t len = nl ? (size_t)(nl + 1 - line) : raw.len - i, skip = 0;
		const char *close =
			len > 2 && line[0] == '[' ? memchr(line, ']', MIN(len, STAMP_MAX)) : NULL;

		if (close && close + 1 < line + len && close[1] == ' ')
			skip = (size_t)(close + 2 - line);
		buf_append(&lines, line + skip, len - skip);
		i += len;
	}
	filter_feed(&filter, lines.data, lines.len, ret);
}
