/* SPDX-License-Identifier: MIT */
/* A machine's disks: prepared once, kept over power cycles, saved and taken up again. */
#pragma once

#include "backend/qemu/argv.h"
#include "image/image.h"
#include "loop/process.h"
#include "machine/machine.h"
#include "machine/saved.h"
#include "machine/spec.h"

/*
 * What the guest writes goes into a qcow2 overlay: an unlinked file in env->work_dir, whose only
 * name is our descriptor. So it survives a power cycle, and nothing of it survives us. When the
 * machine is saved, its overlays become layers, which nobody writes again, and it gets new ones.
 */
struct qemu_overlay {
	int fd, reader_fd; /* for reading and writing; the same, for reading only. < 0: none */
};

struct qemu_stack {
	struct qemu_overlay overlay;
	int *layers; /* open for reading only, oldest first */
	unsigned n_layers;
	unsigned generation; /* of the overlay's node in the QEMU that runs; 0: as in its arguments
			      */
	uint64_t size;	     /* of what the guest sees, where there is an overlay; bytes */
};

struct qemu_disks {
	struct qemu_disk *list;	   /* strings are borrowed from `strings`, the image and the spec */
	struct qemu_stack *stacks; /* of each */
	size_t n;
	int first_fd; /* the lowest number in QEMU */
	char **strings;
};

/* What the disks are, without any overlay; those that need one have list[i].overlay_fd >= 0 (and
 * no overlay in stacks[i]). Looks at the files of the definition, does not wait. */
int qemu_disks_layout(struct qemu_disks *d, const struct machine_spec *spec,
		      const struct machine_env *env, const struct image *image, int first_fd,
		      struct error *err);
/* The layout, with empty overlays, on the layers of a saved state (NULL: on none). Does not wait.
 */
int qemu_disks_prepare(struct qemu_disks *d, const struct machine_spec *spec,
		       const struct machine_env *env, const struct image *image, int first_fd,
		       const struct saved *from, struct error *err);
void qemu_disks_done(struct qemu_disks *d);

/* For the child QEMU: ours, with the numbers there that `list` tells of. */
size_t qemu_disks_n_fds(const struct qemu_disks *d);
void qemu_disks_fill_fds(const struct qemu_disks *d, struct spawn_fd *fds);

/* An empty one, unlinked, not in use yet. */
int qemu_overlay_new(uint64_t size, const struct machine_env *env, struct qemu_overlay *ret,
		     struct error *err);
void qemu_overlay_done(struct qemu_overlay *o);
int qemu_reopen_readonly(int fd, struct error *err);
/* The overlay of disk i becomes its newest layer; takes the new one. */
void qemu_disks_push(struct qemu_disks *d, size_t i, struct qemu_overlay *overlay);
/* QEMU was started with them: nodes have the names of its arguments. */
void qemu_disks_restarted(struct qemu_disks *d);
/* All layers, and with_overlays the overlays on top of them, into a saved state. */
int qemu_disks_save(const struct qemu_disks *d, bool with_overlays, struct saved *s,
		    struct error *err);

/* Gives each disk its place in the boot order; `boot` (or NULL) names the one that comes first.
 * ERROR_USAGE if there is no such disk. */
int qemu_disks_set_boot(struct qemu_disks *d, const struct machine_spec *spec, const char *boot,
			struct error *err);
