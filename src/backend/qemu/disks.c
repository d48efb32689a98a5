/* SPDX-License-Identifier: MIT */
/* Disks: formats looked at, overlays made, descriptors kept. */
#include "backend/qemu/disks.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"

#define ROOT_NAME    "root0"
#define SCRATCH_NAME "scratch0"
/* In the boot order behind everything that the user gave a place. */
#define ROOT_BOOTINDEX 100

static struct qemu_disk *add_disk(struct qemu_disks *d, const char *name)
{
	struct qemu_disk *disk = &d->list[d->n++];

	*disk = (struct qemu_disk){.name = name, .overlay_fd = -1, .bootindex = -1};
	return disk;
}

/* An empty overlay of that size on top of whatever the disk has. */
static int add_overlay(struct qemu_disks *d, struct qemu_disk *disk, const struct machine_env *env,
		       uint64_t size, int first_fd, struct error *err)
{
	_cleanup_close_ int fd = tmpfile_open(env->work_dir, err);
	int r;

	if (fd < 0)
		return fd;
	r = qcow2_write_empty(fd, size, err);
	if (r < 0)
		return r;
	disk->overlay_fd = first_fd + (int)d->n_fds;
	d->fds[d->n_fds++] = (struct spawn_fd){.fd = TAKE_FD(fd), .child = disk->overlay_fd};
	return 0;
}

/* Opened only to be looked at; QEMU opens it by its path, and locks it. */
static int look_at_file(const char *path, bool writable, const char **ret_format,
			uint64_t *ret_size, struct error *err)
{
	_cleanup_close_ int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	char head[4096];
	ssize_t n;
	off_t end;

	if (fd < 0)
		return error_set_errno(err, ERROR_USAGE, errno, "cannot open '%s'%s", path,
				       writable ? " for writing" : "");
	n = pread(fd, head, sizeof(head), 0);
	end = lseek(fd, 0, SEEK_END); /* of a block device too */
	if (n < 0 || end < 0)
		return error_set_errno(err, ERROR_USAGE, errno, "cannot read '%s'", path);
	*ret_format = disk_format_probe(head, (size_t)n);
	*ret_size = (uint64_t)end;
	if (str_eq(*ret_format, "qcow2"))
		return qcow2_virtual_size(fd, ret_size, err);
	if (str_eq(*ret_format, "raw"))
		return 0;
	(void)error_set(err, ERROR_USAGE, ENOTSUP, "'%s' is a %s file, and disks are qcow2 or raw",
			path, *ret_format);
	error_hint(err, "convert it: qemu-img convert -O qcow2 %s …", path);
	return -ENOTSUP;
}

static int add_spec_disk(struct qemu_disks *d, const struct disk_spec *s,
			 const struct machine_env *env, int first_fd, struct error *err)
{
	struct qemu_disk *disk = add_disk(d, s->name);
	uint64_t size;
	int r;

	disk->readonly = s->readonly;
	disk->cdrom = s->cdrom;
	if (!s->path)
		return add_overlay(d, disk, env, s->size_bytes, first_fd, err);
	disk->path = path_join(env->base_dir ? env->base_dir : ".", s->path);
	strv_push_take(&d->strings, (char *)disk->path);
	r = look_at_file(disk->path, s->write_through, &disk->format, &size, err);
	if (r < 0 || s->readonly || s->cdrom || s->write_through)
		return r;
	return add_overlay(d, disk, env, MAX(size, s->size_bytes), first_fd, err);
}

static int add_image(struct qemu_disks *d, const struct image *image, const struct machine_env *env,
		     int first_fd, struct error *err)
{
	struct qemu_disk *disk;

	switch (image_kind(image)) {
	case IMAGE_LAYERED:
		disk = add_disk(d, ROOT_NAME);
		disk->path = image_root(image);
		disk->format = "raw";
		disk->readonly = true;
		disk = add_disk(d, SCRATCH_NAME);
		disk->path = image_scratch(image);
		disk->format = "raw";
		return add_overlay(d, disk, env, image_disk_size(image), first_fd, err);
	case IMAGE_DISK:
		disk = add_disk(d, ROOT_NAME);
		disk->path = image_disk(image);
		disk->format = image_disk_format(image);
		return add_overlay(d, disk, env, image_disk_size(image), first_fd, err);
	case IMAGE_KERNEL:
		break;
	}
	return 0;
}

int qemu_disks_prepare(struct qemu_disks *d, const struct machine_spec *spec,
		       const struct machine_env *env, const struct image *image, int first_fd,
		       struct error *err)
{
	int r;

	assert(!d->list);
	d->list = xcalloc(spec->n_disks + 2, sizeof(*d->list));
	d->fds = xcalloc(spec->n_disks + 2, sizeof(*d->fds));
	r = add_image(d, image, env, first_fd, err);
	for (size_t i = 0; i < spec->n_disks && r >= 0; i++) {
		r = add_spec_disk(d, &spec->disks[i], env, first_fd, err);
		if (r < 0)
			error_prefix(err, "disk '%s'", spec->disks[i].name);
	}
	if (r < 0)
		qemu_disks_done(d);
	return r;
}

void qemu_disks_done(struct qemu_disks *d)
{
	for (size_t i = 0; i < d->n_fds; i++)
		close(d->fds[i].fd);
	free(d->list);
	free(d->fds);
	strv_free(d->strings);
	*d = (struct qemu_disks){};
}

static const struct disk_spec *find_spec(const struct machine_spec *spec, const char *name)
{
	for (size_t i = 0; i < spec->n_disks; i++)
		if (str_eq(spec->disks[i].name, name))
			return &spec->disks[i];
	return NULL;
}

int qemu_disks_set_boot(struct qemu_disks *d, const struct machine_spec *spec, const char *boot,
			struct error *err)
{
	_cleanup_strv_ char **names = NULL;
	_cleanup_free_ char *known = NULL;
	bool found = !boot;

	for (size_t i = 0; i < d->n; i++) {
		struct qemu_disk *disk = &d->list[i];
		const struct disk_spec *s = find_spec(spec, disk->name);

		strv_push(&names, disk->name);
		disk->bootindex = -1;
		if (s && s->boot_order > 0)
			disk->bootindex = s->boot_order;
		else if (str_eq(disk->name, ROOT_NAME))
			disk->bootindex = ROOT_BOOTINDEX;
		if (str_eq(disk->name, boot)) {
			disk->bootindex = 0;
			found = true;
		}
	}
	if (found)
		return 0;
	known = strv_join(names, ", ");
	(void)error_set(err, ERROR_USAGE, ENOENT, "there is no disk '%s' to boot from", boot);
	error_hint(err, "its disks are: %s", known ? known : "none");
	return -ENOENT;
}
