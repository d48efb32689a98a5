/* SPDX-License-Identifier: MIT */
/* Plays systemd for test-wait-unit: real bytes from sd-bus, scripted states. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>
#include <unistd.h>

/*
 * usage: systemd-peer serve|silent|timers|refuse PROGRAM [ARGUMENT…]
 *
 * Mounts an empty tmpfs on /run, /etc and /var/lib (it is started in a mount namespace of its own),
 * runs PROGRAM there, and a little later (serve), at once (timers, refuse) or never (silent) serves
 * /run/systemd/private. With refuse, it has no timers to tell of.
 * A unit does as its name says:
 *
 *	ready, failing	"active", "failed" from the start
 *	oneshot		inactive, its process ended well
 *	job		inactive, with a start job queued
 *	soon, crash	"activating" when first asked for; STEP_US later active, or failed
 *	late		inactive; active before the end of booting
 *	idle		inactive for ever
 *	absent, masked	LoadState is "not-found", "masked"
 *	reexec		"activating"; the connection is lost, and then it is active
 *	alias		is called real.service, and becomes active like soon
 *
 * Timers, all of them active: daily and weekly have a calendar, often has none, transient is one,
 * stuck cannot be stopped. What is asked of them goes to /run/timers, a line for each job when
 * it ends.
 */
#define STEP_US	    50000
#define BOOT_END_US 300000

static sd_event *event;
static sd_bus *buses[64];
static size_t n_buses;
static bool booted, late_started, reexeced, refuse;
static int listener;

static const char unit_prefix[] = "/org/freedesktop/systemd1/unit/";
#define UNIT_INTERFACE	  "org.freedesktop.systemd1.Unit"
#define TIMER_INTERFACE	  "org.freedesktop.systemd1.Timer"
#define SERVICE_INTERFACE "org.freedesktop.systemd1.Service"
#define MANAGER_PATH	  "/org/freedesktop/systemd1"
#define MANAGER_INTERFACE "org.freedesktop.systemd1.Manager"

static void check(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "systemd-peer: %s: %s\n", what, strerror(rc == -1 ? errno : -rc));
	exit(1);
}

/* "soon" of "/org/…/unit/soon_2eservice". */
static void unit_of(const char *path, char name[64])
{
	snprintf(name, 64, "%s", path + strlen(unit_prefix));
	name[strcspn(name, "_")] = 0;
}

static bool is(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

static const char *state_of(const char *unit)
{
	if (is(unit, "ready") || (is(unit, "late") && late_started) ||
	    (is(unit, "reexec") && reexeced))
		return "active";
	if (is(unit, "failing"))
		return "failed";
	if (is(unit, "soon") || is(unit, "crash") || is(unit, "reexec") || is(unit, "alias") ||
	    is(unit, "real"))
		return "activating";
	return "inactive";
}

static void append_property(sd_bus_message *m, const char *name, const char *type, ...)
{
	va_list ap;

	check(sd_bus_message_open_container(m, 'e', "sv"), "entry");
	check(sd_bus_message_append(m, "s", name), "name");
	check(sd_bus_message_open_container(m, 'v', type), "variant");
	va_start(ap, type);
	check(sd_bus_message_appendv(m, type, ap), "value");
	va_end(ap);
	check(sd_bus_message_close_container(m), "variant");
	check(sd_bus_message_close_container(m), "entry");
}

static void append_state(sd_bus_message *m, const char *unit, const char *active)
{
	check(sd_bus_message_open_container(m, 'a', "{sv}"), "array");
	append_property(m, "Before", "as", 2, "a.target", "b.target");
	append_property(m, "ActiveState", "s", active);
	append_property(m, "SubState", "s", is(active, "active") ? "running" : "x");
	append_property(m, "LoadState", "s",
			is(unit, "absent")   ? "not-found"
			: is(unit, "masked") ? "masked"
					     : "loaded");
	append_property(m, "Id", "s", is(unit, "alias") ? "real.service" : "");
	append_property(m, "Job", "(uo)", is(unit, "job") ? 7 : 0, "/");
	append_property(m, "InactiveExitTimestampMonotonic", "t", (uint64_t)1000000);
	append_property(m, "InactiveEnterTimestampMonotonic", "t", (uint64_t)1400000);
	check(sd_bus_message_close_container(m), "array");
}

static void announce(const char *unit, const char *active)
{
	char path[256];

	snprintf(path, sizeof(path), "%s%s_2eservice", unit_prefix, unit);
	for (size_t i = 0; i < n_buses; i++) {
		sd_bus_message *m = NULL;

		check(sd_bus_message_new_signal(buses[i], &m, path,
						"org.freedesktop.DBus.Properties",
						"PropertiesChanged"),
		      "signal");
		check(sd_bus_message_append(m, "s", UNIT_INTERFACE), "interface");
		append_state(m, unit, active);
		check(sd_bus_message_append(m, "as", 0), "as");
		sd_bus_send(buses[i], m, NULL);
		sd_bus_message_unref(m);
	}
}

static int on_step(sd_event_source *s, uint64_t usec, void *userdata)
{
	const char *unit = userdata;

	if (is(unit, "soon"))
		announce(unit, "active");
	else if (is(unit, "alias") || is(unit, "real"))
		announce("real", "active");
	else if (is(unit, "crash"))
		announce(unit, "failed");
	else if (is(unit, "late")) {
		late_started = true;
		announce(unit, "active");
	} else if (is(unit, "reexec")) {
		reexeced = true;
		while (n_buses > 0)
			sd_bus_close_unref(buses[--n_buses]);
	}
	return 0;
}

static void in_a_moment(const char *unit, uint64_t usec)
{
	uint64_t now;

	check(sd_event_now(event, CLOCK_MONOTONIC, &now), "now");
	check(sd_event_add_time(event, NULL, CLOCK_MONOTONIC, now + usec, 1, on_step, strdup(unit)),
	      "timer");
}

static int on_booted(sd_event_source *s, uint64_t usec, void *userdata)
{
	booted = true;
	for (size_t i = 0; i < n_buses; i++)
		sd_bus_emit_signal(buses[i], MANAGER_PATH, MANAGER_INTERFACE, "StartupFinished",
				   "tttttt", 0ULL, 0ULL, 1ULL, 0ULL, 2ULL, 3ULL);
	return 0;
}

static int reply_get_all(sd_bus_message *m, const char *unit)
{
	sd_bus_message *reply = NULL;

	check(sd_bus_message_new_method_return(m, &reply), "reply");
	append_state(reply, unit, state_of(unit));
	check(sd_bus_send(NULL, reply, NULL), "send");
	sd_bus_message_unref(reply);
	if (is(state_of(unit), "activating"))
		in_a_moment(unit, STEP_US);
	return 1;
}

/* What is asked of a service before a negative answer. */
static int reply_detail(sd_bus_message *m, const char *unit, const char *property)
{
	bool oneshot = is(unit, "oneshot");

	if (is(property, "Type"))
		return sd_bus_reply_method_return(m, "v", "s", oneshot ? "oneshot" : "simple");
	if (is(property, "Result"))
		return sd_bus_reply_method_return(
			m, "v", "s",
			is(unit, "failing") || is(unit, "crash") ? "exit-code" : "success");
	if (is(property, "ExecMainCode"))
		return sd_bus_reply_method_return(m, "v", "i", 1);
	if (is(property, "ExecMainStatus"))
		return sd_bus_reply_method_return(m, "v", "i", oneshot ? 0 : 3);
	return sd_bus_reply_method_return(m, "v", "t",
					  is(unit, "idle") || is(unit, "late") ? 0 : 1400000ULL);
}

static void strv_free(char **v)
{
	for (char **p = v; p && *p; p++)
		free(*p);
	free(v);
}

static int reply_list(sd_bus_message *m)
{
	static const char *const timers[] = {"daily", "often", "stuck", "transient", "weekly"};
	sd_bus_message *reply = NULL;
	char **states = NULL, **patterns = NULL;

	if (refuse)
		return sd_bus_reply_method_errorf(m, "org.example.No", "not now");
	check(sd_bus_message_read_strv(m, &states), "states");
	check(sd_bus_message_read_strv(m, &patterns), "patterns");
	if (!is(states[0], "active") || states[1] || !is(patterns[0], "*.timer") || patterns[1])
		check(-EINVAL, "what to list");
	strv_free(states);
	strv_free(patterns);
	check(sd_bus_message_new_method_return(m, &reply), "reply");
	check(sd_bus_message_open_container(reply, 'a', "(ssssssouso)"), "array");
	for (size_t i = 0; i < sizeof(timers) / sizeof(timers[0]); i++) {
		char name[64], path[256];

		snprintf(name, sizeof(name), "%s.timer", timers[i]);
		snprintf(path, sizeof(path), "%s%s_2etimer", unit_prefix, timers[i]);
		check(sd_bus_message_append(reply, "(ssssssouso)", name, "A timer", "loaded",
					    "active", "waiting", "", path, 0, "", "/"),
		      "timer");
	}
	check(sd_bus_message_close_container(reply), "array");
	check(sd_bus_send(NULL, reply, NULL), "send");
	sd_bus_message_unref(reply);
	return 1;
}

static int reply_calendar(sd_bus_message *m, const char *unit)
{
	if (is(unit, "often"))
		return sd_bus_reply_method_return(m, "v", "a(sst)", 0);
	return sd_bus_reply_method_return(m, "v", "a(sst)", 1, "OnCalendar", "*-*-* 00:00:00",
					  1ULL);
}

struct job {
	char unit[64], what[64];
};

static int on_job_end(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct job *job = userdata;
	FILE *f = fopen("/run/timers", "a");

	check(f ? 0 : -errno, "/run/timers");
	fprintf(f, "%s %s\n", job->what, job->unit);
	fclose(f);
	for (size_t i = 0; i < n_buses; i++)
		sd_bus_emit_signal(buses[i], MANAGER_PATH, MANAGER_INTERFACE, "JobRemoved", "uoss",
				   7, "/org/freedesktop/systemd1/job/7", job->unit, "done");
	free(job);
	return 0;
}

/* StopUnit, StartUnit. */
static int reply_job(sd_bus_message *m)
{
	struct job *job = calloc(1, sizeof(*job));
	const char *unit, *mode;
	uint64_t now;

	check(sd_bus_message_read(m, "ss", &unit, &mode), "job");
	if (is(unit, "stuck.timer")) {
		free(job);
		return sd_bus_reply_method_errorf(m, "org.example.No", "it is stuck");
	}
	snprintf(job->unit, sizeof(job->unit), "%s", unit);
	snprintf(job->what, sizeof(job->what), "%s", sd_bus_message_get_member(m));
	check(sd_event_now(event, CLOCK_MONOTONIC, &now), "now");
	check(sd_event_add_time(event, NULL, CLOCK_MONOTONIC, now + STEP_US, 1, on_job_end, job),
	      "timer");
	return sd_bus_reply_method_return(m, "o", "/org/freedesktop/systemd1/job/7");
}

static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	const char *interface = "", *property = "", *path = sd_bus_message_get_path(m);
	char unit[64];

	if (sd_bus_message_is_method_call(m, MANAGER_INTERFACE, "ListUnitsByPatterns"))
		return reply_list(m);
	if (sd_bus_message_is_method_call(m, MANAGER_INTERFACE, "StopUnit") ||
	    sd_bus_message_is_method_call(m, MANAGER_INTERFACE, "StartUnit"))
		return reply_job(m);
	if (!sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Properties", NULL))
		return sd_bus_message_is_method_call(m, NULL, NULL)
			       ? sd_bus_reply_method_errorf(m, "org.example.No", "no such method")
			       : 0;
	check(sd_bus_message_read(m, "s", &interface), "interface");
	if (sd_bus_message_is_method_call(m, NULL, "Get"))
		check(sd_bus_message_read(m, "s", &property), "property");
	if (is(path, MANAGER_PATH) && is(interface, MANAGER_INTERFACE) &&
	    is(property, "SystemState"))
		return sd_bus_reply_method_return(m, "v", "s", booted ? "degraded" : "starting");
	if (strncmp(path, unit_prefix, strlen(unit_prefix)) != 0)
		return sd_bus_reply_method_errorf(m, "org.example.No", "no such object");
	unit_of(path, unit);
	if (is(interface, TIMER_INTERFACE) && is(property, "TimersCalendar"))
		return reply_calendar(m, unit);
	if (is(interface, UNIT_INTERFACE) && is(property, "Transient"))
		return sd_bus_reply_method_return(m, "v", "b", is(unit, "transient"));
	if (is(interface, UNIT_INTERFACE) && !*property)
		return reply_get_all(m, unit);
	if (is(interface, SERVICE_INTERFACE))
		return reply_detail(m, unit, property);
	return sd_bus_reply_method_errorf(m, "org.example.No", "no such property");
}

static int on_connection(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	sd_id128_t id = {};
	sd_bus *bus = NULL;

	check(conn, "accept");
	check(sd_bus_new(&bus), "bus");
	check(sd_bus_set_fd(bus, conn, conn), "fd");
	check(sd_bus_set_server(bus, 1, id), "server");
	check(sd_bus_set_sender(bus, "org.freedesktop.systemd1"), "sender");
	check(sd_bus_start(bus), "start");
	check(sd_bus_attach_event(bus, event, 0), "attach");
	check(sd_bus_add_filter(bus, NULL, on_message, NULL), "filter");
	buses[n_buses++] = bus;
	return 0;
}

static int on_listen(sd_event_source *s, uint64_t usec, void *userdata)
{
	uint64_t now;

	/* As systemd: bind, listen, touch. Connections between the first two are refused. */
	check(listen(listener, 16), "listen");
	check(utimensat(AT_FDCWD, "/run/systemd/private", NULL, 0), "touch");
	check(sd_event_add_io(event, NULL, listener, EPOLLIN, on_connection, NULL), "io");
	check(sd_event_now(event, CLOCK_MONOTONIC, &now), "now");
	check(sd_event_add_time(event, NULL, CLOCK_MONOTONIC, now + BOOT_END_US, 1, on_booted,
				NULL),
	      "timer");
	in_a_moment("late", BOOT_END_US / 2);
	return 0;
}

static int on_bind(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = "/run/systemd/private"};
	uint64_t now;

	mkdir("/run/systemd", 0755);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	check(bind(listener, (struct sockaddr *)&sa, sizeof(sa)), "bind");
	check(sd_event_now(event, CLOCK_MONOTONIC, &now), "now");
	return sd_event_add_time(event, NULL, CLOCK_MONOTONIC, now + STEP_US, 1, on_listen, NULL);
}

static int on_child(sd_event_source *s, const siginfo_t *si, void *userdata)
{
	return sd_event_exit(event, si->si_status);
}

int main(int argc, char **argv)
{
	sigset_t mask;
	uint64_t now;
	pid_t pid;

	check(mount("none", "/run", "tmpfs", 0, NULL), "mount");
	check(mount("none", "/etc", "tmpfs", 0, NULL), "mount");
	check(mount("none", "/var/lib", "tmpfs", 0, NULL), "mount");
	/* By this the agent knows that PID 1 is systemd. */
	check(mkdir("/run/systemd", 0755), "mkdir");
	check(mkdir("/run/systemd/system", 0755), "mkdir");
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	pid = fork();
	check(pid, "fork");
	if (pid == 0) {
		sigprocmask(SIG_UNBLOCK, &mask, NULL);
		execvp(argv[2], argv + 2);
		check(-1, argv[2]);
	}
	/* Only the agent has the stream. */
	close(3);
	check(sd_event_new(&event), "event");
	check(sd_event_add_child(event, NULL, pid, WEXITED, on_child, NULL), "child");
	check(sd_event_now(event, CLOCK_MONOTONIC, &now), "now");
	refuse = is(argv[1], "refuse");
	if (!is(argv[1], "silent"))
		check(sd_event_add_time(event, NULL, CLOCK_MONOTONIC,
					is(argv[1], "serve") ? now + 2 * STEP_US : now, 1, on_bind,
					NULL),
		      "timer");
	return sd_event_loop(event);
}
