/* SPDX-License-Identifier: MIT */
/* A machine's definition: what is taken, and the words of what is not. */
#include "machine/spec.h"

#include <string.h>

#include "base/str.h"
#include "fiber-test.h"
#include "machine/backend.h"
#include "machine/recipe.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

/* JSON with ' for ". */
static json_t *parse_json(const char *text)
{
	char *copy = xstrdup(text);
	json_error_t why;
	json_t *json;

	for (char *c = copy; *c; c++)
		if (*c == '\'')
			*c = '"';
	json = json_loads(copy, 0, &why);
	if (!json)
		fail_msg("%s: %s", copy, why.text);
	free(copy);
	return json;
}

static struct machine_spec *parse(const char *text)
{
	json_t *json = parse_json(text);
	struct machine_spec *s = NULL;
	struct error err = {};

	if (machine_spec_parse(json, &s, &err) < 0)
		fail_msg("%s: %s", text, err.message);
	json_decref(json);
	return s;
}

static void the_defaults(void **state)
{
	struct machine_spec *s = parse("{'name': 'server', 'image': 'debian-13'}");

	assert_string_equal(s->name, "server");
	assert_string_equal(s->image, "debian-13");
	assert_string_equal(s->backend, "qemu");
	assert_string_equal(s->machine_type, "q35");
	assert_true(s->agent && s->autostart);
	assert_int_equal(s->memory_bytes, 512 * MIB);
	assert_int_equal(s->cpus, 1);
	assert_int_equal(s->firmware, FIRMWARE_DIRECT);
	assert_null(s->packages);
	assert_null(s->accel);
	assert_int_equal(s->n_disks + s->n_files, 0);
	machine_spec_free(s);
}

static void every_option(void **state)
{
	struct machine_spec *s = parse(
		"{'name': 'a-1', 'image': 'debian-13', 'packages': ['nginx', 'curl'],"
		"'backend': 'qemu', 'agent': false, 'autostart': false, 'memory': '1G',"
		"'cpus': 2, 'arch': 'x86_64', 'accel': 'tcg', 'machine_type': 'microvm',"
		"'cmdline': 'quiet x=1', 'login': {'user': 'root', 'password': 'x'},"
		"'clock': 'now', 'disks': ['1G', {'path': 'd.qcow2', 'readonly': true,"
		"'name': 'data', 'boot': 2}], 'files': {'/etc/b': 'bb', '/etc/a': {'from': 'x',"
		"'mode': '0755', 'owner': 'www-data'}, '/c': {'text': '', 'mode': 600}},"
		"'credentials': {'k': 'v'}, 'env': {'A': 1}, 'qemu_args': ['-s'],"
		"'share': {}, 'networks': [], 'internet': false, 'tpm': false}");

	assert_int_equal(strv_len(s->packages), 2);
	assert_false(s->agent || s->autostart);
	assert_int_equal(s->memory_bytes, GIB);
	assert_int_equal(s->cpus, 2);
	assert_string_equal(s->accel, "tcg");
	assert_string_equal(s->machine_type, "microvm");
	assert_string_equal(s->cmdline[0], "quiet x=1");
	assert_string_equal(s->login_password, "x");
	assert_int_equal(s->n_disks, 2);
	assert_string_equal(s->disks[0].name, "disk1");
	assert_int_equal(s->disks[0].size_bytes, GIB);
	assert_string_equal(s->disks[1].name, "data");
	assert_true(s->disks[1].readonly);
	assert_int_equal(s->disks[1].boot_order, 2);
	/* Sorted: a Lua table has no order. */
	assert_int_equal(s->n_files, 3);
	assert_string_equal(s->files[0].guest_path, "/c");
	assert_string_equal(s->files[0].text, "");
	assert_int_equal(s->files[0].mode, 0600);
	assert_string_equal(s->files[1].guest_path, "/etc/a");
	assert_string_equal(s->files[1].from, "x");
	assert_int_equal(s->files[1].mode, 0755);
	assert_string_equal(s->files[2].text, "bb");
	assert_string_equal(json_string_value(json_object_get(s->env, "A")), "1");
	assert_string_equal(s->qemu_args[0], "-s");
	machine_spec_free(s);
}

static void a_disk_of_ones_own_boots_by_bios(void **state)
{
	struct machine_spec *s = parse("{'name': 'a', 'image': './disk.qcow2'}");

	assert_int_equal(s->firmware, FIRMWARE_BIOS);
	machine_spec_free(s);
	s = parse("{'name': 'a', 'disks': [{'path': 'd.raw'}]}");
	assert_int_equal(s->firmware, FIRMWARE_BIOS);
	machine_spec_free(s);
	s = parse("{'name': 'a', 'kernel': 'bzImage', 'disks': [{'path': 'd.raw'}]}");
	assert_int_equal(s->firmware, FIRMWARE_DIRECT);
	machine_spec_free(s);
}

/* {options, kind, message, hint}; the machine is 'srv' unless the options name it. */
static const struct {
	const char *options;
	enum error_kind kind;
	const char *message, *hint;
} golden[] = {
	{"'name': 'host'", ERROR_USAGE, "no machine can be named 'host'",
	 "that is the test's own side of every network"},
	{"'name': 'My_Host'", ERROR_USAGE, "'My_Host' is no name for a machine",
	 "it becomes the host name: at most 63 small letters, digits and '-', a letter first"},
	{"'name': 7", ERROR_USAGE, "a machine's name must be a string", ""},
	{"'image': 'tiny', 'memroy': '1G'", ERROR_USAGE, "unknown option 'memroy' of machine 'srv'",
	 "did you mean 'memory'?"},
	{"'image': 'tiny', 'package': ['x']", ERROR_USAGE,
	 "unknown option 'package' of machine 'srv'", "did you mean 'packages'?"},
	{"'image': 'tiny', 'memory': 512", ERROR_USAGE,
	 "option 'memory' of machine 'srv' must be at least 16 MiB, not 512",
	 "a bare number is bytes; write \"512M\" for MiB"},
	{"'image': 'tiny', 'memory': 'lots'", ERROR_USAGE,
	 "option 'memory' of machine 'srv' must be a size such as \"512M\" or \"1G\", not the "
	 "string \"lots\"",
	 ""},
	{"'image': 'tiny', 'cpus': 'two'", ERROR_USAGE,
	 "option 'cpus' of machine 'srv' must be a whole number from 1 to 255, not the string "
	 "\"two\"",
	 ""},
	{"'image': 'tiny', 'cpus': 0", ERROR_USAGE,
	 "option 'cpus' of machine 'srv' must be a whole number from 1 to 255, not the number 0",
	 ""},
	{"'image': 'tiny', 'cpus': 1.5", ERROR_USAGE,
	 "option 'cpus' of machine 'srv' must be a whole number from 1 to 255, not the number 1.5",
	 ""},
	{"'image': 'tiny', 'agent': 'no'", ERROR_USAGE,
	 "option 'agent' of machine 'srv' must be true or false, not the string \"no\"", ""},
	{"'image': ['a']", ERROR_USAGE,
	 "option 'image' of machine 'srv' must be a string, not a list", ""},
	{"'image': ''", ERROR_USAGE, "option 'image' of machine 'srv' must not be empty", ""},
	{"'image': 'tiny', 'packages': {'a': 1}", ERROR_USAGE,
	 "option 'packages' of machine 'srv' must be a list of strings, not a table", ""},
	{"'image': 'tiny', 'packages': [['a']]", ERROR_USAGE,
	 "option 'packages' of machine 'srv' must be a list of strings, not a list", ""},
	{"'image': 'tiny', 'accel': 'kvmm'", ERROR_USAGE,
	 "option 'accel' of machine 'srv' must be one of auto, kvm, tcg, not 'kvmm'",
	 "did you mean 'kvm'?"},
	{"'image': 'tiny', 'machine_type': 'pc'", ERROR_USAGE,
	 "option 'machine_type' of machine 'srv' must be one of q35, microvm, not 'pc'", ""},
	{"", ERROR_USAGE,
	 "machine 'srv' has nothing to boot: no image, no kernel and no disk with a path",
	 "for instance image = \"debian-13\""},
	{"'disks': ['1G']", ERROR_USAGE,
	 "machine 'srv' has nothing to boot: no image, no kernel and no disk with a path",
	 "for instance image = \"debian-13\""},
	{"'image': 'tiny', 'initrd': 'x'", ERROR_USAGE,
	 "option 'initrd' of machine 'srv' needs 'kernel'", ""},
	{"'image': './d.qcow2', 'packages': ['nginx']", ERROR_USAGE,
	 "option 'packages' of machine 'srv' needs an image of Assay's own, such as \"debian-13\": "
	 "nothing can be put into somebody's disk",
	 ""},
	{"'kernel': 'k', 'files': {'/a': 'b'}", ERROR_USAGE,
	 "option 'files' of machine 'srv' needs an image of Assay's own, such as \"debian-13\": "
	 "nothing can be put into this machine",
	 ""},
	{"'image': 'tiny', 'firmware': 'bios'", ERROR_USAGE,
	 "option 'firmware' of machine 'srv' is \"bios\", which needs a disk image to boot from",
	 ""},
	{"'image': './d.raw', 'firmware': 'direct'", ERROR_USAGE,
	 "option 'firmware' of machine 'srv' is \"direct\", which needs an image of Assay's own or "
	 "a kernel",
	 ""},
	{"'image': 'tiny', 'fake': {'exec': {}}", ERROR_USAGE,
	 "option 'fake' of machine 'srv' needs backend = \"fake\"", ""},
	{"'backend': 'fake', 'qemu_args': ['-s']", ERROR_USAGE,
	 "option 'qemu_args' of machine 'srv' needs backend = \"qemu\"", ""},
	/* disks */
	{"'image': 'tiny', 'disks': '1G'", ERROR_USAGE,
	 "option 'disks' of machine 'srv' must be a list of disks, not the string \"1G\"", ""},
	{"'image': 'tiny', 'disks': ['big']", ERROR_USAGE,
	 "option 'size' in disks[1] of machine 'srv' must be a size such as \"512M\" or \"1G\", "
	 "not "
	 "the string \"big\"",
	 ""},
	{"'image': 'tiny', 'disks': ['1G', {'siez': '1G'}]", ERROR_USAGE,
	 "unknown option 'siez' in disks[2] of machine 'srv'", "did you mean 'size'?"},
	{"'image': 'tiny', 'disks': [{}]", ERROR_USAGE,
	 "option 'size' in disks[1] of machine 'srv' is missing (or 'path', for a file of the "
	 "host)",
	 ""},
	{"'image': 'tiny', 'disks': [{'size': '1G', 'path': 'x'}]", ERROR_USAGE,
	 "option 'size' in disks[1] of machine 'srv' cannot go with 'path': a file has its own "
	 "size",
	 ""},
	{"'image': 'tiny', 'disks': [{'size': '1G', 'readonly': true}]", ERROR_USAGE,
	 "option 'readonly' in disks[1] of machine 'srv' makes sense with 'path' only", ""},
	{"'image': 'tiny', 'disks': [{'path': 'x', 'readonly': true, 'write': true}]", ERROR_USAGE,
	 "option 'write' in disks[1] of machine 'srv' contradicts 'readonly'", ""},
	{"'image': 'tiny', 'disks': ['1G', {'size': '1G', 'name': 'disk1'}]", ERROR_USAGE,
	 "option 'name' in disks[2] of machine 'srv' is 'disk1', and so is another disk's", ""},
	{"'image': 'tiny', 'disks': [{'size': '1G', 'name': 'root0'}]", ERROR_USAGE,
	 "option 'name' in disks[1] of machine 'srv' must not be 'root0', which is a disk of "
	 "Assay's own",
	 ""},
	{"'image': 'tiny', 'disks': [{'size': '1G', 'name': 'a,b'}]", ERROR_USAGE,
	 "option 'name' in disks[1] of machine 'srv' must be at most 20 letters, digits, '-' and "
	 "'_', not 'a,b'",
	 ""},
	/* files */
	{"'image': 'tiny', 'files': {'etc/motd': 'x'}", ERROR_USAGE,
	 "option 'files' of machine 'srv' has 'etc/motd', which is no absolute path of a file", ""},
	{"'image': 'tiny', 'files': {'/a': true}", ERROR_USAGE,
	 "option 'files' of machine 'srv' must be texts, or tables with 'from', not true", ""},
	{"'image': 'tiny', 'files': {'/a': {'form': 'x'}}", ERROR_USAGE,
	 "unknown option 'form' in files[\"/a\"] of machine 'srv'", "did you mean 'from'?"},
	{"'image': 'tiny', 'files': {'/a': {'from': 'x', 'text': 'y'}}", ERROR_USAGE,
	 "option 'from' in files[\"/a\"] of machine 'srv' cannot go with 'text'", ""},
	{"'image': 'tiny', 'files': {'/a': {'from': 'x', 'mode': '0888'}}", ERROR_USAGE,
	 "option 'mode' in files[\"/a\"] of machine 'srv' must be octal digits as for chmod, not "
	 "'0888'",
	 ""},
	{"'image': 'tiny', 'login': {'password': 'x'}", ERROR_USAGE,
	 "option 'user' in login of machine 'srv' is missing", ""},
	/* not built */
	{"'image': 'tiny', 'networks': ['lan']", ERROR_UNSUPPORTED,
	 "option 'networks' of machine 'srv' is not built yet",
	 "it is in the specification; this version of Assay does not have it"},
	{"'image': 'tiny', 'internet': true", ERROR_UNSUPPORTED,
	 "option 'internet' of machine 'srv' is not built yet",
	 "it is in the specification; this version of Assay does not have it"},
	{"'image': 'tiny', 'share': {'a': '/b'}", ERROR_UNSUPPORTED,
	 "option 'share' of machine 'srv' is not built yet",
	 "it is in the specification; this version of Assay does not have it"},
	{"'ssh': {'host': 'x'}", ERROR_UNSUPPORTED,
	 "option 'ssh' of machine 'srv' is not built yet",
	 "it is in the specification; this version of Assay does not have it"},
	{"'image': './d.raw', 'firmware': 'uefi'", ERROR_UNSUPPORTED,
	 "option 'firmware' = \"uefi\" of machine 'srv' is not built yet",
	 "it is in the specification; this version of Assay does not have it"},
	{"'image': 'tiny', 'clock': 'template'", ERROR_UNSUPPORTED,
	 "option 'clock' = \"template\" of machine 'srv' is not built yet",
	 "it is in the specification; this version of Assay does not have it"},
	{"'image': 'tiny', 'arch': 'riscv64'", ERROR_UNSUPPORTED,
	 "option 'arch' = \"riscv64\" of machine 'srv' is not built yet",
	 "it is in the specification; this version of Assay does not have it"},
};

static void each_message(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(golden); i++) {
		bool named = str_starts(golden[i].options, "'name'");
		char *text = xasprintf("{%s%s%s}", named ? "" : "'name': 'srv'",
				       named || !*golden[i].options ? "" : ", ", golden[i].options);
		json_t *json = parse_json(text);
		struct machine_spec *s = NULL;
		struct error err = {};

		if (machine_spec_parse(json, &s, &err) >= 0)
			fail_msg("%s was accepted", text);
		assert_string_equal(err.message, golden[i].message);
		assert_string_equal(err.hint, golden[i].hint);
		assert_int_equal(err.kind, golden[i].kind);
		assert_null(s);
		json_decref(json);
		free(text);
	}
}

/* The table says what the parser takes, and the other way round. */
static void the_table_and_the_parser_agree(void **state)
{
	size_t n = 0;

	for (const struct option_desc *o = machine_options; o->name; o++, n++) {
		char *text = xasprintf("{'name': 'a', 'image': 'tiny', '%s': null}", o->name);
		json_t *json = parse_json(text);
		struct machine_spec *s = NULL;
		struct error err = {};

		assert_true(*o->type && *o->doc);
		assert_false(str_ends(o->doc, "."));
		/* nil is no value for most; but none is unknown. */
		if (machine_spec_parse(json, &s, &err) < 0)
			assert_null(strstr(err.message, "unknown option"));
		machine_spec_free(s);
		json_decref(json);
		free(text);
	}
	assert_int_equal(n, 31);
}

static void an_image_with_what_is_put_into_it(void **state)
{
	struct machine_spec *s =
		parse("{'name': 'a', 'image': 'debian-13', 'packages': ['nginx'],"
		      "'files': {'/etc/motd': 'hi', '/srv': {'from': 'www', 'mode': '0755'}}}");
	struct machine_recipe r;

	assert_true(machine_image_spec(s, "/tests", &r));
	assert_string_equal(r.spec.from, "debian-13");
	assert_string_equal(r.spec.packages[0], "nginx");
	assert_int_equal(r.spec.n_files, 2);
	assert_string_equal(r.spec.files[0].path, "/etc/motd");
	assert_int_equal(r.spec.files[0].len, 2);
	assert_null(r.spec.files[0].from);
	assert_string_equal(r.spec.files[1].from, "/tests/www");
	assert_int_equal(r.spec.files[1].mode, 0755);
	machine_recipe_done(&r);
	machine_spec_free(s);

	s = parse("{'name': 'a', 'image': '../d.qcow2'}");
	assert_true(machine_image_spec(s, "/tests/sub", &r));
	assert_string_equal(r.spec.from, "/tests/d.qcow2");
	machine_recipe_done(&r);
	machine_spec_free(s);

	s = parse("{'name': 'a', 'kernel': 'k'}");
	assert_false(machine_image_spec(s, "/tests", &r));
	machine_recipe_done(&r);
	machine_spec_free(s);
}

static void capabilities_by_name(void **state)
{
	unsigned all = 0;

	for (const char *const *n = machine_cap_names(); *n; n++) {
		assert_true(machine_cap_from_name(*n) != 0);
		all |= machine_cap_from_name(*n);
	}
	assert_int_equal(all, (MACHINE_CAP_KVM << 1) - 1);
	assert_int_equal(machine_cap_from_name("flying"), 0);
}

static void backends_by_name(void **state)
{
	struct error err = {};
	unsigned caps = 0;

	assert_int_equal(backend_caps("fake", &caps, NULL), 0);
	assert_true(caps & MACHINE_CAP_AGENT);
	assert_true(caps & MACHINE_CAP_SNAPSHOT);
	assert_false(caps & MACHINE_CAP_KVM);
	assert_int_equal(backend_available("fake", NULL), 0);
	assert_string_equal(backend_names()[0], "fake");
	assert_true(backend_caps("fke", &caps, &err) < 0);
	assert_string_equal(err.message, "there is no backend 'fke'");
	assert_string_equal(err.hint, "did you mean 'fake'?");
}

static void the_fake_script_is_checked(void **state)
{
	struct machine_spec *s = parse("{'name': 'a', 'backend': 'fake', 'fake': {'exce': {}}}");
	struct machine_env env = {};
	struct machine *m = NULL;
	struct error err = {};

	assert_true(machine_new(s, &env, &m, &err) < 0);
	assert_string_equal(err.message, "machine 'a': unknown option 'exce' in fake");
	assert_string_equal(err.hint, "did you mean 'exec'?");
	machine_spec_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_defaults),
		cmocka_unit_test(every_option),
		cmocka_unit_test(a_disk_of_ones_own_boots_by_bios),
		cmocka_unit_test(each_message),
		cmocka_unit_test(the_table_and_the_parser_agree),
		cmocka_unit_test(an_image_with_what_is_put_into_it),
		cmocka_unit_test(capabilities_by_name),
		cmocka_unit_test(backends_by_name),
		cmocka_unit_test(the_fake_script_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
