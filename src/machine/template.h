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
 * Both are one thing to the store: a directory templates/<key12…>/ with a manifest and, for each
 * machine, its files. It appears under its name by rename(2) when everything in it is complete, is
 * locked like an image, and is never written again but for its time of use. Guest RAM lies in it
 * or on a tmpfs (whichever has the room; the manifest says where). The state file's digest is
 * checked at every open, of the larger files size, mtime and inode.
 */

/* What makes a booted machine what it is, as a hex digest: image, agent build, definition,
 * hypervisor (backend's words: version, machine type, CPU, ROMs, argv without paths). The image
 * must exist. ERROR_UNSUPPORTED (with the reason in words that complete "booted anew, as …"): the
 * machine cannot be saved (a disk that is written through, no agent, a backend that cannot). Fiber
 * only. */
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
 * and overlays and states. malloc'd; both on file systems from where template_commit() can link. */
int template_work_dirs(uint64_t memory_bytes, char **ret_memory_dir, char **ret_work_dir,
		       struct error *err);

/* Links the files of t into the store and gives it its name. All or nothing. Fiber only. */
int template_commit(const struct template *t, struct error *err);

/* Throws one away (it did not restore, say). Those who have it open go on. Fiber only. */
int template_discard(const char *key, struct error *err);
/* Remembers what a fork took (the largest seen counts). Never fails. */
void template_note_cost(const char *key, uint64_t bytes);

struct template_info {
	char key[DIGEST_HEX_MAX];
	char *title;
	uint64_t bytes; /* blocks on disk and tmpfs */
	uint64_t created, used;
	bool in_use;
};
int template_list(struct template_info **ret, size_t *ret_n, struct error *err);
void template_infos_free(struct template_info *infos, size_t n);
/* Least recently used first, until all together are no larger; those in use stay. Fiber only. */
int template_prune(uint64_t max_bytes, uint64_t *ret_freed_bytes, struct error *err);
