/* SPDX-License-Identifier: MIT */
/* Open images: what a machine asks about what it boots from. */
#include "image/internal.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"

static struct image *image_new(enum image_kind kind, const char *name)
{
	struct image *image = xcalloc(1, sizeof(*image));

	image->n_ref = 1;
	image->kind = kind;
	image->name = xstrdup(name);
	image->lock_fd = -EBADF;
	return image;
}

struct image *image_ref(struct image *image)
{
	image->n_ref++;
	return image;
}

struct image *image_unref(struct image *image)
{
	if (!image || --image->n_ref > 0)
		return NULL;
	char **const strings[] = {
		&image->name,	 &image->digest, &image->dir,	      &image->vmlinux,
		&image->kernel,	 &image->initrd, &image->root,	      &image->scratch,
		&image->modules, &image->disk,	 &image->disk_format, &image->kernel_release,
		&image->init,
	};
	for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
		free(*strings[i]);
	cleanup_close(&image->lock_fd);
	free(image);
	return NULL;
}

void cleanup_image(struct image **image)
{
	*image = image_unref(*image);
}

/* ---- from the store --------------------------------------------------------------------- */

/* The path if it exists, else NULL. */
static char *part(const char *dir, const char *name)
{
	_cleanup_free_ char *path = path_join(dir, name);

	return path_exists(path) ? TAKE_PTR(path) : NULL;
}

static int check_parts(const struct image *image, struct error *err)
{
	const char *missing = NULL;

	if (image->kind == IMAGE_LAYERED)
		missing = !image->vmlinux   ? "vmlinux"
			  : !image->root    ? "root.erofs"
			  : !image->scratch ? "scratch.ext4"
			  : !image->modules ? "modules.cpio"
					    : NULL;
	else if (image->kind == IMAGE_KERNEL)
		missing = image->kernel ? NULL : "kernel";
	else
		missing = image->disk ? NULL : "disk";
	if (missing)
		return error_set(err, ERROR_INFRA, ENOENT, "image '%s' is damaged: '%s/%s' is gone",
				 image->name, image->dir, missing);
	return 0;
}

int image_open_dir(const struct store *s, const char *dir, struct image **ret, struct error *err)
{
	_cleanup_manifest_ struct manifest m = {};
	_cleanup_image_ struct image *image = NULL;
	_cleanup_close_ int lock = -EBADF;
	int r = store_lock_shared(s, dir, &lock);

	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot use the image in '%s'", dir);
	r = manifest_read(dir, &m, err);
	if (r < 0)
		return r;
	image = image_new(m.kind, m.name);
	image->lock_fd = TAKE_FD(lock);
	image->dir = xstrdup(dir);
	image->digest = TAKE_PTR(m.digest);
	image->disk_bytes = m.disk_bytes;
	image->disk_format = TAKE_PTR(m.disk_format);
	image->kernel_release = TAKE_PTR(m.kernel_release);
	image->init = TAKE_PTR(m.init);
	image->vmlinux = part(dir, "vmlinux");
	image->kernel = part(dir, m.kind == IMAGE_KERNEL ? "kernel" : "bzImage");
	image->initrd = part(dir, "initrd");
	image->root = part(dir, "root.erofs");
	image->scratch = part(dir, "scratch.ext4");
	image->modules = part(dir, "modules.cpio");
	image->disk = part(dir, "disk");
	r = check_parts(image, err);
	if (r < 0)
		return r;
	/* A store that we may only read keeps no record of it; that is all. */
	(void)utimensat(image->lock_fd, "used", NULL, 0);
	*ret = TAKE_PTR(image);
	return 0;
}

/* ---- from a path ------------------------------------------------------------------------ */

/* A file that we do not own is known by its identity: hashing gigabytes at every start is out of
 * the question, and a write to it changes its time stamp. */
static void digest_identity(struct sha256 *s, const char *path, const struct stat *st)
{
	char text[128];

	snprintf(text, sizeof(text), "%llu %llu %lld %lld.%09ld", (unsigned long long)st->st_dev,
		 (unsigned long long)st->st_ino, (long long)st->st_size,
		 (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	sha256_update_str(s, path);
	sha256_update_str(s, text);
}

static int open_file(const char *what, const char *path, char **ret_path, struct stat *ret_st,
		     int *ret_fd, struct error *err)
{
	_cleanup_free_ char *absolute = path_absolute(path);
	_cleanup_close_ int fd = open(absolute, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, ret_st) < 0)
		return error_set_errno(err, ERROR_USAGE, errno, "cannot open the %s '%s'", what,
				       path);
	if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode))
		return error_set(err, ERROR_USAGE, EINVAL, "the %s '%s' is not a file", what, path);
	*ret_path = TAKE_PTR(absolute);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int image_open_disk(const char *path, struct image **ret, struct error *err)
{
	_cleanup_image_ struct image *image = image_new(IMAGE_DISK, path);
	_cleanup_close_ int fd = -EBADF;
	char head[512] = {}, hex[DIGEST_HEX_MAX];
	const char *format;
	struct sha256 s;
	struct stat st = {};
	ssize_t n;
	int r = open_file("disk", path, &image->disk, &st, &fd, err);

	if (r < 0)
		return r;
	n = pread(fd, head, sizeof(head), 0);
	if (n < (ssize_t)sizeof(head))
		return error_set(err, ERROR_USAGE, EINVAL, "the disk '%s' is empty", path);
	format = disk_format_probe(head, (size_t)n);
	if (!str_eq(format, "raw") && !str_eq(format, "qcow2")) {
		r = error_set(err, ERROR_UNSUPPORTED, EOPNOTSUPP,
			      "the disk '%s' is in the format %s (qcow2 or raw wanted)", path,
			      format);
		error_hint(err, "qemu-img convert -O qcow2 '%s' disk.qcow2", path);
		return r;
	}
	image->disk_format = xstrdup(format);
	image->disk_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	if (str_eq(format, "qcow2")) {
		r = qcow2_virtual_size(fd, &image->disk_bytes, err);
		if (r < 0)
			return r;
	}
	sha256_init(&s);
	sha256_update_str(&s, "disk");
	digest_identity(&s, image->disk, &st);
	sha256_hex(&s, hex);
	image->digest = xstrdup(hex);
	*ret = TAKE_PTR(image);
	return 0;
}

int image_open_kernel(const char *kernel, const char *initrd, struct image **ret, struct error *err)
{
	_cleanup_image_ struct image *image = image_new(IMAGE_KERNEL, kernel);
	_cleanup_close_ int fd = -EBADF, initrd_fd = -EBADF;
	char head[4] = {}, hex[DIGEST_HEX_MAX];
	struct sha256 s;
	struct stat st = {};
	int r = open_file("kernel", kernel, &image->kernel, &st, &fd, err);

	if (r < 0)
		return r;
	sha256_init(&s);
	sha256_update_str(&s, "kernel");
	digest_identity(&s, image->kernel, &st);
	if (initrd) {
		r = open_file("initramfs", initrd, &image->initrd, &st, &initrd_fd, err);
		if (r < 0)
			return r;
		digest_identity(&s, image->initrd, &st);
	}
	if (pread(fd, head, sizeof(head), 0) == sizeof(head) && memcmp(head,
								       "\x7f"
								       "ELF",
								       4) == 0)
		image->vmlinux = xstrdup(image->kernel);
	sha256_hex(&s, hex);
	image->digest = xstrdup(hex);
	*ret = TAKE_PTR(image);
	return 0;
}

/* ---- accessors -------------------------------------------------------------------------- */

enum image_kind image_kind(const struct image *image)
{
	return image->kind;
}

const char *image_name(const struct image *image)
{
	return image->name;
}

const char *image_digest(const struct image *image)
{
	return image->digest;
}

const char *image_dir(const struct image *image)
{
	return image->dir;
}

const char *image_vmlinux(const struct image *image)
{
	return image->vmlinux;
}

const char *image_kernel(const struct image *image)
{
	return image->kernel;
}

const char *image_initrd(const struct image *image)
{
	return image->initrd;
}

const char *image_root(const struct image *image)
{
	return image->root;
}

const char *image_scratch(const struct image *image)
{
	return image->scratch;
}

const char *image_modules(const struct image *image)
{
	return image->modules;
}

const char *image_disk(const struct image *image)
{
	return image->disk;
}

const char *image_disk_format(const struct image *image)
{
	return image->disk_format;
}

uint64_t image_disk_size(const struct image *image)
{
	return image->disk_bytes;
}

const char *image_kernel_release(const struct image *image)
{
	return image->kernel_release;
}

bool image_has_systemd(const struct image *image)
{
	return str_eq(image->init, "systemd");
}

const char *image_cmdline(const struct image *image)
{
	/*
	 * lsm=: the BPF LSM, unused unless asked for, costs a second under TCG at its first
	 * program. nowatchdog, tsc=reliable: a stolen second of the host is no lock-up of the
	 * guest's. TERM=: else systemd 257 asks the console for its size and waits for the answer,
	 * once for each process that it puts there. cryptomgr.notests: ciphers tested anew at each
	 * boot. nr_uarts: udev announces each possible port to systemd; there is one.
	 */
	if (image->kind != IMAGE_LAYERED)
		return "";
	return "quiet lsm=landlock,yama nowatchdog tsc=reliable cryptomgr.notests "
	       "8250.nr_uarts=1 TERM=dumb";
}
