/* SPDX-License-Identifier: MIT */
/* manifest.json: what an image in the store is, where it came from, how large its parts are. */
#include "image/internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"

#define MANIFEST_VERSION 1
#define MANIFEST_MAX	 (1 * MIB)

static const char *const KINDS[] = {
	[IMAGE_LAYERED] = "layered",
	[IMAGE_KERNEL] = "kernel",
	[IMAGE_DISK] = "disk",
};

void manifest_done(struct manifest *m)
{
	free(m->name);
	free(m->digest);
	free(m->from);
	free(m->base_digest);
	strv_free(m->packages);
	free(m->kernel_release);
	free(m->init);
	free(m->disk_format);
	*m = (struct manifest){};
}

static void set_string(json_t *object, const char *key, const char *value)
{
	if (value)
		json_object_set_new(object, key, json_string(value));
}

static json_t *sizes_of(const char *path)
{
	json_t *sizes = json_object();
	struct dirent *d;
	DIR *dir = opendir(path);

	while (dir && (d = readdir(dir))) {
		struct stat st;

		if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISREG(st.st_mode))
			json_object_set_new(sizes, d->d_name, json_integer(st.st_size));
	}
	if (dir)
		closedir(dir);
	return sizes;
}

int manifest_write(const struct manifest *m, const char *dir, struct error *err)
{
	_cleanup_free_ char *path = path_join(dir, "manifest.json");
	_cleanup_free_ char *used = path_join(dir, "used"), *text = NULL;
	json_t *root = json_object(), *packages = json_array();
	int r;

	json_object_set_new(root, "version", json_integer(MANIFEST_VERSION));
	set_string(root, "name", m->name);
	set_string(root, "digest", m->digest);
	set_string(root, "kind", KINDS[m->kind]);
	set_string(root, "from", m->from);
	set_string(root, "base_digest", m->base_digest);
	for (char *const *p = m->packages; p && *p; p++)
		json_array_append_new(packages, json_string(*p));
	json_object_set_new(root, "packages", packages);
	set_string(root, "kernel_release", m->kernel_release);
	set_string(root, "init", m->init);
	set_string(root, "disk_format", m->disk_format);
	json_object_set_new(root, "disk_bytes", json_integer((json_int_t)m->disk_bytes));
	json_object_set_new(root, "created", json_integer((json_int_t)m->created));
	json_object_set_new(root, "imported", json_boolean(m->imported));
	set_string(root, "assay", ASSAY_VERSION);
	json_object_set_new(root, "sizes", sizes_of(dir));
	text = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	r = file_write_atomic(used, "", 0, 0644, err);
	return r < 0 ? r : file_write_atomic(path, text, strlen(text), 0644, err);
}

static char *get_string(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? xstrdup(value) : NULL;
}

static int take(const json_t *root, struct manifest *m)
{
	_cleanup_free_ char *kind = get_string(root, "kind");
	const json_t *package;
	size_t i;

	if (json_integer_value(json_object_get(root, "version")) != MANIFEST_VERSION || !kind)
		return -EINVAL;
	m->name = get_string(root, "name");
	m->digest = get_string(root, "digest");
	if (!m->name || !m->digest || strlen(m->digest) != DIGEST_HEX_MAX - 1)
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(KINDS) && !str_eq(KINDS[i], kind); i++)
		;
	if (i == ARRAY_SIZE(KINDS))
		return -EINVAL;
	m->kind = i;
	m->from = get_string(root, "from");
	m->base_digest = get_string(root, "base_digest");
	json_array_foreach(json_object_get(root, "packages"), i,
			   package) if (json_is_string(package))
		strv_push(&m->packages, json_string_value(package));
	m->kernel_release = get_string(root, "kernel_release");
	m->init = get_string(root, "init");
	m->disk_format = get_string(root, "disk_format");
	m->disk_bytes = (uint64_t)json_integer_value(json_object_get(root, "disk_bytes"));
	m->created = (uint64_t)json_integer_value(json_object_get(root, "created"));
	m->imported = json_is_true(json_object_get(root, "imported"));
	return 0;
}

int manifest_read(const char *dir, struct manifest *ret, struct error *err)
{
	_cleanup_free_ char *path = path_join(dir, "manifest.json");
	_cleanup_buf_ struct buf text = {};
	struct manifest m = {};
	json_error_t where;
	json_t *root;
	int r = file_read(path, MANIFEST_MAX, &text, err);

	if (r < 0)
		return r;
	root = json_loadb(buf_str(&text), text.len, 0, &where);
	r = root ? take(root, &m) : -EINVAL;
	json_decref(root);
	if (r < 0) {
		manifest_done(&m);
		r = error_set(err, ERROR_INFRA, EINVAL, "'%s' is damaged, or not of this version",
			      path);
		error_hint(err, "'assay cache prune' removes it");
		return r;
	}
	*ret = m;
	return 0;
}

uint64_t manifest_last_used(const char *dir)
{
	_cleanup_free_ char *used = path_join(dir, "used");
	struct stat st;

	return stat(used, &st) < 0 ? 0 : (uint64_t)st.st_mtime;
}
