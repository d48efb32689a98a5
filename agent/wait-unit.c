/* SPDX-License-Identifier: MIT */
/* Waits until a systemd unit is in a state, and until systemd has finished booting. */
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/dbus.h"
#include "agent/unit.h"
#include "base/str.h"

/*
 * Of the unit, the Unit interface's properties are asked for once, and kept up to date by
 * PropertiesChanged, which carries the values. What it says about a service's end (Result, exit
 * status, type) is asked for when a negative answer is due.
 *
 * systemd forgets units that are inactive and that nothing refers to. Asking such a unit for its
 * properties loads it again, announced by UnitNew; so at UnitNew GetUnit is called, which loads
 * nothing, and the properties only if that succeeds: else asking and announcing would go round.
 *
 * An inactive unit without a job is a failure at once, except while the manager has not finished
 * starting: devices, timers and sockets may pull it in yet. Jobs that ended badly do not wait for
 * that.
 */

static const char *const details[] = {
	"Type",
	"Result",
	"ExecMainCode",
	"ExecMainStatus",
	"ExecMainStartTimestampMonotonic",
	"ExecMainExitTimestampMonotonic",
};

/* PID 1 is asked this often what it is, as long as it is the initramfs' init, which nothing
 * announces. */
#define PID1_MS 20

/* Both operations wait for a manager first; this is their common part. */
struct manager_wait {
	struct agent_call *call;
	struct manager_listener listener;
	struct agent_timer pid1;
	uint32_t uid;
	uint32_t state_serial; /* of Get(SystemState) */
	char system_state[32]; /* "" until known */
};

struct wait_unit {
	struct manager_wait m;
	char *name;   /* with its suffix */
	char *wanted; /* state */
	char path[640];
	struct unit_info info;
	uint32_t all_serial;	/* of GetAll */
	uint32_t loaded_serial; /* of GetUnit */
	uint32_t detail_serials[ARRAY_SIZE(details)];
	size_t details_pending;
	bool have_details;
};

struct wait_booted {
	struct manager_wait m;
};

/* --- the manager --------------------------------------------------------------------------- */

/* What PID 1 runs: its executable's last part, "" if that cannot be told. */
static void pid1_name(char ret[64])
{
	char link[PATH_MAX];
	ssize_t n = readlinkat(agent_proc_fd(), "1/exe", link, sizeof(link) - 1);

	*ret = 0;
	if (n <= 0)
		return;
	link[n] = 0;
	snprintf(ret, 64, "%.63s", strrchr(link, '/') ? strrchr(link, '/') + 1 : link);
}

/* Will there be a systemd? 1: yes; 0: cannot be told yet; -1: no. */
static int systemd_prospect(void)
{
	char name[64], own[PATH_MAX], theirs[PATH_MAX];
	ssize_t a, b;

	if (agent_is_systemd())
		return 1;
	pid1_name(name);
	if (str_starts(name, "systemd"))
		return 1;
	/* The agent itself, as init of the initramfs: it will hand over. */
	a = readlinkat(agent_proc_fd(), "1/exe", theirs, sizeof(theirs));
	b = readlinkat(agent_proc_fd(), "self/exe", own, sizeof(own));
	return a > 0 && a == b && memcmp(own, theirs, a) == 0 ? 0 : -1;
}

static void on_pid1(struct agent_timer *t)
{
	struct manager_wait *m = container_of(t, struct manager_wait, pid1);
	int prospect = systemd_prospect();
	char name[64];

	if (prospect > 0) {
		manager_listen(&m->listener, m->uid);
	} else if (prospect == 0) {
		agent_timer_set(t, agent_now_ns() + PID1_MS * NS_PER_MS);
	} else {
		pid1_name(name);
		call_reply_error(m->call, ERROR_UNSUPPORTED, ENOTSUP,
				 "the machine's PID 1 is '%s', not systemd",
				 *name ? name : "unknown");
	}
}

static void manager_wait_start(struct manager_wait *m, struct agent_call *c, uint32_t uid)
{
	m->call = c;
	m->uid = uid;
	m->pid1.fn = on_pid1;
	on_pid1(&m->pid1);
}

static void manager_wait_end(struct manager_wait *m)
{
	agent_timer_remove(&m->pid1);
	manager_unlisten(&m->listener);
}

static void ask_system_state(struct manager_wait *m)
{
	m->state_serial = manager_get(&m->listener, SYSTEMD_PATH, SYSTEMD_MANAGER, "SystemState");
}

static bool is_booting(const struct manager_wait *m)
{
	return str_eq(m->system_state, "") || str_eq(m->system_state, "initializing") ||
	       str_eq(m->system_state, "starting");
}

static bool is_signal(const struct dbus_message *m, const char *interface, const char *member)
{
	return m->type == DBUS_SIGNAL && str_eq(m->interface, interface) &&
	       str_eq(m->member, member);
}

static bool is_reply_to(const struct dbus_message *m, uint32_t serial)
{
	return serial != 0 && m->reply_serial == serial &&
	       (m->type == DBUS_METHOD_RETURN || m->type == DBUS_ERROR);
}

/* Keeps system_state up to date. True if it has just become known or changed. */
static bool follow_system_state(struct manager_wait *m, const struct dbus_message *msg)
{
	struct dbus_reader r;
	const char *sig, *text, *unit;
	uint32_t id;

	dbus_reader_init(&r, msg);
	if (is_reply_to(msg, m->state_serial) && msg->type == DBUS_METHOD_RETURN) {
		if (dbus_read_signature(&r, &sig) == 0 && str_eq(sig, "s") &&
		    dbus_read_string(&r, &text) == 0)
			snprintf(m->system_state, sizeof(m->system_state), "%s", text);
		return true;
	}
	/* The property itself announces nothing; these are the moments at which it changes. */
	if (is_signal(msg, SYSTEMD_MANAGER, "StartupFinished"))
		ask_system_state(m);
	else if (is_signal(msg, SYSTEMD_MANAGER, "JobRemoved") && str_eq(msg->signature, "uoss") &&
		 dbus_read_u32(&r, &id) == 0 && dbus_read_string(&r, &text) == 0 &&
		 dbus_read_string(&r, &unit) == 0 &&
		 (str_eq(unit, "emergency.target") || str_eq(unit, "rescue.target")))
		ask_system_state(m);
	return false;
}

/* --- a unit -------------------------------------------------------------------------------- */

/* The end of the wait. */
static void reply_verdict(struct wait_unit *w, enum unit_verdict v)
{
	char text[512];

	if (v == UNIT_THERE || v == UNIT_DONE) {
		_cleanup_buf_ struct buf fields = {};

		wire_put_str(&fields, TAG_STATE, w->info.active);
		call_reply(w->m.call, &fields);
		return;
	}
	unit_describe(&w->info, v, text, sizeof(text));
	call_reply_error(w->m.call, ERROR_EXPECT, v == UNIT_NEVER ? ENOENT : EIO, "unit '%s' %s",
			 w->name, text);
}

/* Before a negative answer: why? */
static void ask_details(struct wait_unit *w)
{
	const char *interface = unit_type_interface(w->name);
	bool service = str_ends(w->name, ".service");

	for (size_t i = 0; i < ARRAY_SIZE(details); i++) {
		w->detail_serials[i] = 0;
		if (!interface || (!service && !str_eq(details[i], "Result")))
			continue;
		w->detail_serials[i] = manager_get(&w->m.listener, w->path, interface, details[i]);
		w->details_pending++;
	}
	w->have_details = w->details_pending == 0;
}

/* The job that should have started it ended, and not because another took its place. */
static bool job_went_wrong(const struct unit_info *u)
{
	static const char *const results[] = {"failed", "timeout",     "dependency",
					      "assert", "unsupported", "once"};

	for (size_t i = 0; i < ARRAY_SIZE(results); i++)
		if (str_eq(u->job_result, results[i]))
			return true;
	return false;
}

/* True if it replied: the call is gone then. */
static bool decide(struct wait_unit *w)
{
	enum unit_verdict v = unit_judge(&w->info, w->wanted, w->have_details);
	if (v == UNIT_WAIT || w->details_pending > 0)
		return false;
	if ((v == UNIT_FAILED || v == UNIT_IDLE) && !w->have_details) {
		ask_details(w);
		if (!w->have_details)
			return false;
		v = unit_judge(&w->info, w->wanted, true);
	}
	if (v == UNIT_IDLE && is_booting(&w->m) && !job_went_wrong(&w->info))
		return false;
	reply_verdict(w, v);
	return true;
}

/* Connected, for the first time or after a reexec: all from the start. */
static void on_unit_ready(struct manager_listener *l)
{
	struct wait_unit *w = container_of(l, struct wait_unit, m.listener);

	w->info = (struct unit_info){};
	w->loaded_serial = 0;
	w->details_pending = 0;
	w->have_details = false;
	*w->m.system_state = 0;
	ask_system_state(&w->m);
	w->all_serial = manager_get_all(l, w->path, SYSTEMD_UNIT);
}

/* The reply to GetAll. */
static void take_all(struct wait_unit *w, const struct dbus_message *m)
{
	struct dbus_reader r;
	const char *text = "";

	w->all_serial = 0;
	dbus_reader_init(&r, m);
	/* No such object: the name cannot be one of a unit. */
	if (m->type == DBUS_ERROR) {
		if (str_eq(m->signature, "s") && dbus_read_string(&r, &text) < 0)
			text = "";
		call_reply_error(w->m.call, ERROR_EXPECT, ENOENT, "unit '%s': %s (%s)", w->name,
				 text, m->error_name);
		return;
	}
	if (!str_starts(m->signature, "a{sv}") || unit_take_properties(&w->info, &r) < 0)
		return;
	w->info.known = true;
	/* Of an alias, signals come from the unit that it stands for. */
	if (*w->info.id && !str_eq(w->info.id, w->name))
		unit_path(w->info.id, w->path, sizeof(w->path));
	decide(w);
}

static bool take_detail(struct wait_unit *w, const struct dbus_message *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(details); i++) {
		struct dbus_reader r;
		uint64_t exit_us = w->info.exec_exit_us;
		struct unit_info fresh = w->info;

		if (!is_reply_to(m, w->detail_serials[i]))
			continue;
		w->detail_serials[i] = 0;
		dbus_reader_init(&r, m);
		if (m->type == DBUS_METHOD_RETURN)
			unit_take_property(&fresh, details[i], &r);
		/* A unit that systemd forgot and loaded again for us has never run; what its
		 * signals told before is better. */
		if (exit_us > 0 && !str_eq(details[i], "Type"))
			fresh = w->info;
		w->info = fresh;
		if (--w->details_pending == 0) {
			w->have_details = true;
			decide(w);
		}
		return true;
	}
	return false;
}

/* "sa{sv}as": an interface, what has changed in it, what is to be asked for anew. */
static void take_change(struct wait_unit *w, const struct dbus_message *m)
{
	struct dbus_reader r;
	const char *interface;

	dbus_reader_init(&r, m);
	if (!str_eq(m->signature, "sa{sv}as") || dbus_read_string(&r, &interface) < 0 ||
	    unit_take_properties(&w->info, &r) < 0)
		return;
	/* The type's own interface comes first and the unit's behind it, so the state is decided on
	 * with both. What details said before is out of date. */
	w->have_details = false;
	if (str_eq(interface, SYSTEMD_UNIT))
		decide(w);
}

/* PropertiesChanged comes first, so the state is known when the job's result is. */
static void take_job_end(struct wait_unit *w, const struct dbus_message *m)
{
	const char *path, *unit, *result;
	struct dbus_reader r;
	uint32_t id;

	dbus_reader_init(&r, m);
	if (!str_eq(m->signature, "uoss") || dbus_read_u32(&r, &id) < 0 ||
	    dbus_read_string(&r, &path) < 0 || dbus_read_string(&r, &unit) < 0 ||
	    dbus_read_string(&r, &result) < 0)
		return;
	if (!str_eq(unit, w->name) && !str_eq(unit, w->info.id))
		return;
	snprintf(w->info.job_result, sizeof(w->info.job_result), "%s", result);
	decide(w);
}

/* See the top of this file. Units that appear without a job, such as devices, are found so. */
static void take_new(struct wait_unit *w, const struct dbus_message *m)
{
	struct dbus_reader r;
	const char *name;

	dbus_reader_init(&r, m);
	if (dbus_read_string(&r, &name) == 0 && (str_eq(name, w->name) || str_eq(name, w->info.id)))
		w->loaded_serial = manager_call(&w->m.listener, SYSTEMD_PATH, SYSTEMD_MANAGER,
						"GetUnit", "s", (const char *const[]){w->name});
}

/* A daemon-reload is over: the unit may exist now, be masked, or be another. */
static void take_reloaded(struct wait_unit *w, const struct dbus_message *m)
{
	struct dbus_reader r;
	bool active;

	dbus_reader_init(&r, m);
	if (dbus_read_bool(&r, &active) == 0 && !active)
		w->all_serial = manager_get_all(&w->m.listener, w->path, SYSTEMD_UNIT);
}

static void on_unit_message(struct manager_listener *l, const struct dbus_message *m)
{
	struct wait_unit *w = container_of(l, struct wait_unit, m.listener);

	if (follow_system_state(&w->m, m)) {
		decide(w);
	} else if (is_reply_to(m, w->all_serial)) {
		take_all(w, m);
	} else if (is_reply_to(m, w->loaded_serial)) {
		w->loaded_serial = 0;
		if (m->type == DBUS_METHOD_RETURN)
			w->all_serial = manager_get_all(l, w->path, SYSTEMD_UNIT);
	} else if (take_detail(w, m)) {
		/* done there */
	} else if (is_signal(m, DBUS_PROPERTIES, "PropertiesChanged")) {
		if (str_eq(m->path, w->path) && w->info.known)
			take_change(w, m);
	} else if (is_signal(m, SYSTEMD_MANAGER, "JobRemoved")) {
		take_job_end(w, m);
	} else if (is_signal(m, SYSTEMD_MANAGER, "UnitNew")) {
		take_new(w, m);
	} else if (is_signal(m, SYSTEMD_MANAGER, "Reloading")) {
		take_reloaded(w, m);
	}
}

/* The uid of a name in the guest's passwd file, or of digits. */
static bool find_uid(const char *user, uint32_t *ret)
{
	_cleanup_close_ int fd = agent_openat_root("/etc/passwd", O_RDONLY | O_CLOEXEC, 0);
	_cleanup_buf_ struct buf text = {};
	uint64_t number;
	char *save = NULL;

	if (parse_u64(user, &number) == 0 && number < UINT32_MAX) {
		*ret = number;
		return true;
	}
	if (fd < 0 || buf_read_fd(&text, fd, 4 * MIB) < 0 || text.len == 0)
		return false;
	for (char *line = strtok_r(text.data, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		char *name = strsep(&line, ":"), *uid;

		strsep(&line, ":");
		uid = strsep(&line, ":");
		if (uid && str_eq(name, user) && parse_u64(uid, &number) == 0) {
			*ret = number;
			return true;
		}
	}
	return false;
}

static bool has_suffix(const char *unit)
{
	static const char *const suffixes[] = {
		".service", ".socket", ".target", ".device", ".mount", ".automount",
		".swap",    ".timer",  ".path",	  ".slice",  ".scope",
	};

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++)
		if (str_ends(unit, suffixes[i]))
			return true;
	return false;
}

static void start_unit(struct agent_call *c, const struct wire_fields *in)
{
	struct wait_unit *w = call_state(c);
	_cleanup_free_ char *unit = wire_dup_str(in, TAG_UNIT, 255);
	_cleanup_free_ char *user = wire_dup_str(in, TAG_USER, 255);
	uint32_t uid = MANAGER_SYSTEM;

	w->m.listener.on_ready = on_unit_ready;
	w->m.listener.on_message = on_unit_message;
	w->wanted = wire_dup_str(in, TAG_STATE, UNIT_TEXT_MAX - 1);
	if (!w->wanted)
		w->wanted = xstrdup("active");
	if (!unit || !*unit) {
		call_reply_error(c, ERROR_USAGE, EINVAL, "no unit to wait for");
		return;
	}
	w->name = has_suffix(unit) ? xstrdup(unit) : xasprintf("%s.service", unit);
	if (!unit_path(w->name, w->path, sizeof(w->path))) {
		call_reply_error(c, ERROR_USAGE, ENAMETOOLONG, "'%s' is no name of a unit", unit);
		return;
	}
	if (user && !find_uid(user, &uid)) {
		call_reply_error(c, ERROR_EXPECT, ENOENT, "the machine has no user '%s'", user);
		return;
	}
	manager_wait_start(&w->m, c, uid);
}

static void on_cancel_unit(struct agent_call *c, enum wire_cancel reason)
{
	struct wait_unit *w = call_state(c);
	char text[512] = "systemd is not up yet";

	if (w->info.known)
		unit_describe(&w->info,
			      unit_judge(&w->info, w->wanted, true) == UNIT_IDLE ? UNIT_IDLE
										 : UNIT_WAIT,
			      text, sizeof(text));
	else if (w->m.listener.bus)
		manager_describe(&w->m.listener, text, sizeof(text));
	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "%s%s%s", w->info.known ? "it " : "", text,
			 w->info.known && is_booting(&w->m) ? "; the machine is still booting"
							    : "");
}

static void end_unit(struct agent_call *c)
{
	struct wait_unit *w = call_state(c);

	manager_wait_end(&w->m);
	free(w->name);
	free(w->wanted);
}

const struct agent_op agent_op_wait_unit = {
	.op = WIRE_OP_WAIT_UNIT,
	.name = "wait-unit",
	.size = sizeof(struct wait_unit),
	.start = start_unit,
	.on_cancel = on_cancel_unit,
	.end = end_unit,
};

/* --- the end of booting -------------------------------------------------------------------- */

static void on_booted_ready(struct manager_listener *l)
{
	struct wait_booted *w = container_of(l, struct wait_booted, m.listener);

	ask_system_state(&w->m);
}

static void on_booted_message(struct manager_listener *l, const struct dbus_message *m)
{
	struct wait_booted *w = container_of(l, struct wait_booted, m.listener);

	if (!follow_system_state(&w->m, m))
		return;
	if (str_eq(w->m.system_state, "running") || str_eq(w->m.system_state, "degraded")) {
		_cleanup_buf_ struct buf fields = {};

		wire_put_str(&fields, TAG_STATE, w->m.system_state);
		call_reply(w->m.call, &fields);
	} else if (str_eq(w->m.system_state, "maintenance")) {
		call_reply_error(w->m.call, ERROR_EXPECT, EIO,
				 "the machine did not boot: it is in rescue or emergency mode");
	}
}

static void start_booted(struct agent_call *c, const struct wire_fields *in)
{
	struct wait_booted *w = call_state(c);

	w->m.listener.on_ready = on_booted_ready;
	w->m.listener.on_message = on_booted_message;
	manager_wait_start(&w->m, c, MANAGER_SYSTEM);
}

static void on_cancel_booted(struct agent_call *c, enum wire_cancel reason)
{
	struct wait_booted *w = call_state(c);
	char text[256] = "systemd is not up yet";

	if (*w->m.system_state)
		snprintf(text, sizeof(text), "the system's state is '%s'", w->m.system_state);
	else if (w->m.listener.bus)
		manager_describe(&w->m.listener, text, sizeof(text));
	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "%s", text);
}

static void end_booted(struct agent_call *c)
{
	struct wait_booted *w = call_state(c);

	manager_wait_end(&w->m);
}

const struct agent_op agent_op_wait_booted = {
	.op = WIRE_OP_WAIT_BOOTED,
	.name = "wait-booted",
	.size = sizeof(struct wait_booted),
	.start = start_booted,
	.on_cancel = on_cancel_booted,
	.end = end_booted,
};
