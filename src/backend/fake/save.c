/* SPDX-License-Identifier: MIT */
/* The fake backend's saved states: files, as those of a real one. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/fake/fake.h"
#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"

/*
 * All of it is JSON: a layer of the one disk is the list of the guest's files (whole, whatever lies
 * below it); the memory is its units, ports and counters; the devices are the boot that it is in,
 * and the memory where that is no file of its own. So whatever handles these files can be tested:
 * nothing of a guest is kept anywhere else.
 *
 * What commands of the test were doing is not saved: they are gone after a restore. In a real guest
 * they live on, unheard.
 */
#define DISK_NAME "disk"

static int write_json(const char *dir, json_t *json /* taken */, struct error *err)
{
	_cleanup_free_ char *text = json_dumps(json, JSON_COMPACT);
	_cleanup_close_ int fd = -EBADF;
	int r;

	json_decref(json);
	/* Unit tests have no folder for it. */
	fd = dir ? tmpfile_open(dir, err) : memfd_create("fake", MFD_CLOEXEC);
	if (fd < 0)
		return dir ? fd : error_set_errno(err, ERROR_INFRA, errno, "cannot make a memfd");
	r = fd_write_all(fd, text, strlen(text));
	if (r < 0)
		return error_set_errno(err, ERROR_INFRA, -r, "cannot write the state of a fake");
	return TAKE_FD(fd);
}

static json_t *read_json(int fd, const char *what, struct error *err)
{
	char path[64];
	_cleanup_buf_ struct buf text = {};
	json_t *ret;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (file_read(path, 64 * MIB, &text, err) < 0)
		return NULL;
	ret = json_loadb(buf_str(&text), text.len, 0, NULL);
	if (!ret)
		error_set(err, ERROR_INFRA, EBADMSG, "the fake %s is damaged", what);
	return ret;
}

void fake_layers_done(struct fake *f)
{
	for (size_t i = 0; i < f->n_layers; i++)
		close(f->layers[i]);
	free(f->layers);
	f->layers = NULL;
	f->n_layers = 0;
}

static int push_layer(struct fake *f, int of, struct error *err)
{
	int fd = fcntl(of, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot keep a layer of a fake");
	f->layers = xrealloc(f->layers, (f->n_layers + 1) * sizeof(*f->layers));
	f->layers[f->n_layers++] = fd;
	return 0;
}

/* --- saving --- */

static int save_disk(struct fake *f, struct saved *s, struct error *err)
{
	_cleanup_close_ int fd = write_json(f->vm.init.env->work_dir, guest_save_files(f), err);
	int r;

	if (fd < 0)
		return fd;
	r = push_layer(f, fd, err);
	for (size_t i = 0; i < f->n_layers && r >= 0; i++) {
		int copy = fcntl(f->layers[i], F_DUPFD_CLOEXEC, 0);

		if (copy < 0)
			return error_set_errno(err, ERROR_INFRA, errno, "cannot save a fake disk");
		saved_push_layer(s, DISK_NAME, copy);
	}
	return r;
}

static int save_machine(struct fake *f, bool keep, struct saved *s, struct error *err)
{
	const struct machine_env *env = f->vm.init.env;
	json_t *memory = guest_save_rest(f);
	json_t *devices = json_pack("{ss, si, sI}", "boot_id", f->boot_id, "boot", (int)f->nth_boot,
				    "age", (json_int_t)(now_ns() - f->boot_ns));
	bool own_file = f->savable && !keep;

	if (own_file)
		s->memory_fd = write_json(env->memory_dir ?: env->work_dir, memory, err);
	else
		json_object_set_new(devices, "memory", memory);
	if (own_file && s->memory_fd < 0) {
		json_decref(devices);
		return s->memory_fd;
	}
	s->devices_fd = write_json(env->work_dir, devices, err);
	return s->devices_fd < 0 ? s->devices_fd : 0;
}

int fake_save(struct vm *vm, bool keep, struct saved **ret, struct error *err)
{
	struct fake *f = (struct fake *)vm;
	const char *fails = fake_text(f->script, "save_fails");
	double seconds = json_number_value(json_object_get(f->script, "save_takes"));
	_cleanup_saved_ struct saved *s = saved_new();
	int r = 0;

	if (f->running && json_is_true(json_object_get(f->script, "save_dies"))) {
		fake_die(f);
		return error_set(err, ERROR_CRASH, ECONNRESET,
				 "fake-vmm was killed by signal 9 (Killed)");
	}
	if (fails)
		r = error_set(err, ERROR_INFRA, EIO, "the fake VMM cannot save: %s", fails);
	if (r >= 0 && f->running) {
		vm->init.events->on_saving(vm->init.userdata);
		if (seconds > 0)
			r = fiber_sleep((uint64_t)(seconds * NS_PER_SEC), err);
		if (r >= 0)
			r = save_machine(f, keep, s, err);
	}
	if (r >= 0)
		r = save_disk(f, s, err);
	if (!keep)
		fake_die(f);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}

int fake_state_key(const struct vm_init *init, const struct image *image, struct buf *ret,
		   struct error *err)
{
	const char *why = fake_text(init->spec->fake, "unsavable");

	if (why)
		return error_set(err, ERROR_UNSUPPORTED, ENOTSUP, "%s", why);
	buf_printf(ret, "fake 1\nstate_version %s\n",
		   fake_text(init->spec->fake, "state_version") ?: "");
	return 0;
}

/* --- loading --- */

static int load_disk(struct fake *f, const struct saved *from, struct error *err)
{
	const struct saved_disk *disk = saved_find_disk(from, DISK_NAME);
	json_t *files;
	int r = 0;

	fake_layers_done(f);
	if (!disk) { /* saved before its first start */
		guest_done(f);
		f->guest = (struct fake_guest){};
		guest_init(f);
		return 0;
	}
	files = read_json(disk->layers[disk->n_layers - 1], "disk", err);
	if (!files)
		return err ? -err->code : -EIO;
	r = guest_load_files(f, files, err);
	json_decref(files);
	for (size_t i = 0; i < disk->n_layers && r >= 0; i++)
		r = push_layer(f, disk->layers[i], err);
	return r;
}

int fake_load(struct fake *f, const struct saved *from, struct error *err)
{
	json_t *devices, *memory;
	int r = load_disk(f, from, err);

	if (r < 0 || from->devices_fd < 0)
		return r;
	devices = read_json(from->devices_fd, "devices' state", err);
	if (!devices)
		return err ? -err->code : -EIO;
	memory = from->memory_fd >= 0 ? read_json(from->memory_fd, "memory", err)
				      : json_incref(json_object_get(devices, "memory"));
	if (memory) {
		guest_load_rest(f, memory);
		snprintf(f->boot_id, sizeof(f->boot_id), "%s", fake_text(devices, "boot_id") ?: "");
		f->nth_boot = (unsigned)json_integer_value(json_object_get(devices, "boot"));
		f->boot_ns =
			now_ns() - (uint64_t)json_integer_value(json_object_get(devices, "age"));
	} else {
		r = error_set(err, ERROR_INFRA, EBADMSG, "the fake memory is missing");
	}
	json_decref(memory);
	json_decref(devices);
	return r;
}
