/* SPDX-License-Identifier: MIT */
/* image_ensure() and image_find(): from what a test file says to an open image. */
#include "image/internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/str.h"
#include "loop/fiber.h"

/*
 * Look up by digest; if it is missing, take the key's lock (perhaps waiting for another builder),
 * look again, build. A base is ensured before its derived image's lock is taken, so no process
 * holds one lock while it waits for another.
 */

/* ---- names ------------------------------------------------------------------------------ */

char *image_find_stored(const struct store *s, const char *name)
{
	_cleanup_strv_ char **dirs = store_dirs(s);
	char *best = NULL;
	uint64_t best_created = 0;

	for (char **dir = dirs; dir && *dir; dir++) {
		_cleanup_manifest_ struct manifest m = {};

		if (!str_starts(path_basename(*dir), name) || manifest_read(*dir, &m, NULL) < 0 ||
		    !str_eq(m.name, name) || (best && m.created < best_created))
			continue;
		free(best);
		best = xstrdup(*dir);
		best_created = m.created;
	}
	return best;
}

bool image_name_is_known(const char *name)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL;

	if (recipe_find(name))
		return true;
	if (store_open(STORE_IMAGES, &s, NULL) < 0)
		return false;
	dir = image_find_stored(&s, name);
	return dir != NULL;
}

int image_error_unknown(const struct store *s, const char *name, struct error *err)
{
	_cleanup_strv_ char **names = NULL, **dirs = store_dirs(s);
	_cleanup_free_ char *all = NULL;
	const char *near;
	int r;

	for (const char *const *n = image_builtin_names(); *n; n++)
		strv_push(&names, *n);
	for (char **dir = dirs; dir && *dir; dir++) {
		_cleanup_manifest_ struct manifest m = {};

		if (manifest_read(*dir, &m, NULL) >= 0 && !strchr(m.name, '+') &&
		    !strv_contains(names, m.name))
			strv_push(&names, m.name);
	}
	all = strv_join(names, ", ");
	near = nearest_name(name, (const char *const *)names);
	r = error_set(err, ERROR_USAGE, ENOENT, "image '%s' does not exist", name);
	if (near)
		error_hint(err, "did you mean '%s'? Known images: %s", near, all);
	else
		error_hint(err, "known images: %s; a disk is given by a path with a '/'", all);
	return r;
}

/* ---- building --------------------------------------------------------------------------- */

/* The directory moved away by a rebuild; whoever uses it goes on with open descriptors. */
static void remove_old(const char *old)
{
	struct fiber_shield shield;

	if (!old)
		return;
	fiber_shield_enter(&shield, 60 * NS_PER_SEC);
	(void)store_remove_tree(old, NULL);
	fiber_shield_leave(&shield);
}

static int finish(struct build *b, struct manifest *m, char **ret_dir, struct error *err)
{
	_cleanup_free_ char *dir = NULL, *old = NULL;
	int r;

	m->created = (uint64_t)time(NULL);
	r = manifest_write(m, b->dir, err);
	if (r >= 0)
		r = store_commit(b->store, b->dir, b->dir_fd, m->name, m->digest, &dir, &old, err);
	if (r == -ENOSPC)
		return build_error_enospc(b->store->entries, 0, err);
	if (r < 0)
		return r;
	b->committed = true;
	remove_old(old);
	*ret_dir = TAKE_PTR(dir);
	return 0;
}

static int build_one(const struct store *s, const struct image_spec *spec, const char *digest,
		     const struct image *base, const struct image_build_opts *opts, char **ret_dir,
		     struct error *err)
{
	_cleanup_free_ char *name = spec_dir_name(spec);
	const struct recipe *recipe = base ? NULL : recipe_find(spec->from);
	uint64_t need = recipe ? recipe_need_bytes(recipe) : 600 * MIB;
	_cleanup_manifest_ struct manifest m = {
		.name = xstrdup(name),
		.digest = xstrdup(digest),
		.kind = IMAGE_LAYERED,
	};
	_cleanup_build_ struct build b = {};
	int r = build_begin(&b, s, name, opts, need, err);

	if (r < 0)
		return r;
	assert(base || recipe);
	if (base)
		r = derive_build(&b, spec, base, &m, err);
	else if (recipe->kind == RECIPE_DEBIAN)
		r = debian_build(&b, recipe, &m, err);
	else
		r = tiny_build(&b, recipe, &m, err);
	return r < 0 ? r : finish(&b, &m, ret_dir, err);
}

static int ensure_locked(const struct store *s, const struct image_spec *spec, const char *digest,
			 const struct image *base, const struct image_build_opts *opts,
			 struct image **ret, struct error *err)
{
	_cleanup_close_ int lock = -EBADF;
	_cleanup_free_ char *dir = NULL;
	int r = store_lock_key(s, digest, &lock, err);

	if (r < 0)
		return r;
	/* Somebody else may have built it while we waited. */
	dir = store_find_digest(s, digest);
	if (dir && !(opts && opts->rebuild))
		return image_open_dir(s, dir, ret, err);
	free(TAKE_PTR(dir));
	r = build_one(s, spec, digest, base, opts, &dir, err);
	return r < 0 ? r : image_open_dir(s, dir, ret, err);
}

/* An open image that is there already; 0 and *ret NULL if it is not. */
static int open_existing(const struct store *s, const char *digest, struct image **ret,
			 struct error *err)
{
	_cleanup_free_ char *dir = store_find_digest(s, digest);
	struct error local = {};
	int r;

	if (!dir)
		return 0;
	r = image_open_dir(s, dir, ret, &local);
	/* Removed under our eyes: as if it had not been there. */
	if (r == -ENOENT)
		return 0;
	return r < 0 ? error_propagate(err, &local) : 0;
}

static int ensure_base(const struct image_spec *spec, const struct image_build_opts *opts,
		       struct image **ret, struct error *err)
{
	const struct image_spec base = {.from = spec->from};
	struct image_build_opts base_opts = opts ? *opts : (struct image_build_opts){};
	int r;

	/* Rebuilding a derived image does not mean its base. */
	base_opts.rebuild = false;
	r = image_ensure(&base, &base_opts, ret, err);
	if (r < 0)
		error_prefix(err, "image '%s'", spec->from);
	return r;
}

int image_ensure(const struct image_spec *spec, const struct image_build_opts *opts,
		 struct image **ret, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_image_ struct image *base = NULL;
	char digest[DIGEST_HEX_MAX];
	bool rebuild = opts && opts->rebuild;
	int r = image_spec_check(spec, err);

	if (r < 0)
		return r;
	if (spec_is_path(spec))
		return image_open_disk(spec->from, ret, err);
	r = store_open(STORE_IMAGES, &s, err);
	if (r >= 0)
		r = image_spec_digest(spec, digest, err);
	if (r < 0)
		return r;
	/* Imported and declared ones have no recipe here to build them anew from. */
	if (!rebuild || (!spec_is_derived(spec) && !recipe_find(spec->from))) {
		*ret = NULL;
		r = open_existing(&s, digest, ret, err);
		if (r < 0 || *ret)
			return r;
	}
	if (spec_is_derived(spec)) {
		r = ensure_base(spec, opts, &base, err);
		if (r < 0)
			return r;
	}
	return ensure_locked(&s, spec, digest, base, opts, ret, err);
}

int image_find(const struct image_spec *spec, struct image **ret, struct error *err)
{
	_cleanup_store_ struct store s = {};
	char digest[DIGEST_HEX_MAX];
	int r = image_spec_check(spec, err);

	if (r < 0)
		return r;
	if (spec_is_path(spec))
		return image_open_disk(spec->from, ret, err);
	r = store_open(STORE_IMAGES, &s, err);
	if (r >= 0)
		r = image_spec_digest(spec, digest, err);
	if (r < 0)
		return r;
	*ret = NULL;
	r = open_existing(&s, digest, ret, err);
	if (r < 0 || *ret)
		return r;
	r = error_set(err, ERROR_INFRA, ENOENT, "image '%s' is not built yet",
		      spec->name ? spec->name : spec->from);
	error_hint(err, "'assay image build' builds it");
	return r;
}
