/* SPDX-License-Identifier: MIT */
/* What is booted, with which words on the kernel's command line; and what cannot be. */
#include "backend/qemu/boot-config.h"

#include <string.h>

#include "base/file.h"
#include "base/str.h"

#define CONSOLE_WORD "console=ttyS0"

/* The same machine has the same id in every test and every fork; two machines have two. */
static void push_machine_id(char ***words, const char *name)
{
	char hex[DIGEST_HEX_MAX];
	struct sha256 s;

	sha256_init(&s);
	sha256_update_str(&s, "assay machine id");
	sha256_update_str(&s, name);
	sha256_hex(&s, hex);
	strv_pushf(words, "assay.machine_id=%.32s", hex);
}

/* Later words win, so the user's come behind ours. */
static char *make_cmdline(const struct vm_init *init, const struct vm_start *how, unsigned tsc_khz)
{
	const struct machine_spec *spec = init->spec;
	const char *tuned = image_cmdline(how->image);
	_cleanup_strv_ char **words = NULL;

	if (tuned && *tuned)
		strv_push(&words, tuned);
	if (tsc_khz > 0) {
		strv_pushf(&words, "tsc_early_khz=%u", tsc_khz);
		/* The test fails when the host is busy; under KVM kernels leave it out as well. */
		strv_push(&words, "no_timer_check");
		/* Code is translated again for each address that it is seen at (QEMU 7.2):
		 * libraries at random ones cost a fifth of a boot. Taking the locks' prefixes out
		 * for a single CPU switches page tables 20,000 times, for nothing: TCG does so by
		 * itself. Zeroes in each page that a pipe or a port will fill at once are a third
		 * of their throughput. */
		if (image_kind(how->image) == IMAGE_LAYERED)
			strv_push(&words, "norandmaps noreplace-smp init_on_alloc=0");
	}
	strv_push(&words, CONSOLE_WORD);
	if (image_kind(how->image) == IMAGE_LAYERED) {
		strv_push(&words, "assay.root=root0");
		strv_push(&words, "assay.scratch=scratch0");
		strv_pushf(&words, "assay.hostname=%s", spec->name);
		push_machine_id(&words, spec->name);
		/* A login prompt for a screen that is not there. */
		if (image_has_systemd(how->image) && !spec->display)
			strv_push(&words, "systemd.mask=getty@tty1.service");
	}
	if (init->env->debug_boot) {
		strv_push(&words, "ignore_loglevel");
		strv_push(&words, "systemd.log_level=debug");
		strv_push(&words, "systemd.log_target=console");
		strv_push(&words, "systemd.show_status=1");
	}
	for (size_t i = 0; spec->cmdline && spec->cmdline[i]; i++)
		strv_push(&words, spec->cmdline[i]);
	if (how->opts->cmdline && *how->opts->cmdline)
		strv_push(&words, how->opts->cmdline);
	return strv_join(words, " ");
}

/* A path of the definition; relative ones are relative to the test file. */
static const char *user_path(const struct vm_init *init, const char *path, char ***strings)
{
	char *full;

	if (!path)
		return NULL;
	full = path_join(init->env->base_dir ? init->env->base_dir : ".", path);
	strv_push_take(strings, full);
	return full;
}

void qemu_config_kernel(struct qemu_config *c, const struct vm_init *init,
			const struct vm_start *how, unsigned tsc_khz, char ***strings)
{
	const struct machine_spec *spec = init->spec;
	char *cmdline;

	c->kernel = user_path(init, how->opts->kernel ? how->opts->kernel : spec->kernel, strings);
	if (!c->kernel)
		c->kernel = image_vmlinux(how->image);
	if (!c->kernel)
		c->kernel = image_kernel(how->image);
	if (!c->kernel)
		return; /* a disk with a boot loader of its own */
	if (image_kind(how->image) == IMAGE_LAYERED)
		c->initrd = QEMU_INITRD_PATH;
	else if (spec->initrd)
		c->initrd = user_path(init, spec->initrd, strings);
	else
		c->initrd = image_initrd(how->image);
	cmdline = make_cmdline(init, how, tsc_khz);
	strv_push_take(strings, cmdline);
	c->cmdline = cmdline;
}

/* --- What cannot be ------------------------------------------------------------------------- */

static int unsupported(struct error *err, const char *what, const char *hint)
{
	int r = error_set(err, ERROR_UNSUPPORTED, ENOTSUP, "the QEMU backend cannot do %s", what);

	if (hint)
		error_hint(err, "%s", hint);
	return r;
}

static int check_microvm(const struct machine_spec *spec, struct error *err)
{
	const char *what = NULL;

	for (size_t i = 0; i < spec->n_disks; i++)
		if (spec->disks[i].cdrom)
			what = "drive for CD-ROMs";
	if (spec->firmware != FIRMWARE_DIRECT)
		what = "firmware that boots from disks";
	else if (spec->display)
		what = "display";
	else if (json_object_size(spec->credentials) > 0)
		what = "SMBIOS, by which credentials are given";
	if (!what)
		return 0;
	(void)error_set(err, ERROR_USAGE, ENOTSUP, "a microvm has no %s", what);
	error_hint(err, "leave out the option 'machine_type' (a q35 has it)");
	return -ENOTSUP;
}

int qemu_check_spec(const struct machine_spec *spec, struct error *err)
{
	if (spec->arch && !str_eq(spec->arch, "x86_64")) {
		_cleanup_free_ char *what = xasprintf("arch = \"%s\"", spec->arch);

		return unsupported(err, what, "it can do \"x86_64\"");
	}
	if (spec->firmware == FIRMWARE_UEFI || spec->firmware == FIRMWARE_UEFI_SECURE)
		return unsupported(err, "UEFI yet", "use firmware = \"bios\" or \"direct\"");
	if (spec->tpm)
		return unsupported(err, "a TPM yet", NULL);
	if (str_eq(spec->machine_type, "microvm"))
		return check_microvm(spec, err);
	return 0;
}
