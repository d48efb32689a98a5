/* SPDX-License-Identifier: MIT */
/* Saving a machine: memory, devices and disks at one instant. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "backend/qemu/qemu-internal.h"
#include "base/file.h"
#include "base/str.h"
#include "loop/fiber.h"

/*
 * Theory of operation
 *
 *	stop ─► a new overlay on each disk (keep) ─► migration stream to a file ─► cont | kill
 *
 * Nothing moves between `stop` and `cont`, so everything that is saved is of one instant. QEMU
 * flushes its caches of an overlay into the file when that becomes a layer, and, without new
 * overlays, when the stream is complete (it gives its disks away). That host flushes are left out
 * (argv.c) makes no difference: whoever opens the file next sees what was written.
 *
 * The stream has the memory, too, unless it is a file mapped with share=on and the machine ends
 * with this: then that file is the memory as it was saved.
 *
 * The new overlays' files are made before anything is changed; a full disk is found out then.
 */

#define GO_ON_TIMEOUT_NS (10 * NS_PER_SEC)

int qemu_check_savable(const struct machine_spec *spec, struct error *err)
{
	for (size_t i = 0; i < spec->n_disks; i++) {
		if (!spec->disks[i].write_through)
			continue;
		(void)error_set(err, ERROR_UNSUPPORTED, ENOTSUP,
				"its disk '%s' is written through to '%s'", spec->disks[i].name,
				spec->disks[i].path);
		error_hint(err,
			   "without write = true the disk gets an overlay, which can be saved");
		return -ENOTSUP;
	}
	return 0;
}

/* One for each disk; those that have none stay without. */
static int new_overlays(const struct qemu_vm *q, struct qemu_overlay *fresh, struct error *err)
{
	const struct qemu_disks *d = &q->disks;
	int r = 0;

	for (size_t i = 0; i < d->n && r >= 0; i++)
		if (d->stacks[i].overlay.fd >= 0)
			r = qemu_overlay_new(d->stacks[i].size, q->vm.init.env, &fresh[i], err);
	return r;
}

static void push_overlays(struct qemu_vm *q, struct qemu_overlay *fresh)
{
	for (size_t i = 0; i < q->disks.n; i++)
		if (fresh[i].fd >= 0)
			qemu_disks_push(&q->disks, i, &fresh[i]);
}

/* --- Overlays of a QEMU that runs ----------------------------------------------------------- */

static int call_take(struct qemu_vm *q, const char *command, json_t *args /* taken */, int fd,
		     json_t **ret, struct error *err)
{
	int r;

	if (fd < 0)
		r = qemu_run_call(q->run, command, args, COMMAND_TIMEOUT_NS, ret, err);
	else
		r = qemu_run_call_fd(q->run, command, args, fd, COMMAND_TIMEOUT_NS, ret, err);
	json_decref(args);
	return r;
}

static char *node_name(const char *disk, unsigned generation)
{
	return generation ? xasprintf("o%u-%s", generation, disk) : xasprintf("disk-%s", disk);
}

/* QEMU gets the overlay's file under both modes, and a node for it that nothing uses yet. */
static int add_overlay(struct qemu_vm *q, const struct qemu_overlay *overlay, const char *name,
		       struct error *err)
{
	json_t *reply = NULL;
	int set, r;

	r = call_take(q, "add-fd", NULL, overlay->fd, &reply, err);
	if (r < 0)
		return r;
	set = (int)json_integer_value(json_object_get(reply, "fdset-id"));
	json_decref(reply);
	r = call_take(q, "add-fd", json_pack("{s:i}", "fdset-id", set), overlay->reader_fd, NULL,
		      err);
	if (r < 0)
		return r;
	return call_take(q, "blockdev-add", qemu_overlay_node(name, set, json_null()), -EBADF, NULL,
			 err);
}

static json_t *snapshot_action(const char *node, const char *overlay)
{
	return json_pack("{s:s, s:{s:s, s:s}}", "type", "blockdev-snapshot", "data", "node", node,
			 "overlay", overlay);
}

/* Once it is sent nobody may give it up: QEMU writes to the new overlays then, whether we know that
 * or not, and the next start would be from the old ones. */
static int commit_overlays(struct qemu_vm *q, json_t *actions /* taken */, struct error *err)
{
	struct fiber_shield shield;
	int r;

	fiber_shield_enter(&shield, COMMAND_TIMEOUT_NS);
	r = call_take(q, "transaction", json_pack("{s:o}", "actions", actions), -EBADF, NULL, err);
	fiber_shield_leave(&shield);
	return r;
}

/* All disks in one transaction: afterwards the old overlays are written no more. */
static int switch_overlays(struct qemu_vm *q, struct qemu_overlay *fresh, struct error *err)
{
	struct qemu_disks *d = &q->disks;
	unsigned generation = ++q->n_overlays;
	json_t *actions = json_array();
	int r = 0;

	for (size_t i = 0; i < d->n && r >= 0; i++) {
		_cleanup_free_ char *old = node_name(d->list[i].name, d->stacks[i].generation);
		_cleanup_free_ char *new = node_name(d->list[i].name, generation);

		if (fresh[i].fd < 0)
			continue;
		r = add_overlay(q, &fresh[i], new, err);
		json_array_append_new(actions, snapshot_action(old, new));
	}
	if (r < 0 || json_array_size(actions) == 0) {
		json_decref(actions);
		return r;
	}
	r = commit_overlays(q, actions, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < d->n; i++)
		if (fresh[i].fd >= 0)
			d->stacks[i].generation = generation;
	push_overlays(q, fresh);
	return 0;
}

/* --- Saving --------------------------------------------------------------------------------- */

static void describe(const struct qemu_vm *q, struct saved *s)
{
	json_object_set_new(s->vm, "accel", json_string(q->kvm ? "kvm" : "tcg"));
	json_object_set_new(s->vm, "power_on", json_deep_copy(q->power_on));
	json_object_set_new(s->vm, "ejected", json_deep_copy(q->ejected));
}

/* Between `stop` and what follows it. */
static int save_stopped(struct qemu_vm *q, bool keep, struct qemu_overlay *fresh, struct saved *s,
			struct error *err)
{
	const struct vm_init *init = &q->vm.init;
	bool memory_is_file = !keep && q->memory_fd >= 0;
	int r;

	init->events->on_saving(init->userdata);
	if (keep && (r = switch_overlays(q, fresh, err)) < 0)
		return r;
	if (!q->run)
		return error_set(err, ERROR_CRASH, ESRCH, "QEMU does not run");
	r = qemu_disks_save(&q->disks, !keep, s, err);
	if (r < 0)
		return r;
	describe(q, s);
	s->devices_fd = tmpfile_open(init->env->work_dir, err);
	if (s->devices_fd < 0)
		return s->devices_fd;
	return qemu_run_save(q->run, s->devices_fd, memory_is_file, err);
}

static int go_on(struct qemu_vm *q, struct error *err)
{
	struct fiber_shield shield;
	int r;

	fiber_shield_enter(&shield, GO_ON_TIMEOUT_NS);
	r = qemu_run_call(q->run, "cont", NULL, GO_ON_TIMEOUT_NS, NULL, err);
	fiber_shield_leave(&shield);
	if (q->run)
		qemu_run_set_quiet(q->run, false);
	return r;
}

static int save_running(struct qemu_vm *q, bool keep, struct qemu_overlay *fresh, struct saved *s,
			struct error *err)
{
	bool was_stopped = qemu_run_is_stopped(q->run);
	struct error lost = {};
	int r = 0;

	qemu_run_set_quiet(q->run, true);
	if (!was_stopped)
		r = qemu_run_call(q->run, "stop", NULL, COMMAND_TIMEOUT_NS, NULL, err);
	if (r >= 0 && q->run)
		r = save_stopped(q, keep, fresh, s, err);
	if (!keep) {
		qemu_run_kill(&q->run);
		if (r < 0)
			return r;
		s->memory_fd = TAKE_FD(q->memory_fd);
		push_overlays(q, fresh);
		return 0;
	}
	if (was_stopped && q->run) {
		qemu_run_set_quiet(q->run, false);
	} else if (go_on(q, &lost) < 0) {
		qemu_run_kill(&q->run); /* it would stand still for ever */
		if (r >= 0)
			r = error_propagate(err, &lost);
	}
	return r;
}

static int save_off(struct qemu_vm *q, struct qemu_overlay *fresh, struct saved *s,
		    struct error *err)
{
	push_overlays(q, fresh);
	return qemu_disks_save(&q->disks, false, s, err);
}

int qemu_save(struct vm *vm, bool keep, struct saved **ret, struct error *err)
{
	struct qemu_vm *q = qemu_vm(vm);
	_cleanup_saved_ struct saved *s = saved_new();
	_cleanup_free_ struct qemu_overlay *fresh = NULL;
	size_t n = q->disks.n;
	int r;

	r = qemu_check_savable(vm->init.spec, err);
	if (r < 0)
		return r;
	fresh = xcalloc(n + 1, sizeof(*fresh));
	for (size_t i = 0; i < n; i++)
		fresh[i] = (struct qemu_overlay){-EBADF, -EBADF};
	r = new_overlays(q, fresh, err);
	if (r >= 0)
		r = q->run ? save_running(q, keep, fresh, s, err) : save_off(q, fresh, s, err);
	else if (q->run && !keep)
		qemu_run_kill(&q->run);
	for (size_t i = 0; i < n; i++)
		qemu_overlay_done(&fresh[i]);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}
