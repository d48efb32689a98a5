/* SPDX-License-Identifier: MIT */
/* A Debian kernel package taken apart: bzImage, vmlinux, and the modules that an initramfs needs.
 */
#pragma once

#include "image/apt.h"

/* Fetches the cloud kernel of apt's release and unpacks it to kernel/ in the build's directory;
 * writes bzImage and vmlinux there. *ret_release: "6.12.48+deb13-cloud-amd64". */
int kernel_fetch(struct apt *a, char **ret_release, struct error *err);
/* Writes modules.cpio from a tree's /lib/modules/<release> (depmod must have run). `mounts` (may
 * be NULL): text of /assay/mounts.list. */
int kernel_write_modules(struct build *b, const char *modules_dir, const char *mounts,
			 struct error *err);

/* Modules to load for `wanted`, dependencies first, each once: paths relative to the modules'
 * directory. Names that are built in are left out; a name that is nowhere goes to *ret_missing.
 * dep, builtin: texts of modules.dep and modules.builtin. Pure. */
void kernel_module_order(const char *dep, const char *builtin, const char *const *wanted,
			 char ***ret_paths, char ***ret_missing);
