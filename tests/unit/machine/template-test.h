/* SPDX-License-Identifier: MIT */
/* What the tests of the template store share: a cache and a tmpfs directory of their own, and a
 * template made of nothing but files. */
#pragma once

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "fiber-test.h"
#include "machine/template.h"

#define KEY_A "aaaaaaaaaaaa1111111111111111111111111111111111111111111111111111"
#define KEY_B "bbbbbbbbbbbb2222222222222222222222222222222222222222222222222222"
#define KEY_C "cccccccccccc3333333333333333333333333333333333333333333333333333"

#define MEMORY_BYTES (1 * MIB)

static char cache_dir[64], tmpfs_dir[64];

static int make_dirs(void **state)
{
	snprintf(cache_dir, sizeof(cache_dir), "/tmp/assay-template-XXXXXX");
	snprintf(tmpfs_dir, sizeof(tmpfs_dir), "/dev/shm/assay-template-XXXXXX");
	if (!mkdtemp(cache_dir) || !mkdtemp(tmpfs_dir))
		return -1;
	unsetenv("ASSAY_CACHE_MAX");
	return setenv("ASSAY_CACHE", cache_dir, 1) < 0 || setenv("ASSAY_TMPFS", tmpfs_dir, 1) < 0
		       ? -1
		       : 0;
}

static int remove_dirs(void **state)
{
	int r = path_remove_tree(cache_dir, NULL);

	return path_remove_tree(tmpfs_dir, NULL) < 0 ? -1 : r;
}

/* In a file without a name, as a backend makes it. */
static _unused_ int file_in(const char *dir, const char *text, uint64_t size)
{
	int fd = tmpfile_open(dir, NULL);

	check(fd >= 0);
	check(fd_write_all(fd, text, strlen(text)) == 0);
	check(size == 0 || ftruncate(fd, (off_t)size) == 0);
	return fd;
}

/* Machines "server" (running, a disk of two layers) and "spare" (never started). */
static _unused_ struct template *new_template(const char *key, const char *title)
{
	struct template *t = xcalloc(1, sizeof(*t));
	_cleanup_free_ char *memory_dir = NULL, *work_dir = NULL;
	struct saved *s = saved_new();
	struct error err = {};

	if (template_work_dirs(MEMORY_BYTES, &memory_dir, &work_dir, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	s->devices_fd = file_in(work_dir, "devices", 0);
	s->memory_fd = file_in(memory_dir, "memory", MEMORY_BYTES);
	saved_push_layer(s, "scratch0", file_in(work_dir, "below", 0));
	saved_push_layer(s, "scratch0", file_in(work_dir, "above", 0));
	json_object_set_new(s->vm, "machine", json_string("pc-q35-7.2"));
	json_object_set_new(s->core, "boots", json_integer(3));
	snprintf(t->key, sizeof(t->key), "%s", key);
	t->lock_fd = -EBADF;
	t->title = xstrdup(title);
	t->notes = json_pack("{s:s}", "result", "ready");
	t->n_machines = 2;
	t->machines = xcalloc(2, sizeof(*t->machines));
	t->machines[0] = (struct template_machine){xstrdup("server"), s};
	t->machines[1] = (struct template_machine){xstrdup("spare"), NULL};
	return t;
}

static _unused_ void commit_new(const char *key, const char *title)
{
	struct template *t = new_template(key, title);
	struct error err = {};

	if (template_commit(t, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
	template_free(t);
}

static _unused_ bool is_there(const char *key)
{
	struct template *t;

	if (template_open(key, &t, NULL) != 1)
		return false;
	template_free(t);
	return true;
}

static _unused_ void check_text(int fd, const char *wanted)
{
	char got[64] = "";

	check(pread(fd, got, strlen(wanted), 0) == (ssize_t)strlen(wanted));
	check_str(got, wanted);
}

/* How many files and directories are below, links included. */
static _unused_ size_t count_below(const char *path)
{
	_cleanup_free_ char *command = xasprintf("find '%s' -mindepth 1 | wc -l", path);
	unsigned long n = 0;
	FILE *f = popen(command, "r");

	check(f && fscanf(f, "%lu", &n) == 1);
	pclose(f);
	return n;
}

static _unused_ size_t count_templates(void)
{
	_cleanup_free_ char *path = path_join(cache_dir, "templates");

	return count_below(path);
}

/* As if nothing had been saved for two hours. */
static _unused_ void make_memory_idle(void)
{
	_cleanup_free_ char *command = xasprintf(
		"find '%s' -mindepth 2 -maxdepth 2 -type d -exec touch -d '2 hours ago' {} +",
		tmpfs_dir);

	check(system(command) == 0);
}
