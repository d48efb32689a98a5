/* SPDX-License-Identifier: MIT */
/* Files, paths and descriptors: whole-file reads and writes, trees, locks, digests of names. */
#pragma once

#include <sys/types.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/util.h"

/* All descriptors made here are close-on-exec. Errors are ERROR_INFRA and name the path. */

int file_read(const char *path, size_t max, struct buf *ret, struct error *err);
/* Written to a temporary name beside it and renamed: readers see the old or the new, never half.
 * What is there and no regular file (a device, a pipe, a link) is written through instead. */
int file_write_atomic(const char *path, const void *data, size_t len, mode_t mode,
		      struct error *err);
int file_append(const char *path, const void *data, size_t len, struct error *err);
bool path_exists(const char *path);
bool path_is_dir(const char *path);
/* mkdir -p; 0 if it is there already, -ENOTDIR if something else is. */
int path_make_dirs(const char *path, mode_t mode, struct error *err);
/* A directory (0700) where anybody can be first, as in /tmp: -EPERM if it is not ours. */
int path_make_private_dir(const char *dir, struct error *err);
/* rm -rf, does not follow links, does not cross into other mounts; 0 if absent. */
int path_remove_tree(const char *path, struct error *err);
char *path_join(const char *a, const char *b); /* b if it is absolute */
char *path_dirname(const char *path);
const char *path_basename(const char *path);
/* Absolute and without "." and ".." (textually); malloc'd. */
char *path_absolute(const char *path);
/* Writes everything or fails; -EAGAIN on a non-blocking descriptor that is full (struct io waits).
 * -EPIPE without a signal only where SIGPIPE is ignored, as loop_init() has it. */
int fd_write_all(int fd, const void *data, size_t len);
int fd_set_nonblock(int fd, bool on);
int fd_set_cloexec(int fd, bool on);
/* An anonymous (memfd) file holding the data, sealed against writing, offset 0. */
int memfd_from_data(const char *name, const void *data, size_t len, struct error *err);
/* An unlinked regular file in dir (O_TMPFILE, else created and unlinked), read-write. */
int tmpfile_open(const char *dir, struct error *err);
/* Makes a regular file the copy of another, replacing what it was: by reflink where the file system
 * can, else only the data, so that holes stay holes. File offsets are left anywhere. Blocks, as
 * reads and writes do. -ENOSPC and the like; to_fd holds a part then. */
int file_copy_sparse(int from_fd, int to_fd, struct error *err);
/* $XDG_CACHE_HOME/assay, $ASSAY_CACHE overrides; $XDG_RUNTIME_DIR/assay (or a 0700 directory of
 * this user's in /tmp). Made if missing. malloc'd. */
int path_cache_dir(char **ret, struct error *err);
int path_runtime_dir(char **ret, struct error *err);
/* False in a chroot whose root is an ordinary directory: the kernel refuses what namespaces need
 * there (making its mounts private; a user namespace at all). */
bool path_root_is_mount(void);
/* SHA-256 (FIPS 180-4), lower-case hex of 64 characters and a NUL. */
#define DIGEST_HEX_MAX 65
struct sha256 {
	uint32_t state[8];
	uint64_t len;
	uint8_t block[64];
};
void sha256_init(struct sha256 *s);
void sha256_update(struct sha256 *s, const void *data, size_t len);
/* A string together with its NUL, so that ("ab","c") and ("a","bc") differ. */
void sha256_update_str(struct sha256 *s, const char *str);
void sha256_hex(struct sha256 *s, char ret[DIGEST_HEX_MAX]); /* finishes */
int sha256_file(const char *path, char ret[DIGEST_HEX_MAX], struct error *err);
/* A file or folder: names, types, permission bits, contents, targets of links; not owners and
 * times. ERROR_USAGE for what cannot be read or is a device, pipe or socket. */
int sha256_update_tree(struct sha256 *s, const char *path, struct error *err);
/* The same of what path points to, with devices, pipes and sockets; and a cheap one, which reads no
 * contents: while that stays the same nobody has written there, when it changes the digest tells.
 */
int path_digest(const char *path, char ret[DIGEST_HEX_MAX], struct error *err);
int path_stamp(const char *path, char ret[DIGEST_HEX_MAX], struct error *err);
