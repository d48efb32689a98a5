/* SPDX-License-Identifier: MIT */
/* What a saved state depends on, in words. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "backend/qemu/boot-config.h"
#include "backend/qemu/probe.h"
#include "backend/qemu/qemu-internal.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"

/*
 * Lines of text, of which any that changes makes another state:
 *
 *	state 1		our own way to save; to be raised when it changes
 *	qemu …		version, and size and time of the program
 *	rom …		the firmware that it may have in the guest's address space
 *	host …		the processor: under KVM it is the guest's, under TCG its time stamp counter
 *			is; under KVM also its microcode and the host's kernel
 *	arg …		the command line of a machine that will be saved, without our own paths
 *			(which the image's digest stands for); descriptors have fixed numbers
 *
 * A file of the user's is in it by its identity, in place of its path.
 */
#define STATE_VERSION 1

/* Measured anew at each boot of the host, which no template outlives. Not 0: that would leave out
 * all else that the guest's kernel is told under TCG alone. */
#define ANY_TSC_KHZ 1

static const char *const roms[] = {
	"bios-256k.bin", "bios-microvm.bin", "kvmvapic.bin", "linuxboot_dma.bin",  "pvh.bin",
	"qboot.rom",	 "efi-virtio.rom",   "vgabios.bin",  "vgabios-stdvga.bin", NULL,
};
static const char *const rom_dirs[] = {
	"../share/qemu",      "../share/seabios",    "/usr/share/qemu",
	"/usr/share/seabios", "/usr/share/qemu-kvm", NULL,
};

static char *file_identity(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return xasprintf("missing:%s", path);
	return xasprintf("file:%" PRIu64 ":%" PRIu64 ":%" PRId64 ":%" PRId64 ".%09ld",
			 (uint64_t)st.st_dev, (uint64_t)st.st_ino, (int64_t)st.st_size,
			 (int64_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

static void put_program(const char *program, const struct qemu_version *v, struct buf *ret)
{
	struct stat st = {};

	(void)stat(program, &st);
	buf_printf(ret, "qemu %d.%d.%d %" PRId64 " %" PRId64 "\n", v->major, v->minor, v->micro,
		   (int64_t)st.st_size, (int64_t)st.st_mtim.tv_sec);
}

static void put_roms(const char *program, struct buf *ret)
{
	_cleanup_free_ char *beside = path_dirname(program);

	for (const char *const *rom = roms; *rom; rom++) {
		for (const char *const *d = rom_dirs; *d; d++) {
			_cleanup_free_ char *dir = path_join(beside, *d);
			_cleanup_free_ char *path = path_join(dir, *rom);
			char digest[DIGEST_HEX_MAX];

			if (!path_exists(path) || sha256_file(path, digest, NULL) < 0)
				continue;
			buf_printf(ret, "rom %s %s\n", *rom, digest);
			break;
		}
	}
}

/* The first line of /proc/cpuinfo that begins so. */
static void put_cpuinfo(const char *text, const char *key, struct buf *ret)
{
	const char *at = strstr(text, key);

	if (at)
		buf_printf(ret, "host %.*s\n", (int)strcspn(at, "\n"), at);
}

static int put_host(bool kvm, struct buf *ret, struct error *err)
{
	_cleanup_buf_ struct buf text = {};
	struct utsname name;
	int r = buf_read_file(&text, "/proc/cpuinfo", 16 * MIB);

	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot read /proc/cpuinfo");
	put_cpuinfo(buf_str(&text), "model name", ret);
	if (!kvm || uname(&name) < 0)
		return 0;
	put_cpuinfo(buf_str(&text), "microcode", ret);
	buf_printf(ret, "host kernel %s %s\n", name.release, name.version);
	return 0;
}

static const char *identity_of(const char *path, char ***strings)
{
	char *id;

	if (!path)
		return NULL;
	id = file_identity(path);
	strv_push_take(strings, id);
	return id;
}

/* What the image's digest or nobody answers for. */
static void hide_paths(struct qemu_config *c, struct qemu_disks *d, const struct image *image,
		       char ***strings)
{
	c->program = "qemu";
	if (str_eq(c->kernel, image_vmlinux(image)) || str_eq(c->kernel, image_kernel(image)))
		c->kernel = "image:kernel";
	else
		c->kernel = identity_of(c->kernel, strings);
	if (str_eq(c->initrd, image_initrd(image)))
		c->initrd = "image:initrd";
	else if (!str_eq(c->initrd, QEMU_INITRD_PATH))
		c->initrd = identity_of(c->initrd, strings);
	for (size_t i = 0; i < d->n; i++) {
		const char *path = d->list[i].path;

		if (str_eq(path, image_root(image)) || str_eq(path, image_scratch(image)) ||
		    str_eq(path, image_disk(image)))
			d->list[i].path = path ? "image" : NULL;
		else
			d->list[i].path = identity_of(path, strings);
	}
}

static int put_argv(const struct vm_init *init, const struct image *image, const char *program,
		    const struct qemu_version *version, bool kvm, struct buf *ret,
		    struct error *err)
{
	static const struct machine_start_opts no_opts;
	/* Only looked at. */
	struct vm_start how = {.image = (struct image *)image, .opts = &no_opts, .savable = true};
	_cleanup_(qemu_disks_done) struct qemu_disks disks = {};
	_cleanup_strv_ char **strings = NULL;
	_cleanup_strv_ char **argv = NULL;
	struct qemu_config c;
	int r;

	r = qemu_disks_layout(&disks, init->spec, init->env, image, QEMU_FD_DISKS, err);
	if (r < 0 || (r = qemu_disks_set_boot(&disks, init->spec, NULL, err)) < 0)
		return r;
	qemu_describe(init, &how, program, version, kvm, kvm ? 0 : ANY_TSC_KHZ, &c, &strings);
	c.memory = QEMU_MEMORY_SAVABLE;
	hide_paths(&c, &disks, image, &strings);
	c.disks = disks.list;
	c.n_disks = disks.n;
	r = qemu_build_argv(&c, &argv, err);
	for (char *const *a = argv; r >= 0 && *a; a++)
		buf_printf(ret, "arg %s\n", *a);
	return r;
}

/* Words in arguments of the user's by which forks would not be on their own. QEMU gives discarded
 * pages back to the file, though it is mapped privately (ram_block_discard_range() in its
 * physmem.c): a fork's balloon would punch holes into the template and all other forks. */
static const struct {
	const char *word, *why;
} unsavable[] = {
	{"virtio-balloon", "it would take pages of the template's memory"},
	{"virtio-mem", "it would take pages of the template's memory"},
	{"vhost-user", "it works on the template's memory"},
	{"-drive", "such a disk is not saved with the machine"},
	{"-blockdev", "such a disk is not saved with the machine"},
	{"-hda", "such a disk is not saved with the machine"},
	{"-hdb", "such a disk is not saved with the machine"},
	{"-hdc", "such a disk is not saved with the machine"},
	{"-hdd", "such a disk is not saved with the machine"},
};

static bool is_unsavable(const char *arg, const char *word)
{
	if (word[0] != '-')
		return strstr(arg, word) != NULL;
	return str_eq(arg[0] == '-' && arg[1] == '-' ? arg + 1 : arg, word);
}

static int check_own_args(const struct machine_spec *spec, struct error *err)
{
	for (char *const *arg = spec->qemu_args; arg && *arg; arg++) {
		for (size_t i = 0; i < ARRAY_SIZE(unsavable); i++) {
			if (is_unsavable(*arg, unsavable[i].word))
				return error_set(err, ERROR_UNSUPPORTED, ENOTSUP,
						 "it has '%.80s' in its qemu_args: %s", *arg,
						 unsavable[i].why);
		}
	}
	return 0;
}

int qemu_state_key(const struct vm_init *init, const struct image *image, struct buf *ret,
		   struct error *err)
{
	_cleanup_free_ char *program = NULL;
	struct qemu_version version;
	char reason[256];
	bool kvm;
	int r;

	if ((r = qemu_check_savable(init->spec, err)) < 0 ||
	    (r = check_own_args(init->spec, err)) < 0 ||
	    (r = qemu_choose_accel(init, &kvm, reason, err)) < 0 ||
	    (r = qemu_find_program(&program, err)) < 0 ||
	    (r = qemu_get_version(program, &version, err)) < 0)
		return r;
	buf_printf(ret, "state %d\n", STATE_VERSION);
	put_program(program, &version, ret);
	put_roms(program, ret);
	r = put_host(kvm, ret, err);
	return r < 0 ? r : put_argv(init, image, program, &version, kvm, ret, err);
}
