/* SPDX-License-Identifier: MIT */
/* The template store: looking one up, checking it, throwing it away. */
#include "machine/template.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"
#include "machine/template-internal.h"

/*
 * Theory of operation
 *
 * What a template is made of is given as descriptors and taken as descriptors; the names in the
 * store only keep the files alive between runs. So it may be removed at any time: those who have
 * it open go on, those who come later do not find it.
 *
 *	look up (open) ──► found: all files open, checked against the manifest
 *	      │
 *	      └─► not there: lock the key, look again, make the machine, commit (template-commit.c)
 *
 * A template that is broken in any way is as good as none, but for a word to the person: open
 * removes it. That of an earlier boot of the host is removed without a word.
 */

#define MANIFEST_MAX (64 * MIB)

void template_free(struct template *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_machines; i++) {
		free(t->machines[i].name);
		saved_unref(t->machines[i].saved);
	}
	free(t->machines);
	free(t->title);
	json_decref(t->notes);
	cleanup_close(&t->lock_fd);
	free(t);
}

static void cleanup_template(struct template **t)
{
	template_free(*t);
}

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

void template_boot_id(char ret[64])
{
	_cleanup_buf_ struct buf text = {};

	ret[0] = '\0';
	if (buf_read_file(&text, "/proc/sys/kernel/random/boot_id", 63) >= 0)
		snprintf(ret, 64, "%.36s", buf_str(&text));
}

/* ---- reading ---------------------------------------------------------------------------- */

/* One way to say that something in it is wrong. */
static int broken(struct error *err, const char *fmt, ...) _printf_(2, 3);
static int broken(struct error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_setv(err, ERROR_INFRA, EBADMSG, fmt, ap);
	va_end(ap);
	return -EBADMSG;
}

int template_read_manifest(const char *dir, json_t **ret, struct error *err)
{
	_cleanup_free_ char *path = path_join(dir, "manifest.json");
	_cleanup_buf_ struct buf text = {};
	_cleanup_(cleanup_json) json_t *json = NULL;
	char boot_id[64];
	json_error_t why;
	int r = buf_read_file(&text, path, MANIFEST_MAX);

	if (r < 0)
		return broken(err, "its manifest cannot be read: %s", strerror(-r));
	json = json_loadb(buf_str(&text), text.len, 0, &why);
	if (!json)
		return broken(err, "its manifest is no JSON: %s", why.text);
	if (json_integer_value(json_object_get(json, "version")) != TEMPLATE_VERSION)
		return broken(err, "its manifest is of another version");
	template_boot_id(boot_id);
	if (!str_eq(json_string_value(json_object_get(json, "boot")), boot_id)) {
		error_set(err, ERROR_INFRA, ESTALE, "the host was booted since it was made");
		return -ESTALE;
	}
	*ret = TAKE_PTR(json);
	return 0;
}

/* Opens a file and compares it with what the manifest says; what: "memory", "disk 'scratch0'". */
static int take_file(const char *dir, json_t *file, const char *what, int *ret_fd,
		     struct error *err)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -EBADF;
	const char *name, *digest = NULL;
	json_int_t size, mtime_ns, inode;
	char hex[DIGEST_HEX_MAX];
	struct stat st;

	if (json_unpack(file, "{s:s, s:I, s:I, s:I, s?:s}", "file", &name, "size", &size,
			"mtime_ns", &mtime_ns, "inode", &inode, "sha256", &digest) < 0)
		return broken(err, "its manifest does not say what the file of its %s is", what);
	path = path_join(dir, name);
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && (errno == EACCES || errno == EROFS))
		fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return broken(err, "its %s (%s) cannot be opened: %s", what, name, strerror(errno));
	if (st.st_size != size)
		return broken(err, "its %s (%s) has %lld bytes instead of %lld", what, name,
			      (long long)st.st_size, (long long)size);
	if ((json_int_t)st.st_ino != inode ||
	    st.st_mtim.tv_sec * (json_int_t)NS_PER_SEC + st.st_mtim.tv_nsec != mtime_ns)
		return broken(err, "its %s (%s) was changed since", what, name);
	if (digest && (sha256_file(path, hex, NULL) < 0 || !str_eq(hex, digest)))
		return broken(err, "its %s (%s) does not have the digest that it was saved with",
			      what, name);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int take_disks(const char *dir, json_t *disks, struct saved *s, struct error *err)
{
	json_t *disk, *layer;
	size_t i, k;
	int r = 0;

	json_array_foreach(disks, i, disk)
	{
		const char *name = json_string_value(json_object_get(disk, "name"));
		_cleanup_free_ char *what = xasprintf("disk '%s'", name ?: "");

		if (!name)
			return broken(err, "its manifest has a disk without a name");
		json_array_foreach(json_object_get(disk, "layers"), k, layer)
		{
			int fd;

			r = take_file(dir, layer, what, &fd, err);
			if (r < 0)
				return r;
			saved_push_layer(s, name, fd);
		}
	}
	return 0;
}

static int take_saved(const char *dir, json_t *json, struct saved **ret, struct error *err)
{
	_cleanup_saved_ struct saved *s = saved_new();
	json_t *vm, *core, *disks, *devices = NULL, *memory = NULL;
	int r = 0;

	if (json_unpack(json, "{s:o, s:o, s:o, s?:o, s?:o}", "vm", &vm, "core", &core, "disks",
			&disks, "devices", &devices, "memory", &memory) < 0 ||
	    !json_is_object(vm) || !json_is_object(core))
		return broken(err, "its manifest lacks what a saved machine is");
	json_decref(s->vm);
	json_decref(s->core);
	s->vm = json_incref(vm);
	s->core = json_incref(core);
	if (devices)
		r = take_file(dir, devices, "device state", &s->devices_fd, err);
	if (r >= 0 && memory)
		r = take_file(dir, memory, "memory", &s->memory_fd, err);
	if (r >= 0)
		r = take_disks(dir, disks, s, err);
	if (r >= 0)
		*ret = TAKE_PTR(s);
	return r;
}

static int take_machines(const char *dir, json_t *machines, struct template *t, struct error *err)
{
	json_t *machine;
	size_t i;
	int r = 0;

	t->machines = xcalloc(json_array_size(machines) + 1, sizeof(*t->machines));
	json_array_foreach(machines, i, machine)
	{
		const char *name = json_string_value(json_object_get(machine, "name"));
		json_t *saved = json_object_get(machine, "saved");

		if (!name)
			return broken(err, "its manifest has a machine without a name");
		t->machines[t->n_machines++].name = xstrdup(name);
		if (json_is_object(saved))
			r = take_saved(dir, saved, &t->machines[i].saved, err);
		if (r < 0) {
			error_prefix(err, "machine '%s'", name);
			return r;
		}
	}
	return 0;
}

static uint64_t read_cost(const char *dir)
{
	_cleanup_free_ char *path = path_join(dir, "cost");
	_cleanup_buf_ struct buf text = {};
	uint64_t bytes = 0;

	return buf_read_file(&text, path, 32) < 0 || parse_u64(buf_str(&text), &bytes) < 0 ? 0
											   : bytes;
}

/* -ENOENT: it is another key's that begins alike. */
static int take(const char *dir, const char *key, struct template *t, struct error *err)
{
	_cleanup_(cleanup_json) json_t *json = NULL;
	const char *title = NULL, *whole = NULL;
	json_t *notes, *machines;
	int r = template_read_manifest(dir, &json, err);

	if (r < 0)
		return r;
	if (json_unpack(json, "{s:s, s:s, s:o, s:o}", "title", &title, "key", &whole, "notes",
			&notes, "machines", &machines) < 0 ||
	    !json_is_object(notes) || !json_is_array(machines))
		return broken(err, "its manifest lacks what a template is");
	t->notes = json_incref(notes);
	t->title = xstrdup(title);
	if (!str_eq(whole, key))
		return -ENOENT;
	snprintf(t->key, sizeof(t->key), "%s", key);
	t->fork_bytes = read_cost(dir);
	return take_machines(dir, machines, t, err);
}

static void throw_away(const struct store *s, const char *dir)
{
	(void)store_remove(s, dir, true, NULL);
	template_memory_clean();
}

int template_open(const char *key, struct template **ret, struct error *err)
{
	_cleanup_(cleanup_template) struct template *t = xcalloc(1, sizeof(*t));
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL;
	struct error why = {};
	int r;

	t->lock_fd = -EBADF;
	r = store_open(STORE_TEMPLATES, &s, err);
	if (r < 0)
		return r;
	dir = store_find_digest(&s, key);
	if (!dir)
		return 0;
	r = store_lock_shared(&s, dir, &t->lock_fd);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot use the template '%s'", dir);
	r = take(dir, key, t, &why);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		throw_away(&s, dir);
	if (r == -ESTALE)
		return 0;
	if (r < 0) {
		error_prefix(&why, "template '%s' is broken", t->title ?: path_basename(dir));
		return error_propagate(err, &why);
	}
	/* A store that we may only read keeps no record of it; that is all. */
	(void)utimensat(t->lock_fd, "used", NULL, 0);
	*ret = TAKE_PTR(t);
	return 1;
}

/* ---- the rest --------------------------------------------------------------------------- */

int template_lock(const char *key, int *ret_fd, struct error *err)
{
	_cleanup_store_ struct store s = {};
	int r = store_open(STORE_TEMPLATES, &s, err);

	return r < 0 ? r : store_lock_key(&s, key, ret_fd, err);
}

int template_discard(const char *key, struct error *err)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL;
	int r = store_open(STORE_TEMPLATES, &s, err);

	if (r < 0)
		return r;
	dir = store_find_digest(&s, key);
	r = dir ? store_remove(&s, dir, true, err) : 0;
	template_memory_clean();
	return r;
}

void template_note_cost(const char *key, uint64_t bytes)
{
	_cleanup_store_ struct store s = {};
	_cleanup_free_ char *dir = NULL, *path = NULL, *text = NULL;

	if (store_open(STORE_TEMPLATES, &s, NULL) < 0)
		return;
	dir = store_find_digest(&s, key);
	if (!dir || read_cost(dir) >= bytes)
		return;
	path = path_join(dir, "cost");
	text = xasprintf("%llu", (unsigned long long)bytes);
	(void)file_write_atomic(path, text, strlen(text), 0644, NULL);
}
