/* SPDX-License-Identifier: MIT */
/* Digests: stable where nothing of the image changes, different where something does. */
#include "image-test.h"

#include <sys/stat.h>
#include <utime.h>

#include "image/internal.h"

static char *digest_of(const struct image_spec *spec)
{
	char *digest = xcalloc(1, DIGEST_HEX_MAX);
	struct error err = {};

	if (image_spec_digest(spec, digest, &err) < 0)
		fail_msg("%s", err.message);
	return digest;
}

static void check_same(const struct image_spec *a, const struct image_spec *b, bool same)
{
	_cleanup_free_ char *x = digest_of(a), *y = digest_of(b);

	assert_int_equal(strcmp(x, y) == 0, same);
}

static void order_and_name_do_not_matter(void **state)
{
	char *const ab[] = {"nginx", "curl", NULL}, *const ba[] = {"curl", "nginx", "curl", NULL};
	const struct image_spec x = {.from = "debian-13", .packages = ab};
	const struct image_spec y = {.from = "debian-13", .packages = ba, .name = "web"};

	check_same(&x, &y, true);
}

static void mirror_does_not_matter(void **state)
{
	const struct image_spec x = {.from = "debian-13"};
	_cleanup_free_ char *before = digest_of(&x), *after = NULL;

	setenv("ASSAY_DEBIAN_MIRROR", "http://elsewhere/debian", 1);
	after = digest_of(&x);
	unsetenv("ASSAY_DEBIAN_MIRROR");
	assert_string_equal(before, after);
}

static void every_part_matters(void **state)
{
	char *const nginx[] = {"nginx", NULL}, *const both[] = {"nginx", "curl", NULL};
	const struct image_file text = {.path = "/a", .data = "x", .len = 1};
	const struct image_file other = {.path = "/a", .data = "y", .len = 1};
	const struct image_file mode = {.path = "/a", .data = "x", .len = 1, .mode = 0600};
	const struct image_file owner = {.path = "/a", .data = "x", .len = 1, .owner = "nobody"};
	const struct image_file moved = {.path = "/b", .data = "x", .len = 1};
	const struct image_spec specs[] = {
		{.from = "tiny"},
		{.from = "debian-12"},
		{.from = "debian-13"},
		{.from = "debian-13", .packages = nginx},
		{.from = "debian-13", .packages = both},
		{.from = "debian-12", .packages = nginx},
		{.from = "debian-13", .files = &text, .n_files = 1},
		{.from = "debian-13", .files = &other, .n_files = 1},
		{.from = "debian-13", .files = &mode, .n_files = 1},
		{.from = "debian-13", .files = &owner, .n_files = 1},
		{.from = "debian-13", .files = &moved, .n_files = 1},
		{.from = "debian-13", .run = "true"},
		{.from = "debian-13", .run = "false"},
		{.from = "debian-13", .size_bytes = GIB},
	};

	for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
		for (size_t k = 0; k < ARRAY_SIZE(specs); k++)
			check_same(&specs[i], &specs[k], i == k);
}

static void host_files_count_by_content(void **state)
{
	_cleanup_free_ char *path = write_file("motd", "hello");
	const struct image_file file = {.path = "/etc/motd", .from = path};
	const struct image_spec spec = {.from = "debian-13", .files = &file, .n_files = 1};
	_cleanup_free_ char *first = digest_of(&spec), *touched = NULL, *changed = NULL;
	const struct utimbuf old = {1000, 1000};

	assert_int_equal(utime(path, &old), 0);
	touched = digest_of(&spec);
	assert_string_equal(first, touched);
	free(write_file("motd", "hullo"));
	changed = digest_of(&spec);
	assert_string_not_equal(first, changed);
}

static void host_trees_count_with_names_and_modes(void **state)
{
	_cleanup_free_ char *dir = path_join(test_dir, "tree"), *file = NULL;
	const struct image_file tree = {.path = "/srv", .from = dir};
	const struct image_spec spec = {.from = "tiny", .files = &tree, .n_files = 1};
	_cleanup_free_ char *one = NULL, *two = NULL, *three = NULL;

	assert_int_equal(path_make_dirs(dir, 0755, NULL), 0);
	file = write_file("tree/a", "1");
	one = digest_of(&spec);
	assert_int_equal(chmod(file, 0755), 0);
	two = digest_of(&spec);
	assert_string_not_equal(one, two);
	free(write_file("tree/b", ""));
	three = digest_of(&spec);
	assert_string_not_equal(two, three);
}

static void check_refused(const struct image_spec *spec, int code, const char *message)
{
	struct error err = {};

	assert_int_equal(image_spec_check(spec, &err), -code);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_string_equal(err.message, message);
}

static void wrong_specs_are_refused(void **state)
{
	char *const bad[] = {"-o", NULL}, *const fine[] = {"nginx", NULL};
	const struct image_file relative = {.path = "etc/motd", .data = ""};
	const struct image_file upwards = {.path = "/etc/../../x", .data = ""};
	const struct image_file nothing = {.path = "/x"};
	struct image_spec spec = {.from = "debian-13", .packages = bad};

	check_refused(&spec, EINVAL, "'-o' is not a package's name");
	spec = (struct image_spec){.from = "tiny", .packages = fine};
	check_refused(&spec, EINVAL,
		      "the image 'tiny' has no packages: 'nginx' cannot be installed");
	spec = (struct image_spec){.from = "tiny", .files = &relative, .n_files = 1};
	check_refused(&spec, EINVAL, "files: the path 'etc/motd' is not absolute");
	spec.files = &upwards;
	check_refused(&spec, EINVAL, "files: the path '/etc/../../x' contains '..'");
	spec.files = &nothing;
	check_refused(&spec, EINVAL, "files: '/x' wants either a text or a host file");
	spec = (struct image_spec){.from = "tiny", .size_bytes = 100};
	check_refused(&spec, EINVAL, "an image's size of 100 bytes is too small (64 MiB at least)");
	spec = (struct image_spec){.from = "./no-such.qcow2"};
	check_refused(&spec, ENOENT,
		      "cannot read the disk './no-such.qcow2': "
		      "No such file or directory");
}

static void unknown_names_have_a_hint(void **state)
{
	const struct image_spec spec = {.from = "debain-13"};
	struct error err = {};

	assert_int_equal(image_spec_check(&spec, &err), -ENOENT);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_string_equal(err.message, "image 'debain-13' does not exist");
	assert_string_equal(err.hint, "did you mean 'debian-13'? Known images: tiny, debian-12, "
				      "debian-13");
}

static void directories_have_readable_names(void **state)
{
	char *const packages[] = {"nginx", "curl", NULL};
	struct image_spec spec = {.from = "debian-13", .packages = packages, .run = "x"};
	_cleanup_free_ char *made = spec_dir_name(&spec), *own = NULL;

	assert_string_equal(made, "debian-13+curl+nginx+run");
	spec.name = "my web/../x";
	own = spec_dir_name(&spec);
	assert_string_equal(own, "my_web_.._x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_and_name_do_not_matter),
		cmocka_unit_test(mirror_does_not_matter),
		cmocka_unit_test(every_part_matters),
		cmocka_unit_test(host_files_count_by_content),
		cmocka_unit_test(host_trees_count_with_names_and_modes),
		cmocka_unit_test(wrong_specs_are_refused),
		cmocka_unit_test(unknown_names_have_a_hint),
		cmocka_unit_test(directories_have_readable_names),
	};

	return cmocka_run_group_tests_name("image-recipe", tests, make_store, remove_store);
}
