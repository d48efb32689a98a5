/* SPDX-License-Identifier: MIT */
/* Copies of sparse files: memory of guests, disks. */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"

#define CHUNK_BYTES (1 * MIB)

/* What every file system can do. */
static int copy_by_hand(int from_fd, int to_fd, off_t at, off_t end)
{
	_cleanup_free_ char *chunk = xmalloc(CHUNK_BYTES);

	while (at < end) {
		ssize_t n = pread(from_fd, chunk, (size_t)MIN((off_t)CHUNK_BYTES, end - at), at);

		if (n == 0)
			return -EIO; /* somebody cut it off meanwhile */
		for (ssize_t done = 0, k; n > 0 && done < n; done += k) {
			k = pwrite(to_fd, chunk + done, (size_t)(n - done), at + done);
			if (k < 0)
				return -errno;
		}
		if (n < 0)
			return -errno;
		at += n;
	}
	return 0;
}

/* In the kernel as far as it can: between file systems, and on some, it cannot. */
static int copy_range(int from_fd, int to_fd, off_t at, off_t end)
{
	off_t to = at;

	while (at < end) {
		ssize_t n = copy_file_range(from_fd, &at, to_fd, &to, (size_t)(end - at), 0);

		if (n < 0 && errno == ENOSPC)
			return -errno;
		/* It says 0 for what it cannot read (some /proc-like files), too. */
		if (n <= 0)
			return copy_by_hand(from_fd, to_fd, at, end);
	}
	return 0;
}

static int copy_data(int from_fd, int to_fd, off_t size)
{
	off_t at = 0;
	int r = 0;

	while (r == 0 && at < size) {
		off_t data = lseek(from_fd, at, SEEK_DATA), hole;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno; /* only a hole is left */
		hole = lseek(from_fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		at = MIN(hole, size);
		r = data < at ? copy_range(from_fd, to_fd, data, at) : 0;
	}
	return r;
}

int file_copy_sparse(int from_fd, int to_fd, struct error *err)
{
	struct stat st = {};
	int r = 0;

	/* A reflink replaces the size only upwards. */
	if (fstat(from_fd, &st) < 0 || ftruncate(to_fd, 0) < 0)
		r = -errno;
	else if (ioctl(to_fd, FICLONE, from_fd) < 0)
		r = ftruncate(to_fd, st.st_size) < 0 ? -errno
						     : copy_data(from_fd, to_fd, st.st_size);
	if (r < 0) {
		char size[FORMAT_MAX];

		return error_set_errno(err, ERROR_INFRA, -r, "cannot copy a file of %s",
				       format_size((uint64_t)st.st_blocks * 512, size));
	}
	return 0;
}
