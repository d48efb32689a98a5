/* SPDX-License-Identifier: MIT */
/* Starting QEMU: a cold boot, or a fork of a saved state. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/qemu/boot-config.h"
#include "backend/qemu/probe.h"
#include "backend/qemu/qemu-internal.h"
#include "backend/qemu/tsc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "loop/loop.h"

/*
 * Theory of operation
 *
 * A start goes: find QEMU and its version; decide on the accelerator; prepare the disks (first time
 * only, or new ones on the layers of the state that it starts from); find the memory; make
 * three socket pairs (QMP, console, agent); build the command line; write it down; spawn; greet;
 * load the devices' state; `cont`.
 *
 * All that one start makes is in a `struct qemu_launch`, of which the machine takes over what it
 * keeps when the start has succeeded. Until then the machine is as it was: its disks are its
 * own. A prestart is a launch that waits, greeted, with a state's disks and memory but not its
 * devices.
 */

/* One end for us, one for QEMU under its number. */
struct channel {
	int ours, theirs;
};

struct qemu_launch {
	struct qemu_vm *q;
	struct saved *from; /* NULL: a cold boot from the machine's own disks */
	bool resumes;	    /* from has devices */
	bool savable;
	struct qemu_disks disks;	/* if from; else the machine's are used */
	struct machine_start_opts opts; /* strings are borrowed from `power_on` */
	json_t *power_on, *ejected;	/* see struct qemu_vm */
	int memory_fd;			/* savable: the file */
	bool kvm, qboot;
	char accel_reason[256];
	char **argv;
	struct channel qmp, console, agent;
	uint64_t epoch_ns;
	struct qemu_run *run;
};

/* --- The parts of a launch ------------------------------------------------------------------ */

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

static struct qemu_launch *launch_new(struct qemu_vm *q, const struct vm_start *how)
{
	static const struct channel none = {-EBADF, -EBADF};
	struct qemu_launch *l = xcalloc(1, sizeof(*l));

	*l = (struct qemu_launch){
		.q = q,
		.from = how->from ? saved_ref(how->from) : NULL,
		.resumes = how->from && how->from->devices_fd >= 0,
		.savable = how->savable,
		.memory_fd = -EBADF,
		.qmp = none,
		.console = none,
		.agent = none,
	};
	return l;
}

static void launch_free(struct qemu_launch *l)
{
	if (!l)
		return;
	qemu_run_kill(&l->run);
	channel_done(&l->qmp);
	channel_done(&l->console);
	channel_done(&l->agent);
	qemu_disks_done(&l->disks);
	cleanup_close(&l->memory_fd);
	strv_free(l->argv);
	json_decref(l->power_on);
	json_decref(l->ejected);
	saved_unref(l->from);
	free(l);
}

static void cleanup_launch(struct qemu_launch **l)
{
	launch_free(*l);
}

int qemu_choose_accel(const struct vm_init *init, bool *ret_kvm, char reason[256],
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

static const char *accel_name(bool kvm)
{
	return kvm ? "kvm" : "tcg";
}

/* A state is one of a CPU and of what emulates it. */
static int choose_accel(struct qemu_launch *l, struct error *err)
{
	const char *saved;
	int r = qemu_choose_accel(&l->q->vm.init, &l->kvm, l->accel_reason, err);

	if (r < 0 || !l->resumes)
		return r;
	saved = json_string_value(json_object_get(l->from->vm, "accel"));
	if (str_eq(saved, accel_name(l->kvm)))
		return 0;
	return error_set(err, ERROR_INFRA, EINVAL,
			 "the state was saved under %s, and the machine is to run under %s",
			 saved ? saved : "nothing known", accel_name(l->kvm));
}

static json_t *options_as_json(const struct machine_start_opts *o)
{
	json_t *ret = json_object();

	if (o->kernel)
		json_object_set_new(ret, "kernel", json_string(o->kernel));
	if (o->cmdline)
		json_object_set_new(ret, "cmdline", json_string(o->cmdline));
	if (o->boot)
		json_object_set_new(ret, "boot", json_string(o->boot));
	return ret;
}

/* A guest that goes on was powered on with certain options, and reboots with them. */
static void choose_options(struct qemu_launch *l, const struct vm_start *how)
{
	json_t *vm = l->resumes ? l->from->vm : NULL;
	json_t *ejected = json_object_get(vm, "ejected");

	l->power_on =
		vm ? json_deep_copy(json_object_get(vm, "power_on")) : options_as_json(how->opts);
	l->opts = (struct machine_start_opts){
		.kernel = json_string_value(json_object_get(l->power_on, "kernel")),
		.cmdline = json_string_value(json_object_get(l->power_on, "cmdline")),
		.boot = json_string_value(json_object_get(l->power_on, "boot")),
	};
	l->ejected = ejected ? json_deep_copy(ejected) : json_array();
}

/* What is done once for a machine, at its first start. */
static int prepare_machine(struct qemu_vm *q, const struct vm_start *how, struct error *err)
{
	int r;

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
	return 0;
}

static int prepare_disks(struct qemu_launch *l, const struct vm_start *how, struct error *err)
{
	struct qemu_vm *q = l->q;
	const struct vm_init *init = &q->vm.init;
	struct qemu_disks *disks = l->from ? &l->disks : &q->disks;
	/* A machine that was never started has been saved as that. */
	const struct saved *from = l->from && l->from->n_disks > 0 ? l->from : NULL;
	int r;

	if (!l->from && q->has_disks)
		return 0;
	r = qemu_disks_prepare(disks, init->spec, init->env, how->image, QEMU_FD_DISKS, from, err);
	if (r >= 0 && !l->from)
		q->has_disks = true;
	return r;
}

/* A file of its own, with what the state has in its. */
static int prepare_memory(struct qemu_launch *l, struct error *err)
{
	const struct machine_env *env = l->q->vm.init.env;
	uint64_t size = l->q->vm.init.spec->memory_bytes;
	int r;

	if (!l->savable)
		return 0;
	l->memory_fd = tmpfile_open(env->memory_dir ? env->memory_dir : env->work_dir, err);
	if (l->memory_fd < 0)
		return l->memory_fd;
	if (l->resumes && l->from->memory_fd >= 0) {
		r = file_copy_sparse(l->from->memory_fd, l->memory_fd, err);
		if (r < 0)
			error_prefix(err, "the guest's memory");
		return r;
	}
	if (ftruncate(l->memory_fd, (off_t)size) < 0)
		return error_set_errno(err, ERROR_INFRA, errno,
				       "cannot make a file for the guest's memory");
	return 0;
}

/* --- The command line ----------------------------------------------------------------------- */

/* "now" is what QEMU does anyway. */
static const char *rtc_base(const struct machine_spec *spec)
{
	if (!spec->clock || str_eq(spec->clock, "now") || str_eq(spec->clock, "template"))
		return NULL;
	return spec->clock;
}

void qemu_describe(const struct vm_init *init, const struct vm_start *how, const char *program,
		   const struct qemu_version *version, bool kvm, unsigned tsc_khz,
		   struct qemu_config *ret, char ***strings)
{
	const struct machine_spec *spec = init->spec;

	*ret = (struct qemu_config){
		.program = program,
		.name = spec->name,
		.machine = spec->machine_type ? spec->machine_type : "q35",
		.version = *version,
		.kvm = kvm,
		.cpus = spec->cpus,
		.memory_bytes = spec->memory_bytes,
		.memory_fd = QEMU_FD_MEMORY,
		.qmp_fd = QEMU_FD_QMP,
		.console_fd = QEMU_FD_CONSOLE,
		.agent_fd = spec->agent ? QEMU_FD_AGENT : -1,
		.credentials = spec->credentials,
		.rtc_base = rtc_base(spec),
		.display = spec->display,
		.extra_args = spec->qemu_args,
	};
	qemu_config_kernel(ret, init, how, tsc_khz, strings);
	/* Kernels of ours say on the console that they panic; others may have none. */
	ret->pvpanic = image_kind(how->image) == IMAGE_DISK && !str_eq(ret->machine, "microvm");
}

static struct qemu_disks *launch_disks(struct qemu_launch *l)
{
	return l->from ? &l->disks : &l->q->disks;
}

static bool is_ejected(const struct qemu_launch *l, const char *disk)
{
	size_t i;
	json_t *name;

	json_array_foreach(l->ejected, i,
			   name) if (str_eq(json_string_value(name), disk)) return true;
	return false;
}

static int build(struct qemu_launch *l, const struct vm_start *how, struct error *err)
{
	struct qemu_vm *q = l->q;
	struct qemu_disks *disks = launch_disks(l);
	struct vm_start actual = *how;
	_cleanup_strv_ char **strings = NULL;
	unsigned tsc_khz = 0;
	struct qemu_config c;
	int r;

	actual.opts = &l->opts;
	r = qemu_disks_set_boot(disks, q->vm.init.spec, l->opts.boot, err);
	if (r < 0)
		return r;
	if (!l->kvm && (r = qemu_host_tsc_khz(&tsc_khz, err)) < 0)
		return r;
	qemu_describe(&q->vm.init, &actual, q->program, &q->version, l->kvm, tsc_khz, &c, &strings);
	for (size_t i = 0; i < disks->n; i++)
		disks->list[i].ejected = is_ejected(l, disks->list[i].name);
	c.disks = disks->list;
	c.n_disks = disks->n;
	c.incoming = l->resumes;
	if (l->savable)
		c.memory = QEMU_MEMORY_SAVABLE;
	else if (l->resumes && l->from->memory_fd >= 0)
		c.memory = QEMU_MEMORY_FORK;
	l->qboot = qemu_uses_qboot(&c);
	return qemu_build_argv(&c, &l->argv, err);
}

static int write_down(const struct qemu_launch *l, struct error *err)
{
	const struct qemu_vm *q = l->q;
	const struct vm_init *init = &q->vm.init;
	_cleanup_free_ char *command = qemu_format_argv(l->argv);
	_cleanup_free_ char *name = xasprintf("vmm-%s.txt", init->spec->name);
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *text = NULL;

	if (!init->env->dir)
		return 0;
	path = path_join(init->env->dir, name);
	text = xasprintf(
		"# Start %u of '%s'%s: QEMU %d.%d.%d, %s (%s)\n"
		"# Descriptors: %d QMP, %d console, %d agent, %d initramfs, %d memory, from %d on "
		"the disks' overlays (unlinked files) and layers\n"
		"%s\n",
		q->n_starts, init->spec->name,
		l->resumes ? ", which goes on from a saved state (a fork)"
		: l->from  ? ", from the disks of a saved state"
			   : "",
		q->version.major, q->version.minor, q->version.micro, l->kvm ? "KVM" : "TCG",
		l->accel_reason, QEMU_FD_QMP, QEMU_FD_CONSOLE, QEMU_FD_AGENT, QEMU_FD_INITRD,
		QEMU_FD_MEMORY, QEMU_FD_DISKS, command);
	return file_append(path, text, strlen(text), err);
}

/* --- Going ---------------------------------------------------------------------------------- */

static int launch_prepare(struct qemu_launch *l, const struct vm_start *how, struct error *err)
{
	int r;

	choose_options(l, how);
	if ((r = choose_accel(l, err)) < 0 || (r = prepare_machine(l->q, how, err)) < 0 ||
	    (r = prepare_disks(l, how, err)) < 0 || (r = prepare_memory(l, err)) < 0)
		return r;
	return build(l, how, err);
}

static int launch_spawn(struct qemu_launch *l, struct error *err)
{
	struct qemu_vm *q = l->q;
	const struct machine_spec *spec = q->vm.init.spec;
	const struct qemu_disks *disks = launch_disks(l);
	_cleanup_free_ char *own_args = strv_join(spec->qemu_args, "\n");
	_cleanup_free_ struct spawn_fd *fds = xcalloc(qemu_disks_n_fds(disks) + 5, sizeof(*fds));
	struct qemu_run_opts opts = {
		.argv = l->argv,
		.fds = fds,
		.hint_args = own_args,
		.resets_echo = !l->qboot,
		.events = q->vm.init.events,
		.userdata = q->vm.init.userdata,
	};
	int r;

	if ((r = channel_open(&l->qmp, err)) < 0 || (r = channel_open(&l->console, err)) < 0)
		return r;
	if (spec->agent && (r = channel_open(&l->agent, err)) < 0)
		return r;
	fds[opts.n_fds++] = (struct spawn_fd){l->qmp.theirs, QEMU_FD_QMP};
	fds[opts.n_fds++] = (struct spawn_fd){l->console.theirs, QEMU_FD_CONSOLE};
	if (l->agent.theirs >= 0)
		fds[opts.n_fds++] = (struct spawn_fd){l->agent.theirs, QEMU_FD_AGENT};
	if (q->initrd_fd >= 0)
		fds[opts.n_fds++] = (struct spawn_fd){q->initrd_fd, QEMU_FD_INITRD};
	if (l->memory_fd >= 0)
		fds[opts.n_fds++] = (struct spawn_fd){l->memory_fd, QEMU_FD_MEMORY};
	else if (l->resumes && l->from->memory_fd >= 0)
		fds[opts.n_fds++] = (struct spawn_fd){l->from->memory_fd, QEMU_FD_MEMORY};
	qemu_disks_fill_fds(disks, fds + opts.n_fds);
	opts.n_fds += qemu_disks_n_fds(disks);
	l->epoch_ns = now_ns();
	r = qemu_run_start(&opts, TAKE_FD(l->qmp.ours), &l->run, err);
	/* Ours must be the only ends left, or QEMU's death would not close the streams. */
	close(TAKE_FD(l->qmp.theirs));
	close(TAKE_FD(l->console.theirs));
	if (l->agent.theirs >= 0)
		close(TAKE_FD(l->agent.theirs));
	return r;
}

static int launch_boot(struct qemu_launch *l, struct error *err)
{
	struct qemu_incoming incoming = {.devices_fd = -EBADF};
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (!l->resumes)
		return qemu_run_boot(&l->run, NULL, err);
	/* A position of its own: others may be loading the same state. */
	fd = incoming.devices_fd = qemu_reopen_readonly(l->from->devices_fd, err);
	if (fd < 0)
		return fd;
	incoming.without_memory = l->from->memory_fd >= 0;
	r = qemu_run_boot(&l->run, &incoming, err);
	if (r < 0)
		error_prefix(err, "the saved state was not taken up");
	return r;
}

/* What the machine keeps of a start that has succeeded. */
static void launch_commit(struct qemu_launch *l, struct vm_streams *ret)
{
	struct qemu_vm *q = l->q;

	if (l->from) {
		qemu_disks_done(&q->disks);
		q->disks = l->disks;
		l->disks = (struct qemu_disks){};
		q->has_disks = true;
	}
	qemu_disks_restarted(&q->disks);
	cleanup_close(&q->memory_fd);
	q->memory_fd = TAKE_FD(l->memory_fd);
	json_decref(q->power_on);
	q->power_on = TAKE_PTR(l->power_on);
	json_decref(q->ejected);
	q->ejected = TAKE_PTR(l->ejected);
	q->kvm = l->kvm;
	qemu_run_move(&l->run, &q->run);
	*ret = (struct vm_streams){
		.console = io_new(TAKE_FD(l->console.ours)),
		.agent = l->agent.ours >= 0 ? io_new(TAKE_FD(l->agent.ours)) : NULL,
		.epoch_ns = l->epoch_ns,
		.accel = accel_name(l->kvm),
		.pid = qemu_run_pid(q->run),
	};
}

/* The launch that waits, if it is for that. */
static struct qemu_launch *take_waiting(struct qemu_vm *q, const struct vm_start *how)
{
	struct qemu_launch *l = q->waiting;

	if (!l || !l->run || l->from != how->from || l->savable != how->savable)
		return NULL;
	q->waiting = NULL;
	l->epoch_ns = now_ns();
	return l;
}

int qemu_start(struct vm *vm, const struct vm_start *how, struct vm_streams *ret, struct error *err)
{
	struct qemu_vm *q = qemu_vm(vm);
	_cleanup_(cleanup_launch) struct qemu_launch *l = take_waiting(q, how);
	bool fresh = !l;
	int r;

	assert(!q->run);
	qemu_forget_prestart(q);
	if (fresh) {
		l = launch_new(q, how);
		r = launch_prepare(l, how, err);
		if (r < 0)
			return r;
	}
	q->n_starts++;
	r = write_down(l, err);
	if (r >= 0 && fresh)
		r = launch_spawn(l, err);
	if (r >= 0)
		r = launch_boot(l, err);
	if (r < 0)
		return r;
	launch_commit(l, ret);
	return 0;
}

void qemu_forget_prestart(struct qemu_vm *q)
{
	launch_free(TAKE_PTR(q->waiting));
}

void qemu_prestart(struct vm *vm, const struct vm_start *how)
{
	struct qemu_vm *q = qemu_vm(vm);
	_cleanup_(cleanup_launch) struct qemu_launch *l = NULL;
	struct error why = {};

	assert(!q->run && how->from);
	qemu_forget_prestart(q);
	l = launch_new(q, how);
	if (!l->resumes)
		return;
	if (launch_prepare(l, how, &why) < 0 || launch_spawn(l, &why) < 0 ||
	    qemu_run_greet(&l->run, &why) < 0) {
		log_debug("prestart of '%s': %s", q->vm.init.spec->name, why.message);
		return;
	}
	q->waiting = TAKE_PTR(l);
}
