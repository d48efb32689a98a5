/* SPDX-License-Identifier: MIT */
/* What a person does with the store: list, show, remove, prune, import, export. */
#include "image/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/str.h"
#include "loop/process.h"

/* ---- listing ---------------------------------------------------------------------------- */

void image_info_done(struct image_info *info)
{
	free(info->name);
	free(info->dir);
	free(info->from);
	free(info->kernel_release);
	strv_free(info->packages);
	*info = (struct image_info){};
}

void image_infos_free(struct image_info *infos, size_t n)
{
	for (size_t i = 0; i < n; i++)
		image_info_done(&infos[i]);
	free(infos);
}

/* Would anything still ask for this digest? */
static bool is_current(const struct store *s, const struct manifest *m)
{
	const struct recipe *recipe = m->from ? NULL : recipe_find(m->name);
	char digest[DIGEST_HEX_MAX];
	_cleanup_free_ char *base = NULL;

	if (m->imported)
		return true;
	if (recipe) {
		recipe_digest(recipe, digest);
		return str_eq(digest, m->digest);
	}
	if (!m->base_digest)
		return false;
	for (const char *const *name = image_builtin_names(); *name; name++) {
		recipe_digest(recipe_find(*name), digest);
		if (str_eq(digest, m->base_digest))
			return true;
	}
	/* Derived from a derived or imported one: as good as that. */
	base = store_find_digest(s, m->base_digest);
	if (base) {
		_cleanup_manifest_ struct manifest parent = {};

		return manifest_read(base, &parent, NULL) >= 0 && is_current(s, &parent);
	}
	return false;
}

static int info_read(const struct store *s, const char *dir, struct image_info *ret,
		     struct error *err)
{
	_cleanup_manifest_ struct manifest m = {};
	int r = manifest_read(dir, &m, err);

	if (r < 0)
		return r;
	*ret = (struct image_info){
		.dir = xstrdup(dir),
		.kind = m.kind,
		.bytes = store_disk_usage(dir),
		.created = m.created,
		.used = manifest_last_used(dir),
		.is_current = is_current(s, &m),
	};
	snprintf(ret->digest, sizeof(ret->digest), "%s", m.digest);
	ret->name = TAKE_PTR(m.name);
	ret->from = TAKE_PTR(m.from);
	ret->kernel_release = TAKE_PTR(m.kernel_release);
	ret->packages = TAKE_PTR(m.packages);
	return 0;
}

static int compare_infos(const void *a, const void *b)
{
	const struct image_info *x = a, *y = b;
	int order = strcmp(x->name, y->name);

	return order ? order : (x->created < y->created) - (x->created > y->created);
}

static int list(const struct store *s, struct image_info **ret, size_t *ret_n)
{
	_cleanup_strv_ char **dirs = store_dirs(s);
	struct image_info *infos = xcalloc(strv_len(dirs) + 1, sizeof(*infos));
	size_t n = 0;

	/* A damaged one is no image; `prune` removes it. */
	for (char **dir = dirs; dir && *dir; dir++)
		if (info_read(s, *dir, &infos[n], NULL) >= 0)
			n++;
	qsort(infos, n, sizeof(*infos), compare_infos);
	*ret = infos;
	*ret_n = n;
	return 0;
}

int image_store_list(struct image_info **ret, size_t *ret_n, struct error *err)
{
	_cleanup_store_ struct store s = {};
	int r = store_open(STORE_IMAGES, &s, err);

	return r < 0 ? r : list(&s, ret, ret_n);
}

static bool matches(const struct image_info *info, const char *which)
{
	return str_eq(info->name, which) || str_eq(path_basename(info->dir), which) ||
	       (strlen(which) >= 6 && str_starts(info->digest, which));
}

/* The directory of the newest match; malloc'd. */
static int find(const struct store *s, const char *which, char **ret, struct error *err)
{
	struct image_info *infos = NULL;
	size_t n = 0;

	list(s, &infos, &n);
	for (size_t i = 0; i < n && !*ret; i++)
		if (matches(&infos[i], which))
			*ret = xstrdup(infos[i].dir);
	image_infos_free(infos, n);
	if (*ret)
		return 0;
	if (recipe_find(which)) {
		int r = error_set(err, ERROR_USAGE, ENOENT, "image '%s' is not built yet", which);

		error_hint(err, "'assay image build %s' builds it", which);
		return r;
	}
	return image_error_unknown(s, which, err);
}

int image_store_show(const char *which, struct image_info *ret, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL;
	int r = store_open(STORE_IMAGES, &s, err);

	if (r >= 0)
		r = find(&s, which, &dir, err);
	return r < 0 ? r : info_read(&s, dir, ret, err);
}

int image_store_manifest(const char *which, char **ret_json, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL, *path = NULL;
	_cleanup_buf_ struct buf text = {};
	int r = store_open(STORE_IMAGES, &s, err);

	if (r >= 0)
		r = find(&s, which, &dir, err);
	if (r < 0)
		return r;
	path = path_join(dir, "manifest.json");
	r = file_read(path, MIB, &text, err);
	if (r >= 0)
		*ret_json = buf_steal(&text, NULL);
	return r;
}

int image_store_usage(uint64_t *ret_bytes, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *apt = NULL;
	int r = store_open(STORE_IMAGES, &s, err);

	if (r < 0)
		return r;
	apt = path_join(s.dir, "apt");
	*ret_bytes = store_disk_usage(s.entries) + store_disk_usage(apt);
	return 0;
}

/* ---- removing --------------------------------------------------------------------------- */

int image_store_remove(const char *which, size_t *ret_removed, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *first = NULL;
	struct image_info *infos = NULL;
	size_t n = 0, removed = 0;
	int r = store_open(STORE_IMAGES, &s, err);

	if (r >= 0)
		r = find(&s, which, &first, err);
	if (r < 0)
		return r;
	list(&s, &infos, &n);
	for (size_t i = 0; i < n && r >= 0; i++) {
		if (!matches(&infos[i], which))
			continue;
		r = store_remove(&s, infos[i].dir, false, err);
		removed += r >= 0;
	}
	image_infos_free(infos, n);
	if (ret_removed)
		*ret_removed = removed;
	return r;
}

/* ---- pruning ---------------------------------------------------------------------------- */

static int compare_by_use(const void *a, const void *b)
{
	const struct image_info *x = a, *y = b;

	if (x->is_current != y->is_current)
		return x->is_current - y->is_current;
	return (x->used > y->used) - (x->used < y->used);
}

/* Directories under final names that no manifest can be read from. */
static void remove_damaged(const struct store *s)
{
	_cleanup_strv_ char **dirs = store_dirs(s);

	for (char **dir = dirs; dir && *dir; dir++) {
		_cleanup_manifest_ struct manifest m = {};

		if (manifest_read(*dir, &m, NULL) < 0)
			(void)store_remove(s, *dir, false, NULL);
	}
}

/* Downloaded packages: one file each, fetched again at need. Not while a build uses them. */
static void remove_archives(const struct store *s)
{
	_cleanup_free_ char *apt = path_join(s->dir, "apt");
	struct dirent *d;
	DIR *dir = opendir(apt);

	while (dir && (d = readdir(dir))) {
		_cleanup_free_ char *lock = xasprintf("%s/%s/lock", apt, d->d_name);
		_cleanup_free_ char *suite = path_join(apt, d->d_name);
		_cleanup_close_ int fd = open(lock, O_RDWR | O_CLOEXEC);

		if (d->d_name[0] != '.' && fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			(void)store_remove_tree(suite, NULL);
	}
	if (dir)
		closedir(dir);
}

int image_store_prune(uint64_t max_bytes, uint64_t *ret_freed_bytes, struct error *err)
{
	_cleanup_store_ struct store s = {};
	struct image_info *infos = NULL;
	uint64_t before = 0, now = 0;
	size_t n = 0;
	int r = store_open(STORE_IMAGES, &s, err);

	if (r >= 0)
		r = image_store_usage(&before, err);
	if (r < 0)
		return r;
	store_clean_stale(&s);
	remove_damaged(&s);
	list(&s, &infos, &n);
	qsort(infos, n, sizeof(*infos), compare_by_use);
	image_store_usage(&now, NULL);
	for (size_t i = 0; i < n && !infos[i].is_current; i++)
		(void)store_remove(&s, infos[i].dir, false, NULL);
	image_store_usage(&now, NULL);
	if (now > max_bytes)
		remove_archives(&s);
	for (size_t i = 0; i < n; i++) {
		image_store_usage(&now, NULL);
		if (now <= max_bytes)
			break;
		/* In use: stays. Nobody could start its machines again. */
		if (infos[i].is_current)
			(void)store_remove(&s, infos[i].dir, false, NULL);
	}
	image_infos_free(infos, n);
	image_store_usage(&now, NULL);
	if (ret_freed_bytes)
		*ret_freed_bytes = before > now ? before - now : 0;
	return 0;
}

/* ---- import and export ------------------------------------------------------------------ */

static int copy_file(struct build *b, const char *from, const char *to, struct error *err)
{
	char *const argv[] = {"cp", "--reflink=auto", "--sparse=always", "--no-preserve=mode",
			      "--", (char *)from,     (char *)to,	 NULL};

	return build_run(b, BUILD_AS_SELF, argv, 0, err);
}

static int check_import_name(const char *name, struct error *err)
{
	if (recipe_find(name))
		return error_set(err, ERROR_USAGE, EEXIST,
				 "'%s' is the name of a built-in image, take another", name);
	if (!name[0] || name[0] == '.' || strpbrk(name, "/+ \t\n") || str_starts(name, "tmp.") ||
	    strlen(name) > 60)
		return error_set(err, ERROR_USAGE, EINVAL, "'%s' cannot be an image's name", name);
	return 0;
}

/* Files in the order: path, name in the store; ended by NULL. The digest is of their contents. */
static int import(const char *name, struct manifest *m, const char *const *files, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_build_ struct build b = {};
	_cleanup_free_ char *dir = NULL, *old = NULL;
	char hex[DIGEST_HEX_MAX];
	struct sha256 sum;
	uint64_t need = 0;
	int r = check_import_name(name, err);

	if (r >= 0)
		r = store_open(STORE_IMAGES, &s, err);
	if (r < 0)
		return r;
	sha256_init(&sum);
	sha256_update_str(&sum, "assay-imported");
	for (const char *const *f = files; *f && r >= 0; f += 2) {
		struct stat st;

		need += stat(f[0], &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
		r = sha256_file(f[0], hex, err);
		sha256_update_str(&sum, hex);
	}
	if (r >= 0)
		r = build_begin(&b, &s, name, NULL, need, err);
	for (const char *const *f = files; *f && r >= 0; f += 2) {
		_cleanup_free_ char *to = build_path(&b, f[1]);

		r = copy_file(&b, f[0], to, err);
	}
	if (r < 0)
		return r;
	sha256_hex(&sum, hex);
	m->name = xstrdup(name);
	m->digest = xstrdup(hex);
	m->imported = true;
	m->created = (uint64_t)time(NULL);
	r = manifest_write(m, b.dir, err);
	if (r >= 0)
		r = store_commit(&s, b.dir, b.dir_fd, name, hex, &dir, &old, err);
	if (r < 0)
		return r;
	b.committed = true;
	return old ? store_remove_tree(old, err) : 0;
}

int image_store_import_disk(const char *name, const char *path, struct error *err)
{
	_cleanup_image_ struct image *image = NULL;
	_cleanup_manifest_ struct manifest m = {.kind = IMAGE_DISK};
	/* Refuses what is neither qcow2 nor raw. */
	int r = image_open_disk(path, &image, err);

	if (r < 0)
		return r;
	m.disk_format = xstrdup(image->disk_format);
	m.disk_bytes = image->disk_bytes;
	return import(name, &m, (const char *const[]){path, "disk", NULL}, err);
}

int image_store_import_kernel(const char *name, const char *kernel, const char *initrd,
			      struct error *err)
{
	_cleanup_image_ struct image *image = NULL;
	_cleanup_manifest_ struct manifest m = {.kind = IMAGE_KERNEL};
	int r = image_open_kernel(kernel, initrd, &image, err);

	if (r < 0)
		return r;
	return import(name, &m, (const char *const[]){kernel, "kernel", initrd, "initrd", NULL},
		      err);
}

int image_store_export(const char *which, const char *dest, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_build_ struct build b = {};
	_cleanup_image_ struct image *image = NULL;
	_cleanup_free_ char *dir = NULL;
	int r = store_open(STORE_IMAGES, &s, err);

	if (r >= 0)
		r = find(&s, which, &dir, err);
	if (r >= 0)
		r = image_open_dir(&s, dir, &image, err);
	if (r < 0)
		return r;
	if (path_exists(dest))
		return error_set(err, ERROR_USAGE, EEXIST, "'%s' exists already", dest);

	_cleanup_free_ char *target = path_absolute(dest);
	char *const whole[] = {"cp", "-r", "--reflink=auto", "--sparse=always",
			       "--", dir,  target,	     NULL};

	/* For its log and its error messages; nothing stays in the store. */
	r = build_begin(&b, &s, "export", NULL, 0, err);
	if (r >= 0)
		r = image->kind == IMAGE_DISK ? copy_file(&b, image->disk, target, err)
					      : build_run(&b, BUILD_AS_SELF, whole, 0, err);
	if (r < 0)
		(void)path_remove_tree(target, NULL);
	return r;
}
