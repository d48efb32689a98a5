/* SPDX-License-Identifier: MIT */
/* The shell scripts under scripts/, built into the program (embed.py). */
#pragma once

extern const char SCRIPT_DEBIAN_SETUP[];
extern const char SCRIPT_DEBIAN_SEAL[];
extern const char SCRIPT_DEBIAN_INSTALL[];
extern const char SCRIPT_UNPACK[];
extern const char SCRIPT_FILES[];
extern const char SCRIPT_RUN[];
extern const char SCRIPT_TINY[];
extern const char SCRIPT_PACK[];
extern const char SCRIPT_SCRATCH[];
