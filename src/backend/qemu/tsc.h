/* SPDX-License-Identifier: MIT */
/* How fast the host's time stamp counter runs, for guests that cannot find it out well. */
#pragma once

#include "base/error.h"

/*
 * Under TCG the guest's TSC is the host's (QEMU's cpu_get_host_ticks()), but a guest kernel
 * calibrates it against an emulated timer: on a busy host this is slow, wrong or, on a microvm
 * (which has no other timer to try), fails, and the kernel hangs for want of a clock. So it is
 * told: `tsc_early_khz=`.
 *
 * Measured once for each boot of the host (50 ms, on a fiber), then from the runtime directory.
 * Rounded to 10 kHz, so that it is the same in nearly all of them. 0 where the host has no such
 * counter; -errno (ERROR_DEADLINE, ERROR_CANCELLED, …) only from waiting.
 */
int qemu_host_tsc_khz(unsigned *ret, struct error *err);
