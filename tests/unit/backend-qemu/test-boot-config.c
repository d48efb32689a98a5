/* SPDX-License-Identifier: MIT */
/* What is booted with which command line, and what the backend cannot do. */
#include "backend/qemu/boot-config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/str.h"

static char dir[] = "/tmp/assay-test-XXXXXX";
static struct image *kernel_only, *with_initrd, *disk;

static int make_images(void **state)
{
	_cleanup_free_ char *file = NULL;
	char data[4096] = "x";
	struct error err = {};

	if (!mkdtemp(dir))
		return -1;
	file = path_join(dir, "file");
	if (file_write_atomic(file, data, sizeof(data), 0644, &err) < 0 ||
	    image_open_kernel(file, NULL, &kernel_only, &err) < 0 ||
	    image_open_kernel(file, file, &with_initrd, &err) < 0 ||
	    image_open_disk(file, &disk, &err) < 0) {
		print_message("%s\n", err.message);
		return -1;
	}
	return 0;
}

static int remove_images(void **state)
{
	image_unref(kernel_only);
	image_unref(with_initrd);
	image_unref(disk);
	return path_remove_tree(dir, NULL);
}

struct wanted {
	const char *kernel, *initrd, *cmdline; /* "file": the one in the images */
};

static void check_path(const char *got, const char *want)
{
	_cleanup_free_ char *file = path_join(dir, "file");

	if (!want)
		assert_null(got);
	else
		assert_string_equal(got, str_eq(want, "file") ? file : want);
}

static unsigned tsc_khz;

static void check_kernel(const struct machine_spec *spec, struct image *image,
			 const struct machine_start_opts *opts, bool debug, struct wanted want)
{
	struct machine_env env = {.base_dir = "/base", .debug_boot = debug};
	struct vm_init init = {.spec = spec, .env = &env};
	struct vm_start how = {.image = image, .opts = opts};
	_cleanup_strv_ char **strings = NULL;
	struct qemu_config c = {};

	qemu_config_kernel(&c, &init, &how, tsc_khz, &strings);
	check_path(c.kernel, want.kernel);
	check_path(c.initrd, want.initrd);
	if (want.cmdline)
		assert_string_equal(c.cmdline, want.cmdline);
	else
		assert_null(c.cmdline);
}

static void test_kernels(void **state)
{
	static char *words[] = {"a=1", "b", NULL};
	struct machine_start_opts none = {}, other = {.kernel = "other", .cmdline = "single"};
	struct machine_spec plain = {.name = "m"};
	struct machine_spec spec = {.name = "m", .cmdline = words, .initrd = "/my/initrd"};

	check_kernel(&plain, kernel_only, &none, false,
		     (struct wanted){"file", NULL, "console=ttyS0"});
	check_kernel(&plain, with_initrd, &none, false,
		     (struct wanted){"file", "file", "console=ttyS0"});
	/* Later words win: ours, the definition's, this boot's. */
	check_kernel(&spec, with_initrd, &other, false,
		     (struct wanted){"/base/other", "/my/initrd", "console=ttyS0 a=1 b single"});
	check_kernel(&plain, kernel_only, &none, true,
		     (struct wanted){"file", NULL,
				     "console=ttyS0 ignore_loglevel systemd.log_level=debug "
				     "systemd.log_target=console systemd.show_status=1"});
	/* Under TCG the clock's speed is told. */
	tsc_khz = 2596130;
	check_kernel(&plain, kernel_only, &none, false,
		     (struct wanted){"file", NULL,
				     "tsc_early_khz=2596130 no_timer_check console=ttyS0"});
	tsc_khz = 0;
	/* A disk boots by itself, unless it is told otherwise. */
	check_kernel(&spec, disk, &none, false, (struct wanted){});
	check_kernel(&plain, disk, &other, false,
		     (struct wanted){"/base/other", NULL, "console=ttyS0 single"});
}

static void check_refused(struct machine_spec *spec, enum error_kind kind, const char *want)
{
	struct error err = {};

	assert_true(qemu_check_spec(spec, &err) < 0);
	assert_int_equal(err.kind, kind);
	assert_string_equal(err.message, want);
	*spec = (struct machine_spec){.name = "m"};
}

static void test_what_cannot_be(void **state)
{
	struct machine_spec spec = {.name = "m", .arch = "x86_64", .machine_type = "q35"};
	struct disk_spec cd = {.name = "cd", .cdrom = true};
	struct error err = {};

	assert_int_equal(qemu_check_spec(&spec, &err), 0);
	spec.machine_type = "microvm";
	assert_int_equal(qemu_check_spec(&spec, &err), 0);

	spec.arch = "aarch64";
	check_refused(&spec, ERROR_UNSUPPORTED, "the QEMU backend cannot do arch = \"aarch64\"");
	spec.firmware = FIRMWARE_UEFI;
	check_refused(&spec, ERROR_UNSUPPORTED, "the QEMU backend cannot do UEFI yet");
	spec.tpm = true;
	check_refused(&spec, ERROR_UNSUPPORTED, "the QEMU backend cannot do a TPM yet");
	spec.machine_type = "microvm";
	spec.display = true;
	check_refused(&spec, ERROR_USAGE, "a microvm has no display");
	spec.machine_type = "microvm";
	spec.firmware = FIRMWARE_BIOS;
	check_refused(&spec, ERROR_USAGE, "a microvm has no firmware that boots from disks");
	spec.machine_type = "microvm";
	spec.disks = &cd;
	spec.n_disks = 1;
	check_refused(&spec, ERROR_USAGE, "a microvm has no drive for CD-ROMs");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kernels),
		cmocka_unit_test(test_what_cannot_be),
	};

	return cmocka_run_group_tests(tests, make_images, remove_images);
}
