/* SPDX-License-Identifier: MIT */
/* Builds the image "tiny": Debian's cloud kernel and its static busybox, nothing else. */
#include "image/internal.h"

#include "base/str.h"
#include "image/kernel.h"
#include "image/scripts.h"

static int fetch_busybox(struct apt *a, struct error *err)
{
	_cleanup_strv_ char **debs = NULL;
	int r;

	build_phase(a->build, "fetching busybox");
	r = apt_download(a, (char *const[]){"busybox-static", NULL}, &debs, err);
	if (r < 0)
		return r;
	return build_run(a->build, BUILD_AS_ROOT,
			 (char *const[]){"dpkg-deb", "-x", debs[0], "busybox", NULL}, 0, err);
}

int tiny_build(struct build *b, const struct recipe *recipe, struct manifest *m, struct error *err)
{
	static const char *const TOOLS[] = {"mkfs.erofs", "mke2fs",   "zstd",	 "xz", "tar",
					    "unshare",	  "dpkg-deb", "apt-get", NULL};
	_cleanup_apt_ struct apt a = {.lock_fd = -EBADF};
	_cleanup_free_ char *modules = NULL, *root = build_path(b, "rootfs");
	_cleanup_free_ char *busybox = NULL, *kernel = build_path(b, "kernel");
	int r = build_check_tools(TOOLS, err);

	if (r >= 0)
		r = apt_open(&a, b, recipe->suite, recipe->name, err);
	if (r >= 0)
		r = apt_update(&a, err);
	if (r >= 0)
		r = kernel_fetch(&a, &m->kernel_release, err);
	if (r >= 0)
		r = fetch_busybox(&a, err);
	if (r < 0)
		return r;
	apt_close(&a);
	busybox = build_path(b, "busybox/usr/bin/busybox");
	if (!path_exists(busybox)) {
		free(busybox);
		busybox = build_path(b, "busybox/bin/busybox");
	}
	build_phase(b, "packing");
	r = build_script(b, SCRIPT_TINY, (char *const[]){root, busybox, kernel, NULL}, err);
	if (r < 0)
		return r;
	modules = xasprintf("%s/lib/modules/%s", root, m->kernel_release);
	r = kernel_write_modules(b, modules, NULL, err);
	if (r >= 0)
		r = build_script(b, SCRIPT_PACK,
				 (char *const[]){"rootfs", "root.erofs", "root.tar.zst",
						 "dpkg-status", NULL},
				 err);
	if (r >= 0)
		r = build_run(b, BUILD_AS_ROOT,
			      (char *const[]){"rm", "-rf", "kernel", "busybox", NULL}, 0, err);
	m->init = xstrdup("busybox");
	m->disk_bytes = SCRATCH_BYTES_DEFAULT;
	return r < 0 ? r : scratch_write(b, SCRATCH_BYTES_DEFAULT, err);
}
