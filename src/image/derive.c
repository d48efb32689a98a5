/* SPDX-License-Identifier: MIT */
/* Derived images: a base image's tree with packages, files and a script's doing added. */
#include "image/internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"
#include "image/apt.h"
#include "image/scripts.h"
#include "loop/fiber.h"

/*
 * The base's archive (root.tar.zst) is unpacked, changed, and packed again; kernel, modules and
 * (unless another size is wanted) scratch disk are hard links to the base's. The packages are
 * resolved and fetched by the host's apt against the tree's dpkg status, and installed by the
 * tree's own apt without any network: so the host's proxies and keys serve, and the guest's
 * maintainer scripts run as they would there.
 */

static const char *suite_of(const char *dir_of_base, struct error *err)
{
	/* A derived image's base is in the end a built-in one: follow the manifests. */
	_cleanup_free_ char *dir = xstrdup(dir_of_base);
	_cleanup_store_ struct store s = {};
	int r = store_open(STORE_IMAGES, &s, err);

	while (r >= 0) {
		_cleanup_manifest_ struct manifest m = {};
		const struct recipe *recipe;

		r = manifest_read(dir, &m, err);
		if (r < 0)
			break;
		recipe = !m.from ? recipe_find(m.name) : NULL;
		if (recipe)
			return recipe->kind == RECIPE_DEBIAN ? recipe->suite : NULL;
		free(dir);
		dir = m.base_digest ? store_find_digest(&s, m.base_digest) : NULL;
		if (!dir)
			break;
	}
	return NULL;
}

/* ---- packages --------------------------------------------------------------------------- */

/* The tree is unpacked (disk, CPU) while the packages are looked up and fetched (network). */
struct unpacking {
	struct build *build;
	const struct image *base;
	struct fiber *fiber;
	struct error err;
};

static int unpack(void *userdata)
{
	struct unpacking *u = userdata;
	_cleanup_free_ char *archive = path_join(u->base->dir, "root.tar.zst");
	_cleanup_free_ char *root = build_path(u->build, "rootfs");

	return build_script(u->build, SCRIPT_UNPACK, (char *const[]){archive, root, NULL}, &u->err);
}

static void unpacking_start(struct unpacking *u)
{
	build_phase(u->build, "unpacking %s", u->base->name);
	fiber_start("unpack", unpack, u, &u->fiber);
}

static void unpacking_stop(struct unpacking *u)
{
	if (u->fiber)
		fiber_stop(u->fiber);
	u->fiber = fiber_unref(u->fiber);
}

static int unpacking_wait(struct unpacking *u, struct error *err)
{
	int r = fiber_join(u->fiber, NS_FOREVER, err);

	if (r < 0)
		return r;
	return fiber_result(u->fiber) < 0 ? error_propagate(err, &u->err) : 0;
}

static int fetch_packages(struct apt *a, const struct image *base, char *const *packages,
			  const char *all, char ***ret, struct error *err)
{
	_cleanup_free_ char *status = path_join(base->dir, "dpkg-status");
	int r = apt_update(a, err);

	if (r < 0)
		return r;
	build_phase(a->build, "fetching %s", all);
	return apt_fetch_for_install(a, status, packages, ret, err);
}

static int install_packages(struct build *b, const struct apt *a, char *const *debs,
			    const char *all, struct error *err)
{
	_cleanup_free_ char *archives = apt_archives_dir(a);
	_cleanup_strv_ char **args = NULL;
	int r;

	build_phase(b, "installing %s", all);
	strv_push_take(&args, build_path(b, "rootfs"));
	strv_push(&args, archives);
	for (char *const *deb = debs; *deb; deb++)
		strv_push(&args, *deb);
	r = build_script(b, SCRIPT_DEBIAN_INSTALL, args, err);
	if (r < 0)
		error_prefix(err, "cannot install %s", all);
	return r;
}

/* rootfs/, with the packages (NULL: none) installed. */
static int unpack_and_install(struct build *b, const struct image *base, const char *suite,
			      char *const *packages, struct error *err)
{
	_cleanup_(unpacking_stop) struct unpacking u = {.build = b, .base = base};
	_cleanup_apt_ struct apt a = {.lock_fd = -EBADF};
	_cleanup_free_ char *all = strv_join(packages, ", ");
	_cleanup_strv_ char **debs = NULL;
	int r = 0;

	unpacking_start(&u);
	if (packages)
		r = apt_open(&a, b, suite, base->name, err);
	if (r >= 0 && packages)
		r = fetch_packages(&a, base, packages, all, &debs, err);
	if (r >= 0)
		r = unpacking_wait(&u, err);
	/* Without debs all were installed already. */
	return r < 0 || !debs ? r : install_packages(b, &a, debs, all, err);
}

/* ---- files ------------------------------------------------------------------------------ */

static int stage_text(struct build *b, const struct image_file *f, size_t i, char **ret,
		      struct error *err)
{
	_cleanup_free_ char *name = xasprintf("file-%zu", i), *path = build_path(b, name);
	int r = file_write_atomic(path, f->data, f->len, 0644, err);

	if (r >= 0)
		*ret = TAKE_PTR(path);
	return r;
}

static int install_files(struct build *b, const struct image_spec *spec, struct error *err)
{
	_cleanup_strv_ char **args = NULL, **staged = NULL;
	int r = 0;

	build_phase(b, "adding files");
	strv_push_take(&args, build_path(b, "rootfs"));
	for (size_t i = 0; i < spec->n_files && r >= 0; i++) {
		const struct image_file *f = &spec->files[i];
		_cleanup_free_ char *source = NULL;

		if (f->from)
			source = path_absolute(f->from);
		else
			r = stage_text(b, f, i, &source, err);
		if (r < 0)
			break;
		if (!f->from)
			strv_push(&staged, source);
		strv_push(&args, source);
		strv_push(&args, f->path);
		if (f->mode)
			strv_pushf(&args, "%04o", f->mode & 07777);
		else
			strv_push(&args, f->from ? "-" : "0644");
		strv_push(&args, f->owner ? f->owner : "-");
	}
	if (r >= 0)
		r = build_script(b, SCRIPT_FILES, args, err);
	for (char **path = staged; path && *path; path++)
		unlink(*path);
	if (r < 0)
		error_prefix(err, "cannot add files");
	return r;
}

static int run_user_script(struct build *b, const char *script, struct error *err)
{
	_cleanup_free_ char *path = build_path(b, "run"), *root = build_path(b, "rootfs");
	int r;

	build_phase(b, "running the image's script");
	r = file_write_atomic(path, script, strlen(script), 0644, err);
	if (r < 0)
		return r;
	r = build_script(b, SCRIPT_RUN, (char *const[]){root, path, NULL}, err);
	unlink(path);
	if (r < 0 && r != -ENOSPC && error_is_set(err)) {
		/* The user's own script, not the lab. */
		err->kind = ERROR_USAGE;
		error_prefix(err, "the image's 'run' script");
	}
	return r;
}

/* ---- parts shared with the base --------------------------------------------------------- */

static int share(struct build *b, const struct image *base, const char *name, struct error *err)
{
	_cleanup_free_ char *from = path_join(base->dir, name), *to = build_path(b, name);

	if (link(from, to) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot link '%s' to '%s'", from,
				       to);
	return 0;
}

static int share_parts(struct build *b, const struct image *base, bool with_root, bool with_scratch,
		       struct error *err)
{
	int r = share(b, base, "vmlinux", err);

	if (r >= 0)
		r = share(b, base, "bzImage", err);
	if (r >= 0)
		r = share(b, base, "modules.cpio", err);
	if (r >= 0 && with_root)
		r = share(b, base, "root.erofs", err);
	if (r >= 0 && with_root)
		r = share(b, base, "root.tar.zst", err);
	if (r >= 0 && with_root)
		r = share(b, base, "dpkg-status", err);
	if (r >= 0 && with_scratch)
		r = share(b, base, "scratch.ext4", err);
	return r;
}

static int change_tree(struct build *b, const struct image_spec *spec, const struct image *base,
		       char *const *packages, struct error *err)
{
	_cleanup_free_ char *root = build_path(b, "rootfs");
	const char *suite = suite_of(base->dir, err);
	int r;

	if (packages && !suite)
		return error_set(
			err, ERROR_USAGE, EINVAL,
			"packages cannot be installed into image '%s': it is no Debian system",
			base->name);
	r = unpack_and_install(b, base, suite, packages, err);
	if (r >= 0 && spec->n_files > 0)
		r = install_files(b, spec, err);
	if (r >= 0 && spec->run && *spec->run)
		r = run_user_script(b, spec->run, err);
	if (r >= 0 && suite)
		r = build_script(b, SCRIPT_DEBIAN_SEAL, (char *const[]){root, NULL}, err);
	if (r < 0)
		return r;
	build_phase(b, "packing");
	return build_script(
		b, SCRIPT_PACK,
		(char *const[]){root, "root.erofs", "root.tar.zst", "dpkg-status", NULL}, err);
}

int derive_build(struct build *b, const struct image_spec *spec, const struct image *base,
		 struct manifest *m, struct error *err)
{
	static const char *const TOOLS[] = {"mkfs.erofs", "mke2fs",  "zstd", "tar",
					    "unshare",	  "apt-get", NULL};
	_cleanup_strv_ char **packages = spec_packages(spec);
	bool changes = packages || spec->n_files > 0 || (spec->run && *spec->run);
	bool own_scratch = spec->size_bytes > 0 && spec->size_bytes != base->disk_bytes;
	int r;

	if (base->kind != IMAGE_LAYERED)
		return error_set(
			err, ERROR_UNSUPPORTED, EOPNOTSUPP,
			"nothing can be added to image '%s': it is a disk or kernel of its "
			"own",
			base->name);
	r = build_check_tools(TOOLS, err);
	if (r >= 0)
		r = share_parts(b, base, !changes, !own_scratch, err);
	if (r >= 0 && changes)
		r = change_tree(b, spec, base, packages, err);
	if (r >= 0 && own_scratch)
		r = scratch_write(b, spec->size_bytes, err);
	m->from = xstrdup(spec->from);
	m->base_digest = xstrdup(base->digest);
	m->packages = TAKE_PTR(packages);
	m->kernel_release = base->kernel_release ? xstrdup(base->kernel_release) : NULL;
	m->init = base->init ? xstrdup(base->init) : NULL;
	m->disk_bytes = own_scratch ? spec->size_bytes : base->disk_bytes;
	return r;
}
