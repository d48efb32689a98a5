/* SPDX-License-Identifier: MIT */
/* Built-in images, and the digests that images are known by. */
#include "image/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "image/scripts.h"

/*
 * The digest covers what goes into an image and nothing of where it comes from: not the mirror,
 * not the host, not the day. So an image stays what it is when the mirror moves on; `image build
 * --rebuild` fetches the newest packages. The scripts' texts are in the digest, so a change of
 * them needs no thought; RECIPE_VERSION is for changes of the C code around them.
 */
#define RECIPE_VERSION "1"

/* systemd and what it takes for an honest system (udev, D-Bus, logind, console logins), and what
 * every test reaches for (ip, ping, ps). curl and the like are what `packages` is for. */
#define DEBIAN_PACKAGES                                                                            \
	"systemd,systemd-sysv,libpam-systemd,udev,dbus,kmod,iproute2,iputils-ping,procps,login,"   \
	"netbase"

static const struct recipe RECIPES[] = {
	{"tiny", "kernel and busybox; boots in a second or two", RECIPE_TINY, "trixie"},
	{"debian-12", "Debian 12 (bookworm), systemd, minimal", RECIPE_DEBIAN, "bookworm"},
	{"debian-13", "Debian 13 (trixie), systemd, minimal", RECIPE_DEBIAN, "trixie"},
};

const struct recipe *recipe_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(RECIPES); i++)
		if (str_eq(RECIPES[i].name, name))
			return &RECIPES[i];
	return NULL;
}

const char *const *image_builtin_names(void)
{
	static const char *names[ARRAY_SIZE(RECIPES) + 1];

	for (size_t i = 0; i < ARRAY_SIZE(RECIPES); i++)
		names[i] = RECIPES[i].name;
	return names;
}

const char *image_builtin_summary(const char *name)
{
	const struct recipe *recipe = recipe_find(name);

	return recipe ? recipe->summary : NULL;
}

const char *recipe_debian_packages(void)
{
	return DEBIAN_PACKAGES;
}

uint64_t recipe_need_bytes(const struct recipe *recipe)
{
	return recipe->kind == RECIPE_DEBIAN ? 1 * GIB : 300 * MIB;
}

void recipe_digest(const struct recipe *recipe, char ret[DIGEST_HEX_MAX])
{
	const char *const debian[] = {DEBIAN_PACKAGES, SCRIPT_DEBIAN_SETUP, SCRIPT_DEBIAN_SEAL};
	const char *const tiny[] = {SCRIPT_TINY};
	bool is_debian = recipe->kind == RECIPE_DEBIAN;
	const char *const *texts = is_debian ? debian : tiny;
	size_t n = is_debian ? ARRAY_SIZE(debian) : ARRAY_SIZE(tiny);
	struct sha256 s;

	sha256_init(&s);
	sha256_update_str(&s, "assay-image");
	sha256_update_str(&s, RECIPE_VERSION);
	sha256_update_str(&s, is_debian ? "debian" : "tiny");
	sha256_update_str(&s, recipe->suite);
	for (size_t i = 0; i < n; i++)
		sha256_update_str(&s, texts[i]);
	sha256_update_str(&s, SCRIPT_PACK);
	sha256_update_str(&s, SCRIPT_SCRATCH);
	sha256_hex(&s, ret);
}

/* ---- specs ------------------------------------------------------------------------------ */

bool spec_is_path(const struct image_spec *spec)
{
	return strchr(spec->from, '/') != NULL;
}

bool spec_is_derived(const struct image_spec *spec)
{
	return strv_len(spec->packages) > 0 || spec->n_files > 0 || (spec->run && *spec->run) ||
	       spec->size_bytes > 0;
}

static int compare_strings(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

char **spec_packages(const struct image_spec *spec)
{
	_cleanup_strv_ char **sorted = strv_copy(spec->packages);
	char **ret = NULL;

	if (sorted)
		qsort(sorted, strv_len(sorted), sizeof(char *), compare_strings);
	for (char **p = sorted; p && *p; p++)
		if (!strv_contains(ret, *p))
			strv_push(&ret, *p);
	return ret;
}

#define DIR_NAME_MAX 64

char *spec_dir_name(const struct image_spec *spec)
{
	_cleanup_strv_ char **packages = spec_packages(spec);
	struct buf name = {};

	if (spec->name) {
		buf_puts(&name, spec->name);
	} else {
		buf_puts(&name, spec->from);
		for (char **p = packages; p && *p; p++)
			buf_printf(&name, "+%s", *p);
		if (spec->n_files > 0)
			buf_puts(&name, "+files");
		if (spec->run && *spec->run)
			buf_puts(&name, "+run");
	}
	buf_truncate(&name, MIN(name.len, (size_t)DIR_NAME_MAX));
	for (size_t i = 0; i < name.len; i++)
		if (!isalnum((unsigned char)name.data[i]) && !strchr("+-._", name.data[i]))
			name.data[i] = '_';
	return buf_steal(&name, NULL);
}

/* Debian policy 5.6.7, and what apt takes behind a name: "nginx", "nginx=1.26.3-3", "x:arm64". */
static bool is_package_name(const char *s)
{
	if (!isalnum((unsigned char)s[0]) || !s[1])
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("+-.:=~", *s))
			return false;
	return true;
}

static int check_file(const struct image_file *file, struct error *err)
{
	if (!file->path || file->path[0] != '/')
		return error_set(err, ERROR_USAGE, EINVAL, "files: the path '%s' is not absolute",
				 file->path ? file->path : "");
	if (strstr(file->path, "/../") || str_ends(file->path, "/.."))
		return error_set(err, ERROR_USAGE, EINVAL, "files: the path '%s' contains '..'",
				 file->path);
	if (!file->from == !file->data)
		return error_set(err, ERROR_USAGE, EINVAL,
				 "files: '%s' wants either a text or a host file", file->path);
	if (file->from && access(file->from, R_OK) < 0)
		return error_set_errno(err, ERROR_USAGE, errno,
				       "files: cannot read '%s', wanted as '%s'", file->from,
				       file->path);
	return 0;
}

int image_spec_check(const struct image_spec *spec, struct error *err)
{
	int r;

	if (!spec->from || !*spec->from)
		return error_set(err, ERROR_USAGE, EINVAL, "an image needs a name or a path");
	for (char *const *p = spec->packages; p && *p; p++)
		if (!is_package_name(*p))
			return error_set(err, ERROR_USAGE, EINVAL, "'%s' is not a package's name",
					 *p);
	for (size_t i = 0; i < spec->n_files; i++) {
		r = check_file(&spec->files[i], err);
		if (r < 0)
			return r;
	}
	if (spec->size_bytes > 0 && spec->size_bytes < 64 * MIB)
		return error_set(err, ERROR_USAGE, EINVAL,
				 "an image's size of %llu bytes is too small (64 MiB at least)",
				 (unsigned long long)spec->size_bytes);
	if (spec_is_path(spec)) {
		if (spec_is_derived(spec))
			return error_set(
				err, ERROR_UNSUPPORTED, EOPNOTSUPP,
				"packages, files, run and size cannot be added to the disk "
				"'%s'",
				spec->from);
		if (access(spec->from, R_OK) < 0)
			return error_set_errno(err, ERROR_USAGE, errno, "cannot read the disk '%s'",
					       spec->from);
		return 0;
	}
	if (str_eq(spec->from, "tiny") && spec->packages && spec->packages[0])
		return error_set(err, ERROR_USAGE, EINVAL,
				 "the image 'tiny' has no packages: '%s' cannot be installed",
				 spec->packages[0]);
	if (!image_name_is_known(spec->from)) {
		_cleanup_store_ struct store s = {};

		r = store_open(STORE_IMAGES, &s, err);
		return r < 0 ? r : image_error_unknown(&s, spec->from, err);
	}
	return 0;
}

/* ---- digest of a spec ------------------------------------------------------------------- */

static int compare_files(const void *a, const void *b)
{
	return strcmp((*(const struct image_file *const *)a)->path,
		      (*(const struct image_file *const *)b)->path);
}

static int digest_files(struct sha256 *s, const struct image_spec *spec, struct error *err)
{
	_cleanup_free_ const struct image_file **sorted =
		xcalloc(spec->n_files + 1, sizeof(*sorted));
	char mode[16];
	int r = 0;

	for (size_t i = 0; i < spec->n_files; i++)
		sorted[i] = &spec->files[i];
	qsort(sorted, spec->n_files, sizeof(*sorted), compare_files);
	for (size_t i = 0; i < spec->n_files && r >= 0; i++) {
		const struct image_file *f = sorted[i];

		snprintf(mode, sizeof(mode), "%o", f->mode);
		sha256_update_str(s, "file");
		sha256_update_str(s, f->path);
		sha256_update_str(s, mode);
		sha256_update_str(s, f->owner ? f->owner : "");
		if (f->from) {
			/* A link given as the source stands for what it points to. */
			_cleanup_free_ char *real = realpath(f->from, NULL);

			r = sha256_update_tree(s, real ? real : f->from, err);
		} else {
			sha256_update_str(s, "text");
			sha256_update(s, f->data, f->len);
			sha256_update_str(s, "");
		}
	}
	return r;
}

static int base_digest(const struct image_spec *spec, char ret[DIGEST_HEX_MAX], struct error *err)
{
	const struct recipe *recipe = recipe_find(spec->from);
	_cleanup_store_ struct store s = {};
	_cleanup_manifest_ struct manifest m = {};
	_cleanup_free_ char *dir = NULL;
	int r;

	if (recipe) {
		recipe_digest(recipe, ret);
		return 0;
	}
	r = store_open(STORE_IMAGES, &s, err);
	if (r < 0)
		return r;
	dir = image_find_stored(&s, spec->from);
	if (!dir)
		return image_error_unknown(&s, spec->from, err);
	r = manifest_read(dir, &m, err);
	if (r < 0)
		return r;
	snprintf(ret, DIGEST_HEX_MAX, "%s", m.digest);
	return 0;
}

int image_spec_digest(const struct image_spec *spec, char ret[65], struct error *err)
{
	_cleanup_strv_ char **packages = spec_packages(spec);
	char base[DIGEST_HEX_MAX];
	struct sha256 s;
	int r;

	if (spec_is_path(spec)) {
		_cleanup_image_ struct image *image = NULL;

		r = image_open_disk(spec->from, &image, err);
		if (r >= 0)
			snprintf(ret, DIGEST_HEX_MAX, "%s", image_digest(image));
		return r;
	}
	r = base_digest(spec, base, err);
	if (r < 0)
		return r;
	if (!spec_is_derived(spec)) {
		memcpy(ret, base, DIGEST_HEX_MAX);
		return 0;
	}
	sha256_init(&s);
	sha256_update_str(&s, "assay-derived");
	sha256_update_str(&s, RECIPE_VERSION);
	sha256_update_str(&s, base);
	sha256_update_str(&s, SCRIPT_DEBIAN_INSTALL);
	sha256_update_str(&s, SCRIPT_FILES);
	sha256_update_str(&s, SCRIPT_RUN);
	for (char **p = packages; p && *p; p++) {
		sha256_update_str(&s, "package");
		sha256_update_str(&s, *p);
	}
	r = digest_files(&s, spec, err);
	if (r < 0)
		return r;
	sha256_update_str(&s, "run");
	sha256_update_str(&s, spec->run ? spec->run : "");
	sha256_update(&s, &spec->size_bytes, sizeof(spec->size_bytes));
	sha256_hex(&s, ret);
	return 0;
}
