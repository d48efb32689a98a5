/* SPDX-License-Identifier: MIT */
/* A machine's definition: parsed from the JSON that a declaration is passed around as. */
#pragma once

#include <jansson.h>

#include "base/error.h"

/*
 * A test file's `machine("server", { … })` becomes a JSON object with the very keys of the Lua
 * table plus "name". That JSON is what the planning worker sends to the runner and what this
 * parser reads, so there is one description of the options: machine_options[].
 */

struct option_desc {
	const char *name;
	const char *type; /* LuaLS type: "string", "string[]", "integer", "boolean", "table", … */
	const char *doc;  /* one sentence, without a full stop */
};
extern const struct option_desc machine_options[]; /* ends with .name == NULL */

struct disk_spec {
	char *name; /* guests find /dev/disk/by-id/…<name>; default disk1… */
	char *path; /* NULL: empty */
	uint64_t size_bytes;
	bool readonly, write_through, cdrom;
	int boot_order; /* 0: none */
};

struct file_spec {
	char *guest_path;
	char *text;    /* or … */
	char *from;    /* … a host file or folder */
	unsigned mode; /* 0: default */
	char *owner;
};

enum firmware { FIRMWARE_DIRECT, FIRMWARE_BIOS, FIRMWARE_UEFI, FIRMWARE_UEFI_SECURE };

struct machine_spec {
	char *name;
	char *image;	 /* name, path of a disk, or NULL */
	char **packages; /* strv */
	char *backend;	 /* "qemu" by default */
	bool agent, autostart;
	uint64_t memory_bytes;
	unsigned cpus;
	char *arch, *accel;
	char *machine_type; /* "q35" (default) or "microvm" */
	enum firmware firmware;
	char *kernel, *initrd;
	char **cmdline;
	char *login_user, *login_password;
	char *clock;
	struct disk_spec *disks;
	size_t n_disks;
	struct file_spec *files;
	size_t n_files;
	json_t *share, *networks, *credentials, *env, *fake; /* as given, or NULL */
	bool internet, tpm, display;
	char **qemu_args;
	json_t *json; /* the whole object, for keys and plan comparison */
};

/* Validates everything that can be known without the host: unknown keys (nearest name in the hint),
 * types, sizes, names, combinations. All problems are ERROR_USAGE. json is borrowed (a reference is
 * taken). An option of the specification that is not built yet is ERROR_UNSUPPORTED and says so. */
int machine_spec_parse(json_t *json, struct machine_spec **ret, struct error *err);
void machine_spec_free(struct machine_spec *s);
