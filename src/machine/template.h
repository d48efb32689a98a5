/* SPDX-License-Identifier: MIT */
/* The template store: saved machines, kept across runs, found by everything that made them. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/file.h"
#include "machine/machine.h"
#include "machine/saved.h"

/*
 * Two levels (DESIGN, "What nobody else has"):
 *
 *	a booted machine	key: template_boot_key(), one machine
 *	a group after `setup`	key: made by the runner of the boot keys of all its machines and
 *				of all that setup consists of; any number of machines
 *
 * Both are one thing to the store: a directory templates/<key12>/ with a manifest and, for each
 * machine, its files. It appears under its name by rename(2) when everything in it is complete, is
 * locked like an image, and is never written again but for its time of use and cost. Guest RAM lies
 * in it or on a tmpfs (/dev/shm, $ASSAY_TMPFS; whichever has the room). The state file's digest is
 * checked at every open, of the larger files size, mtime and inode. A template counts in the boot
 * of the host that made it only: nothing of it is synced to disk.
 */

/* What makes a booted machine what it is, as a hex digest: image, agent build, definition (but for
 * `autostart`, so a group's key needs that of its machines besides), hypervisor (backend's words:
 * version, machine type, CPU, ROMs, argv without paths). The image must exist. ERROR_UNSUPPORTED
 * (with the reason in words that complete "booted anew, as …"): the machine cannot be saved (a disk
 * that is written through, no agent, a backend that cannot). Fiber only. */
int template_boot_key(const struct machine_spec *spec, const struct machine_env *env,
		      char ret[DIGEST_HEX_MAX], struct error *err);

struct template_machine {
	char *name;
	struct saved *saved; /* NULL: it was never started, a test finds it off as defined */
};

/* What a template is made of, in memory. */
struct template
{
	char key[DIGEST_HEX_MAX];
	char *title;   /* for lists: "server (debian-13 + nginx)", "examples/nginx.lua: setup" */
	json_t *notes; /* object; the runner's: the setup's return value, events, host files read */
	struct template_machine *machines;
	size_t n_machines;
	uint64_t fork_bytes; /* host memory that a fork was measured to take; 0: not yet */
	int lock_fd;	     /* of an opened one: shared, keeps it from being removed */
};
void template_free(struct template *t); /* NULL-safe */

/* 1 and *ret: found, verified, used now. 0: there is none. -errno: it is there and broken (what
 * is wrong in err); it has been thrown away then. Does not wait. */
int template_open(const char *key, struct template **ret, struct error *err);

/* Whoever makes a template holds this lock from before template_open() said 0 until the commit, so
 * that two runs make it once. Fiber only; the lock is the descriptor. */
int template_lock(const char *key, int *ret_fd, struct error *err);

/* Where the files of a template under construction are made (unlinked): memory for bytes of RAM,
 * and overlays and states. malloc'd; both on file systems from where template_commit() can link.
 * ENOSPC/INFRA: there is no room for the memory. Does not wait. */
int template_work_dirs(uint64_t memory_bytes, char **ret_memory_dir, char **ret_work_dir,
		       struct error *err);

/* Where memory of that size would go now, what is free there, and (ret_why, untouched if it is the
 * tmpfs) why not to the tmpfs. For `assay doctor`. */
int template_memory_place(uint64_t memory_bytes, char **ret_dir, uint64_t *ret_free_bytes,
			  struct error *ret_why, struct error *err);

/* Links the files of t into the store (copies what cannot be linked) and gives it its name, instead
 * of one with the same key. t needs no lock_fd. Then keeps the store within its limit. All or
 * nothing: an error (ENOSPC/INFRA) leaves nothing behind. Does not wait, but for the copying. */
int template_commit(const struct template *t, struct error *err);

/* Throws one away (it did not restore, say); 0 if there is none. Those who have it open go on. Does
 * not wait. */
int template_discard(const char *key, struct error *err);
/* Remembers what a fork took (the largest seen counts). Never fails. */
void template_note_cost(const char *key, uint64_t bytes);

struct template_info {
	char key[DIGEST_HEX_MAX];
	char *title;
	uint64_t bytes;	       /* blocks on disk and tmpfs */
	uint64_t memory_bytes; /* of these, on the tmpfs: the host's memory */
	uint64_t created;      /* seconds since the epoch */
	uint64_t used_ns;      /* since the epoch */
	bool in_use;
};
/* Most recently used first; those that count no more are left out. */
int template_list(struct template_info **ret, size_t *ret_n, struct error *err);
void template_infos_free(struct template_info *infos, size_t n);
/* Removes what counts no more, then the least recently used, until all together are no larger (and
 * those on the tmpfs no larger than a quarter of the host's memory); those in use stay. Does not
 * wait. ret_freed_bytes may be NULL. */
int template_prune(uint64_t max_bytes, uint64_t *ret_freed_bytes, struct error *err);
/* Bytes on disk and tmpfs of everything in the store. */
int template_store_usage(uint64_t *ret_bytes, struct error *err);
