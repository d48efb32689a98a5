/* SPDX-License-Identifier: MIT */
/* A machine's disks: prepared once, kept over power cycles, gone with the machine. */
#pragma once

#include "backend/qemu/argv.h"
#include "image/image.h"
#include "loop/process.h"
#include "machine/machine.h"
#include "machine/spec.h"

/*
 * What the guest writes goes into qcow2 overlays: unlinked files in env->work_dir, whose only name
 * is our descriptor. So they survive a power cycle, and nothing of them survives us.
 */
struct qemu_disks {
	struct qemu_disk *list; /* strings are borrowed from `strings`, the image and the spec */
	struct spawn_fd *fds;	/* of the overlays: ours, and the number in QEMU */
	size_t n, n_fds;
	char **strings;
};

/* The overlays' numbers in QEMU begin with first_fd. Does not wait. */
int qemu_disks_prepare(struct qemu_disks *d, const struct machine_spec *spec,
		       const struct machine_env *env, const struct image *image, int first_fd,
		       struct error *err);
void qemu_disks_done(struct qemu_disks *d);

/* Gives each disk its place in the boot order; `boot` (or NULL) names the one that comes first.
 * ERROR_USAGE if there is no such disk. */
int qemu_disks_set_boot(struct qemu_disks *d, const struct machine_spec *spec, const char *boot,
			struct error *err);
