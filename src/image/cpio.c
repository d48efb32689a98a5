/* SPDX-License-Identifier: MIT */
/* Writes cpio archives in the "newc" format. */
#include "image/cpio.h"

#include <assert.h>
#include <string.h>
#include <sys/stat.h>

/*
 * An entry is a header of 110 ASCII characters ("070701" and thirteen numbers of eight hexadecimal
 * digits), the name with its NUL, padding to 4, the data, padding to 4. The order of the numbers:
 * ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize,
 * check. Source: Documentation/driver-api/early-userspace/buffer-format.rst in the Linux tree.
 */
#define HEADER_BYTES 110
#define TRAILER	     "TRAILER!!!"

struct entry {
	const char *name;
	mode_t mode;
	const void *data;
	size_t len;
	unsigned int rdev_major, rdev_minor;
};

void cpio_done(struct cpio *c)
{
	buf_done(&c->buf);
	c->n_entries = 0;
}

static void pad_to(struct cpio *c, size_t alignment)
{
	static const char zeros[512];
	size_t over = c->buf.len % alignment;

	assert(alignment <= sizeof(zeros));
	if (over > 0)
		buf_append(&c->buf, zeros, alignment - over);
}

static void add(struct cpio *c, const struct entry *e)
{
	size_t name_size = strlen(e->name) + 1;

	assert(e->name[0] != '/');
	assert(e->len <= UINT32_MAX);
	/* Distinct inode numbers: equal ones would make hard links of files with nlink > 1. */
	c->n_entries++;
	buf_printf(&c->buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		   c->n_entries, e->mode, 0, 0, S_ISDIR(e->mode) ? 2 : 1, 0, (uint32_t)e->len, 0, 0,
		   e->rdev_major, e->rdev_minor, (uint32_t)name_size, 0);
	buf_append(&c->buf, e->name, name_size);
	pad_to(c, 4);
	if (e->len > 0)
		buf_append(&c->buf, e->data, e->len);
	pad_to(c, 4);
}

void cpio_add_dir(struct cpio *c, const char *name, mode_t perm)
{
	add(c, &(struct entry){.name = name, .mode = S_IFDIR | perm});
}

void cpio_add_file(struct cpio *c, const char *name, mode_t perm, const void *data, size_t len)
{
	add(c, &(struct entry){.name = name, .mode = S_IFREG | perm, .data = data, .len = len});
}

void cpio_add_symlink(struct cpio *c, const char *name, const char *target)
{
	/* The target is the data, without a NUL. */
	add(c,
	    &(struct entry){
		    .name = name, .mode = S_IFLNK | 0777, .data = target, .len = strlen(target)});
}

void cpio_add_chardev(struct cpio *c, const char *name, mode_t perm, unsigned int dev_major,
		      unsigned int dev_minor)
{
	add(c, &(struct entry){.name = name,
			       .mode = S_IFCHR | perm,
			       .rdev_major = dev_major,
			       .rdev_minor = dev_minor});
}

void cpio_finish(struct cpio *c)
{
	add(c, &(struct entry){.name = TRAILER});
	pad_to(c, 512);
}
