/* SPDX-License-Identifier: MIT */
/* QEMU's command line, from a plain description of the machine. Pure: looks at nothing. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/util.h"

/* What `qemu-system-… --version` says, and what is installed beside it. */
struct qemu_version {
	int major, minor, micro;
	/* Debian's and upstream's builds know pc-q35-<version>; RHEL's qemu-kvm has types of its
	 * own, and there the unversioned alias is used. */
	bool has_upstream_types;
	bool has_qboot; /* its ROMs include qboot.rom */
};

static inline bool qemu_version_at_least(const struct qemu_version *v, int major, int minor)
{
	return v->major > major || (v->major == major && v->minor >= minor);
}

/*
 * A disk is one of:
 *   path, no overlay     the file itself, read-only or (readonly = false) written through
 *   path and overlay_fd  a qcow2 on top of the file, which stays as it is
 *   overlay_fd alone     a qcow2
 * Under the overlay, on the path or on nothing, lie the layers of saved states, which stay as they
 * are, too.
 *
 * Descriptors are the numbers that they have in QEMU, one behind the other: overlay_fd (for reading
 * and writing), overlay_fd + 1 (the same file for reading only: QEMU opens it so when it becomes a
 * layer), and from overlay_fd + 2 on the layers, oldest first.
 */
struct qemu_disk {
	const char *name;   /* the guest's serial number of it; node and device are disk-<name> */
	const char *path;   /* absolute, or NULL */
	const char *format; /* of path: "raw" or "qcow2" */
	int overlay_fd;	    /* -1: none */
	unsigned n_layers;
	bool readonly;
	bool cdrom;
	bool ejected;  /* a CD-ROM's: the drive is empty */
	int bootindex; /* -1: none */
};

/* How many descriptors a disk has in QEMU. */
static inline unsigned qemu_disk_n_fds(const struct qemu_disk *d)
{
	return d->overlay_fd >= 0 ? 2 + d->n_layers : 0;
}

enum qemu_memory {
	QEMU_MEMORY_OWN,     /* of its own, nothing on any file system */
	QEMU_MEMORY_SAVABLE, /* memory_fd, written to: what a fork starts from afterwards */
	QEMU_MEMORY_FORK,    /* memory_fd, mapped privately: it stays as it is */
};

struct qemu_config {
	const char *program;
	const char *name;
	const char *machine; /* "q35" or "microvm" */
	struct qemu_version version;
	bool kvm;
	unsigned cpus; /* 0: one */
	uint64_t memory_bytes;
	enum qemu_memory memory;
	int memory_fd; /* not with QEMU_MEMORY_OWN */
	bool incoming; /* waits for the QMP command migrate-incoming */

	int qmp_fd, console_fd;
	int agent_fd; /* -1: no port */

	const char *kernel; /* NULL: the firmware boots a disk */
	const char *initrd; /* may be /proc/self/fd/<n> */
	const char *cmdline;

	const struct qemu_disk *disks;
	size_t n_disks;

	json_t *credentials;  /* object of strings, or NULL */
	const char *rtc_base; /* "utc" (NULL), or a point in time as -rtc base= takes it */
	bool display;	      /* a graphics card, for screenshots */
	bool pvpanic;	      /* a device by which the guest's kernel can report a panic */
	char *const *extra_args;
};

/* The oldest QEMU whose command line we speak. */
#define QEMU_VERSION_MIN_MAJOR 6
#define QEMU_VERSION_MIN_MINOR 2

/* Whether the firmware is qboot, not SeaBIOS. */
bool qemu_uses_qboot(const struct qemu_config *c);

/* ret: a new strv. ERROR_USAGE: the definition asks for what cannot be put into a command line. */
int qemu_build_argv(const struct qemu_config *c, char ***ret, struct error *err);

/* An overlay as a node for -blockdev or blockdev-add, of a file in that fdset; takes backing (a
 * node, a node's name, or JSON null). */
json_t *qemu_overlay_node(const char *name, int fdset, json_t *backing);

/* For people: shell-quoted, one option with its value a line; malloc'd, ends with a newline. */
char *qemu_format_argv(char *const *argv);
