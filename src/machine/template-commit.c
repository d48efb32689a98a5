/* SPDX-License-Identifier: MIT */
/* Putting a template into the store: all of it or nothing. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"
#include "base/str.h"
#include "machine/template-internal.h"

/*
 * Files that were made where template_work_dirs() said are unlinked and get a name here; those that
 * have one (layers of another template) get another. What can have none (made elsewhere, or its
 * last name removed) is copied. All goes to a temporary directory of the store, that of memory on
 * the tmpfs to one there; a rename makes it a template.
 */
struct commit {
	struct store store;
	char *dir; /* tmp.* in the store; NULL when it has its name */
	int dir_fd;
	char *tmpfs_dir;  /* where memory on the tmpfs is made; NULL: there is none */
	char *memory_dir; /* new, for this template; NULL: none is on the tmpfs, or it is ours no
			     more */
	int memory_fd;
};

static void commit_done(struct commit *c)
{
	if (c->dir)
		(void)path_remove_tree(c->dir, NULL);
	if (c->memory_dir)
		(void)path_remove_tree(c->memory_dir, NULL);
	cleanup_close(&c->dir_fd);
	cleanup_close(&c->memory_fd);
	free(c->dir);
	free(c->tmpfs_dir);
	free(c->memory_dir);
	store_done(&c->store);
}

/* ---- files ------------------------------------------------------------------------------ */

static int place(const struct commit *c, int fd, const char *name, struct error *err)
{
	_cleanup_close_ int copy = -EBADF;
	char source[64];
	int r;

	/* AT_EMPTY_PATH would want a capability; open(2), about O_TMPFILE. */
	snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, source, c->dir_fd, name, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	copy = openat(c->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (copy < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make '%s/%s'", c->dir,
				       name);
	r = file_copy_sparse(fd, copy, err);
	if (r < 0)
		error_prefix(err, "'%s/%s'", c->dir, name);
	return r;
}

/* What the manifest says of a file; a new object. */
static int describe(const struct commit *c, const char *name, bool with_digest, json_t **ret,
		    struct error *err)
{
	_cleanup_free_ char *path = path_join(c->dir, name);
	char hex[DIGEST_HEX_MAX];
	struct stat st;
	int r = stat(path, &st) < 0 ? -errno : 0;

	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot look at '%s'", path);
	if (with_digest)
		r = sha256_file(path, hex, err);
	if (r < 0)
		return r;
	*ret = json_pack("{s:s, s:I, s:I, s:I, s:s*}", "file", name, "size", (json_int_t)st.st_size,
			 "mtime_ns",
			 st.st_mtim.tv_sec * (json_int_t)NS_PER_SEC + st.st_mtim.tv_nsec, "inode",
			 (json_int_t)st.st_ino, "sha256", with_digest ? hex : NULL);
	return 0;
}

static int add_file(const struct commit *c, int fd, const char *name, bool with_digest,
		    json_t **ret, struct error *err)
{
	int r = place(c, fd, name, err);

	return r < 0 ? r : describe(c, name, with_digest, ret, err);
}

static bool same_device(int fd, const char *dir)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(dir, &b) == 0 && a.st_dev == b.st_dev;
}

/* The link `memory`, at the first file that lies on the tmpfs. */
static int open_memory_dir(struct commit *c, struct error *err)
{
	int r;

	if (c->memory_dir)
		return 0;
	r = template_memory_new(c->tmpfs_dir, &c->memory_dir, &c->memory_fd, err);
	if (r >= 0 && symlinkat(c->memory_dir, c->dir_fd, "memory") < 0)
		r = error_set_errno(err, ERROR_INFRA, errno, "cannot make '%s/memory'", c->dir);
	return r;
}

static int add_memory(struct commit *c, int fd, size_t machine, json_t **ret, struct error *err)
{
	_cleanup_free_ char *name = xasprintf("%zu.memory", machine);
	int r;

	if (c->tmpfs_dir && same_device(fd, c->tmpfs_dir) && !same_device(fd, c->dir)) {
		_cleanup_free_ char *below = path_join("memory", name);

		r = open_memory_dir(c, err);
		return r < 0 ? r : add_file(c, fd, below, false, ret, err);
	}
	return add_file(c, fd, name, false, ret, err);
}

static int add_disks(const struct commit *c, const struct saved *s, size_t machine, json_t *disks,
		     struct error *err)
{
	for (size_t i = 0; i < s->n_disks; i++) {
		const struct saved_disk *d = &s->disks[i];
		json_t *layers = json_array();

		json_array_append_new(disks,
				      json_pack("{s:s, s:o}", "name", d->name, "layers", layers));
		for (size_t k = 0; k < d->n_layers; k++) {
			_cleanup_free_ char *name = xasprintf("%zu.%zu.%zu", machine, i, k);
			json_t *file;
			int r = add_file(c, d->layers[k], name, false, &file, err);

			if (r < 0)
				return r;
			json_array_append_new(layers, file);
		}
	}
	return 0;
}

static int add_saved(struct commit *c, const struct saved *s, size_t machine, json_t *ret,
		     struct error *err)
{
	_cleanup_free_ char *devices = xasprintf("%zu.devices", machine);
	json_t *disks = json_array(), *file;
	int r = 0;

	json_object_set(ret, "vm", s->vm);
	json_object_set(ret, "core", s->core);
	json_object_set_new(ret, "disks", disks);
	if (s->devices_fd >= 0) {
		r = add_file(c, s->devices_fd, devices, true, &file, err);
		if (r < 0)
			return r;
		json_object_set_new(ret, "devices", file);
	}
	if (s->memory_fd >= 0) {
		r = add_memory(c, s->memory_fd, machine, &file, err);
		if (r < 0)
			return r;
		json_object_set_new(ret, "memory", file);
	}
	return add_disks(c, s, machine, disks, err);
}

/* ---- the whole -------------------------------------------------------------------------- */

static int write_text(const struct commit *c, const char *name, const char *text, struct error *err)
{
	_cleanup_free_ char *path = path_join(c->dir, name);

	return file_write_atomic(path, text, strlen(text), 0644, err);
}

static int write_manifest(const struct commit *c, const struct template *t, json_t *machines,
			  struct error *err)
{
	_cleanup_free_ char *text = NULL;
	/* A title has names of files in it, which may be in any encoding. */
	json_t *title = json_string(t->title) ?: json_string(t->key);
	json_t *notes = t->notes ? json_incref(t->notes) : json_object(), *json;
	char boot_id[64];
	int r;

	template_boot_id(boot_id);
	json = json_pack("{s:i, s:s, s:o, s:s, s:s, s:I, s:o, s:O}", "version", TEMPLATE_VERSION,
			 "key", t->key, "title", title, "assay", ASSAY_VERSION, "boot", boot_id,
			 "created", (json_int_t)time(NULL), "notes", notes, "machines", machines);
	text = json_dumps(json, JSON_INDENT(2));
	json_decref(json);
	r = write_text(c, "manifest.json", text, err);
	if (r >= 0)
		r = write_text(c, "used", "", err);
	return r;
}

static int write_all(struct commit *c, const struct template *t, struct error *err)
{
	json_t *machines = json_array();
	int r = 0;

	for (size_t i = 0; i < t->n_machines && r >= 0; i++) {
		const struct template_machine *m = &t->machines[i];
		json_t *saved = m->saved ? json_object() : json_null();

		json_array_append_new(machines,
				      json_pack("{s:s, s:o}", "name", m->name, "saved", saved));
		if (m->saved)
			r = add_saved(c, m->saved, i, saved, err);
	}
	if (r >= 0 && t->fork_bytes > 0) {
		_cleanup_free_ char *text = xasprintf("%llu", (unsigned long long)t->fork_bytes);

		r = write_text(c, "cost", text, err);
	}
	if (r >= 0)
		r = write_manifest(c, t, machines, err);
	json_decref(machines);
	return r;
}

static int explain(const struct commit *c, const struct template *t, int r, struct error *err)
{
	char free_text[FORMAT_MAX];

	if (r != -ENOSPC && r != -EDQUOT) {
		error_prefix(err, "template '%s' cannot be kept", t->title);
		return r;
	}
	error_clear(err);
	error_set(err, ERROR_INFRA, -r,
		  "template '%s' cannot be kept: the disk of '%s' is full (%s free)", t->title,
		  c->store.entries, format_size(store_free_bytes(c->store.entries), free_text));
	error_hint(err, "'assay cache prune' frees what was not used lately; ASSAY_CACHE=DIR moves "
			"the store to another disk");
	return r;
}

/* Never an error: the template is in the store. */
static void keep_within_limit(const struct store *s)
{
	struct error err = {};
	uint64_t limit;

	if (template_limit(s, &limit, &err) < 0 || template_prune(limit, NULL, &err) < 0)
		log_debug("%s", err.message);
}

int template_commit(const struct template *t, struct error *err)
{
	_cleanup_(commit_done) struct commit c = {.dir_fd = -EBADF, .memory_fd = -EBADF};
	_cleanup_free_ char *dir = NULL, *old = NULL;
	int r = store_open(STORE_TEMPLATES, &c.store, err);

	if (r < 0)
		return r;
	r = store_tmp_new(&c.store, &c.dir, &c.dir_fd, err);
	if (r < 0)
		return explain(&c, t, r, err);
	(void)template_memory_dir(&c.store, &c.tmpfs_dir, NULL);
	r = write_all(&c, t, err);
	if (r >= 0)
		r = store_commit(&c.store, c.dir, c.dir_fd, NULL, t->key, &dir, &old, err);
	if (r < 0)
		return explain(&c, t, r, err);
	/* Both belong to the store now. The lock on the directory keeps it while others go. */
	free(TAKE_PTR(c.dir));
	free(TAKE_PTR(c.memory_dir));
	cleanup_close(&c.memory_fd);
	c.memory_fd = -EBADF;
	if (old)
		(void)path_remove_tree(old, NULL);
	keep_within_limit(&c.store);
	return 0;
}
