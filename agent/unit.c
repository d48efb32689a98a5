/* SPDX-License-Identifier: MIT */
/* What is known of one systemd unit, and what to think of it. */
#include "agent/unit.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

/* --- properties ---------------------------------------------------------------------------- */

/*
 * Properties are taken by name and D-Bus type together: a newer systemd that changes a type gives a
 * property that is skipped, not one that is misread.
 */

struct text_property {
	const char *name;
	size_t offset, size;
};

#define TEXT(property, member)                                                                     \
	{                                                                                          \
		property, offsetof(struct unit_info, member),                                      \
			sizeof(((struct unit_info *)0)->member)                                    \
	}

static const struct text_property texts[] = {
	TEXT("Id", id),		 TEXT("ActiveState", active), TEXT("SubState", sub),
	TEXT("LoadState", load), TEXT("Result", result),      TEXT("Type", type),
};

static const struct {
	const char *name;
	size_t offset;
} times[] = {
	{"ConditionTimestampMonotonic", offsetof(struct unit_info, condition_us)},
	{"InactiveExitTimestampMonotonic", offsetof(struct unit_info, started_us)},
	{"InactiveEnterTimestampMonotonic", offsetof(struct unit_info, ended_us)},
	{"ExecMainStartTimestampMonotonic", offsetof(struct unit_info, exec_start_us)},
	{"ExecMainExitTimestampMonotonic", offsetof(struct unit_info, exec_exit_us)},
};

static int take_text(struct unit_info *u, const struct text_property *t, struct dbus_reader *r)
{
	const char *s;

	if (dbus_read_string(r, &s) < 0)
		return r->error;
	snprintf((char *)u + t->offset, t->size, "%s", s);
	return 0;
}

/* What we know by its name and type; 1 if it was taken, 0 if it is none of ours. */
static int take_known(struct unit_info *u, const char *name, const char *sig, struct dbus_reader *r)
{
	const char *text;
	uint64_t v = 0;

	if (str_eq(sig, "s"))
		for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
			if (str_eq(name, texts[i].name))
				return take_text(u, &texts[i], r) < 0 ? r->error : 1;
	if (str_eq(sig, "t"))
		for (size_t i = 0; i < ARRAY_SIZE(times); i++)
			if (str_eq(name, times[i].name)) {
				if (dbus_read_u64(r, &v) < 0)
					return r->error;
				memcpy((char *)u + times[i].offset, &v, sizeof(v));
				return 1;
			}
	if (str_eq(sig, "i") && str_eq(name, "ExecMainCode"))
		return dbus_read_u32(r, &u->exec_code) < 0 ? r->error : 1;
	if (str_eq(sig, "i") && str_eq(name, "ExecMainStatus"))
		return dbus_read_u32(r, &u->exec_status) < 0 ? r->error : 1;
	if (str_eq(sig, "(uo)") && str_eq(name, "Job"))
		return dbus_read_struct(r) < 0 || dbus_read_u32(r, &u->job) < 0 ||
				       dbus_read_string(r, &text) < 0
			       ? r->error
			       : 1;
	if (str_eq(sig, "(ss)") && str_eq(name, "LoadError")) {
		if (dbus_read_struct(r) < 0 || dbus_read_string(r, &text) < 0 ||
		    dbus_read_string(r, &text) < 0)
			return r->error;
		snprintf(u->load_error, sizeof(u->load_error), "%s", text);
		return 1;
	}
	if (str_eq(sig, "b") && str_eq(name, "ConditionResult")) {
		bool met;

		if (dbus_read_bool(r, &met) < 0)
			return r->error;
		u->condition_failed = !met;
		return 1;
	}
	return 0;
}

static int take_value(struct unit_info *u, const char *name, const char *sig, struct dbus_reader *r)
{
	int taken = take_known(u, name, sig, r);

	return taken != 0 ? MIN(taken, 0) : dbus_skip(r, sig, NULL);
}

int unit_take_properties(struct unit_info *u, struct dbus_reader *r)
{
	const char *name, *sig;
	size_t end;
	int n;

	if (dbus_read_array(r, 8, &end) < 0)
		return r->error;
	while ((n = dbus_read_property(r, end, &name, &sig)) > 0)
		if (take_value(u, name, sig, r) < 0)
			return r->error;
	return n;
}

int unit_take_property(struct unit_info *u, const char *name, struct dbus_reader *r)
{
	const char *sig;

	if (dbus_read_signature(r, &sig) < 0)
		return r->error;
	return take_value(u, name, sig, r);
}

/* --- the verdict --------------------------------------------------------------------------- */

static bool is_between_restarts(const struct unit_info *u)
{
	/* systemd ≥ 254 passes through these, and says "failed" and "inactive" while it does. */
	return str_eq(u->sub, "failed-before-auto-restart") ||
	       str_eq(u->sub, "dead-before-auto-restart") || str_eq(u->sub, "auto-restart-queued");
}

/* A oneshot without RemainAfterExit= is inactive when it has done its work. */
static bool ended_well(const struct unit_info *u)
{
	return str_eq(u->type, "oneshot") && str_eq(u->result, "success") && u->exec_exit_us > 0;
}

enum unit_verdict unit_judge(const struct unit_info *u, const char *wanted, bool details)
{
	bool want_active = str_eq(wanted, "active");

	if (!u->known || is_between_restarts(u))
		return UNIT_WAIT;
	if (str_eq(u->active, wanted))
		return UNIT_THERE;
	/* Also of one that failed: the job will start it again. */
	if (u->job != 0)
		return UNIT_WAIT;
	if (str_eq(u->active, "failed"))
		return UNIT_FAILED;
	if (!str_eq(u->active, "inactive"))
		return UNIT_WAIT;
	/* After the states: a unit whose file was deleted may still be running. */
	if (*u->load && !str_eq(u->load, "loaded") && !str_eq(u->load, "stub") &&
	    !str_eq(u->load, "merged"))
		return UNIT_NEVER;
	return want_active && details && ended_well(u) ? UNIT_DONE : UNIT_IDLE;
}

/* How a service's main process ended: the codes of siginfo_t, CLD_EXITED 1, CLD_KILLED 2,
 * CLD_DUMPED 3. */
static void describe_exit(const struct unit_info *u, struct buf *b)
{
	if (u->exec_exit_us == 0)
		return;
	if (u->exec_code == 1)
		buf_printf(b, ", status %u", u->exec_status);
	else if (u->exec_code == 2)
		buf_printf(b, ", signal %u", u->exec_status);
	else if (u->exec_code == 3)
		buf_printf(b, ", signal %u, core dumped", u->exec_status);
}

/* In the words of systemctl status, so that they are found there again. */
static void describe_failed(const struct unit_info *u, struct buf *b)
{
	buf_printf(b, "failed (Result=%s", *u->result ? u->result : "unknown");
	describe_exit(u, b);
	buf_puts(b, ")");
	if (u->started_us > 0 && u->ended_us >= u->started_us)
		buf_printf(b, " %.1f s after start", (u->ended_us - u->started_us) / 1e6);
}

/* LoadState is neither "loaded" nor a state on the way there. */
static void describe_never(const struct unit_info *u, struct buf *b)
{
	if (str_eq(u->load, "not-found"))
		buf_puts(b, "does not exist");
	else if (str_eq(u->load, "masked"))
		buf_puts(b, "is masked");
	else
		buf_printf(b, "cannot be loaded (%s%s%s)", u->load, *u->load_error ? ": " : "",
			   u->load_error);
}

/* Why an inactive unit is so, as far as one can tell. */
static void describe_idle(const struct unit_info *u, struct buf *b)
{
	buf_printf(b, "is inactive (%s) and no job is queued for it", u->sub);
	if (*u->job_result && !str_eq(u->job_result, "done")) {
		buf_printf(b, "; its last job ended with '%s'", u->job_result);
	} else if (u->condition_failed && u->condition_us > u->started_us) {
		buf_puts(b, "; it was not started because a condition of it was not met");
	} else if (u->exec_exit_us > 0) {
		buf_printf(b, "; its process ended (Result=%s", *u->result ? u->result : "unknown");
		describe_exit(u, b);
		buf_puts(b, ")");
	}
}

void unit_describe(const struct unit_info *u, enum unit_verdict v, char *ret, size_t size)
{
	_cleanup_buf_ struct buf b = {};

	switch (v) {
	case UNIT_FAILED:
		describe_failed(u, &b);
		break;
	case UNIT_NEVER:
		describe_never(u, &b);
		break;
	case UNIT_IDLE:
		describe_idle(u, &b);
		break;
	default:
		buf_printf(&b, "is %s (%s)", u->active, u->sub);
		if (u->job != 0)
			buf_printf(&b, ", with job %u queued", u->job);
	}
	snprintf(ret, size, "%s", buf_str(&b));
}

/* --- names --------------------------------------------------------------------------------- */

bool unit_path(const char *name, char *ret, size_t size)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = snprintf(ret, size, "/org/freedesktop/systemd1/unit/");

	for (const char *p = name; *p; p++) {
		if (n + 4 > size)
			return false;
		/* bus_label_escape() in systemd: letters stay, digits too but not in front. */
		if (isalpha((unsigned char)*p) || (p > name && isdigit((unsigned char)*p))) {
			ret[n++] = *p;
		} else {
			ret[n++] = '_';
			ret[n++] = hex[(unsigned char)*p >> 4];
			ret[n++] = hex[*p & 15];
		}
	}
	ret[n] = 0;
	return true;
}

const char *unit_type_interface(const char *name)
{
	static const struct {
		const char *suffix, *interface;
	} types[] = {
		{".service", "org.freedesktop.systemd1.Service"},
		{".socket", "org.freedesktop.systemd1.Socket"},
		{".mount", "org.freedesktop.systemd1.Mount"},
		{".swap", "org.freedesktop.systemd1.Swap"},
		{".timer", "org.freedesktop.systemd1.Timer"},
		{".path", "org.freedesktop.systemd1.Path"},
		{".scope", "org.freedesktop.systemd1.Scope"},
		{".automount", "org.freedesktop.systemd1.Automount"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (str_ends(name, types[i].suffix))
			return types[i].interface;
	return NULL;
}
