/* SPDX-License-Identifier: MIT */
/* Images: what a machine boots from. Found in the store, built when missing, opened from a path. */
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "base/util.h"

/*
 * An image is read-only and shared by all machines. Its kind says what the parts are:
 *
 *   IMAGE_LAYERED  kernel + read-only erofs root + an empty ext4 that backs each machine's scratch
 *                  disk. Boots by our initramfs: root0 (erofs) below, scratch0 above, overlayfs.
 *                  All built-in and derived images are of this kind.
 *   IMAGE_KERNEL   a kernel and (perhaps) an initramfs of the user's, no disk.
 *   IMAGE_DISK     a qcow2 or raw disk of the user's with a boot loader of its own.
 *
 * Everything that builds or waits must run on a fiber; all external programs are children of it,
 * and a cancelled build leaves nothing behind. The remaining functions do not wait.
 *
 * While a `struct image` is open it holds a shared lock, so that nobody removes it meanwhile.
 */
struct image;

enum image_kind { IMAGE_LAYERED, IMAGE_KERNEL, IMAGE_DISK };

/* One of `files = { ["/etc/motd"] = … }`: either text (data) or a file or folder of the host. */
struct image_file {
	const char *path;  /* absolute, in the guest */
	const char *data;  /* NULL if from is given */
	size_t len;	   /* of data */
	const char *from;  /* host path, absolute; a folder is copied as a tree */
	mode_t mode;	   /* permission bits; 0: 0644 for text, the host file's otherwise */
	const char *owner; /* "user" or "user:group" as the guest knows them; NULL: root:root */
};

/* What to build on what. Zero-initialise; only `from` is required. Strings are borrowed. */
struct image_spec {
	const char *name; /* of a declared image (`image(name, …)`), for lists; NULL: from's */
	const char *from; /* name of an image, or a path (contains '/') to a qcow2 or raw disk */
	char *const *packages; /* NULL-terminated, in any order */
	const struct image_file *files;
	size_t n_files;
	const char *run; /* shell script (bash), as root in the new root, after packages+files */
	uint64_t size_bytes; /* of the scratch disk; 0: the base's (8 GiB) */
};

/* How to build. All members may be left zero. */
struct image_build_opts {
	/* Called on the fiber at each new phase ("fetching the kernel", "installing nginx"). */
	void (*progress)(const char *phase, void *userdata);
	void *userdata;
	bool rebuild;	     /* build anew even if it is there */
	uint64_t timeout_ns; /* of the whole build; 0: 30 min */
};

/* ---- names ------------------------------------------------------------------------------ */

/* "tiny", "debian-12", "debian-13", …, NULL. */
const char *const *image_builtin_names(void);
/* One line about a built-in image, for lists; NULL if the name is unknown. */
const char *image_builtin_summary(const char *name);
/* Known to image_ensure(): built in, imported, or declared and built. Does not wait. */
bool image_name_is_known(const char *name);

/* ---- getting one ------------------------------------------------------------------------ */

/* Opens the image, building it (and its base) first if it is missing. Two processes or fibers
 * that ask for one image at the same time build it once; the second waits.
 * ENOENT/USAGE: no image of this name (the hint has the nearest name and the known ones), or a
 * package that apt does not know. ENOSPC/INFRA: the store's disk is full. Fiber only. */
int image_ensure(const struct image_spec *spec, const struct image_build_opts *opts,
		 struct image **ret, struct error *err);
/* Like image_ensure(), but never builds: ENOENT/INFRA "image 'x' is not built yet" for a known
 * one, ENOENT/USAGE for an unknown one. Does not wait; opens paths (`from` with a '/') too. */
int image_find(const struct image_spec *spec, struct image **ret, struct error *err);
/* Checks all that can be known without building: name, shape of package names and paths, that
 * host files exist. For `assay check` and planning. */
int image_spec_check(const struct image_spec *spec, struct error *err);
/* Can this user build images on this host? The programs are looked for, a namespace is made.
 * The error's hint says what to install or to allow. Fiber only. */
int image_can_build(struct error *err);
/* The key: SHA-256 (hex) of the recipe and, recursively, its base's. Independent of mirror, host
 * and time; reads the host files that the spec names. */
int image_spec_digest(const struct image_spec *spec, char ret[65], struct error *err);

/* A disk of the user's: qcow2 or raw, told apart by its magic. Read-only for us, for ever. */
int image_open_disk(const char *path, struct image **ret, struct error *err);
/* A kernel (bzImage, vmlinux, Image) and an initramfs (NULL: none) of the user's. */
int image_open_kernel(const char *kernel, const char *initrd, struct image **ret,
		      struct error *err);

struct image *image_ref(struct image *image);
struct image *image_unref(struct image *image); /* returns NULL */
void cleanup_image(struct image **image);
#define _cleanup_image_ _cleanup_(cleanup_image)

/* ---- what it is ------------------------------------------------------------------------- */

enum image_kind image_kind(const struct image *image);
const char *image_name(const struct image *image); /* "debian-13", or the path given */
/* Hex digest: of the recipe, or of an opened file's identity (path, size, mtime, inode). A part
 * of every template key. Never NULL. */
const char *image_digest(const struct image *image);
const char *image_dir(const struct image *image); /* in the store; NULL for opened paths */

/* Paths of the parts; NULL where the kind has none. Absolute. */
const char *image_vmlinux(const struct image *image); /* uncompressed ELF with PVH note */
const char *image_kernel(const struct image *image);  /* bzImage (or what the user gave) */
const char *image_initrd(const struct image *image);  /* the user's; NULL for IMAGE_LAYERED */
const char *image_root(const struct image *image);    /* root.erofs: virtio-blk serial "root0" */
const char *image_scratch(const struct image *image); /* scratch.ext4 (raw, sparse), backing file
							 of the disk with serial "scratch0" */
const char *image_modules(const struct image *image); /* modules.cpio */
const char *image_disk(const struct image *image);    /* IMAGE_DISK */
const char *image_disk_format(const struct image *image); /* "qcow2" or "raw" */
uint64_t image_disk_size(const struct image *image); /* virtual size of disk or scratch; bytes */
const char *image_kernel_release(const struct image *image); /* "6.12.48+deb13-cloud-amd64" */
/* True if its init is systemd (tiny: busybox). False for kinds that we know nothing about. */
bool image_has_systemd(const struct image *image);
/* What its kernel should be told besides console and assay.*: measured to be worth it, and never
 * changing what a test can see. "" for the user's own kernels and disks. */
const char *image_cmdline(const struct image *image);

/* ---- what QEMU gets --------------------------------------------------------------------- */

/* The initramfs: [/init = the agent, /dev/console, empty /proc /sys /dev /run /newroot] followed
 * by the image's modules (load order in /assay/modules.list, one absolute path a line).
 * IMAGE_LAYERED only. A sealed memfd, offset 0. */
int image_initrd_memfd(const struct image *image, const void *agent, size_t agent_len, int *ret_fd,
		       struct error *err);

/* ---- the store -------------------------------------------------------------------------- */

struct image_info {
	char *name;
	char digest[65];
	char *dir;
	char *from; /* NULL for built-in and imported ones */
	enum image_kind kind;
	uint64_t bytes;		/* on disk (blocks, not the sparse size) */
	uint64_t created, used; /* seconds since the epoch */
	char *kernel_release;
	char **packages;
	bool is_current; /* false: an older recipe of a built-in name, nothing asks for it */
};
void image_info_done(struct image_info *info);

/* All complete images in the store, by name, then newest first. */
int image_store_list(struct image_info **ret, size_t *ret_n, struct error *err);
void image_infos_free(struct image_info *infos, size_t n);
/* By name, name-digest12 or a digest's beginning (>= 6). ENOENT/USAGE with the nearest name. */
int image_store_show(const char *which, struct image_info *ret, struct error *err);
/* The manifest as JSON text (malloc'd), for `image show --json`. */
int image_store_manifest(const char *which, char **ret_json, struct error *err);
/* EBUSY/USAGE if a machine uses it. All of a name's digests if `which` is a name. Fiber only
 * (an ordinary user's half-built trees need a child to be removed). */
int image_store_remove(const char *which, size_t *ret_removed, struct error *err);
/* Removes stale temporary directories, outdated recipes, then the least recently used images
 * until the store (images and package cache) is no larger than max_bytes. Those in use stay.
 * Fiber only. */
int image_store_prune(uint64_t max_bytes, uint64_t *ret_freed_bytes, struct error *err);
/* Bytes on disk of everything in the store. */
int image_store_usage(uint64_t *ret_bytes, struct error *err);
/* Copies (reflinks where it can) a qcow2 or raw disk into the store under a name. Fiber only. */
int image_store_import_disk(const char *name, const char *path, struct error *err);
int image_store_import_kernel(const char *name, const char *kernel, const char *initrd,
			      struct error *err);
/* Writes an image's parts into a new directory `dest` (or one disk file, for IMAGE_DISK). */
int image_store_export(const char *which, const char *dest, struct error *err);

/* ---- qcow2 ------------------------------------------------------------------------------ */

/* Writes an empty qcow2 (version 3, 64 KiB clusters) of a virtual size into fd (a regular file,
 * truncated first). No backing file is named in it: give QEMU an explicit `backing` node.
 * No exec, a few KiB on disk; size is rounded up to 512. */
int qcow2_write_empty(int fd, uint64_t virtual_size, struct error *err);
/* Virtual size from a header; -EINVAL/USAGE if it is no qcow2. */
int qcow2_virtual_size(int fd, uint64_t *ret, struct error *err);
/* The name of the file that a qcow2 disk lies on, as its header has it (relative to its own folder,
 * or a protocol's); malloc'd, NULL if there is none or it is no qcow2. ERROR_USAGE: damaged. */
int qcow2_backing_file(int fd, char **ret, struct error *err);
/* "qcow2", "raw" or what else the magic says ("vmdk", "vdi", "vhdx"); never NULL. */
const char *disk_format_probe(const void *head, size_t len);
