/* SPDX-License-Identifier: MIT */
/* Whole files, trees and descriptors. */
#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/str.h"

/*
 * Theory of operation.
 *
 * Writing: the data goes to a hidden name in the same directory (so that rename() does not cross
 * file systems), which then takes the real name. There is no fsync(): this is for readers that run
 * at the same time and for writers that are killed, not for power cuts of the host.
 *
 * Removing: by descriptors from the top down, never by path, so that a link put in place meanwhile
 * leads nowhere. A mount inside the tree ends it with EBUSY; what is behind it is not ours.
 */

int file_read(const char *path, size_t max, struct buf *ret, struct error *err)
{
	char size[FORMAT_MAX];
	int r = buf_read_file(ret, path, max);

	if (r == -EFBIG)
		return error_set(err, ERROR_INFRA, EFBIG, "'%s' is larger than %s", path,
				 format_size(max, size));
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot read '%s'", path);
	return 0;
}

/* A name in the same directory that nobody else uses: ".<name>.<random>". */
static char *temporary_beside(const char *path)
{
	_cleanup_free_ char *dir = path_dirname(path);
	_cleanup_free_ char *name = NULL;
	uint64_t random = 0;

	if (getrandom(&random, sizeof(random), 0) < 0)
		random = (uint64_t)getpid();
	name = xasprintf(".%.200s.%016llx", path_basename(path), (unsigned long long)random);
	return path_join(dir, name);
}

/* Devices, pipes and links are written through: a rename would put a file in their place. */
static int write_through(const char *path, const void *data, size_t len, struct error *err)
{
	_cleanup_close_ int fd =
		open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
	int r = fd < 0 ? -errno : fd_write_all(fd, data, len);

	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot write '%s'", path);
	return 0;
}

int file_write_atomic(const char *path, const void *data, size_t len, mode_t mode,
		      struct error *err)
{
	_cleanup_free_ char *tmp = temporary_beside(path);
	_cleanup_close_ int fd = -EBADF;
	struct stat st;
	int r;

	if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return write_through(path, data, len, err);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write '%s'", path);
	r = fd_write_all(fd, data, len);
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlink(tmp);
		return error_set_errno(err, ERROR_INFRA, -r, "cannot write '%s'", path);
	}
	return 0;
}

int file_append(const char *path, const void *data, size_t len, struct error *err)
{
	_cleanup_close_ int fd =
		open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0666);
	int r;

	if (fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot open '%s'", path);
	r = fd_write_all(fd, data, len);
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot write '%s'", path);
	return 0;
}

bool path_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

bool path_is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int path_make_dirs(const char *path, mode_t mode, struct error *err)
{
	_cleanup_free_ char *copy = xstrdup(path);

	for (char *p = copy; *p;) {
		char saved;

		p += strspn(p, "/");
		p += strcspn(p, "/");
		saved = *p;
		*p = '\0';
		/* Existing directories: mostly EEXIST, but EROFS and EACCES are possible too, so
		 * what counts is whether the directory is there. */
		if (*copy && mkdir(copy, mode) < 0) {
			int e = errno;

			if (!path_is_dir(copy))
				return error_set_errno(err, ERROR_INFRA, e == EEXIST ? ENOTDIR : e,
						       "cannot make directory '%s'", copy);
		}
		*p = saved;
	}
	return 0;
}

/* True for the top of a mount, bind mounts of the same file system too. */
static bool is_mount_point(int dir_fd, const char *name)
{
	struct statx stx;

	if (statx(dir_fd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) < 0)
		return false;
	return stx.stx_attributes_mask & stx.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

/* Removes one name of an open directory; `type` is d_type's and only a hint. */
static int remove_entry(int parent_fd, const char *name, unsigned char type);

/* Empties the directory behind fd, which it takes. Goes on after a failure; the first one counts.
 */
static int remove_children(int fd)
{
	struct dirent *de;
	int result = 0;
	DIR *dir;

	dir = fdopendir(fd);
	if (!dir) {
		int e = errno;

		close(fd);
		return -e;
	}
	while ((errno = 0, de = readdir(dir))) {
		int r;

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		r = remove_entry(dirfd(dir), de->d_name, de->d_type);
		if (r < 0 && result == 0)
			result = r;
	}
	if (errno && result == 0)
		result = -errno;
	closedir(dir);
	return result;
}

static int open_for_removal(int parent_fd, const char *name)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
	int fd = openat(parent_fd, name, flags);
	struct stat st;

	/* Package builds leave directories without write permission behind. */
	if (fd < 0 && errno == EACCES && fchmodat(parent_fd, name, 0700, 0) == 0)
		fd = openat(parent_fd, name, flags);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && (st.st_mode & 0700) != 0700)
		(void)fchmod(fd, 0700);
	return fd;
}

static int remove_entry(int parent_fd, const char *name, unsigned char type)
{
	int fd, r;

	if (type != DT_DIR) {
		if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
			return 0;
		if (errno != EISDIR) /* DT_UNKNOWN: some file systems do not say */
			return -errno;
	}
	if (is_mount_point(parent_fd, name))
		return -EBUSY;
	fd = open_for_removal(parent_fd, name);
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	r = remove_children(fd);
	if (r < 0)
		return r;
	if (unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

int path_remove_tree(const char *path, struct error *err)
{
	struct stat st;
	int r;

	if (lstat(path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return error_set_errno(err, ERROR_INFRA, errno, "cannot remove '%s'", path);
	}
	r = remove_entry(AT_FDCWD, path, S_ISDIR(st.st_mode) ? DT_DIR : DT_REG);
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot remove '%s'", path);
	return 0;
}

int memfd_from_data(const char *name, const void *data, size_t len, struct error *err)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
	_cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make memory file '%s'",
				       name);
	r = fd_write_all(fd, data, len);
	if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
		r = -errno;
	if (r == 0 && fcntl(fd, F_ADD_SEALS, seals) < 0)
		r = -errno;
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot fill memory file '%s'", name);
	return TAKE_FD(fd);
}

int tmpfile_open(const char *dir, struct error *err)
{
	_cleanup_free_ char *name = NULL;
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0)
		return fd;
	/* 9p, some FUSE and old overlay mounts have no O_TMPFILE. */
	if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL) {
		name = path_join(dir, ".assay-XXXXXX");
		fd = mkostemp(name, O_CLOEXEC);
		if (fd >= 0) {
			(void)unlink(name);
			return fd;
		}
	}
	return error_set_errno(err, ERROR_INFRA, errno, "cannot make a temporary file in '%s'",
			       dir);
}
