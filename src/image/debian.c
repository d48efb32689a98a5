/* SPDX-License-Identifier: MIT */
/* Builds debian-12 and debian-13: mmdebstrap for the tree, Debian's cloud kernel beside it. */
#include "image/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/str.h"
#include "image/kernel.h"
#include "image/scripts.h"

/*
 * Steps. Each is a program of its own; the tree at rootfs/ goes from one to the next.
 *
 *	apt (private root)	lists, the kernel package
 *	mmdebstrap		rootfs/, from the same sources
 *	debian-setup.sh		modules, presets, clean-up of what came from the host
 *	debian-seal.sh		as after every change of a tree
 *	kernel_write_modules	modules.cpio
 *	pack.sh			root.erofs and root.tar.zst (what derived images start from)
 *	scratch_write		scratch.ext4
 */

/* What systemd would mount by a process each; see "mounts.list" in the agent's init. */
static const char DEBIAN_MOUNTS[] = "debugfs /sys/kernel/debug nosuid,nodev,noexec\n"
				    "tracefs /sys/kernel/tracing nosuid,nodev,noexec\n"
				    "fusectl /sys/fs/fuse/connections nosuid,nodev,noexec\n"
				    "mqueue /dev/mqueue nosuid,nodev,noexec\n"
				    "hugetlbfs /dev/hugepages nosuid,nodev,pagesize=2M\n"
				    "tmpfs /run nosuid,nodev,strictatime,mode=0755,size=20%,"
				    "nr_inodes=800k\n"
				    "tmpfs /run/lock nosuid,nodev,noexec,mode=1777,size=5242880 "
				    "run-lock.mount\n"
				    "tmpfs /tmp nosuid,nodev,strictatime,mode=1777,size=50%,"
				    "nr_inodes=1m tmp.mount\n";

/* Small files that nobody reads in a test machine; as Debian's own slim images do it. The setting
 * stays in the image, so that packages installed later are treated alike. */
static const char *const DPKG_OPTIONS[] = {
	"path-exclude=/usr/share/doc/*",     "path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/man/*",     "path-exclude=/usr/share/info/*",
	"path-exclude=/usr/share/locale/*",  "path-include=/usr/share/locale/locale.alias",
	"path-exclude=/usr/share/lintian/*",
};

int scratch_write(struct build *b, uint64_t bytes, struct error *err)
{
	_cleanup_free_ char *size = xasprintf("%llu", (unsigned long long)bytes);
	_cleanup_free_ char *path = build_path(b, "scratch.ext4");

	return build_script(b, SCRIPT_SCRATCH, (char *const[]){path, size, NULL}, err);
}

static int bootstrap(struct build *b, const struct apt *a, struct error *err)
{
	_cleanup_free_ char *sources = path_join(a->dir, "sources.list");
	_cleanup_strv_ char **argv = NULL, **options = NULL;
	int r = apt_host_options(b, &options, err);

	if (r < 0)
		return r;
	build_phase(b, "installing Debian %s", a->suite);
	strv_push(&argv, "mmdebstrap");
	/* We are root of a namespace already; mmdebstrap's own would need another tree format. */
	strv_push(&argv, "--mode=root");
	strv_push(&argv, "--variant=minbase");
	strv_push(&argv, "--format=directory");
	strv_pushf(&argv, "--architectures=%s", apt_architecture());
	strv_pushf(&argv, "--include=%s", recipe_debian_packages());
	for (size_t i = 0; i < ARRAY_SIZE(DPKG_OPTIONS); i++)
		strv_pushf(&argv, "--dpkgopt=%s", DPKG_OPTIONS[i]);
	for (char **o = options; o && *o; o++)
		strv_pushf(&argv, "--aptopt=%s", *o);
	strv_push(&argv, a->suite);
	strv_push_take(&argv, build_path(b, "rootfs"));
	strv_push(&argv, sources);
	return build_run(b, BUILD_AS_ROOT, argv, 0, err);
}

int debian_build(struct build *b, const struct recipe *recipe, struct manifest *m,
		 struct error *err)
{
	static const char *const TOOLS[] = {"mmdebstrap", "mkfs.erofs", "mke2fs",  "zstd",
					    "xz",	  "tar",	"unshare", "dpkg-deb",
					    "apt-get",	  NULL};
	_cleanup_apt_ struct apt a = {.lock_fd = -EBADF};
	_cleanup_free_ char *modules = NULL;
	int r = build_check_tools(TOOLS, err);

	if (r >= 0)
		r = apt_open(&a, b, recipe->suite, recipe->name, err);
	if (r >= 0)
		r = apt_update(&a, err);
	if (r >= 0)
		r = kernel_fetch(&a, &m->kernel_release, err);
	if (r >= 0)
		r = bootstrap(b, &a, err);
	if (r < 0)
		return r;
	build_phase(b, "preparing the system");
	r = build_script(b, SCRIPT_DEBIAN_SETUP,
			 (char *const[]){"rootfs", "kernel", a.sources_guest, NULL}, err);
	/* Others may fetch while we pack. */
	apt_close(&a);
	if (r >= 0)
		r = build_script(b, SCRIPT_DEBIAN_SEAL, (char *const[]){"rootfs", NULL}, err);
	if (r < 0)
		return r;
	modules = xasprintf("%s/rootfs/usr/lib/modules/%s", b->dir, m->kernel_release);
	r = kernel_write_modules(b, modules, DEBIAN_MOUNTS, err);
	if (r < 0)
		return r;
	build_phase(b, "packing");
	r = build_script(
		b, SCRIPT_PACK,
		(char *const[]){"rootfs", "root.erofs", "root.tar.zst", "dpkg-status", NULL}, err);
	if (r >= 0)
		r = build_run(b, BUILD_AS_ROOT, (char *const[]){"rm", "-rf", "kernel", NULL}, 0,
			      err);
	m->init = xstrdup("systemd");
	m->disk_bytes = SCRATCH_BYTES_DEFAULT;
	return r < 0 ? r : scratch_write(b, SCRATCH_BYTES_DEFAULT, err);
}
