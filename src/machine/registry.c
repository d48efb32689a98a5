/* SPDX-License-Identifier: MIT */
/* The backends of this build, the default first. */
#include "machine/backend.h"

const struct backend_ops *const backend_registry[] = {
	&backend_qemu,
	&backend_fake,
	NULL,
};
