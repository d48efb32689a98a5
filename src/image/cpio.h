/* SPDX-License-Identifier: MIT */
/* Writes cpio archives in the "newc" format, the one that Linux unpacks as an initramfs. Pure. */
#pragma once

#include <sys/types.h>

#include "base/buf.h"

/* Zero is an empty archive. Names are relative ("etc/motd", no leading '/'); directories must be
 * added before what is in them. All entries belong to root and have time stamp 0, so that the same
 * content gives the same bytes. */
struct cpio {
	struct buf buf;
	uint32_t n_entries;
};

void cpio_done(struct cpio *c);
#define _cleanup_cpio_ _cleanup_(cpio_done)

void cpio_add_dir(struct cpio *c, const char *name, mode_t perm);
void cpio_add_file(struct cpio *c, const char *name, mode_t perm, const void *data, size_t len);
void cpio_add_symlink(struct cpio *c, const char *name, const char *target);
/* A character device. */
void cpio_add_chardev(struct cpio *c, const char *name, mode_t perm, unsigned int dev_major,
		      unsigned int dev_minor);
/* The trailer, padded to 512 bytes: another archive may follow directly behind. */
void cpio_finish(struct cpio *c);
