/* SPDX-License-Identifier: MIT */
/* Which QEMU this host has, and its version. */
#pragma once

#include "backend/qemu/argv.h"
#include "base/error.h"

/* The first of qemu-system-x86_64 in PATH and /usr/libexec/qemu-kvm; malloc'd. ERROR_INFRA with
 * the package's name as the hint if there is none. Does not wait. */
int qemu_find_program(char **ret, struct error *err);

/* From the runtime directory's cache, else from `program --version` (20 ms, on a fiber).
 * ERROR_INFRA if it is older than we can speak to, or does not say. */
int qemu_get_version(const char *program, struct qemu_version *ret, struct error *err);

/* "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"; -EINVAL for anything else. */
int qemu_parse_version(const char *text, struct qemu_version *ret);
