/* SPDX-License-Identifier: MIT */
/* Finds QEMU and asks it for its version, once for each binary and boot. */
#include "backend/qemu/probe.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "loop/process.h"

#define PROGRAM		   "qemu-system-x86_64"
#define RHEL_PROGRAM	   "/usr/libexec/qemu-kvm"
#define VERSION_TIMEOUT_NS (30 * NS_PER_SEC)

static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

int qemu_find_program(char **ret, struct error *err)
{
	const char *path = getenv("PATH");
	_cleanup_strv_ char **dirs =
		strv_split(path && *path ? path : "/usr/local/bin:/usr/bin:/bin", ":");
	int r;

	for (size_t i = 0; dirs && dirs[i]; i++) {
		_cleanup_free_ char *full = path_join(dirs[i], PROGRAM);

		if (is_program(full)) {
			*ret = TAKE_PTR(full);
			return 0;
		}
	}
	if (is_program(RHEL_PROGRAM)) {
		*ret = xstrdup(RHEL_PROGRAM);
		return 0;
	}
	r = error_set(err, ERROR_INFRA, ENOENT,
		      "this host has no QEMU: neither '" PROGRAM "' in PATH nor " RHEL_PROGRAM);
	error_hint(err, "install it; on Debian and Ubuntu: apt install qemu-system-x86");
	return r;
}

int qemu_parse_version(const char *text, struct qemu_version *ret)
{
	const char *p = strstr(text, "version ");
	struct qemu_version v = {};

	if (!p || sscanf(p, "version %d.%d.%d", &v.major, &v.minor, &v.micro) < 2 || v.major < 1)
		return -EINVAL;
	v.has_upstream_types = true;
	*ret = v;
	return 0;
}

/* --- The cache: a file of two lines, the binary's identity and what it said ----------------- */

static char *cache_key(const char *program)
{
	struct stat st;

	if (stat(program, &st) < 0)
		return NULL;
	return xasprintf("1 %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 ".%09ld %s",
			 (uint64_t)st.st_dev, (uint64_t)st.st_ino, (int64_t)st.st_size,
			 (int64_t)st.st_ctim.tv_sec, st.st_ctim.tv_nsec, program);
}

static char *cache_path(void)
{
	_cleanup_free_ char *dir = NULL;

	if (path_runtime_dir(&dir, NULL) < 0)
		return NULL;
	return path_join(dir, "qemu-version");
}

static bool cache_read(const char *path, const char *key, struct qemu_version *ret)
{
	_cleanup_buf_ struct buf text = {};
	_cleanup_strv_ char **lines = NULL;

	if (!path || !key || !path_exists(path) || file_read(path, 8192, &text, NULL) < 0)
		return false;
	lines = strv_split(buf_str(&text), "\n");
	return strv_len(lines) >= 2 && str_eq(lines[0], key) &&
	       qemu_parse_version(lines[1], ret) == 0;
}

static void cache_write(const char *path, const char *key, const char *text)
{
	_cleanup_free_ char *content = NULL;

	if (!path || !key)
		return;
	content = xasprintf("%s\n%s\n", key, text);
	(void)file_write_atomic(path, content, strlen(content), 0600, NULL); /* only a cache */
}

/* --- Asking --------------------------------------------------------------------------------- */

static int ask_version(const char *program, struct run_result *out, struct qemu_version *ret,
		       struct error *err)
{
	char *argv[] = {(char *)program, "--version", NULL};
	_cleanup_free_ char *how = NULL;
	int r;

	r = process_run(argv, NULL, NULL, 0, 64 * KIB, VERSION_TIMEOUT_NS, out, err);
	if (r < 0)
		return r;
	if (qemu_parse_version(buf_str(&out->out), ret) == 0)
		return 0;
	how = process_describe_status(out->status);
	return error_set(err, ERROR_INFRA, EINVAL,
			 "'%s --version' %s and said no version: %.200s%.200s", program, how,
			 buf_str(&out->out), buf_str(&out->err));
}

static int check_version(const char *program, const struct qemu_version *v, struct error *err)
{
	int r;

	if (qemu_version_at_least(v, QEMU_VERSION_MIN_MAJOR, QEMU_VERSION_MIN_MINOR))
		return 0;
	r = error_set(err, ERROR_INFRA, ENOTSUP, "'%s' is QEMU %d.%d.%d, and %d.%d is needed",
		      program, v->major, v->minor, v->micro, QEMU_VERSION_MIN_MAJOR,
		      QEMU_VERSION_MIN_MINOR);
	error_hint(err, "put a newer qemu-system-x86_64 first in PATH");
	return r;
}

/* QEMU looks for its ROMs in the data directories that it was built with; a distribution's are
 * /usr/share/qemu (Debian, Fedora), one of one's own has them relative to the program. */
static bool find_qboot(const char *program)
{
	_cleanup_free_ char *dir = path_dirname(program);
	_cleanup_free_ char *relative = path_join(dir, "../share/qemu/qboot.rom");

	return path_exists(relative) || path_exists("/usr/share/qemu/qboot.rom") ||
	       path_exists("/usr/share/qemu-kvm/qboot.rom");
}

int qemu_get_version(const char *program, struct qemu_version *ret, struct error *err)
{
	_cleanup_(run_result_done) struct run_result out = {};
	_cleanup_free_ char *path = cache_path();
	_cleanup_free_ char *key = cache_key(program);
	int r;

	if (!cache_read(path, key, ret)) {
		r = ask_version(program, &out, ret, err);
		if (r < 0)
			return r;
		cache_write(path, key, buf_str(&out.out));
	}
	ret->has_qboot = find_qboot(program);
	ret->has_upstream_types = !str_eq(program, RHEL_PROGRAM);
	return check_version(program, ret, err);
}
