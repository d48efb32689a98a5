/* SPDX-License-Identifier: MIT */
/* Reading and writing that parks the fiber instead of blocking the process. */
#include "loop/io.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/loop-internal.h"
#include "loop/loop.h"

/*
 * Theory of operation.
 *
 * Each operation tries its system call first and waits only after EAGAIN. One event source for
 * each descriptor is shared by both directions; it is on only while somebody waits, and only for
 * what he waits for, so a descriptor that is ready and that nobody reads costs nothing (a closed
 * peer would otherwise spin: EPOLLHUP cannot be masked).
 *
 * Regular files and some devices refuse epoll (EPERM): for them waiting is never needed.
 *
 * io_free() while fibers are inside an operation: the descriptor is closed at once, they are woken
 * and fail with EBADF, and the last one of them frees the memory (`n_users`).
 */

struct io {
	int fd;
	bool closed;
	bool always_ready;
	unsigned n_users; /* operations in progress */
	char *name;
	sd_event_source *source; /* made at the first wait */
	struct waiters readers, writers;
};

static void io_destroy(struct io *io)
{
	free(io->name);
	free(io);
}

static void io_leave(struct io **io)
{
	if (--(*io)->n_users == 0 && (*io)->closed)
		io_destroy(*io);
}

/* Keeps the object for the rest of the block. */
#define IO_USE(obj)                                                                                \
	_cleanup_(io_leave) struct io *io_user_ = (obj);                                           \
	io_user_->n_users++

struct io *io_new(int fd)
{
	struct io *io = xcalloc(1, sizeof(*io));

	assert(fd >= 0);
	io->fd = fd;
	io->name = xasprintf("descriptor %d", fd);
	(void)fd_set_nonblock(fd, true);
	return io;
}

void io_set_name(struct io *io, const char *name)
{
	free(io->name);
	io->name = xstrdup(name);
}

int io_fd(const struct io *io)
{
	return io->fd;
}

int io_steal_fd(struct io *io)
{
	int fd = io->fd;

	io->source = sd_event_source_disable_unref(io->source);
	io->fd = -EBADF;
	io->closed = true;
	waiters_wake_all(&io->readers);
	waiters_wake_all(&io->writers);
	if (io->n_users == 0)
		io_destroy(io);
	return fd;
}

void io_free(struct io *io)
{
	if (io)
		close(io_steal_fd(io)); /* out of epoll first: the file may be open elsewhere */
}

void cleanup_io(struct io **io)
{
	io_free(*io);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata);

/* Has epoll look for what the queues wait for, and for `extra`, on behalf of one who is about to.
 */
static int watch(struct io *io, uint32_t extra)
{
	uint32_t events = extra;
	int r;

	if (!waiters_empty(&io->readers))
		events |= EPOLLIN;
	if (!waiters_empty(&io->writers))
		events |= EPOLLOUT;
	if (io->always_ready)
		return 0;
	if (io->source) {
		if (events == 0)
			return sd_event_source_set_enabled(io->source, SD_EVENT_OFF);
		r = sd_event_source_set_io_events(io->source, events);
		return r < 0 ? r : sd_event_source_set_enabled(io->source, SD_EVENT_ON);
	}
	r = sd_event_add_io(loop_event(), &io->source, io->fd, events, on_io, io);
	if (r == -EPERM) {
		io->always_ready = true;
		return 0;
	}
	return r;
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct io *io = userdata;

	/* An error or a hang-up concerns both sides. */
	if (revents & (EPOLLIN | EPOLLERR | EPOLLHUP))
		waiters_wake_all(&io->readers);
	if (revents & (EPOLLOUT | EPOLLERR | EPOLLHUP))
		waiters_wake_all(&io->writers);
	(void)watch(io, 0);
	return 0;
}

static int fail_closed(const struct io *io, struct error *err)
{
	return error_set(err, ERROR_INFRA, EBADF, "%s: closed while in use", io->name);
}

static int fail_io(const struct io *io, int code, const char *verb, struct error *err)
{
	return error_set_errno(err, ERROR_INFRA, code, "cannot %s %s", verb, io->name);
}

/* One direction of one operation: what it waits on, until when, and the words for it. */
struct io_op {
	struct waiters *queue;
	uint64_t deadline_ns;
	uint64_t timeout_ns;
	const char *verb; /* "read from" */
	char what[160];	  /* "data from descriptor 7" */
};

static struct io_op op_read(struct io *io, uint64_t timeout_ns)
{
	struct io_op op = {
		.queue = &io->readers,
		.deadline_ns = deadline_in(timeout_ns),
		.timeout_ns = timeout_ns,
		.verb = "read from",
	};

	(void)snprintf(op.what, sizeof(op.what), "data from %s", io->name);
	return op;
}

static struct io_op op_write(struct io *io, uint64_t timeout_ns)
{
	struct io_op op = {
		.queue = &io->writers,
		.deadline_ns = deadline_in(timeout_ns),
		.timeout_ns = timeout_ns,
		.verb = "write to",
	};

	(void)snprintf(op.what, sizeof(op.what), "room to write to %s", io->name);
	return op;
}

/* Parks until the direction may be ready. The object is alive afterwards, but maybe closed. */
static int io_park(struct io *io, const struct io_op *op, struct error *err)
{
	int r = watch(io, op->queue == &io->readers ? EPOLLIN : EPOLLOUT);

	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot watch %s", io->name);
	if (io->always_ready)
		return 0;
	r = fiber_wait_until(op->queue, op->deadline_ns, op->timeout_ns, op->what, err);
	if (io->closed)
		return r < 0 ? r : fail_closed(io, err);
	(void)watch(io, 0);
	return r;
}

/* Before each try: the turn of others, cancelling, and whether the descriptor is still there. */
static int io_begin(struct io *io, const struct io_op *op, struct error *err)
{
	int r;

	if (io->closed)
		return fail_closed(io, err);
	r = fiber_step(op->what, err);
	if (r < 0)
		return r;
	return io->closed ? fail_closed(io, err) : 0;
}

/* After a failed try: 0 to try again, possibly after a wait. */
static int io_again(struct io *io, const struct io_op *op, struct error *err)
{
	if (errno == EINTR)
		return 0;
	if (errno == EAGAIN)
		return io_park(io, op, err);
	return fail_io(io, errno, op->verb, err);
}

ssize_t io_read(struct io *io, void *buf, size_t len, uint64_t timeout_ns, struct error *err)
{
	struct io_op op = op_read(io, timeout_ns);
	int r;

	IO_USE(io);
	for (;;) {
		ssize_t n;

		r = io_begin(io, &op, err);
		if (r < 0)
			return r;
		n = read(io->fd, buf, len);
		if (n >= 0)
			return n;
		r = io_again(io, &op, err);
		if (r < 0)
			return r;
	}
}

int io_read_exact(struct io *io, void *buf, size_t len, uint64_t timeout_ns, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	size_t done = 0;

	IO_USE(io);
	while (done < len) {
		ssize_t n =
			io_read(io, (char *)buf + done, len - done, timeout_left(deadline), err);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return error_set(err, ERROR_INFRA, ECONNRESET,
					 "%s: ended after %zu of %zu bytes", io->name, done, len);
		done += (size_t)n;
	}
	return 0;
}

int io_writev_all(struct io *io, struct iovec *iov, int n, uint64_t timeout_ns, struct error *err)
{
	struct io_op op = op_write(io, timeout_ns);
	int r;

	IO_USE(io);
	while (n > 0) {
		ssize_t written;

		if (iov->iov_len == 0) {
			iov++;
			n--;
			continue;
		}
		r = io_begin(io, &op, err);
		if (r < 0)
			return r;
		written = writev(io->fd, iov, MIN(n, IOV_MAX));
		if (written < 0) {
			r = io_again(io, &op, err);
			if (r < 0)
				return r;
			continue;
		}
		while (written > 0) {
			size_t part;

			assert(n > 0); /* no more is written than was given */
			part = MIN((size_t)written, iov->iov_len);
			iov->iov_base = (char *)iov->iov_base + part;
			iov->iov_len -= part;
			written -= (ssize_t)part;
			if (iov->iov_len == 0) {
				iov++;
				n--;
			}
		}
	}
	return 0;
}

int io_write_all(struct io *io, const void *buf, size_t len, uint64_t timeout_ns, struct error *err)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};

	return io_writev_all(io, &iov, 1, timeout_ns, err);
}

int io_write_fd(struct io *io, const void *buf, size_t len, int fd, uint64_t timeout_ns,
		struct error *err)
{
	struct io_op op = op_write(io, timeout_ns);
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	int r;

	assert(len > 0);
	*c = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
			      .cmsg_type = SCM_RIGHTS,
			      .cmsg_len = CMSG_LEN(sizeof(int))};
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	IO_USE(io);
	for (;;) {
		ssize_t n;

		r = io_begin(io, &op, err);
		if (r < 0)
			return r;
		n = sendmsg(io->fd, &msg, MSG_NOSIGNAL);
		if (n >= 0)
			return io_write_all(io, (const char *)buf + n, len - (size_t)n,
					    timeout_left(op.deadline_ns), err);
		r = io_again(io, &op, err);
		if (r < 0)
			return r;
	}
}

int io_wait_readable(struct io *io, uint64_t timeout_ns, struct error *err)
{
	struct io_op op = op_read(io, timeout_ns);
	int r;

	IO_USE(io);
	for (;;) {
		struct pollfd p = {.fd = io->fd, .events = POLLIN};

		r = io_begin(io, &op, err);
		if (r < 0)
			return r;
		if (poll(&p, 1, 0) > 0)
			return 0;
		r = io_park(io, &op, err);
		if (r < 0)
			return r;
	}
}

/*
 * sun_path holds 108 bytes only. A longer path is reached through its directory's descriptor,
 * which *ret_dir_fd keeps open until the address was used.
 */
static int unix_address(const char *path, struct sockaddr_un *ret, int *ret_dir_fd)
{
	_cleanup_free_ char *dir = NULL;
	int n;

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) < sizeof(ret->sun_path)) {
		memcpy(ret->sun_path, path, strlen(path) + 1);
		return 0;
	}
	dir = path_dirname(path);
	*ret_dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*ret_dir_fd < 0)
		return -errno;
	n = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%s", *ret_dir_fd,
		     path_basename(path));
	return n < (int)sizeof(ret->sun_path) ? 0 : -ENAMETOOLONG;
}

/* How often a full backlog is looked at again; see below. */
#define BACKLOG_INTERVAL_NS (10 * NS_PER_MS)

int io_connect_unix(const char *path, uint64_t timeout_ns, struct io **ret, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	_cleanup_close_ int fd = -EBADF;
	_cleanup_close_ int dir_fd = -EBADF;
	struct sockaddr_un sa;
	int r;

	r = unix_address(path, &sa, &dir_fd);
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot connect to '%s'", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a socket");
	while (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		char duration[FORMAT_MAX];

		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return error_set_errno(err, ERROR_INFRA, errno, "cannot connect to '%s'",
					       path);
		/* The listener's backlog is full. The kernel has no event for room in it (unix(7):
		 * connect() either blocks or says EAGAIN), so this one wait looks again. */
		if (timeout_left(deadline) == 0)
			return error_set(
				err, ERROR_TIMEOUT, ETIMEDOUT,
				"timed out after %s waiting for '%s' to accept a connection",
				format_duration(timeout_ns, duration), path);
		r = fiber_sleep(MIN(BACKLOG_INTERVAL_NS, timeout_left(deadline)), err);
		if (r < 0)
			return r;
	}
	*ret = io_new(TAKE_FD(fd));
	io_set_name(*ret, path);
	return 0;
}

int io_accept(struct io *io, uint64_t timeout_ns, struct io **ret, struct error *err)
{
	struct io_op op = op_read(io, timeout_ns);
	int r;

	op.verb = "accept on";
	(void)snprintf(op.what, sizeof(op.what), "a connection to %s", io->name);
	IO_USE(io);
	for (;;) {
		int fd;

		r = io_begin(io, &op, err);
		if (r < 0)
			return r;
		fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			*ret = io_new(fd);
			return 0;
		}
		/* A peer that gave up in the queue is not our failure. */
		if (errno == ECONNABORTED)
			continue;
		r = io_again(io, &op, err);
		if (r < 0)
			return r;
	}
}
