/* SPDX-License-Identifier: MIT */
/* A connection to a systemd manager's own socket. */
#include "agent/dbus.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent/pathwatch.h"
#include "base/str.h"

/*
 * States: WAITING for the socket (path watch; a refused connection is tried again when the
 * socket is touched, which systemd does right after listen(2), and after RETRY_MS), AUTH (our line
 * is sent, the server's OK is awaited), READY.
 *
 * The bytes that a callback is reading must stay where they are, and a callback may end its call,
 * and with it the last listener: so a bus that is being read is only marked for its end.
 */
#define RETRY_MS       20
#define OUT_MAX	       (1 * MIB) /* a manager that reads nothing for so long is broken */
#define READ_CHUNK     (32 * KIB)
#define LINE_MAX_BYTES 512

enum state { WAITING, AUTH, READY };

struct manager_bus {
	uint32_t uid;
	char path[64];
	enum state state;
	struct agent_source source;
	struct path_watch watch;
	struct agent_timer retry;
	struct buf in, out;
	uint32_t serial;
	int last_error; /* of the last attempt to connect */
	struct manager_listener *listeners;
	bool busy, unused; /* callbacks are running; nobody listens any more */
	struct manager_bus *next;
};

static struct manager_bus *buses;

static void try_connect(struct manager_bus *b);

/* --- end and begin ------------------------------------------------------------------------- */

static void disconnect(struct manager_bus *b)
{
	if (b->source.fd >= 0) {
		agent_source_remove(&b->source);
		cleanup_close(&b->source.fd);
		b->source.fd = -EBADF;
	}
	buf_truncate(&b->in, 0);
	buf_truncate(&b->out, 0);
	b->state = WAITING;
}

static void bus_free(struct manager_bus *b)
{
	struct manager_bus **p = &buses;

	while (*p != b)
		p = &(*p)->next;
	*p = b->next;
	disconnect(b);
	path_watch_done(&b->watch);
	agent_timer_remove(&b->retry);
	buf_done(&b->in);
	buf_done(&b->out);
	free(b);
}

/* Lost, by systemd's will (reexec, shutdown) or for an error: from the start. The socket may be the
 * old one for a moment yet, so not at once. */
static void lose(struct manager_bus *b, int code)
{
	disconnect(b);
	b->last_error = code;
	agent_timer_set(&b->retry, agent_now_ns() + RETRY_MS * NS_PER_MS);
}

/* --- listeners ----------------------------------------------------------------------------- */

/* Calls fn for each listener. Listeners may come and go meanwhile: the next one is found anew by
 * its place behind those that were there, and who leaves is skipped. */
static void for_each(struct manager_bus *b, void (*fn)(struct manager_listener *l, const void *arg),
		     const void *arg)
{
	struct manager_listener *list[64], **all = list;
	size_t n = 0, i = 0;

	for (struct manager_listener *l = b->listeners; l; l = l->next)
		n++;
	if (n > ARRAY_SIZE(list))
		all = xmalloc(n * sizeof(*all));
	for (struct manager_listener *l = b->listeners; l; l = l->next)
		all[i++] = l;
	for (i = 0; i < n; i++) {
		struct manager_listener *l = b->listeners;

		/* Is it still there? */
		while (l && l != all[i])
			l = l->next;
		if (l)
			fn(l, arg);
	}
	if (all != list)
		free(all);
}

static void tell_ready(struct manager_listener *l, const void *arg)
{
	l->on_ready(l);
}

static void tell_message(struct manager_listener *l, const void *arg)
{
	l->on_message(l, arg);
}

/* --- bytes --------------------------------------------------------------------------------- */

/* What the socket does not take is sent at POLLOUT. */
static void flush(struct manager_bus *b)
{
	while (b->out.len > 0) {
		ssize_t n = send(b->source.fd, b->out.data, b->out.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break; /* a broken connection is seen by reading */
		buf_consume(&b->out, n);
	}
	b->source.events = b->out.len > 0 ? POLLIN | POLLOUT : POLLIN;
}

/* The server's answer to AUTH; 1 when it is complete and good. */
static int take_line(struct manager_bus *b)
{
	char *end = memmem(b->in.data, b->in.len, "\r\n", 2);

	if (!end)
		return b->in.len > LINE_MAX_BYTES ? -EPROTO : 0;
	if (b->in.len < 3 || memcmp(b->in.data, "OK ", 3) != 0)
		return -EACCES;
	buf_consume(&b->in, end + 2 - b->in.data);
	return 1;
}

/* Handles what has come. Returns an error for the end of the connection. */
static int take_messages(struct manager_bus *b)
{
	size_t at = 0;
	int rc = 0;

	while (!b->unused) {
		struct dbus_message m;
		ssize_t n = dbus_wire_parse(b->in.data + at, b->in.len - at, &m);

		if (n <= 0) {
			rc = n;
			break;
		}
		at += n;
		for_each(b, tell_message, &m);
	}
	buf_consume(&b->in, at);
	return rc;
}

static int take_input(struct manager_bus *b)
{
	int rc;

	if (b->state == AUTH) {
		rc = take_line(b);
		if (rc <= 0)
			return rc;
		b->state = READY;
		for_each(b, tell_ready, NULL);
	}
	rc = b->unused ? 0 : take_messages(b);
	flush(b);
	return b->out.len > OUT_MAX ? -ENOBUFS : rc;
}

static void on_socket(struct agent_source *s, short revents)
{
	struct manager_bus *b = container_of(s, struct manager_bus, source);
	ssize_t n;
	int rc = 0;

	b->busy = true;
	if (revents & POLLOUT)
		flush(b);
	buf_reserve(&b->in, READ_CHUNK);
	n = recv(s->fd, b->in.data + b->in.len, READ_CHUNK, MSG_DONTWAIT);
	if (n > 0) {
		b->in.len += n;
		rc = take_input(b);
	} else if (n == 0) {
		rc = -ECONNRESET; /* the manager executes itself anew, or ends */
	} else if (errno != EAGAIN && errno != EINTR) {
		rc = -errno;
	}
	b->busy = false;
	if (b->unused)
		bus_free(b);
	else if (rc < 0)
		lose(b, -rc);
}

/* --- connecting ---------------------------------------------------------------------------- */

static void on_path(struct path_watch *w)
{
	struct manager_bus *b = container_of(w, struct manager_bus, watch);

	if (b->state == WAITING)
		try_connect(b);
}

static void on_retry(struct agent_timer *t)
{
	try_connect(container_of(t, struct manager_bus, retry));
}

/* A unix stream socket connects at once or not at all, so this does not block. */
static int connect_to(int path_fd)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int rc;

	if (fd < 0)
		return -errno;
	fd_path_enter(path_fd, sa.sun_path);
	rc = connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
	fd_path_leave();
	return rc < 0 ? rc : TAKE_FD(fd);
}

/* SASL EXTERNAL with our uid, digits in hex. BEGIN does not wait for the OK, as sd-bus' own
 * clients. */
static void put_auth(struct manager_bus *b)
{
	char uid[16];

	snprintf(uid, sizeof(uid), "%u", (unsigned)geteuid());
	buf_putc(&b->out, 0);
	buf_puts(&b->out, "AUTH EXTERNAL ");
	for (const char *p = uid; *p; p++)
		buf_printf(&b->out, "%02x", (unsigned char)*p);
	buf_puts(&b->out, "\r\nBEGIN\r\n");
}

static void try_connect(struct manager_bus *b)
{
	_cleanup_close_ int path_fd = -EBADF;
	int n = path_watch_look(&b->watch, b->path, true, 1, &path_fd), fd;

	agent_timer_remove(&b->retry);
	if (n <= 0) {
		b->last_error = n < 0 ? -n : ENOENT;
		if (n < 0)
			agent_timer_set(&b->retry, agent_now_ns() + RETRY_MS * NS_PER_MS);
		return;
	}
	fd = connect_to(path_fd);
	if (fd < 0) {
		lose(b, -fd);
		return;
	}
	/* The way is watched only as long as there is something to wait for on it. */
	path_watch_done(&b->watch);
	path_watch_init(&b->watch, on_path);
	b->watch.attributes = true;
	b->state = AUTH;
	b->source = (struct agent_source){.fd = fd, .fn = on_socket};
	put_auth(b);
	flush(b);
	agent_source_add(&b->source);
}

/* --- interface ----------------------------------------------------------------------------- */

static struct manager_bus *bus_new(uint32_t uid)
{
	struct manager_bus *b = xcalloc(1, sizeof(*b));

	b->uid = uid;
	if (uid == MANAGER_SYSTEM)
		snprintf(b->path, sizeof(b->path), "/run/systemd/private");
	else
		snprintf(b->path, sizeof(b->path), "/run/user/%u/systemd/private", uid);
	b->source.fd = -EBADF;
	path_watch_init(&b->watch, on_path);
	b->watch.attributes = true;
	b->retry.fn = on_retry;
	b->next = buses;
	buses = b;
	/* Not from here: the caller is not ready for callbacks. */
	agent_timer_set(&b->retry, agent_now_ns());
	return b;
}

/* A listener that joins a connection that is READY already is told by this timer. */
static void on_late(struct agent_timer *t)
{
	struct manager_listener *l = container_of(t, struct manager_listener, late);

	if (l->bus->state == READY)
		l->on_ready(l);
}

void manager_listen(struct manager_listener *l, uint32_t uid)
{
	struct manager_bus *b = buses;

	/* One that is about to be freed is no connection to join. */
	while (b && (b->uid != uid || b->unused))
		b = b->next;
	if (!b)
		b = bus_new(uid);
	l->bus = b;
	l->next = b->listeners;
	b->listeners = l;
	l->late = (struct agent_timer){.fn = on_late};
	if (b->state == READY)
		agent_timer_set(&l->late, agent_now_ns());
}

void manager_unlisten(struct manager_listener *l)
{
	struct manager_bus *b = l->bus;
	struct manager_listener **p;

	if (!b)
		return;
	for (p = &b->listeners; *p != l; p = &(*p)->next)
		;
	*p = l->next;
	l->bus = NULL;
	agent_timer_remove(&l->late);
	if (b->listeners)
		return;
	if (b->busy)
		b->unused = true;
	else
		bus_free(b);
}

uint32_t manager_call(struct manager_listener *l, const char *path, const char *interface,
		      const char *member, const char *signature, const char *const *args)
{
	struct manager_bus *b = l->bus;

	if (b->state != READY)
		return 0;
	if (++b->serial == 0)
		b->serial = 1;
	dbus_wire_call(&b->out, b->serial, path, interface, member, signature, args);
	if (!b->busy)
		flush(b);
	return b->serial;
}

uint32_t manager_get(struct manager_listener *l, const char *path, const char *interface,
		     const char *property)
{
	return manager_call(l, path, DBUS_PROPERTIES, "Get", "ss",
			    (const char *const[]){interface, property});
}

uint32_t manager_get_all(struct manager_listener *l, const char *path, const char *interface)
{
	return manager_call(l, path, DBUS_PROPERTIES, "GetAll", "s",
			    (const char *const[]){interface});
}

void manager_describe(const struct manager_listener *l, char *ret, size_t size)
{
	const struct manager_bus *b = l->bus;
	const char *who = b->uid == MANAGER_SYSTEM ? "systemd" : "the user's systemd";

	if (b->state != WAITING)
		snprintf(ret, size, "%s has not answered yet", who);
	else if (b->last_error == ENOENT && b->uid == MANAGER_SYSTEM)
		snprintf(ret, size, "systemd is not up yet ('%s' does not exist)", b->path);
	else if (b->last_error == ENOENT)
		snprintf(ret, size, "user %u has no systemd of their own ('%s' does not exist)",
			 b->uid, b->path);
	else
		snprintf(ret, size, "cannot talk to %s at '%s': %s", who, b->path,
			 strerror(b->last_error));
}
