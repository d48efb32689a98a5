/* SPDX-License-Identifier: MIT */
/* Disks: formats looked at, overlays made, descriptors kept. */
#include "backend/qemu/disks.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"

#define ROOT_NAME    "root0"
#define SCRATCH_NAME "scratch0"
/* In the boot order behind everything that the user gave a place. */
#define ROOT_BOOTINDEX 100

#define NO_OVERLAY ((struct qemu_overlay){-EBADF, -EBADF})

static struct qemu_disk *add_disk(struct qemu_disks *d, const char *name)
{
	struct qemu_disk *disk = &d->list[d->n];

	*disk = (struct qemu_disk){.name = name, .overlay_fd = -1, .bootindex = -1};
	d->stacks[d->n++] = (struct qemu_stack){.overlay = NO_OVERLAY};
	return disk;
}

/* The disk that was added last has an overlay. Which numbers are whose is known when all disks and
 * layers are: number_fds(). */
static void want_overlay(struct qemu_disks *d, uint64_t size)
{
	d->list[d->n - 1].overlay_fd = 0;
	d->stacks[d->n - 1].size = size;
}

static void number_fds(struct qemu_disks *d)
{
	int next = d->first_fd;

	for (size_t i = 0; i < d->n; i++) {
		if (d->list[i].overlay_fd < 0)
			continue;
		d->list[i].overlay_fd = next;
		d->list[i].n_layers = d->stacks[i].n_layers;
		next += (int)qemu_disk_n_fds(&d->list[i]);
	}
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
			 const struct machine_env *env, struct error *err)
{
	struct qemu_disk *disk = add_disk(d, s->name);
	uint64_t size = 0;
	int r;

	disk->readonly = s->readonly;
	disk->cdrom = s->cdrom;
	if (!s->path) {
		want_overlay(d, s->size_bytes);
		return 0;
	}
	disk->path = path_join(env->base_dir ? env->base_dir : ".", s->path);
	strv_push_take(&d->strings, (char *)disk->path);
	r = look_at_file(disk->path, s->write_through, &disk->format, &size, err);
	if (r >= 0 && !s->readonly && !s->cdrom && !s->write_through)
		want_overlay(d, MAX(size, s->size_bytes));
	return r;
}

static void add_image(struct qemu_disks *d, const struct image *image)
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
		want_overlay(d, image_disk_size(image));
		break;
	case IMAGE_DISK:
		disk = add_disk(d, ROOT_NAME);
		disk->path = image_disk(image);
		disk->format = image_disk_format(image);
		want_overlay(d, image_disk_size(image));
		break;
	case IMAGE_KERNEL:
		break;
	}
}

int qemu_disks_layout(struct qemu_disks *d, const struct machine_spec *spec,
		      const struct machine_env *env, const struct image *image, int first_fd,
		      struct error *err)
{
	int r = 0;

	assert(!d->list);
	d->list = xcalloc(spec->n_disks + 2, sizeof(*d->list));
	d->stacks = xcalloc(spec->n_disks + 2, sizeof(*d->stacks));
	d->first_fd = first_fd;
	add_image(d, image);
	for (size_t i = 0; i < spec->n_disks && r >= 0; i++) {
		r = add_spec_disk(d, &spec->disks[i], env, err);
		if (r < 0)
			error_prefix(err, "disk '%s'", spec->disks[i].name);
	}
	if (r < 0)
		qemu_disks_done(d);
	else
		number_fds(d);
	return r;
}

/* --- Overlays and layers -------------------------------------------------------------------- */

int qemu_reopen_readonly(int fd, struct error *err)
{
	char path[64];
	int ret;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ret = open(path, O_RDONLY | O_CLOEXEC);
	if (ret < 0)
		return error_set_errno(err, ERROR_INFRA, errno,
				       "cannot open a file of the machine's state again");
	return ret;
}

int qemu_overlay_new(uint64_t size, const struct machine_env *env, struct qemu_overlay *ret,
		     struct error *err)
{
	_cleanup_close_ int fd = tmpfile_open(env->work_dir, err);
	int reader, r;

	if (fd < 0)
		return fd;
	r = qcow2_write_empty(fd, size, err);
	if (r < 0)
		return r;
	reader = qemu_reopen_readonly(fd, err);
	if (reader < 0)
		return reader;
	*ret = (struct qemu_overlay){TAKE_FD(fd), reader};
	return 0;
}

void qemu_overlay_done(struct qemu_overlay *o)
{
	cleanup_close(&o->fd);
	cleanup_close(&o->reader_fd);
	*o = NO_OVERLAY;
}

static void add_layer(struct qemu_stack *stack, int fd)
{
	stack->layers = xrealloc(stack->layers, (stack->n_layers + 1) * sizeof(*stack->layers));
	stack->layers[stack->n_layers++] = fd;
}

void qemu_disks_push(struct qemu_disks *d, size_t i, struct qemu_overlay *overlay)
{
	struct qemu_stack *stack = &d->stacks[i];

	add_layer(stack, TAKE_FD(stack->overlay.reader_fd));
	qemu_overlay_done(&stack->overlay);
	stack->overlay = *overlay;
	*overlay = NO_OVERLAY;
	number_fds(d);
}

void qemu_disks_restarted(struct qemu_disks *d)
{
	for (size_t i = 0; i < d->n; i++)
		d->stacks[i].generation = 0;
}

/* The layers of the saved state, below an overlay that is to be made. */
static int take_layers(struct qemu_disks *d, size_t i, const struct saved *from, struct error *err)
{
	const struct saved_disk *disk = saved_find_disk(from, d->list[i].name);
	struct qemu_stack *stack = &d->stacks[i];

	if (!disk || disk->n_layers == 0)
		return error_set(err, ERROR_INFRA, ENOENT, "the saved state has no disk '%s'",
				 d->list[i].name);
	for (size_t k = 0; k < disk->n_layers; k++) {
		int fd = qemu_reopen_readonly(disk->layers[k], err);

		if (fd < 0)
			return fd;
		add_layer(stack, fd);
	}
	return qcow2_virtual_size(stack->layers[stack->n_layers - 1], &stack->size, err);
}

int qemu_disks_prepare(struct qemu_disks *d, const struct machine_spec *spec,
		       const struct machine_env *env, const struct image *image, int first_fd,
		       const struct saved *from, struct error *err)
{
	int r = qemu_disks_layout(d, spec, env, image, first_fd, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < d->n && r >= 0; i++) {
		if (d->list[i].overlay_fd < 0)
			continue;
		if (from)
			r = take_layers(d, i, from, err);
		if (r >= 0)
			r = qemu_overlay_new(d->stacks[i].size, env, &d->stacks[i].overlay, err);
		if (r < 0)
			error_prefix(err, "disk '%s'", d->list[i].name);
	}
	if (r < 0)
		qemu_disks_done(d);
	else
		number_fds(d);
	return r;
}

void qemu_disks_done(struct qemu_disks *d)
{
	for (size_t i = 0; i < d->n; i++) {
		qemu_overlay_done(&d->stacks[i].overlay);
		for (unsigned k = 0; k < d->stacks[i].n_layers; k++)
			close(d->stacks[i].layers[k]);
		free(d->stacks[i].layers);
	}
	free(d->list);
	free(d->stacks);
	strv_free(d->strings);
	*d = (struct qemu_disks){};
}

int qemu_disks_save(const struct qemu_disks *d, bool with_overlays, struct saved *s,
		    struct error *err)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct qemu_stack *stack = &d->stacks[i];

		if (stack->overlay.fd < 0)
			continue;
		for (unsigned k = 0; k < stack->n_layers + (with_overlays ? 1 : 0); k++) {
			int of = k < stack->n_layers ? stack->layers[k] : stack->overlay.fd;
			int fd = fcntl(of, F_DUPFD_CLOEXEC, 0);

			if (fd < 0)
				return error_set_errno(err, ERROR_INFRA, errno,
						       "cannot keep an overlay");
			saved_push_layer(s, d->list[i].name, fd);
		}
	}
	return 0;
}

/* --- For QEMU ------------------------------------------------------------------------------- */

size_t qemu_disks_n_fds(const struct qemu_disks *d)
{
	size_t n = 0;

	for (size_t i = 0; i < d->n; i++)
		n += qemu_disk_n_fds(&d->list[i]);
	return n;
}

void qemu_disks_fill_fds(const struct qemu_disks *d, struct spawn_fd *fds)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct qemu_stack *stack = &d->stacks[i];
		int number = d->list[i].overlay_fd;

		if (number < 0)
			continue;
		*fds++ = (struct spawn_fd){stack->overlay.fd, number++};
		*fds++ = (struct spawn_fd){stack->overlay.reader_fd, number++};
		for (unsigned k = 0; k < stack->n_layers; k++)
			*fds++ = (struct spawn_fd){stack->layers[k], number++};
	}
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
