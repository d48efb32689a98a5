/* SPDX-License-Identifier: MIT */
/* The QEMU backend: its operations. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/qemu/argv.h"
#include "backend/qemu/boot-config.h"
#include "backend/qemu/disks.h"
#include "backend/qemu/probe.h"
#include "backend/qemu/run.h"
#include "backend/qemu/tsc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"
#include "machine/backend.h"

/*
 * Theory of operation
 *
 * A start reads like a recipe: find QEMU and its version; decide on the accelerator; prepare the
 * disks (first time only); make three socket pairs (QMP, console, agent); build the command
 * line; write it down; spawn; greet; `cont`. Nothing of it is on disk: QEMU inherits our ends under
 * fixed numbers (boot-config.h), the initramfs is a sealed memfd, overlays are unlinked files.
 *
 * Over power cycles live the disks' descriptors, the initramfs, the path of the program. What
 * lives with one QEMU is in run.c, with the translation of events and the way it all ends.
 */

/* QEMU answers such commands at once; more than that means that it hangs, with its disk or host. */
#define COMMAND_TIMEOUT_NS (60 * NS_PER_SEC)

/* What QEMU needs besides the guest's memory. Measured with QEMU 7.2, TCG and a Debian guest up and
 * running: 253 MiB, of which 128 hold translated code (see argv.c), which KVM does without. */
#define COST_KVM_BYTES (128 * MIB)
#define COST_TCG_BYTES (256 * MIB)

struct qemu_vm {
	struct vm vm; /* first */
	char *program;
	struct qemu_version version;
	struct qemu_disks disks;
	bool prepared;
	int initrd_fd; /* IMAGE_LAYERED: ours, made at the first start */
	unsigned n_starts;
	struct qemu_run *run; /* NULL: off; cleared by the run itself */
};

static struct qemu_vm *qemu_vm(struct vm *vm)
{
	return container_of(vm, struct qemu_vm, vm);
}

/* --- Before any machine --------------------------------------------------------------------- */

static int qemu_available(struct error *err)
{
	_cleanup_free_ char *program = NULL;

	return qemu_find_program(&program, err);
}

static unsigned qemu_caps(void)
{
	unsigned caps = MACHINE_CAP_AGENT | MACHINE_CAP_CONSOLE | MACHINE_CAP_POWEROFF |
			MACHINE_CAP_PAUSE | MACHINE_CAP_QMP | MACHINE_CAP_DISKS;
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
	q->initrd_fd = -EBADF;
	*ret = &q->vm;
	return 0;
}

static void qemu_close(struct vm *vm)
{
	struct qemu_vm *q;

	if (!vm)
		return;
	q = qemu_vm(vm);
	assert(!q->run);
	qemu_disks_done(&q->disks);
	cleanup_close(&q->initrd_fd);
	free(q->program);
	free(q);
}

static void qemu_kill(struct vm *vm)
{
	qemu_run_kill(&qemu_vm(vm)->run);
}

/* --- Starting ------------------------------------------------------------------------------- */

/* The definition's word counts before the command line's; "auto" (or nothing) asks the probe. */
static int choose_accel(const struct vm_init *init, bool *ret_kvm, char reason[256],
			struct error *err)
{
	const char *wanted = init->spec->accel;
	struct accel_verdict v;
	int r;

	if (!wanted || str_eq(wanted, "auto"))
		wanted = init->env->accel;
	if (str_eq(wanted, "tcg")) {
		*ret_kvm = false;
		(void)snprintf(reason, 256, "as asked for");
		return 0;
	}
	r = accel_probe(&v, err);
	if (r < 0)
		return r;
	if (str_eq(wanted, "kvm") && !v.kvm)
		return error_set(err, ERROR_UNSUPPORTED, ENOTSUP,
				 "KVM was asked for and cannot be used: %s", v.reason);
	*ret_kvm = v.kvm;
	(void)snprintf(reason, 256, "%s", v.reason);
	return 0;
}

/* What is done once for a machine, at its first start. */
static int prepare(struct qemu_vm *q, const struct vm_start *how, struct error *err)
{
	const struct vm_init *init = &q->vm.init;
	int r;

	if (q->prepared)
		return 0;
	if (!q->program) {
		r = qemu_find_program(&q->program, err);
		if (r < 0)
			return r;
		r = qemu_get_version(q->program, &q->version, err);
		if (r < 0) {
			free(TAKE_PTR(q->program));
			return r;
		}
	}
	if (image_kind(how->image) == IMAGE_LAYERED && q->initrd_fd < 0) {
		r = image_initrd_memfd(how->image, agent_binary, agent_binary_len, &q->initrd_fd,
				       err);
		if (r < 0)
			return r;
	}
	r = qemu_disks_prepare(&q->disks, init->spec, init->env, how->image, QEMU_FD_DISKS, err);
	if (r < 0)
		return r;
	q->prepared = true;
	return 0;
}

/* "now" is what QEMU does anyway. */
static const char *rtc_base(const struct machine_spec *spec)
{
	if (!spec->clock || str_eq(spec->clock, "now") || str_eq(spec->clock, "template"))
		return NULL;
	return spec->clock;
}

static int build(struct qemu_vm *q, const struct vm_start *how, bool kvm, char ***ret,
		 bool *ret_qboot, struct error *err)
{
	const struct machine_spec *spec = q->vm.init.spec;
	_cleanup_strv_ char **strings = NULL;
	struct qemu_config c = {
		.program = q->program,
		.name = spec->name,
		.machine = spec->machine_type ? spec->machine_type : "q35",
		.version = q->version,
		.kvm = kvm,
		.cpus = spec->cpus,
		.memory_bytes = spec->memory_bytes,
		.qmp_fd = QEMU_FD_QMP,
		.console_fd = QEMU_FD_CONSOLE,
		.agent_fd = spec->agent ? QEMU_FD_AGENT : -1,
		.disks = q->disks.list,
		.n_disks = q->disks.n,
		.credentials = spec->credentials,
		.rtc_base = rtc_base(spec),
		.display = spec->display,
		.extra_args = spec->qemu_args,
	};
	unsigned tsc_khz = 0;
	int r;

	r = qemu_disks_set_boot(&q->disks, spec, how->opts->boot, err);
	if (r < 0)
		return r;
	if (!kvm && (r = qemu_host_tsc_khz(&tsc_khz, err)) < 0)
		return r;
	qemu_config_kernel(&c, &q->vm.init, how, tsc_khz, &strings);
	/* Kernels of ours say on the console that they panic; others may have none. */
	c.pvpanic = image_kind(how->image) == IMAGE_DISK && !str_eq(c.machine, "microvm");
	*ret_qboot = qemu_uses_qboot(&c);
	return qemu_build_argv(&c, ret, err);
}

static int write_down(struct qemu_vm *q, char *const *argv, bool kvm, const char *reason,
		      struct error *err)
{
	const struct vm_init *init = &q->vm.init;
	_cleanup_free_ char *command = qemu_format_argv(argv);
	_cleanup_free_ char *name = xasprintf("vmm-%s.txt", init->spec->name);
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *text = NULL;

	if (!init->env->dir)
		return 0;
	path = path_join(init->env->dir, name);
	text = xasprintf(
		"# Start %u of '%s': QEMU %d.%d.%d, %s (%s)\n"
		"# Descriptors: %d QMP, %d console, %d agent, %d initramfs, from %d on the "
		"disks' overlays (unlinked files)\n"
		"%s\n",
		q->n_starts, init->spec->name, q->version.major, q->version.minor, q->version.micro,
		kvm ? "KVM" : "TCG", reason, QEMU_FD_QMP, QEMU_FD_CONSOLE, QEMU_FD_AGENT,
		QEMU_FD_INITRD, QEMU_FD_DISKS, command);
	return file_append(path, text, strlen(text), err);
}

/* One end for us, one for QEMU under its number. */
struct channel {
	int ours, theirs;
};

static void channel_done(struct channel *c)
{
	cleanup_close(&c->ours);
	cleanup_close(&c->theirs);
}

static int channel_open(struct channel *c, struct error *err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a socket pair");
	c->ours = fds[0];
	c->theirs = fds[1];
	return 0;
}

struct channels {
	struct channel qmp, console, agent;
};

static void channels_done(struct channels *c)
{
	channel_done(&c->qmp);
	channel_done(&c->console);
	channel_done(&c->agent);
}

static int channels_open(struct channels *c, bool agent, struct error *err)
{
	int r;

	if ((r = channel_open(&c->qmp, err)) < 0 || (r = channel_open(&c->console, err)) < 0)
		return r;
	return agent ? channel_open(&c->agent, err) : 0;
}

static int spawn(struct qemu_vm *q, char *const *argv, bool qboot, struct channels *ch,
		 uint64_t *ret_epoch, struct error *err)
{
	const struct machine_spec *spec = q->vm.init.spec;
	_cleanup_free_ char *own_args = strv_join(spec->qemu_args, "\n");
	_cleanup_free_ struct spawn_fd *fds = xcalloc(q->disks.n_fds + 4, sizeof(*fds));
	struct qemu_run_opts opts = {
		.argv = argv,
		.fds = fds,
		.hint_args = own_args,
		.resets_echo = !qboot,
		.events = q->vm.init.events,
		.userdata = q->vm.init.userdata,
	};

	fds[opts.n_fds++] = (struct spawn_fd){ch->qmp.theirs, QEMU_FD_QMP};
	fds[opts.n_fds++] = (struct spawn_fd){ch->console.theirs, QEMU_FD_CONSOLE};
	if (ch->agent.theirs >= 0)
		fds[opts.n_fds++] = (struct spawn_fd){ch->agent.theirs, QEMU_FD_AGENT};
	if (q->initrd_fd >= 0)
		fds[opts.n_fds++] = (struct spawn_fd){q->initrd_fd, QEMU_FD_INITRD};
	for (size_t i = 0; i < q->disks.n_fds; i++)
		fds[opts.n_fds++] = q->disks.fds[i];
	*ret_epoch = now_ns();
	return qemu_run_start(&opts, TAKE_FD(ch->qmp.ours), &q->run, err);
}

static int qemu_start(struct vm *vm, const struct vm_start *how, struct vm_streams *ret,
		      struct error *err)
{
	struct qemu_vm *q = qemu_vm(vm);
	_cleanup_(channels_done) struct channels ch = {
		{-EBADF, -EBADF}, {-EBADF, -EBADF}, {-EBADF, -EBADF}};
	_cleanup_strv_ char **argv = NULL;
	char reason[256];
	uint64_t epoch;
	bool kvm = false, qboot = false;
	int r;

	assert(!q->run);
	if ((r = choose_accel(&vm->init, &kvm, reason, err)) < 0 ||
	    (r = prepare(q, how, err)) < 0 || (r = build(q, how, kvm, &argv, &qboot, err)) < 0)
		return r;
	q->n_starts++;
	if ((r = write_down(q, argv, kvm, reason, err)) < 0 ||
	    (r = channels_open(&ch, vm->init.spec->agent, err)) < 0 ||
	    (r = spawn(q, argv, qboot, &ch, &epoch, err)) < 0)
		return r;
	/* Ours must be the only ends left, or QEMU's death would not close the streams. */
	cleanup_close(&ch.qmp.theirs);
	cleanup_close(&ch.console.theirs);
	cleanup_close(&ch.agent.theirs);
	ch.qmp.theirs = ch.console.theirs = ch.agent.theirs = -EBADF;
	r = qemu_run_boot(&q->run, err);
	if (r < 0)
		return r;
	ret->console = io_new(TAKE_FD(ch.console.ours));
	ret->agent = ch.agent.ours >= 0 ? io_new(TAKE_FD(ch.agent.ours)) : NULL;
	ret->epoch_ns = epoch;
	ret->accel = kvm ? "kvm" : "tcg";
	ret->pid = qemu_run_pid(q->run);
	return 0;
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
	.eject = qemu_eject,
	.qmp = qemu_qmp,
};
