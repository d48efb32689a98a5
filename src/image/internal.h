/* SPDX-License-Identifier: MIT */
/* What the files of the image layer share: the open image, its manifest, recipes. */
#pragma once

#include "image/build.h"
#include "image/image.h"
#include "image/store.h"

/* ---- recipes ---------------------------------------------------------------------------- */

enum recipe_kind { RECIPE_DEBIAN, RECIPE_TINY };

/* A built-in image. */
struct recipe {
	const char *name;
	const char *summary;
	enum recipe_kind kind;
	const char *suite; /* the kernel's too */
};

const struct recipe *recipe_find(const char *name);
/* SHA-256 of all that goes into the image: version, suite, packages, the scripts' texts. */
void recipe_digest(const struct recipe *recipe, char ret[DIGEST_HEX_MAX]);
/* What mmdebstrap is told to include in a Debian image; "a,b,c". */
const char *recipe_debian_packages(void);
/* Space on disk that a build takes at its height. */
uint64_t recipe_need_bytes(const struct recipe *recipe);

/* True if it is built from `from` by adding something. */
bool spec_is_derived(const struct image_spec *spec);
bool spec_is_path(const struct image_spec *spec);
/* Sorted, without duplicates; malloc'd. */
char **spec_packages(const struct image_spec *spec);
/* The name that its directory gets: its own, or made from the base's and the packages'. */
char *spec_dir_name(const struct image_spec *spec);

/* ---- manifests -------------------------------------------------------------------------- */

/* manifest.json in the image's directory. It is written last; a directory without a readable one
 * is no image. */
struct manifest {
	char *name;
	char *digest;
	enum image_kind kind;
	char *from;	   /* name of the base; NULL */
	char *base_digest; /* NULL */
	char **packages;
	char *kernel_release; /* NULL if unknown */
	char *init;	      /* "systemd", "busybox"; NULL if unknown */
	char *disk_format;    /* IMAGE_DISK */
	uint64_t disk_bytes;  /* virtual size of the disk, or of scratch */
	uint64_t created;     /* seconds since the epoch */
	bool imported;
};

void manifest_done(struct manifest *m);
#define _cleanup_manifest_ _cleanup_(manifest_done)
/* Writes dir/manifest.json, with the sizes of the other files in it, and dir/used. */
int manifest_write(const struct manifest *m, const char *dir, struct error *err);
int manifest_read(const char *dir, struct manifest *ret, struct error *err);
/* When it was last opened; touched by image_open_dir(). */
uint64_t manifest_last_used(const char *dir);

/* ---- images ----------------------------------------------------------------------------- */

struct image {
	int n_ref;
	enum image_kind kind;
	char *name, *digest, *dir;
	char *vmlinux, *kernel, *initrd, *root, *scratch, *modules, *disk;
	char *disk_format;
	uint64_t disk_bytes;
	char *kernel_release;
	char *init;
	int lock_fd; /* shared lock on dir */
};

/* Opens a complete image. */
int image_open_dir(const struct store *s, const char *dir, struct image **ret, struct error *err);
/* The newest stored image of a name (imported or declared); NULL if there is none. malloc'd. */
char *image_find_stored(const struct store *s, const char *name);
/* "image 'x' does not exist", with the nearest and the known names. */
int image_error_unknown(const struct store *s, const char *name, struct error *err);

/* ---- builders: fill a build's directory, manifest not yet written ------------------------- */

int debian_build(struct build *b, const struct recipe *recipe, struct manifest *m,
		 struct error *err);
int tiny_build(struct build *b, const struct recipe *recipe, struct manifest *m, struct error *err);
int derive_build(struct build *b, const struct image_spec *spec, const struct image *base,
		 struct manifest *m, struct error *err);
/* scratch.ext4, sparse. */
int scratch_write(struct build *b, uint64_t bytes, struct error *err);
#define SCRATCH_BYTES_DEFAULT (8 * GIB)
