/* SPDX-License-Identifier: MIT */
/* A growing byte buffer; always NUL-terminated behind its length, so text can be read from it. */
#pragma once

#include <stdarg.h>
#include <sys/types.h>

#include "base/util.h"

struct buf {
	char *data; /* NULL while empty and never grown */
	size_t len;
	size_t cap;
};

void buf_done(struct buf *b); /* frees; leaves an empty buffer */
#define _cleanup_buf_ _cleanup_(buf_done)

void buf_reserve(struct buf *b, size_t extra);
void buf_append(struct buf *b, const void *data, size_t len);
void buf_puts(struct buf *b, const char *s);
void buf_putc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) _printf_(2, 3);
void buf_vprintf(struct buf *b, const char *fmt, va_list ap);
/* Drops n bytes from the front (memmove; for large queues use a head index of your own). */
void buf_consume(struct buf *b, size_t n);
void buf_truncate(struct buf *b, size_t len);
/* Never NULL: "" when empty. */
const char *buf_str(const struct buf *b);
/* Gives the (NUL-terminated, malloc'd) data away; the buffer is empty afterwards. */
char *buf_steal(struct buf *b, size_t *ret_len);
/* Reads a whole file or fd to its end; 0 or -errno. max bounds the size (-EFBIG). */
int buf_read_fd(struct buf *b, int fd, size_t max);
int buf_read_file(struct buf *b, const char *path, size_t max);
