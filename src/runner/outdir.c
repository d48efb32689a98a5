/* SPDX-License-Identifier: MIT */
/* Where a run writes: its folder, the folders of its tests, what to paste to run one again. */
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "base/str.h"
#include "runner/internal.h"

#define DIR_NAME_MAX 100

static int cannot_write(const char *dir, int code, struct error *err)
{
	int r = error_set_errno(err, ERROR_INFRA, code, "the output folder '%s' cannot be written",
				dir);

	error_hint(err, "choose another one with --out DIR");
	return r;
}

/* What mkdir does not tell: a full disk, for one. */
static int try_to_write(const char *dir, struct error *err)
{
	_cleanup_free_ char *path = path_join(dir, "events.jsonl");
	static const char block[4096];
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int r;

	if (fd < 0)
		return cannot_write(dir, errno, err);
	r = fd_write_all(fd, block, sizeof(block));
	if (r == 0 && ftruncate(fd, 0) < 0)
		r = -errno;
	return r < 0 ? cannot_write(dir, -r, err) : 0;
}

int outdir_make(struct run *run, struct error *err)
{
	_cleanup_free_ char *base =
		path_absolute(run->opts->out_dir ? run->opts->out_dir : "assay-out");
	time_t now = time(NULL);
	char stamp[32];
	struct tm tm;
	int r;

	gmtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &tm);
	r = path_make_dirs(base, 0755, NULL);
	if (r < 0)
		return cannot_write(base, -r, err);
	run->out_dir = TAKE_PTR(base);
	for (unsigned i = 1; !run->dir; i++) {
		_cleanup_free_ char *id = xasprintf("%s-%u", stamp, i);
		_cleanup_free_ char *dir = path_join(run->out_dir, id);

		if (mkdir(dir, 0755) < 0) {
			if (errno == EEXIST)
				continue;
			return cannot_write(run->out_dir, errno, err);
		}
		run->id = TAKE_PTR(id);
		run->dir = TAKE_PTR(dir);
	}
	return try_to_write(run->dir, err);
}

int outdir_publish(struct run *run, struct error *err)
{
	_cleanup_free_ char *link = path_join(run->out_dir, "latest");
	_cleanup_free_ char *temporary = xasprintf("%s/.latest-%s", run->out_dir, run->id);

	/* Readers see the old one or the new one. */
	if (symlink(run->id, temporary) < 0 || rename(temporary, link) < 0) {
		int code = errno;

		unlink(temporary);
		return error_set_errno(err, ERROR_INFRA, code, "cannot make the link '%s'", link);
	}
	return 0;
}

/* Letters, digits, '_' stay, and a '.' behind one of these; what is between becomes one '-'. */
static void append_safe(struct buf *b, const char *s)
{
	for (; *s; s++) {
		char last = b->len > 0 ? b->data[b->len - 1] : '.';

		if (isalnum((unsigned char)*s) || *s == '_' ||
		    (*s == '.' && isalnum((unsigned char)last)))
			buf_putc(b, *s);
		else if (last != '-' && last != '.')
			buf_putc(b, '-');
	}
	while (b->len > 0 && strchr("-.", b->data[b->len - 1]))
		buf_truncate(b, b->len - 1);
}

char *outdir_test_name(struct run *run, const struct plan_file *file, const char *id,
		       unsigned repeat)
{
	_cleanup_buf_ struct buf name = {};
	_cleanup_free_ char *stem = xstrdup(path_basename(file->path)), *unique = NULL;

	if (str_ends(stem, ".lua"))
		stem[strlen(stem) - 4] = '\0';
	append_safe(&name, stem);
	buf_putc(&name, '.');
	append_safe(&name, id);
	buf_truncate(&name, MIN(name.len, (size_t)DIR_NAME_MAX));
	if (repeat)
		buf_printf(&name, ".%u", repeat);
	unique = xstrdup(buf_str(&name));
	/* Two names can become one by what is left out; files of one name can be in two folders. */
	for (unsigned i = 2; strv_contains(run->used_dirs, unique); i++) {
		free(unique);
		unique = xasprintf("%s~%u", buf_str(&name), i);
	}
	strv_push(&run->used_dirs, unique);
	return TAKE_PTR(unique);
}

/* The program as the person can call it: by name if that is what PATH finds, else by path. */
static char *program_name(void)
{
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	_cleanup_strv_ char **dirs = NULL;

	if (n <= 0)
		return xstrdup("assay");
	exe[n] = '\0';
	dirs = strv_split(getenv("PATH") ? getenv("PATH") : "", ":");
	for (char **d = dirs; d && *d; d++) {
		_cleanup_free_ char *path = path_join(*d, "assay");
		_cleanup_free_ char *real = NULL;

		if (access(path, X_OK) < 0)
			continue;
		real = realpath(path, NULL);
		return xstrdup(real && strcmp(real, exe) == 0 ? "assay" : exe);
	}
	return xstrdup(exe);
}

static void append_quoted(struct buf *b, const char *fmt, const char *value)
{
	_cleanup_free_ char *text = xasprintf(fmt, value), *quoted = shell_quote(text);

	buf_putc(b, ' ');
	buf_puts(b, quoted);
}

static char *regex_quote(const char *s)
{
	struct buf b = {};

	for (; *s; s++) {
		if (strchr("\\^$.[]|()?*+{}", *s))
			buf_putc(&b, '\\');
		buf_putc(&b, *s);
	}
	return buf_steal(&b, NULL);
}

/* Whatever of the command line has a say in what a test does. */
static void append_options(struct buf *b, const struct run_opts *o, json_t *test)
{
	const char *key;
	json_t *value;

	if (o->backend)
		append_quoted(b, "--backend=%s", o->backend);
	if (o->image)
		append_quoted(b, "--image=%s", o->image);
	if (o->isolation)
		append_quoted(b, "--isolation=%s", o->isolation);
	if (o->accel)
		append_quoted(b, "--accel=%s", o->accel);
	if (o->timeout_scale)
		append_quoted(b, "--timeout-scale=%s", o->timeout_scale);
	if (o->slow || json_is_true(json_object_get(test, "slow")))
		buf_puts(b, " --slow");
	if (o->seed)
		buf_printf(b, " --seed %llu", (unsigned long long)o->seed);
	json_object_foreach(o->params, key, value)
	{
		_cleanup_free_ char *pair = xasprintf("%s=%s", key, json_string_value(value));

		buf_puts(b, " --param");
		append_quoted(b, "%s", pair);
	}
}

char *outdir_reproduce(const struct run *run, const struct test_case *t)
{
	_cleanup_free_ char *cwd = path_absolute("."), *program = program_name();
	_cleanup_free_ char *name = xasprintf("%s: %s", t->file->path, t->id);
	_cleanup_free_ char *pattern = regex_quote(name), *anchored = xasprintf("^%s$", pattern);
	struct buf b = {};

	buf_puts(&b, "cd");
	append_quoted(&b, "%s", cwd);
	buf_puts(&b, " &&");
	append_quoted(&b, "%s", program);
	buf_puts(&b, " run");
	append_quoted(&b, "%s", t->file->path);
	buf_puts(&b, " -k");
	append_quoted(&b, "%s", anchored);
	append_options(&b, run->opts, t->decl);
	return buf_steal(&b, NULL);
}
