/* SPDX-License-Identifier: MIT */
/* What a backend is: one const struct of operations, a capability mask, and how it reports back. */
#pragma once

#include <jansson.h>

#include "base/buf.h"
#include "base/error.h"
#include "image/image.h"
#include "loop/io.h"
#include "machine/machine.h"
#include "machine/saved.h"
#include "machine/spec.h"

/*
 * Theory of operation
 *
 * A backend makes a virtual (or real) machine run and says what happens to it. It knows nothing
 * of the agent's protocol, of consoles' text, of the test: it hands two byte streams upwards and
 * calls back when something happened. Only machine/machine.c calls these operations: it asserts
 *state and capability, logs, calls, and asserts that a failure filled the error. (machine/caps.c
 *asks a backend, not a machine: available, caps, cost_bytes.)
 *
 *	open ──► [ start ──► (running; events) ──► on_exit ] … any number of times ──► close
 *
 * Ownership. `struct vm` is made by open(), embedded as the first member of the backend's own
 * struct, freed by close(). It lives over power cycles, so whatever must survive one lives there:
 * above all the disks, which the *backend* prepares at the first start and keeps (descriptors of
 * unlinked files in env->work_dir) until close().
 *
 * Contexts. Operations run on a fiber and may wait (each wait is bounded by the caller's nested
 * deadlines, plus the time-out that it is given); open(), close() and those said so do not wait.
 * If a waiting operation is cancelled it cleans up and returns -ECANCELED. Two operations may be
 * under way on one vm from different fibers (a qmp() and a pause(), a kill() beside anything):
 * an operation whose VMM goes away fails with ERROR_CRASH. start() and kill() are serialised by the
 * core.
 *
 * Errors. A failure fills err with a sentence for the person; the core prefixes "machine 'x': ".
 * ERROR_INFRA: the host's fault (no memory, VMM will not start: with the VMM's last lines on stderr
 * in the message). ERROR_USAGE: the definition's fault. ERROR_CRASH: the VMM died meanwhile.
 */
struct vm;

/* The VMM has ended. Strings are borrowed for the call. */
struct vm_exit {
	/* The guest powered itself off or power_button() made it: an orderly end. False for
	 * anything else: a crash of the VMM, a signal, a non-zero status, kill(). */
	bool clean;
	const char *how;	/* "qemu-system-x86_64 was killed by signal 9 (Killed)" */
	const char *last_lines; /* the VMM's last lines on stderr, "" if none */
};

/*
 * What the backend tells the core, from any context (fiber or main stack). They never wait and
 * never call back into the backend, so they may be called in the middle of anything. Those of one
 * vm come in the order in which the things happened: everything that QMP said before the VMM's end
 * is delivered before on_exit.
 */
struct vm_events {
	/* Exactly once for each successful start(), also for kill(), where it is called before
	 * kill() returns. The streams may still hold unread bytes; the core drains them. After a
	 * start() that failed it is not called. */
	void (*on_exit)(const struct vm_exit *e, void *userdata);
	/* The machine went through a reset and goes on in the same VMM. by_guest: it did that
	 * itself (a reboot, a triple fault, a watchdog); false: reset() was called. reason: QMP's
	 * name for it ("guest-reset", "host-qmp-system-reset") or NULL. */
	void (*on_reset)(bool by_guest, const char *reason, void *userdata);
	/* The guest turns itself off; on_exit (clean) follows. reason as in QMP's SHUTDOWN. */
	void (*on_shutdown)(bool by_guest, const char *reason, void *userdata);
	/* The VMM saw a panic (pvpanic, hyper-v crash registers). info may be NULL; borrowed. The
	 * VMM must let the guest run on, so that the console says the rest. */
	void (*on_panic)(json_t *info, void *userdata);
	/* vCPUs stopped or went on, by pause(), resume(), or for a reason of the VMM's own (an I/O
	 * error of a full disk: reason "io-error: …"; else NULL). */
	void (*on_stopped)(bool stopped, const char *reason, void *userdata);
	/* save() only: the vCPUs stand still, at the instant that is being saved; what the guest
	 * has written until now is in the streams. */
	void (*on_saving)(void *userdata);
	/* Every event of the VMM, those above included, as the VMM named it; the core keeps them
	 * all. data: object or NULL, borrowed. at_ns: CLOCK_MONOTONIC. */
	void (*on_event)(const char *name, json_t *data, uint64_t at_ns, void *userdata);
};

/* What open() is given. All of it is borrowed and outlives the vm. */
struct vm_init {
	const struct machine_spec *spec;
	const struct machine_env *env;
	const struct vm_events *events;
	void *userdata;
};

/* The part of a vm that the core sees; the backend's struct begins with it. The backend copies init
 * into it at open(). */
struct vm {
	const struct backend_ops *ops;
	struct vm_init init;
};

/* How to start this time. Borrowed for the call, except that the image outlives the vm. */
struct vm_start {
	/* NULL only for a backend without BACKEND_NEEDS_IMAGE. IMAGE_KERNEL where the definition
	 * has a kernel of its own. `packages` and `files` are in it already. */
	struct image *image;
	const struct machine_start_opts *opts; /* never NULL: kernel, cmdline, boot for this boot */
	bool first;			       /* first start of this vm */
	/* Start from this, not from power-off: the disks become its layers with an empty overlay of
	 * this vm's own on top, whatever they were before; with devices the guest goes on where it
	 * was (start() returns when the vCPUs run), without them it is a cold boot from these
	 * disks. NULL: a cold boot from the disks as they are. [SNAPSHOT] */
	struct saved *from;
	/* It will be saved by save(keep = false): its RAM is a file of its own in
	 * env->memory_dir (a copy of from's, if that has one), not private memory. [SNAPSHOT] */
	bool savable;
};

/* What start() hands over: the core owns it from then on. */
struct vm_streams {
	struct io *agent;   /* the agent's byte stream; NULL with spec->agent = false */
	struct io *console; /* NULL: the backend has none, or feeds the console itself */
	uint64_t epoch_ns;  /* CLOCK_MONOTONIC right before the VMM's exec: time 0 of the console's
			     * log and of boot_times */
	const char *accel;  /* "kvm", "tcg"; static; NULL: none */
	pid_t pid;	    /* of the VMM; 0: there is no process */
};

enum backend_flag {
	BACKEND_NEEDS_IMAGE = 1 << 0, /* the core finds and opens the image before start() */
};

/*
 * The operations. A member marked [CAP] may be NULL, or its capability absent from caps(): then
 * the core raises the one standard error, `backend 'x' cannot …`, and never calls it. All others
 * are there.
 */
struct backend_ops {
	const char *name;    /* "qemu": the word in `backend = "…"` and --backend */
	const char *summary; /* one line for `assay doctor` */
	unsigned flags;	     /* enum backend_flag */

	/* Can it run on this host at all? ERROR_UNSUPPORTED or ERROR_INFRA with a hint that names
	 * the package to install. May be called before any machine exists, and often: cheap (a look
	 * at PATH), no child processes, does not wait. */
	int (*available)(struct error *err);
	/* enum machine_cap on this host. May wait at its first call (accelerator probe); when not
	 * on a fiber it answers without the part that would have to wait. */
	unsigned (*caps)(void);
	/* Host memory that a machine of this kind takes, everything included. Does not wait. */
	uint64_t (*cost_bytes)(const struct machine_spec *spec);
	/* Combinations that this backend cannot do (microvm and disks' boot order, …): ERROR_USAGE
	 * or ERROR_UNSUPPORTED. For `assay check` too: looks at nothing on the host, does not wait.
	 * NULL: everything goes. */
	int (*check)(const struct machine_spec *spec, struct error *err);

	/* Per-machine data; no process, no file yet. */
	int (*open)(const struct vm_init *init, struct vm **ret, struct error *err);
	/* The VMM has ended (the core called kill()). Frees everything: disks go here. NULL-safe.
	 */
	void (*close)(struct vm *vm);

	/* Powers on: returns when the VMM runs the vCPUs (QMP greeted, `cont` done), not when the
	 * guest is up. Writes the exact command line, shell-quoted so that it can be pasted, to
	 * <env->dir>/vmm-<name>.txt (appending at later starts). On failure nothing is left running
	 * and *ret is untouched. Called only when off. */
	int (*start)(struct vm *vm, const struct vm_start *how, struct vm_streams *ret,
		     struct error *err);
	/* Power off abruptly: SIGKILL, reap; returns when it is gone. Shielded by the core. Cannot
	 * fail. Harmless when nothing runs. */
	void (*kill)(struct vm *vm);
	/* [POWEROFF] The power button (ACPI): the guest's init shuts down by itself if it wants to.
	 */
	int (*power_button)(struct vm *vm, struct error *err);
	/* [POWEROFF] The reset button. on_reset(false) follows. */
	int (*reset)(struct vm *vm, struct error *err);

	/* [PAUSE] vCPUs. Return when it is done; on_stopped was called by then. */
	int (*pause)(struct vm *vm, struct error *err);
	int (*resume)(struct vm *vm, struct error *err);

	/* [SNAPSHOT] Everything at one instant; the agent is frozen already. Disks' overlays become
	 * immutable layers. keep: the machine gets new overlays and goes on (its vCPUs run again
	 * when this returns, unless pause() had stopped them). Not keep: the VMM is gone when this
	 * returns, as after kill(); what was started `savable` has its RAM in a file of its own,
	 * else it is in the stream. Without a running VMM: the disks only. On failure the machine
	 * goes on if it can (keep), or is gone. */
	int (*save)(struct vm *vm, bool keep, struct saved **ret, struct error *err);
	/* [SNAPSHOT] A hint that start() with this how->from will come, if how->from has devices:
	 * the VMM may be started to where it waits for them. Only when off; failures are silent.
	 * Ends with start() or kill(). NULL: does nothing. */
	void (*prestart)(struct vm *vm, const struct vm_start *how);
	/* [SNAPSHOT] What a saved state depends on besides image, agent and definition: appended to
	 * ret as lines of text (version, versioned machine type, accelerator and CPU, ROM digests,
	 * argv without paths and descriptors). ERROR_UNSUPPORTED: a machine so defined cannot be
	 * saved; the message says why. May wait (programs asked for their version). */
	int (*state_key)(const struct vm_init *init, const struct image *image, struct buf *ret,
			 struct error *err);

	/* [DISKS] By the disk's name in the spec; opens the tray and removes the medium. */
	int (*eject)(struct vm *vm, const char *disk, struct error *err);

	/* [QMP] args borrowed, may be NULL; ret gets the "return" member (new reference) and may be
	 * NULL. An error reply is ERROR_EXPECT with class and desc. */
	int (*qmp)(struct vm *vm, const char *command, json_t *args, uint64_t timeout_ns,
		   json_t **ret, struct error *err);
};

/* All backends, the default first, ends with NULL. Listed by hand in machine/registry.c, which is
 * linked into each program that starts machines (dep_backends), so that the static library of
 * the machine layer needs no backend. */
extern const struct backend_ops *const backend_registry[];

/* By name, or the default for NULL. ERROR_USAGE with the nearest name. */
int backend_find(const char *name, const struct backend_ops **ret, struct error *err);

extern const struct backend_ops backend_qemu; /* backend/qemu */
extern const struct backend_ops backend_fake; /* backend/fake */
