/* SPDX-License-Identifier: MIT */
/* What the files of the machine model share with each other and with nobody else. */
#pragma once

#include "base/buf.h"
#include "loop/fiber.h"
#include "loop/loop.h"
#include "machine/backend.h"
#include "machine/machine.h"

#define BOOT_ID_MAX 40

/* One boot of the guest, from a power-on or a reset to the next. */
struct boot {
	char id[BOOT_ID_MAX];	  /* "" until the agent said hello */
	bool ready;		  /* the agent is in the real root: calls can run */
	unsigned resets;	  /* the guest's own, before any hello */
	uint64_t begin_ns;	  /* VMM's start, or the reset */
	uint64_t hello_ns;	  /* when the first hello came … */
	uint64_t hello_uptime_ns; /* … and what the guest's clock said when it was sent */
	uint64_t ready_ns;	  /* when the hello of the real root came */
	json_t *times;		  /* machine_boot_times(), once known */
	uint64_t fork_ns;	  /* how long it took to go on in the middle of it; 0: begun here */
};

#define PANIC_RECENT_LINES 64
#define PANIC_LINE_MAX	   256

struct panic {
	bool collecting; /* the first line was seen, the rest is coming */
	bool present;	 /* all there, and no one has consumed it */
	char message[512];
	struct buf trace;
	unsigned lines;
	struct timer *settle;
	/* The console's last lines, for what led to a panic; a ring. */
	char (*recent)[PANIC_LINE_MAX];
	unsigned recent_head, n_recent;
};

struct machine {
	const struct machine_spec *spec;
	const struct machine_env *env;
	const struct backend_ops *ops;
	struct vm *vm;	     /* made at the first start */
	struct image *image; /* opened at the first start */
	struct console *console;
	uint64_t console_dropped; /* told so far */

	enum machine_state state;
	enum machine_state unpaused; /* state to go back to from PAUSED */
	struct waiters changed;	     /* state, boot, panic, exit */
	struct error crash;	     /* why, while CRASHED; else why the last run ended */
	unsigned n_crashes;
	bool crash_is_reset; /* it reset itself: it may be about to boot */

	bool vmm_runs;
	bool vmm_starting; /* within the backend's start() */
	bool exited_early; /* … and it has ended already */
	char early_how[512];
	bool killing;	       /* we pull the plug */
	const char *killed_as; /* "restored", "saved": what that is in words; NULL: unplugged */
	bool off_asked;	       /* machine_shutdown() */
	bool reset_asked;      /* machine_reboot(), machine_reset() */
	uint64_t epoch_ns;     /* the VMM's start */
	const char *accel;

	bool power_busy; /* one fiber at a time starts or kills */
	struct waiters power_waiters;

	struct agent *agent;	/* of this run of the VMM */
	struct agent **retired; /* of earlier ones: pointers given out stay valid */
	size_t n_retired;
	bool agent_closed; /* its stream ended; the VMM's end may be on its way */
	struct error agent_closed_why;
	struct timer *closed_timer;
	struct boot boot;
	char reset_boot_id[BOOT_ID_MAX];   /* the boot that machine_reset() ended */
	char seen_boot_id[BOOT_ID_MAX];	   /* the last one that a call of the test met */
	char manager_boot_id[BOOT_ID_MAX]; /* the one in which systemd was seen to answer */

	struct panic panic;
	/* Saved states (snapshot.c). */
	struct saved *next_from; /* whose disks the next start takes; NULL: its own */
	json_t *saving;		 /* what saved->core will be, while the backend saves */
	bool held;		 /* stands still while others are saved, too: no news */
	bool thawing;		 /* the next hello is that of a guest that goes on */
	bool prestarted;

	json_t *events; /* of the VMM, since its start: { name, data, seconds } */
	struct waiters event_waiters;
};

/* --- machine.c: the only caller of the backend --- */

int vm_open(struct machine *m, struct error *err);
/* from: to start from, or NULL. */
int vm_start(struct machine *m, const struct machine_start_opts *opts, struct saved *from,
	     struct vm_streams *ret, struct error *err);
int vm_save(struct machine *m, bool keep, struct saved **ret, struct error *err);
void vm_prestart(struct machine *m, struct saved *from);
/* ERROR_UNSUPPORTED if the backend has no saved states. */
int vm_need_snapshots(struct machine *m, struct error *err);
void vm_kill(struct machine *m);
int vm_power_button(struct machine *m, struct error *err);
int vm_reset(struct machine *m, struct error *err);
int vm_pause(struct machine *m, struct error *err);
int vm_resume(struct machine *m, struct error *err);
int vm_eject(struct machine *m, const char *disk, struct error *err);
int vm_qmp(struct machine *m, const char *command, json_t *args, uint64_t timeout_ns, json_t **ret,
	   struct error *err);

/* A JSON string of any bytes: where they are no UTF-8 (a text was cut in mid-character, a VMM's
 * words),
 * '?' stands for what is not ASCII. */
json_t *machine_json_text(const char *text);
/* Tells the world; takes fields (may be NULL). */
void machine_emit(struct machine *m, const char *type, json_t *fields);
void machine_set_state(struct machine *m, enum machine_state state, const char *reason);
/* "machine 'x' cannot …" for what only a running machine does. */
int machine_need_running(struct machine *m, const char *verb, struct error *err);

/* --- power.c, for snapshot.c --- */

/* One fiber at a time starts, kills, saves. */
int power_lock(struct machine *m, struct error *err);
void power_unlock(struct machine *m);
/* Image and backend, before the first start. */
int power_prepare(struct machine *m, struct error *err);
/* A VMM is about to be started; nothing of the last one counts. */
void power_begin(struct machine *m);
/* It could not be. */
void power_failed(struct machine *m);
void power_emit_vmm(struct machine *m, const struct vm_streams *s);
int power_paused_error(struct machine *m, struct error *err);

/* --- snapshot.c --- */

/* The instant that is being saved: the console and the VMM's events until now belong to it. */
void snapshot_on_saving(void *userdata);

/* --- watch.c: what happens to it --- */

extern const struct vm_events machine_vm_events;
extern const struct agent_callbacks machine_agent_callbacks;
extern const struct console_callbacks machine_console_callbacks;
/* Everything that waits for the guest fails with err from now on; state CRASHED. */
void machine_crash(struct machine *m, const struct error *err);
void machine_new_session(struct machine *m, const struct error *why);
/* The VMM has ended: drains, decides between OFF and CRASHED. */
void machine_vmm_ended(struct machine *m, bool clean, const char *how);
/* A new boot begins: nothing is known of it yet. */
void boot_begin(struct machine *m, uint64_t begin_ns);

/* --- panic.c --- */

void panic_line(struct machine *m, const char *line);
void panic_from_vmm(struct machine *m);
/* Nothing more will come: what was collected counts. */
void panic_finish(struct machine *m);
void panic_done(struct machine *m);
