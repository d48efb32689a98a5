/* SPDX-License-Identifier: MIT */
/* The initramfs of a layered image: the agent as init, and the modules that it loads. */
#include "image/internal.h"

#include "base/str.h"
#include "image/cpio.h"

#define MODULES_MAX (128 * MIB)

int image_initrd_memfd(const struct image *image, const void *agent, size_t agent_len, int *ret_fd,
		       struct error *err)
{
	static const char *const DIRS[] = {"dev", "proc", "sys", "run", "newroot"};
	_cleanup_buf_ struct buf modules = {};
	_cleanup_cpio_ struct cpio c = {};
	int fd, r;

	if (image->kind != IMAGE_LAYERED)
		return error_set(err, ERROR_BUG, EINVAL, "image '%s' has no initramfs of ours",
				 image->name);
	r = file_read(image->modules, MODULES_MAX, &modules, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(DIRS); i++)
		cpio_add_dir(&c, DIRS[i], 0755);
	/* init's stdin, stdout and stderr, opened by the kernel before anything can be mounted. */
	cpio_add_chardev(&c, "dev/console", 0600, 5, 1);
	cpio_add_file(&c, "init", 0755, agent, agent_len);
	cpio_finish(&c);
	buf_append(&c.buf, modules.data, modules.len);
	fd = memfd_from_data("assay-initrd", c.buf.data, c.buf.len, err);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}
