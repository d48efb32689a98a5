/* SPDX-License-Identifier: MIT */
/* What the files of the QEMU backend share: a machine, and its operations. */
#pragma once

#include "backend/qemu/argv.h"
#include "backend/qemu/disks.h"
#include "backend/qemu/run.h"
#include "machine/backend.h"

/* QEMU answers such commands at once; more than that means that it hangs, with its disk or host. */
#define COMMAND_TIMEOUT_NS (60 * NS_PER_SEC)

struct qemu_launch;

struct qemu_vm {
	struct vm vm; /* first */
	char *program;
	struct qemu_version version;
	struct qemu_disks disks;
	bool has_disks;
	int initrd_fd; /* IMAGE_LAYERED: ours, made at the first start */
	unsigned n_starts;

	struct qemu_run *run; /* NULL: off; cleared by the run itself */
	bool kvm;	      /* of the last run, as are these: */
	int memory_fd;	      /* of one that was started savable; else < 0 */
	json_t *power_on;     /* "kernel", "cmdline", "boot" as they were asked for, if so */
	json_t *ejected;      /* names of disks */
	unsigned n_overlays;  /* that were put on disks while it ran */

	struct qemu_launch *waiting; /* started for a state that is expected, or NULL */
};

static inline struct qemu_vm *qemu_vm(struct vm *vm)
{
	return container_of(vm, struct qemu_vm, vm);
}

/* --- start.c --- */

int qemu_start(struct vm *vm, const struct vm_start *how, struct vm_streams *ret,
	       struct error *err);
void qemu_prestart(struct vm *vm, const struct vm_start *how);
/* Ends what waits; harmless when nothing does. */
void qemu_forget_prestart(struct qemu_vm *q);
/* The definition's word counts before the command line's; "auto" (or nothing) asks the probe. */
int qemu_choose_accel(const struct vm_init *init, bool *ret_kvm, char reason[256],
		      struct error *err);
/* The configuration but for disks and memory; strings that had to be made go to *strings. */
void qemu_describe(const struct vm_init *init, const struct vm_start *how, const char *program,
		   const struct qemu_version *version, bool kvm, unsigned tsc_khz,
		   struct qemu_config *ret, char ***strings);

/* --- save.c --- */

int qemu_save(struct vm *vm, bool keep, struct saved **ret, struct error *err);
/* ERROR_UNSUPPORTED for a disk that lies outside of what is saved. */
int qemu_check_savable(const struct machine_spec *spec, struct error *err);

/* --- state-key.c --- */

int qemu_state_key(const struct vm_init *init, const struct image *image, struct buf *ret,
		   struct error *err);
