/* SPDX-License-Identifier: MIT */
/* Manifests: written, read back, damaged. */
#include "image-test.h"

#include "image/internal.h"

#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void what_is_written_is_read(void **state)
{
	_cleanup_manifest_ struct manifest m = {
		.name = xstrdup("web"),
		.digest = xstrdup(DIGEST),
		.kind = IMAGE_LAYERED,
		.from = xstrdup("debian-13"),
		.base_digest = xstrdup(DIGEST),
		.kernel_release = xstrdup("6.12"),
		.init = xstrdup("systemd"),
		.disk_bytes = 8 * GIB,
		.created = 1700000000,
	};
	_cleanup_manifest_ struct manifest got = {};

	strv_push(&m.packages, "curl");
	strv_push(&m.packages, "nginx");
	assert_int_equal(manifest_write(&m, test_dir, NULL), 0);
	assert_int_equal(manifest_read(test_dir, &got, NULL), 0);
	assert_string_equal(got.name, "web");
	assert_string_equal(got.digest, DIGEST);
	assert_int_equal(got.kind, IMAGE_LAYERED);
	assert_string_equal(got.from, "debian-13");
	assert_string_equal(got.packages[1], "nginx");
	assert_int_equal(got.disk_bytes, 8 * GIB);
	assert_int_equal(got.created, 1700000000);
	assert_null(got.disk_format);
	assert_false(got.imported);
	assert_true(manifest_last_used(test_dir) > 1700000000);
}

static void damaged_ones_are_refused(void **state)
{
	static const char *const TEXTS[] = {
		"",
		"{",
		"[]",
		"{\"version\": 99, \"kind\": \"layered\"}",
		"{\"version\": 1, \"kind\": \"layered\", \"name\": \"x\", \"digest\": \"short\"}",
		"{\"version\": 1, \"kind\": \"what\", \"name\": \"x\", \"digest\": \"" DIGEST "\"}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(TEXTS); i++) {
		_cleanup_manifest_ struct manifest m = {};
		struct error err = {};

		free(write_file("manifest.json", TEXTS[i]));
		assert_int_equal(manifest_read(test_dir, &m, &err), -EINVAL);
		assert_non_null(strstr(err.message, "damaged"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(damaged_ones_are_refused),
	};

	return cmocka_run_group_tests_name("image-manifest", tests, make_store, remove_store);
}
