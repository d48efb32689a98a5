/* SPDX-License-Identifier: MIT */
/* From a machine's definition to the image that it boots from. */
#pragma once

#include "image/image.h"
#include "machine/spec.h"

/* An image_spec together with what it borrows from. */
struct machine_recipe {
	struct image_spec spec;
	struct image_file *files;
	char **strings;
};

/*
 * The one place where `image`, `packages` and `files` become an image_spec. base_dir is where
 * relative host paths start. True if the machine has an image at all; with a kernel or disks
 * of its own there is nothing to build, and ret is empty. The spec must outlive ret.
 */
bool machine_image_spec(const struct machine_spec *spec, const char *base_dir,
			struct machine_recipe *ret);
void machine_recipe_done(struct machine_recipe *r);

/*
 * Opens (build_opts NULL: only finds) what the machine boots from. *ret is NULL if it has only
 * disks of its own, or runs on a backend that needs no image. Fiber only when it may build.
 */
int machine_image(const struct machine_spec *spec, const char *base_dir,
		  const struct image_build_opts *build_opts, struct image **ret, struct error *err);
