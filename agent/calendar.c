/* SPDX-License-Identifier: MIT */
/* systemd's calendar timers: stopped before a guest is saved, started when it goes on. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/dbus.h"
#include "agent/internal.h"
#include "base/str.h"

/*
 * A saved guest may be days old when it goes on, and then every timer of a time of day has
 * elapsed: all would fire at once when the clock is set. So those are stopped before, and started
 * after.
 *
 *	ListUnitsByPatterns --> for each: Get(TimersCalendar), Get(Transient) --> StopUnit …
 *	StartUnit …	each job's end is awaited (JobRemoved)
 *
 * systemd reckons a timer's next time from when it last fired (timer_enter_waiting() in its
 * src/core/timer.c). Of persistent ones it reads that from a stamp file's time when they start, so
 * the stamp is set to now. Of others it is in systemd's memory: who has fired since boot, and would
 * have fired in between, fires once.
 *
 * Left alone: transient units (systemd-run), which are gone for good when they are stopped; users'
 * own managers.
 */

#define SYSTEMD_TIMER "org.freedesktop.systemd1.Timer"
#define STAMP	      "/var/lib/systemd/timers/stamp-"
#define TIMEOUT_NS    (5 * NS_PER_SEC)

struct calendar_timer {
	char *name, *path;
	uint32_t calendar_serial, transient_serial, job_serial; /* asked, not answered yet */
	bool has_calendar, is_transient;
	bool has_job; /* StopUnit or StartUnit was accepted, the job has not ended yet */
	bool stopped; /* by us */
	struct calendar_timer *next;
};

static struct {
	enum { IDLE, STOPPING, STARTING } state;
	struct manager_listener listener;
	struct agent_timer late;
	struct calendar_timer *timers;
	uint32_t list_serial;
	void (*done)(const struct error *err);
} calendar;

/* --- the list --------------------------------------------------------------------------------- */

static struct calendar_timer *timer_find(const char *name)
{
	struct calendar_timer *t = calendar.timers;

	while (t && !str_eq(t->name, name))
		t = t->next;
	return t;
}

/* Also one that is known already: it may be active again. */
static struct calendar_timer *timer_add(const char *name, const char *path)
{
	struct calendar_timer *t = timer_find(name);

	if (t)
		return t;
	t = xcalloc(1, sizeof(*t));
	t->name = xstrdup(name);
	t->path = xstrdup(path);
	t->next = calendar.timers;
	calendar.timers = t;
	return t;
}

static void drop_all(void)
{
	while (calendar.timers) {
		struct calendar_timer *t = calendar.timers;

		calendar.timers = t->next;
		free(t->name);
		free(t->path);
		free(t);
	}
}

void calendar_cancel(void)
{
	manager_unlisten(&calendar.listener);
	agent_timer_remove(&calendar.late);
	calendar.state = IDLE;
	calendar.list_serial = 0;
	for (struct calendar_timer *t = calendar.timers; t; t = t->next) {
		t->calendar_serial = t->transient_serial = t->job_serial = 0;
		t->has_job = t->has_calendar = false;
	}
}

static void finish(const struct error *err)
{
	bool started = calendar.state == STARTING;

	calendar_cancel();
	if (started)
		drop_all();
	calendar.done(err);
}

/* --- what systemd says ------------------------------------------------------------------------ */

static void ask_job(struct calendar_timer *t, const char *member)
{
	t->job_serial = manager_call(&calendar.listener, SYSTEMD_PATH, SYSTEMD_MANAGER, member,
				     "ss", (const char *const[]){t->name, "replace"});
}

/* Goes on as far as what is known allows. */
static void advance(void)
{
	bool asking = false, jobs = false;

	for (struct calendar_timer *t = calendar.timers; t; t = t->next) {
		asking = asking || t->calendar_serial || t->transient_serial;
		jobs = jobs || t->job_serial || t->has_job;
	}
	if (asking || jobs || calendar.list_serial)
		return;
	for (struct calendar_timer *t = calendar.timers; t; t = t->next) {
		if (calendar.state != STOPPING || !t->has_calendar || t->is_transient)
			continue;
		ask_job(t, "StopUnit");
		t->has_calendar = false;
		t->stopped = jobs = true;
	}
	if (!jobs)
		finish(NULL);
}

/* a(ssssssouso): name, description, three states, what it follows, path, job. */
static void take_list(const struct dbus_message *m)
{
	struct error err = {};
	struct dbus_reader r;
	const char *name, *path;
	size_t end;

	calendar.list_serial = 0;
	dbus_reader_init(&r, m);
	if (m->type == DBUS_ERROR || !str_eq(m->signature, "a(ssssssouso)") ||
	    dbus_read_array(&r, 8, &end) < 0) {
		error_set(&err, ERROR_INFRA, EBADMSG, "systemd does not list its timers (%s)",
			  m->error_name ? m->error_name : "another kind of answer");
		finish(&err);
		return;
	}
	while (r.error == 0 && r.pos < end) {
		struct calendar_timer *t;

		dbus_read_struct(&r);
		if (dbus_read_string(&r, &name) < 0)
			break;
		for (int i = 0; i < 5; i++)
			dbus_skip(&r, "s", NULL);
		if (dbus_read_string(&r, &path) < 0 || dbus_skip(&r, "u", NULL) < 0 ||
		    dbus_skip(&r, "s", NULL) < 0 || dbus_skip(&r, "o", NULL) < 0)
			break;
		t = timer_add(name, path);
		t->calendar_serial =
			manager_get(&calendar.listener, path, SYSTEMD_TIMER, "TimersCalendar");
		t->transient_serial =
			manager_get(&calendar.listener, path, SYSTEMD_UNIT, "Transient");
	}
}

static bool is_reply_to(const struct dbus_message *m, uint32_t serial)
{
	return serial != 0 && m->reply_serial == serial &&
	       (m->type == DBUS_METHOD_RETURN || m->type == DBUS_ERROR);
}

/* An answer about a timer. A unit that has just gone answers with errors: it has no calendar. */
static void take_answer(struct calendar_timer *t, const struct dbus_message *m)
{
	struct dbus_reader r;
	const char *sig = "";
	bool yes = false;
	size_t end;

	dbus_reader_init(&r, m);
	if (is_reply_to(m, t->job_serial)) {
		t->job_serial = 0;
		t->has_job = m->type == DBUS_METHOD_RETURN;
		if (!t->has_job)
			agent_log("systemd does not %s %s: %s",
				  calendar.state == STOPPING ? "stop" : "start", t->name,
				  m->error_name);
		return;
	}
	if (m->type == DBUS_METHOD_RETURN)
		(void)dbus_read_signature(&r, &sig);
	if (is_reply_to(m, t->calendar_serial)) {
		t->calendar_serial = 0;
		t->has_calendar =
			str_eq(sig, "a(sst)") && dbus_read_array(&r, 8, &end) == 0 && r.pos < end;
	} else if (is_reply_to(m, t->transient_serial)) {
		t->transient_serial = 0;
		t->is_transient = str_eq(sig, "b") && dbus_read_bool(&r, &yes) == 0 && yes;
	}
}

/* "uoss": id, job, unit, result. */
static void take_job_end(const struct dbus_message *m)
{
	struct calendar_timer *t;
	struct dbus_reader r;
	const char *name;

	dbus_reader_init(&r, m);
	if (!str_eq(m->signature, "uoss") || dbus_skip(&r, "u", NULL) < 0 ||
	    dbus_skip(&r, "o", NULL) < 0 || dbus_read_string(&r, &name) < 0)
		return;
	t = timer_find(name);
	if (t)
		t->has_job = false;
}

static void on_message(struct manager_listener *l, const struct dbus_message *m)
{
	if (m->type == DBUS_SIGNAL) {
		if (!str_eq(m->interface, SYSTEMD_MANAGER) || !str_eq(m->member, "JobRemoved"))
			return;
		take_job_end(m);
	} else if (is_reply_to(m, calendar.list_serial)) {
		take_list(m);
	} else {
		for (struct calendar_timer *t = calendar.timers; t; t = t->next)
			take_answer(t, m);
	}
	if (calendar.state != IDLE)
		advance();
}

/* Connected, or connected again: what was under way is void. */
static void on_ready(struct manager_listener *l)
{
	for (struct calendar_timer *t = calendar.timers; t; t = t->next) {
		t->calendar_serial = t->transient_serial = t->job_serial = 0;
		t->has_job = false;
		if (calendar.state == STARTING && t->stopped)
			ask_job(t, "StartUnit");
	}
	if (calendar.state == STOPPING)
		calendar.list_serial =
			manager_call(l, SYSTEMD_PATH, SYSTEMD_MANAGER, "ListUnitsByPatterns",
				     "asas", (const char *const[]){"active", "*.timer"});
	advance();
}

static void on_late(struct agent_timer *timer)
{
	bool stopping = calendar.state == STOPPING;
	struct error err = {};
	char text[256];

	manager_describe(&calendar.listener, text, sizeof(text));
	error_set(&err, ERROR_INFRA, ETIMEDOUT, "systemd's calendar timers cannot be %s: %s",
		  stopping ? "stopped" : "started", text);
	finish(&err);
}

static void begin(void (*done)(const struct error *err))
{
	calendar.done = done;
	calendar.listener.on_ready = on_ready;
	calendar.listener.on_message = on_message;
	calendar.late.fn = on_late;
	manager_listen(&calendar.listener, MANAGER_SYSTEM);
	agent_timer_set(&calendar.late, agent_now_ns() + TIMEOUT_NS);
}

/* --- interface -------------------------------------------------------------------------------- */

void calendar_stop(void (*done)(const struct error *err))
{
	if (!agent_owns(OWNS_TIMERS) || !agent_is_systemd()) {
		done(NULL);
		return;
	}
	calendar.state = STOPPING;
	begin(done);
}

/* Fired now, as far as systemd will know. */
static void touch_stamp(const char *name)
{
	_cleanup_free_ char *path = xasprintf(STAMP "%s", name);
	_cleanup_close_ int fd =
		agent_openat_root(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);

	if (fd >= 0)
		(void)futimens(fd, NULL);
}

void calendar_start(void (*done)(const struct error *err))
{
	bool any = false;

	for (struct calendar_timer *t = calendar.timers; t; t = t->next) {
		if (!t->stopped)
			continue;
		touch_stamp(t->name);
		any = true;
	}
	if (!any) {
		drop_all();
		done(NULL);
		return;
	}
	calendar.state = STARTING;
	begin(done);
}
