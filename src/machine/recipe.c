/* SPDX-License-Identifier: MIT */
/* From a machine's definition to the image that it boots from. */
#include "machine/recipe.h"

#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "machine/backend.h"

/* Kept alive in r->strings. */
static const char *resolve(struct machine_recipe *r, const char *base_dir, const char *path)
{
	char *full = path_join(base_dir ?: ".", path);
	char *absolute = path_absolute(full);

	free(full);
	strv_push_take(&r->strings, absolute);
	return absolute;
}

bool machine_image_spec(const struct machine_spec *spec, const char *base_dir,
			struct machine_recipe *ret)
{
	*ret = (struct machine_recipe){};
	if (!spec->image)
		return false;
	ret->spec.from =
		strchr(spec->image, '/') ? resolve(ret, base_dir, spec->image) : spec->image;
	ret->spec.packages = spec->packages;
	ret->spec.n_files = spec->n_files;
	ret->files = xcalloc(spec->n_files + 1, sizeof(*ret->files));
	ret->spec.files = ret->files;
	for (size_t i = 0; i < spec->n_files; i++) {
		const struct file_spec *f = &spec->files[i];

		ret->files[i] = (struct image_file){
			.path = f->guest_path,
			.data = f->text,
			.len = f->text ? strlen(f->text) : 0,
			.from = f->from ? resolve(ret, base_dir, f->from) : NULL,
			.mode = f->mode,
			.owner = f->owner,
		};
	}
	return true;
}

void machine_recipe_done(struct machine_recipe *r)
{
	free(r->files);
	strv_free(r->strings);
	*r = (struct machine_recipe){};
}

int machine_image(const struct machine_spec *spec, const char *base_dir,
		  const struct image_build_opts *build_opts, struct image **ret, struct error *err)
{
	_cleanup_(machine_recipe_done) struct machine_recipe recipe = {};
	const struct backend_ops *ops;
	int r;

	*ret = NULL;
	r = backend_find(spec->backend, &ops, err);
	if (r < 0 || !(ops->flags & BACKEND_NEEDS_IMAGE))
		return r;
	if (machine_image_spec(spec, base_dir, &recipe)) {
		if (build_opts)
			return image_ensure(&recipe.spec, build_opts, ret, err);
		return image_find(&recipe.spec, ret, err);
	}
	if (spec->kernel) {
		const char *initrd = spec->initrd ? resolve(&recipe, base_dir, spec->initrd) : NULL;

		return image_open_kernel(resolve(&recipe, base_dir, spec->kernel), initrd, ret,
					 err);
	}
	return 0;
}
