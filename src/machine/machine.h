/* SPDX-License-Identifier: MIT */
/* The machine model: what a machine is, what state it is in, and the only way to a backend. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "channel/agent.h"
#include "console/console.h"
#include "machine/spec.h"

/*
 * States
 *
 *            start                    agent's HELLO (agent = true), VMM runs (agent = false)
 *   off ───────────► starting ───────────────► up ◄──► paused
 *    ▲                   │                      │
 *    │ shutdown, unplug, │ VMM died, panic      │ VMM died, panic, reset or reboot unasked for
 *    └───────────────────┴──────► crashed ◄─────┘        (start, wait_for_boot lead out of it)
 *
 * Every machine is watched all the time: its VMM's exit, EOF on any channel, a kernel panic on the
 * console, a reset. Any of these ends every pending call at once with that as the reason, and
 * later ones too until the machine was started or has booted again.
 */
enum machine_state {
	MACHINE_OFF,
	MACHINE_STARTING,
	MACHINE_UP,
	MACHINE_PAUSED,
	MACHINE_CRASHED,
};
const char *machine_state_name(enum machine_state s); /* "off", "starting", … */

struct machine;

/* What the machine's surroundings give it; borrowed, outlives the machine. */
struct machine_env {
	const char *dir;	/* report folder of the test: console-<name>.log, vmm-<name>.txt */
	const char *work_dir;	/* scratch space on a real disk for unlinked overlays */
	const char *memory_dir; /* all of them will be saved: their RAM files; NULL: they will not,
				 * unless a start says so (work_dir then) */
	const char *base_dir;	/* relative host paths in the spec are relative to this */
	const char *accel;	/* "auto", "kvm", "tcg" as asked on the command line */
	bool debug_boot;
	bool tell_console; /* "console" events as well: { text } for each line */
	/* Something happened: type "state", "boot", "panic", "vmm", "console-dropped", …; fields is
	 * borrowed. Must not wait. */
	void (*emit)(void *userdata, const char *machine, const char *type, json_t *fields);
	void *userdata;
};

/* The spec is borrowed for the machine's life. No process is started yet. */
int machine_new(const struct machine_spec *spec, const struct machine_env *env,
		struct machine **ret, struct error *err);
/* Kills what runs (no orderly shutdown), reaps, removes. Shielded against cancellation. */
void machine_free(struct machine *m);

const char *machine_name(const struct machine *m);
const struct machine_spec *machine_get_spec(const struct machine *m);
enum machine_state machine_get_state(const struct machine *m);
struct console *machine_console(struct machine *m);
/* "kvm" or "tcg" once started; NULL before, and for backends without an accelerator. */
const char *machine_accel(const struct machine *m);

/* --- power and life (timeouts relative, ns) --- */

struct machine_start_opts {
	bool no_wait;	    /* return when the VMM runs */
	bool savable;	    /* it will be saved as a template */
	const char *kernel; /* for this boot only */
	const char *cmdline;
	const char *boot; /* name of the disk to boot from */
};
/* Off or crashed → up. Already up or starting: waits for the agent only. opts may be NULL. */
int machine_start(struct machine *m, const struct machine_start_opts *opts, uint64_t timeout_ns,
		  struct error *err);
int machine_shutdown(struct machine *m, uint64_t timeout_ns, struct error *err);
int machine_unplug(struct machine *m, struct error *err); /* abrupt; no error when off */
int machine_reboot(struct machine *m, uint64_t timeout_ns, struct error *err);
int machine_reset(struct machine *m, struct error *err); /* returns at once */
int machine_wait_shutdown(struct machine *m, uint64_t timeout_ns, struct error *err);
/* Until the agent answers under another boot id than the last one seen by a call of the test. */
int machine_wait_boot(struct machine *m, uint64_t timeout_ns, struct error *err);
/* {"message": …, "trace": …}; consumes the panic. */
int machine_wait_panic(struct machine *m, uint64_t timeout_ns, json_t **ret, struct error *err);
int machine_pause(struct machine *m, struct error *err);
int machine_continue(struct machine *m, struct error *err);
int machine_eject(struct machine *m, const char *disk, struct error *err);
bool machine_is_up(const struct machine *m);
/* A panic that nobody consumed: fills err (ERROR_CRASH) and returns -errno; else 0. Asked at the
 * end of a test; resets the mark. Waits, up to 0.3 s, for the rest of one that is being told. */
int machine_check_panic(struct machine *m, struct error *err);
/* Seconds: {"firmware":, "kernel":, "initrd":, "userspace":, "agent":, "total":}, absent where
 * unknown. Waits until userspace has settled. */
int machine_boot_times(struct machine *m, uint64_t timeout_ns, json_t **ret, struct error *err);

/* Until the guest has come to rest after its boot: a shell was run once, udev's queue is empty, and
 * its processors were idle for nine tenths of a quarter of a second. One that never rests is left
 * alone at the time-out: 0, as for a guest that does not tell. ERROR_CRASH if it dies. */
int machine_wait_idle(struct machine *m, uint64_t timeout_ns, struct error *err);

/* The agent, for calls of channel/agent.h. Starts the machine if it is off; ERROR_CRASH while it
 * is crashed; ERROR_USAGE with agent = false. The pointer stays valid for the machine's life. */
int machine_agent(struct machine *m, uint64_t timeout_ns, struct agent **ret, struct error *err);

/* An agent call that was under way when the machine died fails with what the channel saw of it.
 * This puts the machine's own reason in its place (the panic, the VMM's status), waiting a moment
 * for it if it is not known yet. Any other kind of error is left alone. Returns -err->code. */
int machine_explain_crash(struct machine *m, struct error *err);

/* --- saved states (saved.h) --- */

struct saved;

/*
 * Freezes the agent, saves memory, devices and disks at one instant. keep: the machine goes on (a
 * snapshot within a test). Not keep: it is off afterwards (a template); it must have been started
 * or restored with `savable`. A machine that is off is saved as its disks only. ERROR_UNSUPPORTED:
 * the backend cannot. ERROR_USAGE: it is crashed or booting. *ret: a new reference.
 */
int machine_save(struct machine *m, bool keep, uint64_t timeout_ns, struct saved **ret,
		 struct error *err);

/* The same for several machines, all at one instant: none moves while any is saved. ret: room for
 * n. All or none. */
int machine_save_all(struct machine *const *machines, size_t n, bool keep, uint64_t timeout_ns,
		     struct saved **ret, struct error *err);

struct machine_restore_opts {
	bool savable;		/* it will be saved as a template */
	const char *machine_id; /* 32 hex digits: a new one for this fork; NULL: as it was */
};
/*
 * Whatever the machine is doing ends; it goes on from the saved state: returns when the agent has
 * thawed (clock right, entropy fresh) and the machine is up; or, if it was off when it was saved,
 * is off with these disks. opts may be NULL. Any number of times, also on another machine of the
 * same definition. What does not restore is ERROR_INFRA.
 */
int machine_restore(struct machine *m, struct saved *from, const struct machine_restore_opts *opts,
		    uint64_t timeout_ns, struct error *err);
/* The same for several machines, side by side. The first error counts; the others are restored, or
 * have failed, too, when it returns. */
int machine_restore_all(struct machine *const *machines, struct saved *const *from, size_t n,
			const struct machine_restore_opts *opts, uint64_t timeout_ns,
			struct error *err);
/* Starts the VMM that a later machine_restore() of the same state will use, to the point where it
 * waits for the state. Optional; a hint only: failures are silent. Fiber only. */
void machine_prestart(struct machine *m, struct saved *from);

/* --- hypervisor --- */

int machine_qmp(struct machine *m, const char *command, json_t *args /* borrowed, may be NULL */,
		uint64_t timeout_ns, json_t **ret, struct error *err);
/* match may be NULL; since_start: also events of the past (none is dropped). */
int machine_wait_qmp_event(struct machine *m, const char *name,
			   bool (*match)(json_t *data, void *userdata), void *userdata,
			   bool since_start, uint64_t timeout_ns, json_t **ret, struct error *err);

/* --- what a backend can do --- */

enum machine_cap {
	MACHINE_CAP_AGENT = 1 << 0,
	MACHINE_CAP_CONSOLE = 1 << 1,
	MACHINE_CAP_POWEROFF = 1 << 2, /* power control */
	MACHINE_CAP_PAUSE = 1 << 3,
	MACHINE_CAP_SNAPSHOT = 1 << 4,
	MACHINE_CAP_SCREEN = 1 << 5,
	MACHINE_CAP_KEYBOARD = 1 << 6,
	MACHINE_CAP_QMP = 1 << 7,
	MACHINE_CAP_DISKS = 1 << 8,
	MACHINE_CAP_UEFI = 1 << 9,
	MACHINE_CAP_TPM = 1 << 10,
	MACHINE_CAP_VSOCK = 1 << 11,
	MACHINE_CAP_NET = 1 << 12,
	MACHINE_CAP_OCR = 1 << 13,
	MACHINE_CAP_KVM = 1 << 14, /* this host can accelerate (probed) */
};
/* Name from the spec's `needs` ("snapshot", "screen", …) to a capability; 0 if unknown. */
unsigned machine_cap_from_name(const char *name);
const char *const *machine_cap_names(void); /* NULL-terminated */
/* Capabilities of a backend on this host. ERROR_USAGE for an unknown backend (nearest name). */
int backend_caps(const char *backend, unsigned *ret, struct error *err);
/* Can this backend run here at all? ERROR_UNSUPPORTED/INFRA with message and hint if not (no QEMU
 * on the host: names the package). */
int backend_available(const char *backend, struct error *err);
/* Can it run a machine so defined? Looks at nothing on the host. ERROR_USAGE, ERROR_UNSUPPORTED. */
int backend_check(const struct machine_spec *spec, struct error *err);
const char *const *backend_names(void); /* NULL-terminated, default first */
/* Memory on the host that a machine of this spec takes, for the scheduler. */
uint64_t machine_cost_bytes(const struct machine_spec *spec);

/* The accelerator probe (DESIGN §6), cached per boot in the runtime directory. */
struct accel_verdict {
	bool kvm;	      /* usable for 64-bit kernel-mode code at native speed */
	char reason[256];     /* why (not) */
	double timeout_scale; /* KVM 1, TCG 4 (never below) */
};
int accel_probe(struct accel_verdict *ret, struct error *err);
