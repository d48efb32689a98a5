/* SPDX-License-Identifier: MIT */
/* A machine's definition: the table of its options, and what may be said with them. */
#include "machine/spec.h"

#include <string.h>

#include "base/str.h"
#include "machine/spec-internal.h"

/*
 * Theory of operation
 *
 * A definition arrives as the JSON of the Lua table. In this order: the name; keys that nobody
 * knows; each option's type and range; what the specification has and this build has not; options
 * that contradict each other. So a misspelt option is told as such and not as a missing other one,
 * and a wrong type before "not built yet".
 *
 * Nothing here looks at the host: whether an image, a file or a backend is there is found out by
 * those who open it, because `assay check` may run elsewhere than the tests.
 */

#define MEMORY_DEFAULT (512 * MIB)
#define MEMORY_MIN     (16 * MIB)
#define CPUS_MAX       255

const struct option_desc machine_options[] = {
	{"image", "string", "Name of an image, or the path of a qcow2 or raw disk"},
	{"packages", "string[]", "Packages of the distribution; the result is cached as an image"},
	{"backend", "\"qemu\"|\"fake\"", "What runs the machine"},
	{"agent", "boolean", "Whether our agent runs in the guest; true unless given"},
	{"autostart", "boolean", "Whether it is started before the test's body; true unless given"},
	{"memory", "string", "Size of its memory, such as \"512M\" (which is the default)"},
	{"cpus", "integer", "Number of virtual CPUs; 1 unless given"},
	{"arch", "string", "Architecture of the machine; the host's unless given"},
	{"accel", "\"auto\"|\"kvm\"|\"tcg\"",
	 "Acceleration; that of the command line unless given"},
	{"machine_type", "\"q35\"|\"microvm\"", "QEMU's machine type; q35 unless given"},
	{"firmware", "\"direct\"|\"bios\"|\"uefi\"|\"uefi-secure\"",
	 "What boots it: our kernel loading, or a firmware and the disk's own boot loader"},
	{"kernel", "string", "Path of a kernel on the host"},
	{"initrd", "string", "Path of an initramfs on the host, for 'kernel'"},
	{"cmdline", "string|string[]", "Appended to the kernel's command line"},
	{"login", "{ user: string, password: string }", "An account, for a login on the console"},
	{"clock", "string", "What its clock starts at: \"now\", \"template\", or an ISO time"},
	{"disks", "(string|table)[]", "More disks: sizes of empty ones, or tables"},
	{"files", "table<string, string|table>", "Files put into its image, by their path there"},
	{"share", "table<string, string|table>", "Folders of the host that it sees"},
	{"networks", "(string|table)[]", "The networks it is on, in the order of its NICs"},
	{"internet", "boolean", "Whether it reaches the internet"},
	{"credentials", "table<string, string>", "systemd credentials that it is given"},
	{"tpm", "boolean", "Whether it has a TPM"},
	{"env", "table<string, string>", "Environment of every command run in it"},
	{"display", "boolean", "Whether it has a screen"},
	{"qemu_args", "string[]", "Appended to QEMU's command line"},
	{"firecracker", "table", "Options of the firecracker backend"},
	{"cloud_hypervisor", "table", "Options of the cloud-hypervisor backend"},
	{"ssh", "table", "A host that is reached by ssh"},
	{"metal", "string", "A machine of the lab's inventory"},
	{"fake", "table", "The script of a machine of the fake backend"},
	{NULL, NULL, NULL},
};

/* In the specification, and in no part of this build. */
static const char *const unbuilt_options[] = {
	"share", "networks", "internet",	 "tpm", "display", "firecracker",
	"ssh",	 "metal",    "cloud_hypervisor", NULL};

static const char *const accel_names[] = {"auto", "kvm", "tcg", NULL};
static const char *const machine_types[] = {"q35", "microvm", NULL};
static const char *const firmware_names[] = {[FIRMWARE_DIRECT] = "direct",
					     [FIRMWARE_BIOS] = "bios",
					     [FIRMWARE_UEFI] = "uefi",
					     [FIRMWARE_UEFI_SECURE] = "uefi-secure",
					     NULL};
static const char *const login_keys[] = {"user", "password", NULL};

#define OPT(n) ((struct option_ref){.machine = s->name, .name = (n)})

/* One of a few words. *ret is its index, untouched if the option is absent. */
static int option_word(json_t *json, struct option_ref ref, const char *const *words, int *ret,
		       struct error *err)
{
	_cleanup_free_ char *text = NULL, *all = NULL;
	const char *near;
	int r;

	r = option_string(json, ref, &text, err);
	if (r < 0 || !text)
		return r;
	for (int i = 0; words[i]; i++) {
		if (!str_eq(words[i], text))
			continue;
		*ret = i;
		return 0;
	}
	near = nearest_name(text, words);
	all = strv_join((char *const *)words, ", ");
	option_error(ref, err, "must be one of %s, not '%.80s'", all, text);
	if (near)
		error_hint(err, "did you mean '%s'?", near);
	return -EINVAL;
}

/* Host names: [a-z][a-z0-9-]*, at most 63, not "host". */
static int parse_name(json_t *json, struct machine_spec *s, struct error *err)
{
	json_t *v = json_object_get(json, "name");
	const char *name = json_string_value(v);

	if (!name)
		return error_set(err, ERROR_USAGE, EINVAL, "a machine's name must be a string");
	if (str_eq(name, "host")) {
		error_set(err, ERROR_USAGE, EINVAL, "no machine can be named 'host'");
		error_hint(err, "that is the test's own side of every network");
		return -EINVAL;
	}
	if (name[0] < 'a' || name[0] > 'z' || strlen(name) > 63 ||
	    strlen(name) != json_string_length(v) ||
	    strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(name) ||
	    str_ends(name, "-")) {
		error_set(err, ERROR_USAGE, EINVAL, "'%.80s' is no name for a machine", name);
		error_hint(err, "it becomes the host name: at most 63 small letters, digits and "
				"'-', a letter first");
		return -EINVAL;
	}
	s->name = xstrdup(name);
	return 0;
}

static int check_known(json_t *json, const struct machine_spec *s, struct error *err)
{
	const char *names[ARRAY_SIZE(machine_options) + 1];
	_cleanup_(json_decrefp) json_t *options = json_copy(json);

	for (size_t i = 0; i < ARRAY_SIZE(machine_options); i++)
		names[i] = machine_options[i].name;
	json_object_del(options, "name"); /* the first argument, no option */
	return option_check_keys(options, s->name, NULL, names, err);
}

static int unsupported(struct option_ref ref, const char *value, struct error *err)
{
	error_set(err, ERROR_UNSUPPORTED, EOPNOTSUPP,
		  "option '%s'%s%s%s of machine '%s' is not "
		  "built yet",
		  ref.name, value ? " = \"" : "", value ?: "", value ? "\"" : "", ref.machine);
	error_hint(err, "it is in the specification; this version of Assay does not have it");
	return -EOPNOTSUPP;
}

/* Options that stand in the specification and are not built: only a value that asks for nothing
 * goes through. */
static int check_built(json_t *json, const struct machine_spec *s, struct error *err)
{
	for (const char *const *n = unbuilt_options; *n; n++) {
		json_t *v = json_object_get(json, *n);

		if (!v || json_is_false(v) || json_is_null(v))
			continue;
		if ((json_is_array(v) && json_array_size(v) == 0) ||
		    (json_is_object(v) && json_object_size(v) == 0))
			continue;
		return unsupported(OPT(*n), NULL, err);
	}
	if (s->firmware == FIRMWARE_UEFI || s->firmware == FIRMWARE_UEFI_SECURE)
		return unsupported(OPT("firmware"), firmware_names[s->firmware], err);
	if (s->clock && !str_eq(s->clock, "now"))
		return unsupported(OPT("clock"), s->clock, err);
	if (s->arch && !str_eq(s->arch, "x86_64"))
		return unsupported(OPT("arch"), s->arch, err);
	return 0;
}

static int parse_login(json_t *json, struct machine_spec *s, struct error *err)
{
	json_t *v = json_object_get(json, "login");
	struct option_ref user = {.machine = s->name, .outer = "login", .name = "user"};
	struct option_ref password = {.machine = s->name, .outer = "login", .name = "password"};
	int r;

	if (!v)
		return 0;
	if (!json_is_object(v))
		return option_type_error(OPT("login"), "a table with 'user' and 'password'", v,
					 err);
	if ((r = option_check_keys(v, s->name, "login", login_keys, err)) < 0 ||
	    (r = option_string(v, user, &s->login_user, err)) < 0 ||
	    (r = option_string(v, password, &s->login_password, err)) < 0)
		return r;
	return s->login_user ? 0 : option_error(user, err, "is missing");
}

/* Whether it boots from a disk by that disk's own boot loader. */
static bool boots_from_disk(const struct machine_spec *s)
{
	return (s->image && strchr(s->image, '/')) || (!s->image && !s->kernel && s->n_disks > 0);
}

static int check_combinations(const struct machine_spec *s, bool firmware_given, struct error *err)
{
	bool has_disk_file = false;

	for (size_t i = 0; i < s->n_disks; i++)
		has_disk_file |= s->disks[i].path != NULL;
	if (!str_eq(s->backend, "fake") && !s->image && !s->kernel && !has_disk_file) {
		error_set(
			err, ERROR_USAGE, EINVAL,
			"machine '%s' has nothing to boot: no image, no kernel and no disk with a "
			"path",
			s->name);
		error_hint(err, "for instance image = \"debian-13\"");
		return -EINVAL;
	}
	if (s->initrd && !s->kernel)
		return option_error(OPT("initrd"), err, "needs 'kernel'");
	if ((s->packages || s->n_files) && (!s->image || strchr(s->image, '/')) &&
	    !str_eq(s->backend, "fake"))
		return option_error(OPT(s->packages ? "packages" : "files"), err,
				    "needs an image of Assay's own, such as \"debian-13\": nothing "
				    "can be put into %s",
				    s->image ? "somebody's disk" : "this machine");
	if (firmware_given && s->firmware != FIRMWARE_DIRECT && !boots_from_disk(s))
		return option_error(OPT("firmware"), err,
				    "is \"%s\", which needs a disk image to boot from",
				    firmware_names[s->firmware]);
	if (firmware_given && s->firmware == FIRMWARE_DIRECT && boots_from_disk(s))
		return option_error(
			OPT("firmware"), err,
			"is \"direct\", which needs an image of Assay's own or a kernel");
	if (s->fake && !str_eq(s->backend, "fake"))
		return option_error(OPT("fake"), err, "needs backend = \"fake\"");
	if (s->qemu_args && !str_eq(s->backend, "qemu"))
		return option_error(OPT("qemu_args"), err, "needs backend = \"qemu\"");
	return 0;
}

/* The options that are one plain value each. */
static int parse_plain(json_t *json, struct machine_spec *s, struct error *err)
{
	uint64_t cpus = 1;
	int r, accel = -1, type = 0;

	if ((r = option_string(json, OPT("image"), &s->image, err)) < 0 ||
	    (r = option_strings(json, OPT("packages"), &s->packages, err)) < 0 ||
	    (r = option_string(json, OPT("backend"), &s->backend, err)) < 0 ||
	    (r = option_bool(json, OPT("agent"), &s->agent, err)) < 0 ||
	    (r = option_bool(json, OPT("autostart"), &s->autostart, err)) < 0 ||
	    (r = option_size(json, OPT("memory"), MEMORY_MIN, &s->memory_bytes, err)) < 0 ||
	    (r = option_unsigned(json, OPT("cpus"), 1, CPUS_MAX, &cpus, err)) < 0 ||
	    (r = option_string(json, OPT("arch"), &s->arch, err)) < 0 ||
	    (r = option_word(json, OPT("accel"), accel_names, &accel, err)) < 0 ||
	    (r = option_word(json, OPT("machine_type"), machine_types, &type, err)) < 0 ||
	    (r = option_string(json, OPT("kernel"), &s->kernel, err)) < 0 ||
	    (r = option_string(json, OPT("initrd"), &s->initrd, err)) < 0 ||
	    (r = option_strings(json, OPT("cmdline"), &s->cmdline, err)) < 0 ||
	    (r = option_string(json, OPT("clock"), &s->clock, err)) < 0 ||
	    (r = option_strings(json, OPT("qemu_args"), &s->qemu_args, err)) < 0 ||
	    (r = option_string_map(json, OPT("credentials"), &s->credentials, err)) < 0 ||
	    (r = option_string_map(json, OPT("env"), &s->env, err)) < 0)
		return r;
	s->cpus = (unsigned)cpus;
	if (accel >= 0)
		s->accel = xstrdup(accel_names[accel]);
	s->machine_type = xstrdup(machine_types[type]);
	return 0;
}

static int parse_fake(json_t *json, struct machine_spec *s, struct error *err)
{
	json_t *v = json_object_get(json, "fake");

	if (!v || (json_is_array(v) && json_array_size(v) == 0))
		return 0;
	if (!json_is_object(v))
		return option_type_error(OPT("fake"), "a table", v, err);
	s->fake = json_incref(v);
	return 0;
}

static int parse(json_t *json, struct machine_spec *s, struct error *err)
{
	int r, firmware = -1;

	if ((r = parse_name(json, s, err)) < 0 || (r = check_known(json, s, err)) < 0 ||
	    (r = parse_plain(json, s, err)) < 0 ||
	    (r = option_word(json, OPT("firmware"), firmware_names, &firmware, err)) < 0 ||
	    (r = parse_login(json, s, err)) < 0 || (r = spec_parse_disks(json, s, err)) < 0 ||
	    (r = spec_parse_files(json, s, err)) < 0 || (r = parse_fake(json, s, err)) < 0)
		return r;
	if (firmware >= 0)
		s->firmware = (enum firmware)firmware;
	else if (boots_from_disk(s))
		s->firmware = FIRMWARE_BIOS;
	if ((r = check_built(json, s, err)) < 0)
		return r;
	return check_combinations(s, firmware >= 0, err);
}

int machine_spec_parse(json_t *json, struct machine_spec **ret, struct error *err)
{
	struct machine_spec *s;
	int r;

	if (!json_is_object(json))
		return error_set(err, ERROR_USAGE, EINVAL, "a machine's options must be a table");
	s = xcalloc(1, sizeof(*s));
	*s = (struct machine_spec){
		.backend = xstrdup("qemu"),
		.agent = true,
		.autostart = true,
		.memory_bytes = MEMORY_DEFAULT,
		.json = json_incref(json),
	};
	r = parse(json, s, err);
	if (r < 0) {
		machine_spec_free(s);
		return r;
	}
	if (s->packages && !s->packages[0]) {
		strv_free(s->packages);
		s->packages = NULL;
	}
	*ret = s;
	return 0;
}

void machine_spec_free(struct machine_spec *s)
{
	if (!s)
		return;
	free(s->name);
	free(s->image);
	strv_free(s->packages);
	free(s->backend);
	free(s->arch);
	free(s->accel);
	free(s->machine_type);
	free(s->kernel);
	free(s->initrd);
	strv_free(s->cmdline);
	free(s->login_user);
	free(s->login_password);
	free(s->clock);
	for (size_t i = 0; i < s->n_disks; i++) {
		free(s->disks[i].name);
		free(s->disks[i].path);
	}
	free(s->disks);
	for (size_t i = 0; i < s->n_files; i++) {
		free(s->files[i].guest_path);
		free(s->files[i].text);
		free(s->files[i].from);
		free(s->files[i].owner);
	}
	free(s->files);
	strv_free(s->qemu_args);
	json_decref(s->share);
	json_decref(s->networks);
	json_decref(s->credentials);
	json_decref(s->env);
	json_decref(s->fake);
	json_decref(s->json);
	free(s);
}
