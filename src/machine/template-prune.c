/* SPDX-License-Identifier: MIT */
/* What templates there are, and keeping them few. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/host.h"
#include "base/str.h"
#include "machine/template-internal.h"

/*
 * Two bounds: what all templates take, and what those take that lie in the host's memory. The
 * least recently used goes first; what is in use stays, so that it may be more for a while.
 */
#define LIMIT_DEFAULT	  (8 * GIB)
#define LIMIT_SHARE	  10 /* at most one tenth of the file system */
#define LIMIT_SHARE_TMPFS 4  /* at most a quarter of the host's memory */

int template_limit(const struct store *s, uint64_t *ret, struct error *err)
{
	const char *text = getenv("ASSAY_CACHE_MAX");
	struct statvfs st;

	if (text && *text) {
		if (parse_size(text, ret) == 0)
			return 0;
		return error_set(err, ERROR_USAGE, EINVAL,
				 "ASSAY_CACHE_MAX is '%s', which is no size such as 8G", text);
	}
	*ret = LIMIT_DEFAULT;
	if (statvfs(s->dir, &st) == 0)
		*ret = MIN(*ret, (uint64_t)st.f_blocks * st.f_frsize / LIMIT_SHARE);
	return 0;
}

void template_infos_free(struct template_info *infos, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(infos[i].title);
	free(infos);
}

static uint64_t last_used(const char *dir)
{
	_cleanup_free_ char *path = path_join(dir, "used");
	struct stat st;

	return stat(path, &st) < 0
		       ? 0
		       : (uint64_t)st.st_mtim.tv_sec * NS_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
}

/* Most recently used first. */
static int compare(const void *a, const void *b)
{
	const struct template_info *x = a, *y = b;

	return (x->used_ns < y->used_ns) - (x->used_ns > y->used_ns);
}

/* False: it is broken, or of another boot of the host. */
static bool read_info(const struct store *s, const char *dir, struct template_info *ret)
{
	_cleanup_free_ char *link = path_join(dir, "memory"), *target = realpath(link, NULL);
	const char *title, *key;
	json_int_t created;
	json_t *json;
	bool ok;

	if (template_read_manifest(dir, &json, NULL) < 0)
		return false;
	ok = json_unpack(json, "{s:s, s:s, s:I}", "title", &title, "key", &key, "created",
			 &created) == 0;
	if (ok) {
		*ret = (struct template_info){
			.title = xstrdup(title),
			.memory_bytes = target ? store_disk_usage(target) : 0,
			.created = (uint64_t)created,
			.used_ns = last_used(dir),
			.in_use = store_in_use(s, dir),
		};
		snprintf(ret->key, sizeof(ret->key), "%s", key);
		ret->bytes = store_disk_usage(dir) + ret->memory_bytes;
	}
	json_decref(json);
	return ok;
}

static void list(const struct store *s, struct template_info **ret, size_t *ret_n)
{
	_cleanup_strv_ char **dirs = store_dirs(s);
	struct template_info *infos = xcalloc(strv_len(dirs) + 1, sizeof(*infos));
	size_t n = 0;

	for (char **dir = dirs; dir && *dir; dir++)
		n += read_info(s, *dir, &infos[n]);
	qsort(infos, n, sizeof(*infos), compare);
	*ret = infos;
	*ret_n = n;
}

int template_list(struct template_info **ret, size_t *ret_n, struct error *err)
{
	_cleanup_store_ struct store s = {};
	int r = store_open(STORE_TEMPLATES, &s, err);

	if (r >= 0)
		list(&s, ret, ret_n);
	return r;
}

static void remove_useless(const struct store *s)
{
	_cleanup_strv_ char **dirs = store_dirs(s);

	for (char **dir = dirs; dir && *dir; dir++) {
		json_t *json = NULL;

		if (template_read_manifest(*dir, &json, NULL) < 0)
			(void)store_remove(s, *dir, false, NULL);
		json_decref(json);
	}
}

int template_prune(uint64_t max_bytes, uint64_t *ret_freed_bytes, struct error *err)
{
	_cleanup_store_ struct store s = {};
	uint64_t host = host_memory_bytes() / LIMIT_SHARE_TMPFS;
	uint64_t bytes = 0, memory_bytes = 0, before, after;
	struct template_info *infos;
	size_t n;
	int r = store_open(STORE_TEMPLATES, &s, err);

	if (r < 0)
		return r;
	before = template_usage(&s);
	store_clean_stale(&s);
	remove_useless(&s);
	list(&s, &infos, &n);
	for (size_t i = 0; i < n; i++) {
		bytes += infos[i].bytes;
		memory_bytes += infos[i].memory_bytes;
	}
	for (size_t i = n; i-- > 0 && (bytes > max_bytes || memory_bytes > host);) {
		_cleanup_free_ char *dir = xasprintf("%s/%.12s", s.entries, infos[i].key);

		/* One that takes no memory does not help if only that is too much. */
		if ((bytes <= max_bytes && infos[i].memory_bytes == 0) ||
		    store_remove(&s, dir, false, NULL) < 0)
			continue;
		bytes -= infos[i].bytes;
		memory_bytes -= infos[i].memory_bytes;
	}
	template_infos_free(infos, n);
	template_memory_clean();
	after = template_usage(&s);
	if (ret_freed_bytes)
		*ret_freed_bytes = before > after ? before - after : 0;
	return 0;
}

int template_store_usage(uint64_t *ret_bytes, struct error *err)
{
	_cleanup_store_ struct store s = {};
	int r = store_open(STORE_TEMPLATES, &s, err);

	if (r >= 0)
		*ret_bytes = template_usage(&s);
	return r;
}
