/* SPDX-License-Identifier: MIT */
/* What the files of the template store share. */
#pragma once

#include "image/store.h"
#include "machine/template.h"

/*
 *	templates/<key12>/
 *	  manifest.json		what template.h says, and of each file its size, mtime and inode
 *	  <m>.devices		device state of machine m; its SHA-256 is in the manifest
 *	  <m>.<d>.<l>		layer l of its disk d
 *	  <m>.memory		its RAM, if that was made here, else memory/<m>.memory
 *	  memory -> …		a directory on the tmpfs, see template-memory.c
 *	  used			its mtime is when it was last opened
 *	  cost			bytes that a fork was seen to take, in decimal; absent: not known
 *
 * Nothing is synced to disk: a template counts only in the boot of the host that made it. (Memory
 * on a tmpfs would not outlive that anyway, and a sync would take a hundred times longer than the
 * save.)
 */
#define TEMPLATE_VERSION 1

/* Of this boot of the host; "" if nobody can tell. */
void template_boot_id(char ret[64]);
/* The manifest as it is, if it is one of ours and counts now: else -EBADMSG and the reason, or
 * -ESTALE (another boot's). A new reference. */
int template_read_manifest(const char *dir, json_t **ret, struct error *err);

/* ---- template-memory.c ------------------------------------------------------------------ */

/* This cache's directory on the tmpfs, made if missing. Fails with the reason why there is none. */
int template_memory_dir(const struct store *s, char **ret, struct error *err);
/* A new directory in it, locked as long as *ret_fd is open: by then an entry of the store has to
 * refer to it. */
int template_memory_new(const char *memory_dir, char **ret_dir, int *ret_fd, struct error *err);
/* Removes what nobody refers to, also of caches that are gone. Never an error. */
void template_memory_clean(void);

/* What this cache's templates take, their memory on the tmpfs included. */
uint64_t template_usage(const struct store *s);

/* ---- template-prune.c ------------------------------------------------------------------- */

/* What all templates may take: $ASSAY_CACHE_MAX, else a default. ERROR_USAGE. */
int template_limit(const struct store *s, uint64_t *ret, struct error *err);
