/* SPDX-License-Identifier: MIT */
/* Fiber-blocking I/O on a descriptor, with separate read and write waiters. */
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include "base/error.h"
#include "loop/fiber.h"

struct io;

/* Takes the fd (made non-blocking). One struct io for each open description. */
struct io *io_new(int fd);
void io_free(struct io *io); /* closes; wakes waiters with -EBADF. NULL is fine */
void cleanup_io(struct io **io);
#define _cleanup_io_ _cleanup_(cleanup_io)
int io_fd(const struct io *io);
/* For messages: "cannot read from <name>". Without it: "descriptor 7". Copied. */
void io_set_name(struct io *io, const char *name);
int io_steal_fd(struct io *io); /* frees the io, gives the fd back */

/* Like read(2)/write(2), but wait. 0 from io_read is the end. Errors -errno with err filled. */
ssize_t io_read(struct io *io, void *buf, size_t len, uint64_t timeout_ns, struct error *err);
/* All of it or an error; -EPIPE never raises SIGPIPE. */
int io_write_all(struct io *io, const void *buf, size_t len, uint64_t timeout_ns,
		 struct error *err);
int io_writev_all(struct io *io, struct iovec *iov, int n, uint64_t timeout_ns, struct error *err);
/* The same over a unix socket, with a descriptor (borrowed) that goes with the first byte. */
int io_write_fd(struct io *io, const void *buf, size_t len, int fd, uint64_t timeout_ns,
		struct error *err);
/* Exactly len bytes; -ECONNRESET at an early end. */
int io_read_exact(struct io *io, void *buf, size_t len, uint64_t timeout_ns, struct error *err);
int io_wait_readable(struct io *io, uint64_t timeout_ns, struct error *err);
/* Connects a unix stream socket (a path of any length); accepts on a listening io. */
int io_connect_unix(const char *path, uint64_t timeout_ns, struct io **ret, struct error *err);
int io_accept(struct io *io, uint64_t timeout_ns, struct io **ret, struct error *err);
