/* SPDX-License-Identifier: MIT */
/* Finding QEMU, and its version. */
#include "backend/qemu/probe.h"

#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "fiber-test.h"

static char dir[] = "/tmp/assay-test-XXXXXX";

static int make_dir(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	return setenv("XDG_RUNTIME_DIR", dir, 1);
}

static int remove_dir(void **state)
{
	return path_remove_tree(dir, NULL);
}

static void check_version(const char *text, int major, int minor, int micro)
{
	struct qemu_version v = {};

	check(qemu_parse_version(text, &v) == (major < 0 ? -EINVAL : 0));
	check(major < 0 || (v.major == major && v.minor == minor && v.micro == micro));
}

FIBER_TEST(versions)
{
	check_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright", 7,
		      2, 22);
	check_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", 10, 0, 2);
	check_version("QEMU emulator version 9.1.50 (v9.1.0-100-gabcdef)", 9, 1, 50);
	check_version("QEMU emulator version 6.2\n", 6, 2, 0);
	check_version("", -1, 0, 0);
	check_version("QEMU emulator version", -1, 0, 0);
	check_version("version x.y", -1, 0, 0);
}

/* A program of that name and output in a directory of its own; PATH is that. */
static char *put_program(const char *where, const char *script)
{
	_cleanup_free_ char *folder = path_join(dir, where);
	char *path = path_join(folder, "qemu-system-x86_64");

	check(path_make_dirs(folder, 0700, NULL) == 0);
	check(file_write_atomic(path, script, strlen(script), 0700, NULL) == 0);
	check(setenv("PATH", folder, 1) == 0);
	return path;
}

FIBER_TEST(no_qemu_names_the_package)
{
	struct error err = {};
	char *path = NULL;

	check(setenv("PATH", "/nonexistent", 1) == 0);
	if (path_exists("/usr/libexec/qemu-kvm"))
		return;
	check(qemu_find_program(&path, &err) == -ENOENT);
	check(err.kind == ERROR_INFRA);
	check(strstr(err.message, "this host has no QEMU"));
	check(strstr(err.hint, "qemu-system-x86"));
}

FIBER_TEST(the_first_in_path_is_asked_once)
{
	_cleanup_free_ char *want =
		put_program("good", "#!/bin/sh\necho QEMU emulator version 8.1.3\n");
	_cleanup_free_ char *path = NULL;
	struct qemu_version v = {};
	struct error err = {};

	check(qemu_find_program(&path, &err) == 0);
	check_str(path, want);
	check(qemu_get_version(path, &v, &err) == 0);
	check(v.major == 8 && v.minor == 1 && v.micro == 3 && v.has_upstream_types);

	/* From the cache: the program is the same file, and would now say nothing. */
	check(chmod(path, 0700) == 0);
	check(qemu_get_version(path, &v, &err) == 0);
	free(put_program("good", "#!/bin/sh\necho QEMU emulator version 9.0.0\n"));
	check(qemu_get_version(path, &v, &err) == 0);
	check(v.major == 9);
}

FIBER_TEST(too_old_is_said)
{
	_cleanup_free_ char *path =
		put_program("old", "#!/bin/sh\necho QEMU emulator version 5.2.0\n");
	_cleanup_free_ char *want = xasprintf("'%s' is QEMU 5.2.0, and 6.2 is needed", path);
	struct qemu_version v = {};
	struct error err = {};

	check(qemu_get_version(path, &v, &err) == -ENOTSUP);
	check_str(err.message, want);
}

FIBER_TEST(one_that_fails_is_quoted)
{
	_cleanup_free_ char *path =
		put_program("bad", "#!/bin/sh\necho libfoo.so: not found >&2\nexit 127\n");
	struct qemu_version v = {};
	struct error err = {};

	check(qemu_get_version(path, &v, &err) == -EINVAL);
	check(err.kind == ERROR_INFRA);
	check(strstr(err.message, "exited with status 127"));
	check(strstr(err.message, "libfoo.so: not found"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(versions),
		cmocka_unit_test(no_qemu_names_the_package),
		cmocka_unit_test(the_first_in_path_is_asked_once),
		cmocka_unit_test(too_old_is_said),
		cmocka_unit_test(one_that_fails_is_quoted),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
