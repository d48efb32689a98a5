/* SPDX-License-Identifier: MIT */
/* Import, list, show, export, remove, prune. */
#include "image-test.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "../loop/fiber-test.h"
#include "image/image.h"

static char *make_disk(const char *name, uint64_t size, char fill)
{
	char *path = path_join(test_dir, name);
	char block[4096];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	check(fd >= 0);
	memset(block, fill, sizeof(block));
	if (fill)
		check(pwrite(fd, block, sizeof(block), 0) == sizeof(block) &&
		      ftruncate(fd, (off_t)size) == 0);
	else
		check(qcow2_write_empty(fd, size, NULL) == 0);
	close(fd);
	return path;
}

FIBER_TEST(disks_are_imported_and_found)
{
	_cleanup_free_ char *raw = make_disk("a.img", MIB, 'x');
	_cleanup_free_ char *qcow2 = make_disk("b.qcow2", GIB, 0);
	_cleanup_image_ struct image *image = NULL;
	struct image_spec spec = {.from = "mine"};
	struct image_info *infos = NULL;
	size_t n = 0;

	check(image_store_import_disk("mine", qcow2, NULL) == 0);
	check(image_store_import_disk("other", raw, NULL) == 0);
	check(image_name_is_known("mine"));
	check(image_store_list(&infos, &n, NULL) == 0);
	check(n == 2);
	check_str(infos[0].name, "mine");
	check(infos[0].kind == IMAGE_DISK);
	check(infos[0].is_current);
	image_infos_free(infos, n);
	check(image_find(&spec, &image, NULL) == 0);
	check_str(image_disk_format(image), "qcow2");
	check(image_disk_size(image) == GIB);
	check(path_exists(image_disk(image)));
	image = image_unref(image);
	spec.from = "other";
	check(image_ensure(&spec, NULL, &image, NULL) == 0);
	check_str(image_disk_format(image), "raw");
	check(image_disk_size(image) == MIB);
}

FIBER_TEST(what_cannot_be_imported_is_refused)
{
	_cleanup_free_ char *raw = make_disk("a.img", MIB, 'x');
	_cleanup_free_ char *vmdk = write_file("c.vmdk", "KDMV");
	struct error err = {};

	check(truncate(vmdk, 4096) == 0);
	check(image_store_import_disk("tiny", raw, &err) == -EEXIST);
	error_clear(&err);
	check(image_store_import_disk("a/b", raw, &err) == -EINVAL);
	error_clear(&err);
	check(image_store_import_disk("x", "/no/such", &err) == -ENOENT);
	error_clear(&err);
	check(image_store_import_disk("x", vmdk, &err) == -EOPNOTSUPP);
	check(strstr(err.message, "vmdk") != NULL);
	check(strstr(err.hint, "qemu-img convert") != NULL);
	check(!image_name_is_known("x"));
}

FIBER_TEST(show_export_and_remove)
{
	_cleanup_free_ char *dest = path_join(test_dir, "out.qcow2"), *json = NULL;
	struct image_info info = {};
	struct error err = {};
	size_t removed = 0;

	check(image_store_show("mine", &info, NULL) == 0);
	check(info.bytes > 0 && info.created > 0 && info.used > 0);
	image_info_done(&info);
	check(image_store_manifest("mine", &json, NULL) == 0);
	check(strstr(json, "\"kind\": \"disk\"") != NULL);
	check(image_store_export("mine", dest, NULL) == 0);
	check(path_exists(dest));
	check(image_store_export("mine", dest, &err) == -EEXIST);
	error_clear(&err);
	check(image_store_remove("mine", &removed, NULL) == 0);
	check(removed == 1);
	check(!image_name_is_known("mine"));
	check(image_store_remove("mine", &removed, &err) == -ENOENT);
	error_clear(&err);
	check(image_store_show("tiny", &info, &err) == -ENOENT);
	check_str(err.message, "image 'tiny' is not built yet");
}

FIBER_TEST(what_is_in_use_stays)
{
	_cleanup_image_ struct image *image = NULL;
	const struct image_spec spec = {.from = "other"};
	struct error err = {};
	uint64_t freed = 1;

	check(image_find(&spec, &image, NULL) == 0);
	check(image_store_remove("other", NULL, &err) == -EBUSY);
	check(err.kind == ERROR_USAGE);
	check(image_store_prune(0, &freed, NULL) == 0);
	check(path_exists(image_disk(image)));
	image = image_unref(image);
	check(image_store_prune(UINT64_MAX, &freed, NULL) == 0);
	check(image_name_is_known("other"));
	check(image_store_prune(0, &freed, NULL) == 0);
	check(freed > 0);
	check(!image_name_is_known("other"));
}

FIBER_TEST(the_least_recently_used_goes_first)
{
	_cleanup_free_ char *a = make_disk("a.img", MIB, 'a'), *b = make_disk("b.img", MIB, 'b');
	const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	_cleanup_free_ char *used = NULL;
	struct image_info info = {};
	uint64_t now = 0, freed = 0;

	check(image_store_import_disk("first", a, NULL) == 0);
	check(image_store_import_disk("second", b, NULL) == 0);
	check(image_store_show("second", &info, NULL) == 0);
	used = path_join(info.dir, "used");
	check(utimensat(AT_FDCWD, used, old, 0) == 0);
	image_info_done(&info);
	check(image_store_usage(&now, NULL) == 0);
	check(image_store_prune(now - 1, &freed, NULL) == 0);
	check(freed > 0);
	check(image_name_is_known("first"));
	check(!image_name_is_known("second"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(disks_are_imported_and_found),
		cmocka_unit_test(what_cannot_be_imported_is_refused),
		cmocka_unit_test(show_export_and_remove),
		cmocka_unit_test(what_is_in_use_stays),
		cmocka_unit_test(the_least_recently_used_goes_first),
	};

	return cmocka_run_group_tests_name("image-store-ops", tests, make_store, remove_store);
}
