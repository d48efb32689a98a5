/* SPDX-License-Identifier: MIT */
/* A Debian kernel package taken apart: bzImage, vmlinux, and the modules that an initramfs needs.
 */
#include "image/kernel.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "image/bzimage.h"
#include "image/cpio.h"
#include "loop/process.h"

/*
 * The cloud kernel has NVMe and ext4 built in, and so could do without an initramfs; but erofs,
 * overlayfs and virtio-blk (which unlike NVMe can be saved and restored) are modules. They are few
 * and small: our initramfs holds them uncompressed, in load order, and nothing else but the agent.
 */
static const char *const INITRAMFS_MODULES[] = {
	"virtio_pci", "virtio_mmio", "virtio_console", "virtio_blk", "virtio_rng",
	"erofs",      "ext4",	     "overlay",	       NULL,
};
/* Without one of these no machine boots; the others may be absent from a kernel. */
static const char *const INDISPENSABLE[] = {
	"virtio_pci", "virtio_blk", "virtio_console", "erofs", "ext4", "overlay", NULL};

#define KERNEL_MAX   (256 * MIB)
#define MODULE_MAX   (32 * MIB)
#define MODULES_TEXT (4 * MIB)

/* ---- the kernel itself ------------------------------------------------------------------ */

/* The one entry of dir that begins with prefix; malloc'd path, NULL if there is none. */
static char *find_entry(const char *dir, const char *prefix)
{
	char *found = NULL;
	struct dirent *d;
	DIR *handle = opendir(dir);

	while (handle && !found && (d = readdir(handle)))
		if (d->d_name[0] != '.' && str_starts(d->d_name, prefix))
			found = path_join(dir, d->d_name);
	if (handle)
		closedir(handle);
	return found;
}

/* The stream goes to the tool's stdin as a file of its own. */
static int decompress_payload(struct build *b, const struct bzimage *bz, const char *data,
			      const char *dest, struct error *err)
{
	_cleanup_close_ int in =
		memfd_from_data("payload", data + bz->payload_offset, bz->payload_len, err);
	_cleanup_close_ int out = -EBADF;
	_cleanup_process_ struct process *p = NULL;
	_cleanup_strv_ char **argv = NULL;
	const char *const needed[] = {bz->tool, NULL};
	struct stat st = {};
	int status = 0, r;

	if (in < 0)
		return in;
	r = build_check_tools(needed, err);
	if (r < 0)
		return r;
	out = open(dest, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (out < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write '%s'", dest);
	strv_push(&argv, bz->tool);
	for (const char *const *arg = bz->tool_args; *arg; arg++)
		strv_push(&argv, *arg);

	const struct spawn_opts opts = {.stdin_fd = in, .stdout_fd = out, .stderr_fd = b->log_fd};

	r = process_spawn(argv, &opts, &p, err);
	if (r >= 0)
		r = build_wait(b, p, &status, err);
	if (r < 0)
		return r;
	if (fstat(out, &st) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot stat '%s'", dest);
	if (status == 0 && st.st_size == bz->vmlinux_len)
		return 0;
	if (store_free_bytes(b->dir) < MIB)
		return build_error_enospc(b->store->entries, 0, err);
	return error_set(err, ERROR_INFRA, EIO,
			 "%s unpacked the kernel to %lld bytes where its header says %u", bz->tool,
			 (long long)st.st_size, bz->vmlinux_len);
}

static int write_kernel(struct build *b, const char *vmlinuz, struct error *err)
{
	_cleanup_free_ char *copy = build_path(b, "bzImage"), *vmlinux = build_path(b, "vmlinux");
	_cleanup_buf_ struct buf data = {};
	struct bzimage bz;
	int r = file_read(vmlinuz, KERNEL_MAX, &data, err);

	if (r >= 0)
		r = bzimage_parse(data.data, data.len, &bz, err);
	if (r >= 0)
		r = decompress_payload(b, &bz, data.data, vmlinux, err);
	if (r >= 0 && rename(vmlinuz, copy) < 0)
		r = error_set_errno(err, ERROR_INFRA, errno, "cannot move '%s'", vmlinuz);
	if (r < 0)
		error_prefix(err, "kernel");
	return r;
}

int kernel_fetch(struct apt *a, char **ret_release, struct error *err)
{
	_cleanup_free_ char *meta = xasprintf("linux-image-cloud-%s", apt_architecture());
	_cleanup_free_ char *package = NULL, *vmlinuz = NULL;
	_cleanup_free_ char *kernel = build_path(a->build, "kernel");
	_cleanup_free_ char *boot = path_join(kernel, "boot");
	_cleanup_strv_ char **debs = NULL;
	int r;

	r = apt_resolve_meta(a, meta, &package, err);
	if (r < 0)
		return r;
	build_phase(a->build, "fetching the kernel %s", package + strlen("linux-image-"));
	r = apt_download(a, (char *const[]){package, NULL}, &debs, err);
	if (r < 0)
		return r;
	r = build_run(a->build, BUILD_AS_ROOT,
		      (char *const[]){"dpkg-deb", "-x", debs[0], kernel, NULL}, 0, err);
	if (r < 0)
		return r;
	vmlinuz = find_entry(boot, "vmlinuz-");
	if (!vmlinuz)
		return error_set(err, ERROR_INFRA, ENOENT,
				 "the package '%s' has no kernel in /boot", package);
	*ret_release = xstrdup(path_basename(vmlinuz) + strlen("vmlinuz-"));
	return write_kernel(a->build, vmlinuz, err);
}

/* ---- modules ---------------------------------------------------------------------------- */

/* "kernel/fs/erofs/erofs.ko.xz" is "erofs"; '-' and '_' are the same to the kernel. */
static bool is_module(const char *path, size_t len, const char *name)
{
	const char *base = memrchr(path, '/', len);
	const char *end = path + len;
	size_t n = strlen(name);

	base = base ? base + 1 : path;
	if ((size_t)(end - base) < n + 3 || memcmp(base + n, ".ko", 3) != 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((base[i] == '-' ? '_' : base[i]) != (name[i] == '-' ? '_' : name[i]))
			return false;
	return true;
}

static bool is_builtin(const char *builtin, const char *name)
{
	for (const char *line = builtin; *line;) {
		size_t len = strcspn(line, "\n");

		if (is_module(line, len, name))
			return true;
		line += len + (line[len] == '\n');
	}
	return false;
}

/* modules.dep: "path: dep dep…", in which the dependencies are all of them, and each stands before
 * those that it needs itself: loaded from the last to the first. */
static bool push_with_deps(const char *dep, const char *name, char ***paths)
{
	for (const char *line = dep; *line;) {
		size_t len = strcspn(line, "\n");
		const char *colon = memchr(line, ':', len);

		if (colon && is_module(line, (size_t)(colon - line), name)) {
			_cleanup_free_ char *rest =
				xstrndup(colon + 1, (size_t)(line + len - colon - 1));
			_cleanup_free_ char *path = xstrndup(line, (size_t)(colon - line));
			_cleanup_strv_ char **deps = strv_split(rest, " ");

			for (size_t i = strv_len(deps); i > 0; i--)
				if (!strv_contains(*paths, deps[i - 1]))
					strv_push(paths, deps[i - 1]);
			if (!strv_contains(*paths, path))
				strv_push(paths, path);
			return true;
		}
		line += len + (line[len] == '\n');
	}
	return false;
}

void kernel_module_order(const char *dep, const char *builtin, const char *const *wanted,
			 char ***ret_paths, char ***ret_missing)
{
	for (; *wanted; wanted++)
		if (!is_builtin(builtin, *wanted) && !push_with_deps(dep, *wanted, ret_paths))
			strv_push(ret_missing, *wanted);
}

/* A module's file, uncompressed. */
static int read_module(struct build *b, const char *path, struct buf *ret, struct error *err)
{
	static const struct {
		const char *suffix, *tool;
	} PACKED[] = {{".xz", "xz"}, {".zst", "zstd"}, {".gz", "gzip"}};
	struct run_result result = {};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(PACKED); i++) {
		char *const argv[] = {(char *)PACKED[i].tool, "-dc", (char *)path, NULL};

		if (!str_ends(path, PACKED[i].suffix))
			continue;
		r = process_run(argv, NULL, NULL, 0, MODULE_MAX, timeout_left(b->deadline_ns),
				&result, err);
		if (r >= 0 && result.status != 0)
			r = error_set(err, ERROR_INFRA, EIO, "cannot unpack '%s': %s", path,
				      buf_str(&result.err));
		if (r >= 0)
			buf_append(ret, result.out.data, result.out.len);
		run_result_done(&result);
		return r;
	}
	return file_read(path, MODULE_MAX, ret, err);
}

static int add_module(struct build *b, struct cpio *c, const char *modules_dir, const char *path,
		      struct buf *list, struct error *err)
{
	_cleanup_free_ char *full = path_join(modules_dir, path);
	const char *base = path_basename(path);
	_cleanup_free_ char *name =
		xasprintf("assay/modules/%.*s", (int)(strstr(base, ".ko") + 3 - base), base);
	_cleanup_buf_ struct buf data = {};
	int r = read_module(b, full, &data, err);

	if (r < 0)
		return r;
	cpio_add_file(c, name, 0644, data.data, data.len);
	buf_printf(list, "/%s\n", name);
	return 0;
}

static int check_missing(char *const *missing, struct error *err)
{
	for (; missing && *missing; missing++)
		for (const char *const *name = INDISPENSABLE; *name; name++)
			if (str_eq(*name, *missing))
				return error_set(err, ERROR_INFRA, ENOENT,
						 "the kernel has no module '%s', built in or not",
						 *missing);
	return 0;
}

int kernel_write_modules(struct build *b, const char *modules_dir, const char *mounts,
			 struct error *err)
{
	_cleanup_free_ char *dep_path = path_join(modules_dir, "modules.dep");
	_cleanup_free_ char *builtin_path = path_join(modules_dir, "modules.builtin");
	_cleanup_free_ char *out = build_path(b, "modules.cpio");
	_cleanup_buf_ struct buf dep = {}, builtin = {}, list = {};
	_cleanup_strv_ char **paths = NULL, **missing = NULL;
	_cleanup_cpio_ struct cpio c = {};
	int r = file_read(dep_path, MODULES_TEXT, &dep, err);

	if (r >= 0)
		r = file_read(builtin_path, MODULES_TEXT, &builtin, err);
	if (r < 0)
		return r;
	kernel_module_order(buf_str(&dep), buf_str(&builtin), INITRAMFS_MODULES, &paths, &missing);
	r = check_missing(missing, err);
	cpio_add_dir(&c, "assay", 0755);
	cpio_add_dir(&c, "assay/modules", 0755);
	for (char **path = paths; r >= 0 && path && *path; path++)
		r = add_module(b, &c, modules_dir, *path, &list, err);
	if (r < 0)
		return r;
	cpio_add_file(&c, "assay/modules.list", 0644, buf_str(&list), list.len);
	if (mounts)
		cpio_add_file(&c, "assay/mounts.list", 0644, mounts, strlen(mounts));
	cpio_finish(&c);
	return file_write_atomic(out, c.buf.data, c.buf.len, 0644, err);
}
