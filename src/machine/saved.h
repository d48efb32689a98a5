/* SPDX-License-Identifier: MIT */
/* A machine's state, saved: what a fork starts from. */
#pragma once

#include <jansson.h>

#include "base/error.h"

/*
 * Memory, devices and disks at one instant, as descriptors, so that it does not matter whether they
 * are files of the template store or unlinked ones of a snapshot. Immutable from the moment it is
 * made; any number of machines may start from it, at the same time. Nobody writes to any of these
 * files again.
 *
 *	devices_fd	the hypervisor's own format (QEMU: its migration stream); -1: the machine
 *			was off, and only its disks count
 *	memory_fd	the guest's RAM, sparse, to be mapped privately; -1: it is in devices_fd
 *	disks		for each disk that the guest can write: its layers, oldest first, each an
 *			overlay on the one before, the first on what the definition says
 *	vm		what the backend needs to know to take it up again (its own format)
 *	core		what the machine model knew: boot id, boot times, whether it was up, …
 *
 * Descriptors are open for reading and writing where the file allows it; who needs another mode
 * opens /proc/self/fd/<n> again.
 */
struct saved_disk {
	char *name;
	int *layers;
	size_t n_layers;
};

struct saved {
	unsigned n_ref;
	int devices_fd;
	int memory_fd;
	struct saved_disk *disks;
	size_t n_disks;
	json_t *vm, *core; /* objects */
};

/* No descriptors yet, vm and core empty objects. */
struct saved *saved_new(void);
struct saved *saved_ref(struct saved *s);
struct saved *saved_unref(struct saved *s); /* closes with the last one; returns NULL; NULL-safe */
void cleanup_saved(struct saved **s);
#define _cleanup_saved_ _cleanup_(cleanup_saved)
/* Takes the fd as the disk's next layer. */
void saved_push_layer(struct saved *s, const char *disk, int fd);
const struct saved_disk *saved_find_disk(const struct saved *s, const char *name);
