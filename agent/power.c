/* SPDX-License-Identifier: MIT */
/* Power-off and reboot, asked of whoever is PID 1. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>

#include "agent/dbus.h"
#include "agent/internal.h"
#include "base/str.h"

/*
 * systemd: StartUnit of poweroff.target or reboot.target, as systemctl does, over its own socket.
 * Its signals (SIGRTMIN+4, +5) would do, too, but one that comes before it is ready is lost without
 * a trace, PID 1 being protected from signals that it does not handle.
 *
 * busybox, and our own init in the initramfs: SIGUSR2 powers off, SIGTERM reboots (busybox,
 * init/init.c); sent when /proc/1/status says that it catches or holds it, as until then it
 * would be lost in the same way. Anything else: its own programs, poweroff and reboot.
 */
#define SIGNAL_LOOK_NS (5 * NS_PER_MS)

struct power {
	struct agent_call *call;
	struct manager_listener listener;
	struct agent_timer timer;
	int signal; /* for an init that takes signals */
	const char *target;
	uint32_t serial; /* of the call under way; 0: none */
};

void power_directly(bool reboot_it)
{
	sync();
	reboot(reboot_it ? RB_AUTOBOOT : RB_POWER_OFF);
}

/* --- systemd ---------------------------------------------------------------------------------- */

static void on_ready(struct manager_listener *l)
{
	struct power *p = container_of(l, struct power, listener);
	const char *const args[] = {p->target, "replace-irreversibly"};

	p->serial = manager_call(l, SYSTEMD_PATH, SYSTEMD_MANAGER, "StartUnit", "ss", args);
}

static void on_message(struct manager_listener *l, const struct dbus_message *m)
{
	struct power *p = container_of(l, struct power, listener);
	struct dbus_reader r;
	const char *text = "";

	if (p->serial == 0 || m->reply_serial != p->serial)
		return;
	if (m->type == DBUS_METHOD_RETURN) {
		call_reply(p->call, NULL);
		return;
	}
	if (m->signature[0] == 's') {
		dbus_reader_init(&r, m);
		(void)dbus_read_string(&r, &text);
	}
	call_reply_error(p->call, ERROR_EXPECT, EIO, "systemd refused to start %s: %s (%s)",
			 p->target, text, m->error_name ? m->error_name : "no reason");
}

static void power_cancel(struct agent_call *c, enum wire_cancel reason)
{
	struct power *p = call_state(c);
	char text[256] = "the guest's init does not answer";

	if (p->listener.bus)
		manager_describe(&p->listener, text, sizeof(text));
	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "%s", text);
}

static void power_end(struct agent_call *c)
{
	struct power *p = call_state(c);

	manager_unlisten(&p->listener);
	agent_timer_remove(&p->timer);
}

/* --- others ----------------------------------------------------------------------------------- */

/* Is the program that PID 1 runs called so? */
static bool init_is(const char *name)
{
	char exe[256];
	const char *last;
	ssize_t n = readlinkat(agent_proc_fd(), "1/exe", exe, sizeof(exe) - 1);

	if (n < 0)
		return false;
	exe[n] = '\0';
	last = strrchr(exe, '/');
	return str_eq(last ? last + 1 : exe, name);
}

/* Is PID 1 in sigtimedwait() or one of its like? It waits there for what it holds back otherwise
 * (busybox, until something happens), and the kernel shows that as not held back. */
static bool init_awaits_signals(void)
{
	_cleanup_close_ int fd = openat(agent_proc_fd(), "1/syscall", O_RDONLY | O_CLOEXEC);
	char text[256];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return false;
	text[n] = '\0';
	return strtol(text, NULL, 10) == SYS_rt_sigtimedwait;
}

/* Does PID 1 catch the signal, or hold it back until it asks for it? */
static bool init_takes(int sig)
{
	_cleanup_close_ int fd = openat(agent_proc_fd(), "1/status", O_RDONLY | O_CLOEXEC);
	char text[4096];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	/* Our own init holds them back from its first moment. */
	if (n < 0 || !root_is_final() || init_awaits_signals())
		return true; /* nothing to go by */
	text[n] = '\0';
	for (const char *key = "SigBlk:\t\0SigCgt:\t\0"; *key; key += strlen(key) + 1) {
		const char *at = strstr(text, key);

		if (at && (strtoull(at + strlen(key), NULL, 16) >> (sig - 1) & 1))
			return true;
	}
	return false;
}

static void signal_init(struct agent_timer *t)
{
	struct power *p = container_of(t, struct power, timer);

	int sig = p->signal;

	if (!init_takes(sig)) {
		agent_timer_set(t, agent_now_ns() + SIGNAL_LOOK_NS);
		return;
	}
	if (kill(1, 0) < 0) {
		call_reply_error(p->call, ERROR_INFRA, errno, "cannot ask the guest's init: %s",
				 strerror(errno));
		return;
	}
	/* First the answer: an init that has nothing to stop is gone in no time. */
	call_reply(p->call, NULL);
	session_flush();
	kill(1, sig);
}

static int run_program(void *userdata)
{
	char *name = userdata;

	setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
	execlp(name, name, NULL);
	return 127;
}

static void power_start(struct agent_call *c, const struct wire_fields *in)
{
	struct agent_fork_opts opts = {.fds = {-1, -1, -1}, .cgroup_fd = -1};
	struct power *p = call_state(c);
	char how[16];
	bool reboot_it;
	int r;

	wire_copy_str(in, TAG_HOW, how, sizeof(how));
	reboot_it = str_eq(how, "reboot");
	if (!reboot_it && !str_eq(how, "poweroff")) {
		call_reply_error(c, ERROR_BUG, EINVAL, "unknown kind of power-off '%s'", how);
		return;
	}
	p->call = c;
	p->target = reboot_it ? "reboot.target" : "poweroff.target";
	p->listener.on_ready = on_ready;
	p->listener.on_message = on_message;
	/* By its name, too: at first it has not made its directory yet. */
	if (agent_is_systemd() || init_is("systemd")) {
		manager_listen(&p->listener, MANAGER_SYSTEM);
		return;
	}
	if (!root_is_final() || init_is("busybox")) {
		p->signal = reboot_it ? SIGTERM : SIGUSR2;
		p->timer.fn = signal_init;
		/* In this turn of the loop, but not below the core, which looks at the call again
		 * when we return: the flush in there frees it. */
		agent_timer_set(&p->timer, agent_now_ns());
		return;
	}
	r = agent_fork(&opts, run_program, reboot_it ? "reboot" : "poweroff");
	if (r < 0)
		call_reply_error(c, ERROR_INFRA, -r, "cannot ask the guest's init: %s",
				 strerror(-r));
	else
		call_reply(c, NULL);
}

const struct agent_op agent_op_power = {
	.op = WIRE_OP_POWER,
	.name = "power",
	.size = sizeof(struct power),
	.start = power_start,
	.on_cancel = power_cancel,
	.end = power_end,
};
