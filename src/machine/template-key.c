/* SPDX-License-Identifier: MIT */
/* What a booted machine is known by in the template store. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"
#include "machine/backend.h"
#include "machine/recipe.h"
#include "machine/template-internal.h"

/*
 * Everything that the state of a booted machine depends on, as lines of text, hashed. An image's
 * digest is that of its recipe: built anew, its files may be others, and the memory of a running
 * guest fits only those that it was booted from. So the files themselves are in it, too, by
 * identity.
 */

/* Changes when what is saved, or how, changes in a way that nothing else in the key shows. */
#define KEY_VERSION "assay-boot-3"
/* Also the end of those that lie on themselves. */
#define BASES_MAX 64

static int unsupported(struct error *err, const char *fmt, ...) _printf_(2, 3);
static int unsupported(struct error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_setv(err, ERROR_UNSUPPORTED, EOPNOTSUPP, fmt, ap);
	va_end(ap);
	return -EOPNOTSUPP;
}

/* What no backend could save. */
static int check_definition(const struct machine_spec *spec, const struct backend_ops *ops,
			    struct error *err)
{
	if (!ops->state_key || !ops->save || !(ops->caps() & MACHINE_CAP_SNAPSHOT))
		return unsupported(err, "backend '%s' cannot save machines", ops->name);
	if (!spec->agent)
		return unsupported(err, "machine '%s' has no agent to prepare it for being saved",
				   spec->name);
	for (size_t i = 0; i < spec->n_disks; i++)
		if (spec->disks[i].write_through)
			return unsupported(err, "what machine '%s' writes to its disk '%s' stays",
					   spec->name, spec->disks[i].name);
	return 0;
}

/* The path of what a qcow2 disk lies on; NULL: of none, or it is no such disk. malloc'd. */
static int find_base(const char *path, char **ret, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *name = NULL, *dir = path_dirname(path);
	int r = fd < 0 ? 0 : qcow2_backing_file(fd, &name, err);

	*ret = NULL;
	if (r < 0)
		error_prefix(err, "'%s'", path);
	if (r < 0 || !name)
		return r;
	/* As QEMU tells "json:…" and "nbd:…" from names of files. */
	if (name[strcspn(name, "/:")] == ':')
		return unsupported(err,
				   "nobody can tell whether '%s' has changed, on which '%s' lies",
				   name, path);
	*ret = path_join(dir, name);
	return 0;
}

static int add_one_file(struct buf *b, const char *what, const char *path, struct error *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot look at '%s'", path);
	if (!S_ISREG(st.st_mode))
		return unsupported(
			err, "nobody can tell whether '%s', which is no file, has changed", path);
	buf_printf(b, "%s %llu:%llu %lld %lld.%09ld\n", what, (unsigned long long)st.st_dev,
		   (unsigned long long)st.st_ino, (long long)st.st_size,
		   (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	return 0;
}

/* With all that lies below it. */
static int add_file(struct buf *b, const char *what, const char *path, struct error *err)
{
	_cleanup_free_ char *at = path ? xstrdup(path) : NULL;
	int r = 0;

	for (unsigned i = 0; at && r >= 0; i++) {
		_cleanup_free_ char *next = NULL;

		if (i == BASES_MAX)
			return unsupported(err, "more than %u disks lie below '%s'", BASES_MAX,
					   path);
		r = add_one_file(b, what, at, err);
		if (r >= 0)
			r = find_base(at, &next, err);
		free(at);
		at = TAKE_PTR(next);
	}
	return r;
}

static int add_image(struct buf *b, const struct image *image, struct error *err)
{
	const struct {
		const char *what, *path;
	} files[] = {
		{"vmlinux", image_vmlinux(image)}, {"kernel", image_kernel(image)},
		{"initrd", image_initrd(image)},   {"root", image_root(image)},
		{"scratch", image_scratch(image)}, {"modules", image_modules(image)},
		{"disk", image_disk(image)},
	};
	int r = 0;

	buf_printf(b, "image %s\n", image_digest(image));
	for (size_t i = 0; i < ARRAY_SIZE(files) && r >= 0; i++)
		r = add_file(b, files[i].what, files[i].path, err);
	return r;
}

/* Disks of the user's that it reads: a template's layers lie on them. */
static int add_disks(struct buf *b, const struct machine_spec *spec, const char *base_dir,
		     struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < spec->n_disks && r >= 0; i++) {
		_cleanup_free_ char *path =
			spec->disks[i].path ? path_join(base_dir ?: ".", spec->disks[i].path)
					    : NULL;

		r = add_file(b, spec->disks[i].name, path, err);
	}
	return r;
}

/* Whether a run starts it by itself does not change what it is when it has been started. */
static void add_definition(struct buf *b, const struct machine_spec *spec)
{
	json_t *json = json_copy(spec->json);
	_cleanup_free_ char *text = NULL;

	json_object_del(json, "autostart");
	text = json_dumps(json, JSON_SORT_KEYS | JSON_COMPACT);
	buf_printf(b, "definition %s\n", text);
	json_decref(json);
}

int template_boot_key(const struct machine_spec *spec, const struct machine_env *env,
		      char ret[DIGEST_HEX_MAX], struct error *err)
{
	const struct vm_init init = {.spec = spec, .env = env};
	_cleanup_image_ struct image *image = NULL;
	_cleanup_buf_ struct buf text = {};
	const struct backend_ops *ops;
	struct sha256 sum;
	int r = backend_find(spec->backend, &ops, err);

	if (r >= 0)
		r = check_definition(spec, ops, err);
	if (r >= 0)
		r = machine_image(spec, env->base_dir, NULL, &image, err);
	if (r < 0)
		return r;
	buf_printf(&text, "%s\nagent %s\n", KEY_VERSION, agent_binary_build());
	add_definition(&text, spec);
	if (image)
		r = add_image(&text, image, err);
	if (r >= 0)
		r = add_disks(&text, spec, env->base_dir, err);
	if (r >= 0)
		r = ops->state_key(&init, image, &text, err);
	if (r < 0)
		return r;
	sha256_init(&sum);
	sha256_update(&sum, text.data, text.len);
	sha256_hex(&sum, ret);
	return 0;
}
