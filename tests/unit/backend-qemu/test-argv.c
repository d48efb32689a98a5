/* SPDX-License-Identifier: MIT */
/* QEMU's command line against golden files; GOLDEN_UPDATE=1 rewrites them. */
#include "backend/qemu/argv.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/str.h"

static char **golden_used;

static void check_golden(const char *name, const struct qemu_config *c)
{
	_cleanup_strv_ char **argv = NULL;
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ char *path = xasprintf("%s/%s.argv", GOLDEN_DIR, name);
	_cleanup_buf_ struct buf want = {};
	struct error err = {};

	strv_push_take(&golden_used, xasprintf("%s.argv", name));
	if (qemu_build_argv(c, &argv, &err) < 0)
		fail_msg("%s: %s", name, err.message);
	text = qemu_format_argv(argv);
	if (getenv("GOLDEN_UPDATE"))
		assert_int_equal(file_write_atomic(path, text, strlen(text), 0644, &err), 0);
	if (file_read(path, MIB, &want, &err) < 0)
		fail_msg("%s", err.message);
	assert_string_equal(text, buf_str(&want));
}

static void check_refused(const struct qemu_config *c, const char *want)
{
	_cleanup_strv_ char **argv = NULL;
	struct error err = {};

	assert_true(qemu_build_argv(c, &argv, &err) < 0);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_string_equal(err.message, want);
}

/* What a built-in image gets on Debian 12. */
static const struct qemu_disk layered_disks[] = {
	{.name = "root0",
	 .path = "/cache/root.erofs",
	 .format = "raw",
	 .overlay_fd = -1,
	 .readonly = true,
	 .bootindex = -1},
	{.name = "scratch0",
	 .path = "/cache/scratch.ext4",
	 .format = "raw",
	 .overlay_fd = 15,
	 .bootindex = -1},
};

static struct qemu_config base_config(void)
{
	return (struct qemu_config){
		.program = "qemu-system-x86_64",
		.name = "server",
		.machine = "q35",
		.version = {.major = 7,
			    .minor = 2,
			    .micro = 22,
			    .has_upstream_types = true,
			    .has_qboot = true},
		.cpus = 1,
		.memory_bytes = 512 * MIB,
		.qmp_fd = 10,
		.console_fd = 11,
		.agent_fd = 12,
		.kernel = "/cache/vmlinux",
		.initrd = "/proc/self/fd/13",
		.cmdline = "quiet console=ttyS0 assay.root=root0",
		.disks = layered_disks,
		.n_disks = ARRAY_SIZE(layered_disks),
	};
}

static void test_q35_is_the_default(void **state)
{
	struct qemu_config c = base_config();

	check_golden("q35", &c);
}

static void test_microvm_has_qboot_and_no_pci(void **state)
{
	struct qemu_config c = base_config();

	c.machine = "microvm";
	check_golden("microvm", &c);
}

static void test_kvm(void **state)
{
	struct qemu_config c = base_config();

	c.kvm = true;
	c.cpus = 4;
	c.memory_bytes = 2 * GIB + 512 * KIB;
	check_golden("kvm", &c);
}

/* A keyboard for those who look. */
static void test_display(void **state)
{
	struct qemu_config c = base_config();

	c.display = true;
	check_golden("display", &c);
}

static void test_versions(void **state)
{
	struct qemu_config c = base_config();

	c.version = (struct qemu_version){10, 0, 2, true, true};
	check_golden("version-10", &c);
	c.version = (struct qemu_version){7, 0, 0, true, true};
	check_golden("version-7.0", &c);
	c.version = (struct qemu_version){9, 1, 50, true, true};
	check_golden("version-in-development", &c);
	c.version = (struct qemu_version){9, 1, 0, false, false};
	check_golden("version-of-a-vendor", &c);
}

static void test_extra_disks(void **state)
{
	static const struct qemu_disk disks[] = {
		{.name = "empty", .overlay_fd = 15, .bootindex = -1},
		{.name = "raw",
		 .path = "/data/a.img",
		 .format = "raw",
		 .overlay_fd = 17,
		 .bootindex = -1},
		{.name = "qcow2",
		 .path = "/data/b, \"c\".qcow2",
		 .format = "qcow2",
		 .overlay_fd = 19,
		 .bootindex = -1},
		{.name = "readonly",
		 .path = "/data/d.img",
		 .format = "raw",
		 .overlay_fd = -1,
		 .readonly = true,
		 .bootindex = -1},
		{.name = "through",
		 .path = "/data/e.img",
		 .format = "raw",
		 .overlay_fd = -1,
		 .bootindex = -1},
		{.name = "cd1",
		 .path = "/data/f.iso",
		 .format = "raw",
		 .overlay_fd = -1,
		 .cdrom = true,
		 .bootindex = 3},
		{.name = "cd2",
		 .path = "/data/g.iso",
		 .format = "raw",
		 .overlay_fd = -1,
		 .readonly = true,
		 .cdrom = true,
		 .bootindex = -1},
	};
	struct qemu_config c = base_config();

	c.disks = disks;
	c.n_disks = ARRAY_SIZE(disks);
	check_golden("disks", &c);
}

/* A disk image of the user's with a boot loader: firmware, boot order, a way to tell a panic. */
static void test_bios(void **state)
{
	static const struct qemu_disk disks[] = {
		{.name = "root0",
		 .path = "/data/windows.qcow2",
		 .format = "qcow2",
		 .overlay_fd = 15,
		 .bootindex = 100},
		{.name = "install",
		 .path = "/data/cd.iso",
		 .format = "raw",
		 .overlay_fd = -1,
		 .readonly = true,
		 .cdrom = true,
		 .bootindex = 1},
	};
	struct qemu_config c = base_config();

	c.kernel = c.initrd = c.cmdline = NULL;
	c.agent_fd = -1;
	c.disks = disks;
	c.n_disks = ARRAY_SIZE(disks);
	c.display = true;
	c.pvpanic = true;
	check_golden("bios", &c);
}

static void test_kernel_only(void **state)
{
	struct qemu_config c = base_config();

	c.kernel = "/data/my, kernel";
	c.initrd = "/data/initrd.img";
	c.cmdline = "console=ttyS0 root='a b'";
	c.agent_fd = -1;
	c.disks = NULL;
	c.n_disks = 0;
	check_golden("kernel-initrd", &c);
	c.initrd = NULL;
	check_golden("kernel", &c);
}

/* A machine that will be saved; what starts from it; what starts from a snapshot of that. */
static void test_saved_states(void **state)
{
	static const char *const machines[] = {"q35", "microvm"};
	static const struct qemu_disk disks[] = {
		{.name = "scratch0",
		 .path = "/cache/scratch.ext4",
		 .format = "raw",
		 .overlay_fd = 15,
		 .n_layers = 2,
		 .bootindex = -1},
		{.name = "disk1", .overlay_fd = 19, .n_layers = 1, .bootindex = -1},
	};

	for (size_t i = 0; i < ARRAY_SIZE(machines); i++) {
		_cleanup_free_ char *savable = xasprintf("savable-%s", machines[i]);
		_cleanup_free_ char *fork = xasprintf("fork-%s", machines[i]);
		struct qemu_config c = base_config();

		c.machine = machines[i];
		c.memory = QEMU_MEMORY_SAVABLE;
		c.memory_fd = 14;
		check_golden(savable, &c);
		c.memory = QEMU_MEMORY_FORK;
		c.incoming = true;
		c.disks = disks;
		c.n_disks = ARRAY_SIZE(disks);
		check_golden(fork, &c);
	}
}

/* A fork under KVM, whose memory is in the stream, with an empty drive. */
static void test_snapshot_under_kvm(void **state)
{
	static const struct qemu_disk cd = {.name = "cd",
					    .path = "/f.iso",
					    .format = "raw",
					    .overlay_fd = -1,
					    .cdrom = true,
					    .ejected = true,
					    .bootindex = -1};
	struct qemu_config c = base_config();

	c.kvm = true;
	c.incoming = true;
	c.disks = &cd;
	c.n_disks = 1;
	check_golden("snapshot-kvm", &c);
}

static void test_credentials_clock_and_own_arguments(void **state)
{
	static char *extra[] = {"-device", "virtio-balloon-pci", NULL};
	struct qemu_config c = base_config();
	json_t *credentials = json_pack("{s:s, s:s, s:s}", "passwd.hashed-password.root", "",
					"net,work", "a\nb, \"c\"", "x", "1234");

	c.credentials = credentials;
	c.rtc_base = "2024-02-29T12:00:00";
	c.extra_args = extra;
	check_golden("credentials", &c);
	json_decref(credentials);
}

static void test_what_cannot_be_is_refused(void **state)
{
	static const struct qemu_disk cd = {.name = "cd",
					    .path = "/f.iso",
					    .format = "raw",
					    .overlay_fd = -1,
					    .cdrom = true,
					    .bootindex = -1};
	struct qemu_disk cds[7];
	struct qemu_config c = base_config();
	_cleanup_free_ char *big = xcalloc(1, 49138);

	c.disks = &cd;
	c.n_disks = 1;
	c.machine = "microvm";
	check_refused(&c, "disk 'cd' is a CD-ROM, and a microvm has no drive for it");

	for (size_t i = 0; i < ARRAY_SIZE(cds); i++)
		cds[i] = cd;
	c.machine = "q35";
	c.disks = cds;
	c.n_disks = ARRAY_SIZE(cds);
	check_refused(&c, "disk 'cd' is the seventh CD-ROM, and a q35 has six drives");

	c.n_disks = 0;
	memset(big, 'x', 49137);
	c.credentials = json_pack("{s:s}", "big", big);
	check_refused(&c, "the credentials take 65550 bytes (in base64), and SMBIOS has room for "
			  "65535");
	c.machine = "microvm";
	check_refused(&c, "a microvm has no SMBIOS, by which credentials are given");
	json_decref(c.credentials);
}

/* A golden file that no test asks for is a test that was lost. */
static void test_every_golden_file_is_used(void **state)
{
	DIR *dir = opendir(GOLDEN_DIR);
	struct dirent *e;

	assert_non_null(dir);
	while ((e = readdir(dir)))
		if (e->d_name[0] != '.' && !strv_contains(golden_used, e->d_name))
			fail_msg("golden file %s is not used", e->d_name);
	closedir(dir);
	strv_free(golden_used);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_q35_is_the_default),
		cmocka_unit_test(test_microvm_has_qboot_and_no_pci),
		cmocka_unit_test(test_kvm),
		cmocka_unit_test(test_display),
		cmocka_unit_test(test_versions),
		cmocka_unit_test(test_extra_disks),
		cmocka_unit_test(test_bios),
		cmocka_unit_test(test_kernel_only),
		cmocka_unit_test(test_saved_states),
		cmocka_unit_test(test_snapshot_under_kvm),
		cmocka_unit_test(test_credentials_clock_and_own_arguments),
		cmocka_unit_test(test_what_cannot_be_is_refused),
		cmocka_unit_test(test_every_golden_file_is_used), /* last */
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
