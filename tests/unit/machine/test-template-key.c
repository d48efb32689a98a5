/* SPDX-License-Identifier: MIT */
/* A booted machine's key: what changes it, what does not, what has none. */
#include "template-test.h"

#include "machine/backend.h"
#include "machine/recipe.h"

/* What the stub's hypervisor says of itself. */
static const char *hypervisor = "version 7.2";

static unsigned all_caps(void)
{
	return MACHINE_CAP_AGENT | MACHINE_CAP_SNAPSHOT;
}

static unsigned no_caps(void)
{
	return MACHINE_CAP_AGENT;
}

static int save(struct vm *vm, bool keep, struct saved **ret, struct error *err)
{
	return error_set(err, ERROR_BUG, ENOSYS, "not in this test");
}

static int state_key(const struct vm_init *init, const struct image *image, struct buf *ret,
		     struct error *err)
{
	buf_printf(ret, "%s\n", hypervisor);
	return 0;
}

static const struct backend_ops stub = {
	.name = "fake",
	.flags = BACKEND_NEEDS_IMAGE,
	.caps = all_caps,
	.save = save,
	.state_key = state_key,
};
static const struct backend_ops poor = {.name = "qemu", .caps = no_caps};
const struct backend_ops *const backend_registry[] = {&stub, &poor, NULL};

/* options: JSON with ' for ". */
static int key_of(const char *options, char ret[DIGEST_HEX_MAX], struct error *err)
{
	_cleanup_free_ char *text = xasprintf("{'name': 'web', %s}", options);
	const struct machine_env env = {.base_dir = cache_dir};
	struct machine_spec *spec;
	json_t *json;
	int r;

	for (char *c = text; *c; c++)
		if (*c == '\'')
			*c = '"';
	json = json_loads(text, 0, NULL);
	check(json && machine_spec_parse(json, &spec, NULL) == 0);
	r = template_boot_key(spec, &env, ret, err);
	machine_spec_free(spec);
	json_decref(json);
	return r;
}

static void assert_same(const char *a, const char *b, bool same)
{
	char x[DIGEST_HEX_MAX], y[DIGEST_HEX_MAX];

	assert_int_equal(key_of(a, x, NULL), 0);
	assert_int_equal(key_of(b, y, NULL), 0);
	assert_int_equal(strlen(x), 64);
	assert_int_equal(str_eq(x, y), same);
}

#define FAKE "'backend': 'fake'"

static void the_definition_counts(void **state)
{
	assert_same(FAKE, FAKE, true);
	assert_same(FAKE ", 'cpus': 2, 'memory': '1G'", "'memory': '1G', 'cpus': 2, " FAKE, true);
	assert_same(FAKE ", 'cpus': 2", FAKE ", 'cpus': 1", false);
	assert_same(FAKE ", 'env': {'A': '1'}", FAKE ", 'env': {'A': '2'}", false);
	assert_same(FAKE, FAKE ", 'autostart': false", true);
}

static void the_hypervisor_counts(void **state)
{
	char before[DIGEST_HEX_MAX], after[DIGEST_HEX_MAX];

	assert_int_equal(key_of(FAKE, before, NULL), 0);
	hypervisor = "version 10.0";
	assert_int_equal(key_of(FAKE, after, NULL), 0);
	assert_string_not_equal(before, after);
	hypervisor = "version 7.2";
	assert_int_equal(key_of(FAKE, after, NULL), 0);
	assert_string_equal(before, after);
}

static void write_disk(const char *name)
{
	_cleanup_free_ char *path = path_join(cache_dir, name), *data = xcalloc(1, 4096);

	check(file_write_atomic(path, data, 4096, 0644, NULL) == 0);
}

/* The same text under the same name, but another file: guests that have read the old one know. */
static void files_count_by_identity(void **state)
{
	static const char *const options[] = {
		FAKE ", 'image': './disk.img'",
		FAKE ", 'disks': [{'path': 'disk.img'}]",
		FAKE ", 'kernel': 'disk.img'",
	};
	char before[DIGEST_HEX_MAX], after[DIGEST_HEX_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		write_disk("disk.img");
		assert_int_equal(key_of(options[i], before, NULL), 0);
		assert_int_equal(key_of(options[i], after, NULL), 0);
		assert_string_equal(before, after);
		write_disk("disk.img");
		assert_int_equal(key_of(options[i], after, NULL), 0);
		assert_string_not_equal(before, after);
	}
}

/* A version 2 header and the name of what it lies on. */
static void write_qcow2(const char *name, const char *base)
{
	_cleanup_free_ char *path = path_join(cache_dir, name), *data = xcalloc(1, 4096);

	memcpy(data, "QFI\xfb\0\0\0\2\0\0\0\0\0\0\0\x48\0\0\0", 19);
	data[19] = (char)strlen(base);
	memcpy(data + 0x48, base, strlen(base));
	check(file_write_atomic(path, data, 4096, 0644, NULL) == 0);
}

/* What disks lie on is a part of them. */
static void backing_files_count_too(void **state)
{
	const char *options = FAKE ", 'disks': [{'path': 'top.qcow2'}]";
	char before[DIGEST_HEX_MAX], after[DIGEST_HEX_MAX];
	struct error err = {};

	write_qcow2("top.qcow2", "middle.qcow2");
	write_qcow2("middle.qcow2", "disk.img");
	write_disk("disk.img");
	assert_int_equal(key_of(options, before, NULL), 0);
	assert_int_equal(key_of(options, after, NULL), 0);
	assert_string_equal(before, after);
	write_disk("disk.img");
	assert_int_equal(key_of(options, after, NULL), 0);
	assert_string_not_equal(before, after);
	write_qcow2("middle.qcow2", "top.qcow2");
	assert_int_equal(key_of(options, after, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.message, "more than 64 disks lie below '"));
	error_clear(&err);
	write_qcow2("middle.qcow2", "nbd:host:10809");
	assert_int_equal(key_of(options, after, &err), -EOPNOTSUPP);
	assert_true(str_starts(err.message, "nobody can tell whether 'nbd:host:10809' has "));
}

static void import(const char *name)
{
	_cleanup_free_ char *path = path_join(cache_dir, "disk.img");
	struct error err = {};

	write_disk("disk.img");
	if (image_store_import_disk(name, path, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		abort();
	}
}

/* An image that was removed and made anew has the same digest, and is another. */
FIBER_TEST(images_count_by_identity_too)
{
	char before[DIGEST_HEX_MAX], after[DIGEST_HEX_MAX];
	struct image_info info = {};
	char digest[DIGEST_HEX_MAX];

	import("mine");
	check(key_of(FAKE ", 'image': 'mine'", before, NULL) == 0);
	check(key_of(FAKE ", 'image': 'mine'", after, NULL) == 0);
	check_str(before, after);
	check(image_store_show("mine", &info, NULL) == 0);
	snprintf(digest, sizeof(digest), "%s", info.digest);
	image_info_done(&info);
	check(image_store_remove("mine", NULL, NULL) == 0);
	import("mine");
	check(image_store_show("mine", &info, NULL) == 0);
	check_str(info.digest, digest);
	image_info_done(&info);
	check(key_of(FAKE ", 'image': 'mine'", after, NULL) == 0);
	check(!str_eq(before, after));
}

static void what_is_missing_is_an_error(void **state)
{
	char key[DIGEST_HEX_MAX];
	struct error err = {};

	assert_int_equal(key_of(FAKE ", 'image': './none.img'", key, &err), -ENOENT);
	error_clear(&err);
	assert_int_equal(key_of(FAKE ", 'disks': [{'path': 'none.img'}]", key, &err), -ENOENT);
	assert_true(str_starts(err.message, "cannot look at '"));
	assert_int_equal(err.kind, ERROR_INFRA);
	error_clear(&err);
	assert_int_equal(key_of(FAKE ", 'image': 'tiny'", key, &err), -ENOENT);
	assert_string_equal(err.message, "image 'tiny' is not built yet");
}

static void what_cannot_be_saved_says_why(void **state)
{
	static const struct {
		const char *options, *message;
	} cases[] = {
		{"'backend': 'qemu', 'image': 'tiny'", "backend 'qemu' cannot save machines"},
		{FAKE ", 'agent': false",
		 "machine 'web' has no agent to prepare it for being saved"},
		{FAKE ", 'disks': [{'name': 'data', 'path': 'disk.img', "
		      "'write': true}]",
		 "what machine 'web' writes to its disk 'data' stays"},
		{FAKE ", 'disks': [{'path': '/dev/zero'}]",
		 "nobody can tell whether '/dev/zero', which is no file, has changed"},
	};

	write_disk("disk.img");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char key[DIGEST_HEX_MAX];
		struct error err = {};

		assert_int_equal(key_of(cases[i].options, key, &err), -EOPNOTSUPP);
		assert_int_equal(err.kind, ERROR_UNSUPPORTED);
		assert_string_equal(err.message, cases[i].message);
	}
}

int main(void)
{
#define CLEAN(t) cmocka_unit_test_setup_teardown(t, make_dirs, remove_dirs)
	const struct CMUnitTest tests[] = {
		CLEAN(the_definition_counts),	      CLEAN(the_hypervisor_counts),
		CLEAN(files_count_by_identity),	      CLEAN(what_is_missing_is_an_error),
		CLEAN(what_cannot_be_saved_says_why), CLEAN(images_count_by_identity_too),
		CLEAN(backing_files_count_too),
	};

	return cmocka_run_group_tests_name("template-key", tests, NULL, NULL);
}
