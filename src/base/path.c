/* SPDX-License-Identifier: MIT */
/* Names of files, and the two directories that belong to the program. */
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"

/*
 * The functions on names look at the text only and never at the file system: "a/../b" is "b" even
 * if "a" is a link. Those that make our own directories check what they find, because the runtime
 * directory may be in /tmp, where anybody can be first.
 */

char *path_join(const char *a, const char *b)
{
	size_t n = strlen(a);

	if (b[0] == '/' || n == 0)
		return xstrdup(b);
	if (b[0] == '\0')
		return xstrdup(a);
	return xasprintf("%s%s%s", a, a[n - 1] == '/' ? "" : "/", b);
}

char *path_dirname(const char *path)
{
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	while (n > 0 && path[n - 1] != '/')
		n--;
	while (n > 1 && path[n - 1] == '/')
		n--;
	return n == 0 ? xstrdup(".") : xstrndup(path, n);
}

const char *path_basename(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

char *path_absolute(const char *path)
{
	_cleanup_free_ char *cwd = NULL;
	_cleanup_free_ char *full = NULL;
	_cleanup_strv_ char **parts = NULL;
	struct buf b = {};
	size_t n = 0;

	if (path[0] != '/') {
		cwd = getcwd(NULL, 0);
		full = path_join(cwd ? cwd : "/", path);
	}
	parts = strv_split(full ? full : path, "/");
	/* parts[0..n) is the result so far. */
	for (size_t i = 0; parts && parts[i]; i++) {
		if (strcmp(parts[i], ".") == 0)
			continue;
		if (strcmp(parts[i], "..") == 0) {
			n -= n > 0;
			continue;
		}
		if (n != i) {
			char *swap = parts[n];

			parts[n] = parts[i];
			parts[i] = swap;
		}
		n++;
	}
	for (size_t i = 0; i < n; i++) {
		buf_putc(&b, '/');
		buf_puts(&b, parts[i]);
	}
	if (n == 0)
		buf_putc(&b, '/');
	return buf_steal(&b, NULL);
}

/* An environment variable if it names an absolute path; the XDG specification wants others ignored.
 */
static const char *env_path(const char *name)
{
	const char *value = getenv(name);

	return value && value[0] == '/' ? value : NULL;
}

static const char *home_dir(void)
{
	const char *home = env_path("HOME");
	struct passwd *pw;

	if (home)
		return home;
	pw = getpwuid(getuid());
	return pw && pw->pw_dir && pw->pw_dir[0] == '/' ? pw->pw_dir : NULL;
}

/* ASSAY_CACHE may be relative (people type it), the XDG variables and HOME may not. */
int path_cache_dir(char **ret, struct error *err)
{
	_cleanup_free_ char *dir = NULL;
	const char *value;
	int r;

	if ((value = getenv("ASSAY_CACHE")) && *value) {
		dir = path_absolute(value);
	} else if ((value = env_path("XDG_CACHE_HOME"))) {
		dir = path_join(value, "assay");
	} else if ((value = home_dir())) {
		dir = path_join(value, ".cache/assay");
	} else {
		r = error_set(err, ERROR_INFRA, ENOENT, "no place for the cache: HOME is not set");
		error_hint(err, "set ASSAY_CACHE to a directory");
		return r;
	}
	r = path_make_dirs(dir, 0755, err);
	if (r < 0) {
		error_prefix(err, "cache directory");
		error_hint(err, "set ASSAY_CACHE to a directory that can be written");
		return r;
	}
	*ret = TAKE_PTR(dir);
	return 0;
}

int path_make_private_dir(const char *dir, struct error *err)
{
	struct stat st;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make '%s'", dir);
	if (lstat(dir, &st) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot look at '%s'", dir);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, ERROR_INFRA, ENOTDIR, "'%s' is not a directory", dir);
	if (st.st_uid != geteuid())
		return error_set(err, ERROR_INFRA, EPERM,
				 "'%s' belongs to user %u, not to us (user %u)", dir,
				 (unsigned)st.st_uid, (unsigned)geteuid());
	if ((st.st_mode & 077) && chmod(dir, 0700) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot take '%s' away from others",
				       dir);
	return 0;
}

int path_runtime_dir(char **ret, struct error *err)
{
	_cleanup_free_ char *dir = NULL;
	const char *base = env_path("XDG_RUNTIME_DIR");
	int r;

	/* It may name a directory of another user (su keeps it) or of a session that is over. */
	if (base && access(base, W_OK | X_OK) == 0)
		dir = path_join(base, "assay");
	else
		dir = xasprintf("/tmp/assay-%u", (unsigned)geteuid());
	r = path_make_private_dir(dir, err);
	if (r < 0) {
		error_hint(err, "set XDG_RUNTIME_DIR to a directory of your own");
		return r;
	}
	*ret = TAKE_PTR(dir);
	return 0;
}
