/* SPDX-License-Identifier: MIT */
/* A connection to a systemd manager's own socket, shared by the calls that wait for units. */
#pragma once

#include "agent/agent.h"
#include "proto/dbus-wire.h"

/*
 * systemd listens on a socket of its own (/run/systemd/private, for a user's manager
 * /run/user/UID/systemd/private), where it speaks D-Bus without a bus daemon: no Hello, no
 * names, no match rules. It sends its signals to every peer there (bus_foreach_bus() in systemd's
 * src/core/dbus.c), so nothing has to be subscribed to, and root may connect to every user's
 * (bus_check_peercred()). Messages are handled only once the manager runs its loop, which is after
 * it has queued its first transaction: the first answer never tells of a state before that.
 *
 * The connection waits for the socket to appear (systemd may not be up yet), and is made anew
 * when it is lost: systemd closes it at daemon-reexec. All listeners get every message; each picks
 * the replies to its own serials. One connection serves all waits of a manager, because systemd
 * sends each signal to each connection, and that is work for PID 1 during boot.
 */

#define MANAGER_SYSTEM UINT32_MAX /* in place of a uid */

#define SYSTEMD_PATH	"/org/freedesktop/systemd1"
#define SYSTEMD_MANAGER "org.freedesktop.systemd1.Manager"
#define SYSTEMD_UNIT	"org.freedesktop.systemd1.Unit"
#define DBUS_PROPERTIES "org.freedesktop.DBus.Properties"

struct manager_bus;

struct manager_listener {
	/* Connected, or connected again: what was asked and known before is void. */
	void (*on_ready)(struct manager_listener *l);
	void (*on_message)(struct manager_listener *l, const struct dbus_message *m);
	/* private */
	struct manager_bus *bus;
	struct manager_listener *next;
	struct agent_timer late;
};

/* Connects, or joins the connection that there is; on_ready is called later, never from here. */
void manager_listen(struct manager_listener *l, uint32_t uid);
/* Leaves; harmless when it does not listen. May be called from its own callbacks. */
void manager_unlisten(struct manager_listener *l);
/* Sends a call with string arguments; returns its serial. */
uint32_t manager_call(struct manager_listener *l, const char *path, const char *interface,
		      const char *member, const char *signature, const char *const *args);
/* Properties.Get and GetAll. */
uint32_t manager_get(struct manager_listener *l, const char *path, const char *interface,
		     const char *property);
uint32_t manager_get_all(struct manager_listener *l, const char *path, const char *interface);
/* How far the connection is, for people: "systemd has not made '/run/systemd/private' yet". */
void manager_describe(const struct manager_listener *l, char *ret, size_t size);
