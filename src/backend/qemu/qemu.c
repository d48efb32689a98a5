/* SPDX-License-Identifier: MIT */
/* The QEMU backend: its operations. */
#include "backend/qemu/qemu-internal.h"

#include <assert.h>

#include "backend/qemu/boot-config.h"
#include "backend/qemu/probe.h"
#include "base/str.h"

/*
 * Theory of operation
 *
 *	start.c      cold boots and forks: a start reads like a recipe
 *	save.c       what forks and snapshots start from
 *	state-key.c  what such a state depends on
 *	disks.c      overlays and layers
 *	argv.c, boot-config.c  the command line
 *	run.c, qmp.c  one run of QEMU, from its exec to its end
 *
 * Nothing of a machine is on disk: QEMU inherits our ends of socket pairs under fixed numbers
 * (boot-config.h), the initramfs is a sealed memfd, overlays and memory are unlinked files. Over
 * power cycles live the disks' descriptors, the initramfs, the path of the program.
 */

/* What QEMU needs besides the guest's memory. Measured with QEMU 7.2, TCG and a Debian guest up and
 * running: 253 MiB, of which 128 hold translated code (see argv.c), which KVM does without. */
#define COST_KVM_BYTES (128 * MIB)
#define COST_TCG_BYTES (256 * MIB)

/* --- Before any machine --------------------------------------------------------------------- */

static int qemu_available(struct error *err)
{
	_cleanup_free_ char *program = NULL;

	return qemu_find_program(&program, err);
}

static unsigned qemu_caps(void)
{
	unsigned caps = MACHINE_CAP_AGENT | MACHINE_CAP_CONSOLE | MACHINE_CAP_POWEROFF |
			MACHINE_CAP_PAUSE | MACHINE_CAP_QMP | MACHINE_CAP_DISKS |
			MACHINE_CAP_SNAPSHOT;
	struct accel_verdict v;

	if (accel_probe(&v, NULL) == 0 && v.kvm)
		caps |= MACHINE_CAP_KVM;
	return caps;
}

static uint64_t qemu_cost_bytes(const struct machine_spec *spec)
{
	return spec->memory_bytes + (str_eq(spec->accel, "kvm") ? COST_KVM_BYTES : COST_TCG_BYTES);
}

/* --- Life ----------------------------------------------------------------------------------- */

static int qemu_open(const struct vm_init *init, struct vm **ret, struct error *err)
{
	struct qemu_vm *q = xcalloc(1, sizeof(*q));

	q->vm.ops = &backend_qemu;
	q->vm.init = *init;
	q->initrd_fd = q->memory_fd = -EBADF;
	*ret = &q->vm;
	return 0;
}

static void qemu_close(struct vm *vm)
{
	struct qemu_vm *q;

	if (!vm)
		return;
	q = qemu_vm(vm);
	assert(!q->run && !q->waiting);
	qemu_disks_done(&q->disks);
	cleanup_close(&q->initrd_fd);
	cleanup_close(&q->memory_fd);
	json_decref(q->power_on);
	json_decref(q->ejected);
	free(q->program);
	free(q);
}

static void qemu_kill(struct vm *vm)
{
	qemu_forget_prestart(qemu_vm(vm));
	qemu_run_kill(&qemu_vm(vm)->run);
}

/* --- Operations on what runs ---------------------------------------------------------------- */

static int command(struct vm *vm, const char *name, struct error *err)
{
	return qemu_run_call(qemu_vm(vm)->run, name, NULL, COMMAND_TIMEOUT_NS, NULL, err);
}

static int qemu_power_button(struct vm *vm, struct error *err)
{
	return command(vm, "system_powerdown", err);
}

static int qemu_reset(struct vm *vm, struct error *err)
{
	return command(vm, "system_reset", err);
}

static int qemu_pause(struct vm *vm, struct error *err)
{
	return command(vm, "stop", err);
}

static int qemu_resume(struct vm *vm, struct error *err)
{
	return command(vm, "cont", err);
}

static int qemu_eject(struct vm *vm, const char *disk, struct error *err)
{
	_cleanup_free_ char *id = xasprintf("disk-%s", disk);
	json_t *args = json_pack("{s:s, s:b}", "id", id, "force", true);
	int r;

	r = qemu_run_call(qemu_vm(vm)->run, "eject", args, COMMAND_TIMEOUT_NS, NULL, err);
	json_decref(args);
	if (r >= 0)
		json_array_append_new(qemu_vm(vm)->ejected, json_string(disk));
	return r;
}

static int qemu_qmp(struct vm *vm, const char *name, json_t *args, uint64_t timeout_ns,
		    json_t **ret, struct error *err)
{
	return qemu_run_call(qemu_vm(vm)->run, name, args, timeout_ns, ret, err);
}

const struct backend_ops backend_qemu = {
	.name = "qemu",
	.summary = "virtual machines in QEMU, under KVM where that works, else under TCG",
	.flags = BACKEND_NEEDS_IMAGE,
	.available = qemu_available,
	.caps = qemu_caps,
	.cost_bytes = qemu_cost_bytes,
	.check = qemu_check_spec,
	.open = qemu_open,
	.close = qemu_close,
	.start = qemu_start,
	.kill = qemu_kill,
	.power_button = qemu_power_button,
	.reset = qemu_reset,
	.pause = qemu_pause,
	.resume = qemu_resume,
	.save = qemu_save,
	.prestart = qemu_prestart,
	.state_key = qemu_state_key,
	.eject = qemu_eject,
	.qmp = qemu_qmp,
};
