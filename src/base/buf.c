/* SPDX-License-Identifier: MIT */
/* The growing byte buffer. */
#include "base/buf.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"

/*
 * Invariant: data is NULL and cap is 0, or data has cap bytes, of which len < cap are used and the
 * one behind them is NUL. The capacity doubles, so appending costs constant time on average.
 */

void buf_done(struct buf *b)
{
	free(b->data);
	*b = (struct buf){};
}

/* Room for `extra` more bytes and the NUL behind them. */
void buf_reserve(struct buf *b, size_t extra)
{
	size_t need, cap;

	if (__builtin_add_overflow(b->len, extra, &need) || __builtin_add_overflow(need, 1, &need))
		need = SIZE_MAX; /* lets xrealloc() abort */
	if (need <= b->cap)
		return;
	cap = MAX(b->cap, (size_t)64);
	while (cap < need)
		cap = cap > SIZE_MAX / 2 ? need : cap * 2;
	b->data = xrealloc(b->data, cap);
	b->cap = cap;
	b->data[b->len] = '\0';
}

void buf_append(struct buf *b, const void *data, size_t len)
{
	if (len == 0)
		return;
	buf_reserve(b, len);
	memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
}

void buf_puts(struct buf *b, const char *s)
{
	buf_append(b, s, strlen(s));
}

void buf_putc(struct buf *b, char c)
{
	buf_append(b, &c, 1);
}

/* Formats in place; only if that did not fit (its size is known then) a second time. */
void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
	va_list copy;
	int n;

	buf_reserve(b, 128);
	va_copy(copy, ap);
	n = vsnprintf(b->data + b->len, b->cap - b->len, fmt, copy);
	va_end(copy);
	assert(n >= 0);
	if ((size_t)n >= b->cap - b->len) {
		buf_reserve(b, (size_t)n);
		n = vsnprintf(b->data + b->len, b->cap - b->len, fmt, ap);
		assert(n >= 0 && (size_t)n < b->cap - b->len);
	}
	b->len += (size_t)n;
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	buf_vprintf(b, fmt, ap);
	va_end(ap);
}

void buf_consume(struct buf *b, size_t n)
{
	assert(n <= b->len);
	if (n == 0)
		return;
	b->len -= n;
	memmove(b->data, b->data + n, b->len);
	b->data[b->len] = '\0';
}

void buf_truncate(struct buf *b, size_t len)
{
	assert(len <= b->len);
	b->len = len;
	if (b->data)
		b->data[len] = '\0';
}

const char *buf_str(const struct buf *b)
{
	return b->data ? b->data : "";
}

char *buf_steal(struct buf *b, size_t *ret_len)
{
	char *data;

	/* So that an empty one gives "", not NULL. */
	buf_reserve(b, 0);
	if (ret_len)
		*ret_len = b->len;
	data = b->data;
	*b = (struct buf){};
	return data;
}

int buf_read_fd(struct buf *b, int fd, size_t max)
{
	size_t start = b->len;
	struct stat st;

	/* A hint only: files in /proc say 0 and pipes nothing at all. */
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 &&
	    (uint64_t)st.st_size <= max)
		buf_reserve(b, (size_t)st.st_size + 1);
	for (;;) {
		size_t have = b->len - start;
		size_t room;
		ssize_t n;

		/* One byte more than allowed tells "exactly max" from "too much". */
		if (b->cap - b->len < 4096)
			buf_reserve(b, 4096);
		room = b->cap - b->len - 1;
		if (max - have < room)
			room = max - have + 1;
		n = read(fd, b->data + b->len, room);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int e = errno;

			b->data[b->len] = '\0';
			return -e;
		}
		if (n == 0)
			break;
		if ((size_t)n > max - have) {
			buf_truncate(b, start);
			return -EFBIG;
		}
		b->len += (size_t)n;
	}
	b->data[b->len] = '\0';
	return 0;
}

int buf_read_file(struct buf *b, const char *path, size_t max)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return -errno;
	return buf_read_fd(b, fd, max);
}
