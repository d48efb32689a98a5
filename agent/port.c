/* SPDX-License-Identifier: MIT */
/* The virtio-serial port: finding it, opening it, and noticing who is at its other end. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "agent/internal.h"
#include "base/str.h"

/*
 * Theory of operation
 *
 *	SEARCHING --port there--> WAITING --host opens it--> OPEN
 *	    ^                        ^------host closes it-----+
 *	    +---- port unplugged (ENODEV) ------------------------
 *
 * SEARCHING: a kernel uevent for each device that appears makes us look again; before any of
 * virtio's modules is loaded there is nothing to open.
 * WAITING: while no host is connected the port reads as at its end and polls as hung up, all
 * the time (Linux, drivers/char/virtio_console.c). So the port itself is not polled then, but an
 *epoll descriptor that has it edge-triggered: it becomes readable when something changes.
 */

#define PORT_NAME "org.assay.agent.0"
#define CLASS_DIR "/sys/class/virtio-ports"

static struct agent_source uevents, changes;
static int port_fd = -EBADF;

static bool port_is_named(const char *node)
{
	_cleanup_free_ char *path = xasprintf(CLASS_DIR "/%s/name", node);
	_cleanup_buf_ struct buf b = {};

	return buf_read_file(&b, path, 4096) >= 0 && str_eq(buf_str(&b), PORT_NAME "\n");
}

static int port_open(void)
{
	DIR *d = opendir(CLASS_DIR);
	struct dirent *e;
	int fd = -ENOENT;

	while (d && fd < 0 && (e = readdir(d))) {
		_cleanup_free_ char *path = NULL;

		if (e->d_name[0] == '.' || !port_is_named(e->d_name))
			continue;
		path = xasprintf("/dev/%s", e->d_name);
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
		if (fd < 0)
			fd = -errno;
	}
	if (d)
		closedir(d);
	return fd;
}

static bool port_is_connected(void)
{
	struct pollfd p = {.fd = port_fd, .events = POLLIN | POLLOUT};

	return poll(&p, 1, 0) >= 0 && !(p.revents & (POLLHUP | POLLERR | POLLNVAL));
}

static void search(void);

static void on_change(struct agent_source *s, short revents)
{
	struct epoll_event ev;

	/* Takes the edge. */
	while (epoll_wait(s->fd, &ev, 1, 0) > 0)
		;
	if (!port_is_connected())
		return;
	agent_source_remove(&changes);
	close(changes.fd);
	session_open(port_fd, port_fd);
}

static void wait_for_host(void)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLET};

	changes = (struct agent_source){
		.fd = epoll_create1(EPOLL_CLOEXEC),
		.events = POLLIN,
		.fn = on_change,
	};
	if (changes.fd < 0 || epoll_ctl(changes.fd, EPOLL_CTL_ADD, port_fd, &ev) < 0) {
		agent_log("cannot watch the port: %s", strerror(errno));
		return;
	}
	agent_source_add(&changes);
	on_change(&changes, 0);
}

/* The session saw the end: the host closed its side, or the device is gone. */
static void on_eof(void)
{
	char c;

	session_close();
	if (read(port_fd, &c, 0) < 0 && errno == ENODEV) {
		close(port_fd);
		port_fd = -EBADF;
		search();
		return;
	}
	wait_for_host();
}

static void search(void)
{
	if (port_fd >= 0)
		return;
	port_fd = port_open();
	if (port_fd >= 0)
		wait_for_host();
	else if (port_fd != -ENOENT)
		agent_log("cannot open the port " PORT_NAME ": %s", strerror(-port_fd));
}

static void on_uevent(struct agent_source *s, short revents)
{
	char message[8192];

	/* Which device it was does not matter: looking costs nothing. An overrun says so as ENOBUFS
	 * and is one more reason to look. */
	while (recv(s->fd, message, sizeof(message), MSG_DONTWAIT) > 0)
		;
	search();
}

int port_setup(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
			NETLINK_KOBJECT_UEVENT);

	session_on_eof = on_eof;
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	uevents = (struct agent_source){.fd = fd, .events = POLLIN, .fn = on_uevent};
	agent_source_add(&uevents);
	search();
	return 0;
}
