/* SPDX-License-Identifier: MIT */
/* From a machine's definition and image to the description that the command line is made of. */
#pragma once

#include "backend/qemu/argv.h"
#include "image/image.h"
#include "machine/backend.h"

/* The descriptors' numbers in QEMU: always the same, so that command lines can be compared. */
enum {
	QEMU_FD_QMP = 10,
	QEMU_FD_CONSOLE = 11,
	QEMU_FD_AGENT = 12,
	QEMU_FD_INITRD = 13,
	QEMU_FD_MEMORY = 14,
	QEMU_FD_DISKS = 15, /* and upwards */
};

#define QEMU_INITRD_PATH "/proc/self/fd/13" /* QEMU_FD_INITRD */

/* Kernel, initramfs and command line; strings that had to be made are pushed to *strings. An
 * initramfs of ours (IMAGE_LAYERED) is expected at QEMU_FD_INITRD. tsc_khz: see tsc.h; 0 under KVM,
 * where the guest has better clocks. */
void qemu_config_kernel(struct qemu_config *c, const struct vm_init *init,
			const struct vm_start *how, unsigned tsc_khz, char ***strings);

/* ERROR_USAGE or ERROR_UNSUPPORTED for what QEMU (or this backend) cannot do; see backend_ops. */
int qemu_check_spec(const struct machine_spec *spec, struct error *err);
