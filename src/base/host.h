/* SPDX-License-Identifier: MIT */
/* What this host has. */
#pragma once

#include <stdint.h>

/* Memory in all, and what could be had now without swapping (the kernel's estimate); a container's
 * limit counts as well. UINT64_MAX if nobody can tell. */
uint64_t host_memory_bytes(void);
uint64_t host_memory_available_bytes(void);
