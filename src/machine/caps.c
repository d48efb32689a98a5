/* SPDX-License-Identifier: MIT */
/* Backends by name, and what they can do on this host. */
#include <string.h>

#include "base/str.h"
#include "machine/backend.h"
#include "machine/machine.h"

/* The words of a test's `needs`, in the specification's order. */
static const struct {
	const char *name;
	unsigned cap;
} cap_table[] = {
	{"agent", MACHINE_CAP_AGENT},	    {"console", MACHINE_CAP_CONSOLE},
	{"poweroff", MACHINE_CAP_POWEROFF}, {"pause", MACHINE_CAP_PAUSE},
	{"snapshot", MACHINE_CAP_SNAPSHOT}, {"screen", MACHINE_CAP_SCREEN},
	{"keyboard", MACHINE_CAP_KEYBOARD}, {"qmp", MACHINE_CAP_QMP},
	{"disks", MACHINE_CAP_DISKS},	    {"uefi", MACHINE_CAP_UEFI},
	{"tpm", MACHINE_CAP_TPM},	    {"vsock", MACHINE_CAP_VSOCK},
	{"net", MACHINE_CAP_NET},	    {"ocr", MACHINE_CAP_OCR},
	{"kvm", MACHINE_CAP_KVM},
};

unsigned machine_cap_from_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(cap_table); i++)
		if (str_eq(cap_table[i].name, name))
			return cap_table[i].cap;
	return 0;
}

const char *const *machine_cap_names(void)
{
	static const char *names[ARRAY_SIZE(cap_table) + 1];

	for (size_t i = 0; i < ARRAY_SIZE(cap_table); i++)
		names[i] = cap_table[i].name;
	return names;
}

const char *const *backend_names(void)
{
	static const char *names[16];

	for (size_t i = 0; backend_registry[i] && i + 1 < ARRAY_SIZE(names); i++)
		names[i] = backend_registry[i]->name;
	return names;
}

int backend_find(const char *name, const struct backend_ops **ret, struct error *err)
{
	_cleanup_free_ char *all = NULL;
	const char *near;

	if (!name) {
		*ret = backend_registry[0];
		return 0;
	}
	for (const struct backend_ops *const *b = backend_registry; *b; b++) {
		if (!str_eq((*b)->name, name))
			continue;
		*ret = *b;
		return 0;
	}
	error_set(err, ERROR_USAGE, ENOENT, "there is no backend '%.80s'", name);
	near = nearest_name(name, backend_names());
	all = strv_join((char *const *)backend_names(), ", ");
	if (near)
		error_hint(err, "did you mean '%s'?", near);
	else
		error_hint(err, "this build has %s", all);
	return -ENOENT;
}

int backend_caps(const char *backend, unsigned *ret, struct error *err)
{
	const struct backend_ops *ops;
	int r = backend_find(backend, &ops, err);

	if (r < 0)
		return r;
	*ret = ops->caps();
	return 0;
}

int backend_available(const char *backend, struct error *err)
{
	const struct backend_ops *ops;
	int r = backend_find(backend, &ops, err);

	return r < 0 ? r : ops->available(err);
}

int backend_check(const struct machine_spec *spec, struct error *err)
{
	const struct backend_ops *ops;
	int r = backend_find(spec->backend, &ops, err);

	return r < 0 || !ops->check ? r : ops->check(spec, err);
}

uint64_t machine_cost_bytes(const struct machine_spec *spec)
{
	const struct backend_ops *ops;

	if (backend_find(spec->backend, &ops, NULL) < 0)
		return spec->memory_bytes;
	return ops->cost_bytes(spec);
}
