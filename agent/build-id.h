/* SPDX-License-Identifier: MIT */
/* Which build of the agent this is. */
#pragma once

/* The linker's build id of this very program in hex (a digest of its contents, known without
 * reading them); "unknown" if it was linked without one. */
const char *agent_build_id(void);
