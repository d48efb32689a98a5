/* SPDX-License-Identifier: MIT */
/* What is known of one systemd unit, from replies and signals; and what to think of it. */
#pragma once

#include "proto/dbus-wire.h"

/* Pure: no descriptors, no connection. Zero is initialised. */

#define UNIT_TEXT_MAX 64

struct unit_info {
	bool known;		    /* the properties of the Unit interface have come */
	char id[256];		    /* canonical name; may differ from the one that was asked for */
	char active[UNIT_TEXT_MAX]; /* ActiveState */
	char sub[UNIT_TEXT_MAX];    /* SubState */
	char load[UNIT_TEXT_MAX];   /* LoadState */
	char load_error[256];	    /* message of LoadError */
	char result[UNIT_TEXT_MAX]; /* Result, of services, sockets, mounts … */
	char type[UNIT_TEXT_MAX];   /* of a service: "oneshot" … */
	char job_result[UNIT_TEXT_MAX]; /* of the last job seen to end: "done", "dependency" … */
	uint32_t job;			/* 0: none queued */
	bool condition_failed;		/* at the last start */
	uint64_t condition_us;		/* when that was tested; 0: never */
	uint64_t started_us;		/* InactiveExitTimestampMonotonic */
	uint64_t ended_us;		/* InactiveEnterTimestampMonotonic */
	uint64_t exec_start_us, exec_exit_us; /* ExecMain…TimestampMonotonic */
	uint32_t exec_code, exec_status;      /* as waitid(2) has them */
};

/* Takes over a dictionary a{sv} of properties, as GetAll and PropertiesChanged have them.
 * 0 or -EBADMSG. */
int unit_take_properties(struct unit_info *u, struct dbus_reader *r);
/* The single property that was asked for by name, a variant. */
int unit_take_property(struct unit_info *u, const char *name, struct dbus_reader *r);

enum unit_verdict {
	UNIT_WAIT,   /* it is on its way, or not known yet */
	UNIT_THERE,  /* it is in the wanted state */
	UNIT_NEVER,  /* it does not exist, is masked or cannot be loaded */
	UNIT_FAILED, /* it failed */
	UNIT_IDLE,   /* inactive, nothing queued: nothing will happen by itself */
	UNIT_DONE,   /* a oneshot that was started and ended well (needs the details) */
};

/* `details`: result, type, exec… are known, too; without them UNIT_DONE is not told apart from
 * UNIT_IDLE. */
enum unit_verdict unit_judge(const struct unit_info *u, const char *wanted, bool details);
/* "failed (Result=exit-code, status 1) 0.4 s after start", "activating (start-pre), job queued". */
void unit_describe(const struct unit_info *u, enum unit_verdict v, char *ret, size_t size);

/* The object path of a unit's name (escaped as systemd does); false if the name is too long. */
bool unit_path(const char *name, char *ret, size_t size);
/* The interface with the properties of the unit's type ("….Service"); NULL for an unknown suffix.
 */
const char *unit_type_interface(const char *name);
