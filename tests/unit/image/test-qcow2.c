/* SPDX-License-Identifier: MIT */
/* Empty qcow2 disks: the exact bytes, their limits; formats by magic. */
#include "image-test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "image/image.h"

static int new_file(void)
{
	char path[] = "/tmp/assay-qcow2-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

/* A header of 1 GiB, field by field from docs/interop/qcow2.txt. */
static const unsigned char GOLDEN[112] = {
	'Q', 'F', 'I', 0xfb, 0,	   0, 0, 3,		  /* magic, version */
	0,   0,	  0,   0,    0,	   0, 0, 0,   0, 0, 0, 0, /* backing file: offset, size */
	0,   0,	  0,   16,				  /* cluster bits */
	0,   0,	  0,   0,    0x40, 0, 0, 0,		  /* size */
	0,   0,	  0,   0,    0,	   0, 0, 2,		  /* encryption, L1 entries */
	0,   0,	  0,   0,    0,	   3, 0, 0,		  /* L1 table */
	0,   0,	  0,   0,    0,	   1, 0, 0,   0, 0, 0, 1, /* refcount table, its clusters */
	0,   0,	  0,   0,    0,	   0, 0, 0,   0, 0, 0, 0, /* snapshots */
	0,   0,	  0,   0,    0,	   0, 0, 0,		  /* incompatible */
	0,   0,	  0,   0,    0,	   0, 0, 0,		  /* compatible */
	0,   0,	  0,   0,    0,	   0, 0, 0,		  /* autoclear */
	0,   0,	  0,   4,    0,	   0, 0, 104,		  /* refcount order, header length */
	0,   0,	  0,   0,    0,	   0, 0, 0,		  /* end of extensions */
};

static void header_is_exact(void **state)
{
	_cleanup_close_ int fd = new_file();
	unsigned char got[sizeof(GOLDEN)], table[8], counts[10];
	struct stat st;

	assert_int_equal(qcow2_write_empty(fd, 1 * GIB, NULL), 0);
	assert_int_equal(pread(fd, got, sizeof(got), 0), sizeof(got));
	assert_memory_equal(got, GOLDEN, sizeof(GOLDEN));
	assert_int_equal(pread(fd, table, 8, 65536), 8);
	assert_memory_equal(table, "\0\0\0\0\0\2\0\0", 8);
	assert_int_equal(pread(fd, counts, 10, 2 * 65536), 10);
	assert_memory_equal(counts, "\0\1\0\1\0\1\0\1\0\0", 10);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 4 * 65536);
	assert_true(st.st_blocks * 512 <= 4 * 4096);
}

static void size_is_read_back(void **state)
{
	static const uint64_t SIZES[] = {512, 1000, 8 * GIB, 3 * 1024 * GIB, 2048 * 1024 * GIB};

	for (size_t i = 0; i < ARRAY_SIZE(SIZES); i++) {
		_cleanup_close_ int fd = new_file();
		uint64_t got = 0;

		assert_int_equal(qcow2_write_empty(fd, SIZES[i], NULL), 0);
		assert_int_equal(qcow2_virtual_size(fd, &got, NULL), 0);
		assert_int_equal(got, (SIZES[i] + 511) / 512 * 512);
	}
}

/* The judge, where it is installed. */
static void qemu_img_finds_no_error(void **state)
{
	char path[] = "/tmp/assay-qcow2-XXXXXX", command[128];
	_cleanup_close_ int fd = mkstemp(path);
	int status;

	assert_true(fd >= 0);
	assert_int_equal(qcow2_write_empty(fd, 8 * GIB, NULL), 0);
	(void)snprintf(command, sizeof(command), "qemu-img check -q -f qcow2 %s", path);
	status = system("command -v qemu-img >/dev/null") == 0 ? system(command) : -1;
	unlink(path);
	if (status == -1)
		skip();
	assert_int_equal(status, 0);
}

static void impossible_sizes_are_refused(void **state)
{
	_cleanup_close_ int fd = new_file();
	struct error err = {};

	assert_int_equal(qcow2_write_empty(fd, UINT64_MAX, &err), -EFBIG);
	assert_int_equal(err.kind, ERROR_USAGE);
	error_clear(&err);
	assert_int_equal(qcow2_write_empty(fd, 4096 * 1024 * GIB, &err), -EFBIG);
}

static void other_files_are_no_qcow2(void **state)
{
	_cleanup_close_ int fd = new_file();
	struct error err = {};
	uint64_t size;

	assert_int_equal(qcow2_virtual_size(fd, &size, &err), -EINVAL);
	assert_string_equal(err.message, "not a qcow2 disk");
	error_clear(&err);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(qcow2_virtual_size(fd, &size, &err), -EINVAL);
}

static void formats_are_told_by_magic(void **state)
{
	char head[512] = {};

	assert_string_equal(disk_format_probe(head, sizeof(head)), "raw");
	assert_string_equal(disk_format_probe(GOLDEN, sizeof(GOLDEN)), "qcow2");
	assert_string_equal(disk_format_probe("QFI", 3), "raw");
	assert_string_equal(disk_format_probe("KDMV", 4), "vmdk");
	assert_string_equal(disk_format_probe("vhdxfile", 8), "vhdx");
	memcpy(head + 64, "\x7f\x10\xda\xbe", 4);
	assert_string_equal(disk_format_probe(head, sizeof(head)), "vdi");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_is_exact),
		cmocka_unit_test(size_is_read_back),
		cmocka_unit_test(qemu_img_finds_no_error),
		cmocka_unit_test(impossible_sizes_are_refused),
		cmocka_unit_test(other_files_are_no_qcow2),
		cmocka_unit_test(formats_are_told_by_magic),
	};

	return cmocka_run_group_tests_name("image-qcow2", tests, NULL, NULL);
}
