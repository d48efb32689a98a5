/* SPDX-License-Identifier: MIT */
/* The archive writer, read back by a reader of its own. */
#include "image-test.h"

#include <sys/stat.h>

#include "image/cpio.h"

struct read_entry {
	unsigned long mode, nlink, mtime, size, rdev_major, rdev_minor;
	char name[64];
	const char *data;
};

static unsigned long field(const char *header, int i)
{
	char digits[9] = {};

	memcpy(digits, header + 6 + 8 * i, 8);
	return strtoul(digits, NULL, 16);
}

static size_t round4(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

/* Returns the offset behind the entry. */
static size_t read_entry(const struct buf *b, size_t at, struct read_entry *ret)
{
	const char *h = b->data + at;
	size_t name_size;

	assert_true(at + 110 <= b->len);
	assert_memory_equal(h, "070701", 6);
	name_size = field(h, 11);
	assert_true(name_size < sizeof(ret->name));
	*ret = (struct read_entry){
		.mode = field(h, 1),
		.nlink = field(h, 4),
		.mtime = field(h, 5),
		.size = field(h, 6),
		.rdev_major = field(h, 9),
		.rdev_minor = field(h, 10),
		.data = b->data + round4(at + 110 + name_size),
	};
	memcpy(ret->name, h + 110, name_size);
	return round4(round4(at + 110 + name_size) + ret->size);
}

static void entries_are_read_back(void **state)
{
	_cleanup_cpio_ struct cpio c = {};
	struct read_entry e;
	size_t at;

	cpio_add_dir(&c, "dev", 0755);
	cpio_add_chardev(&c, "dev/console", 0600, 5, 1);
	cpio_add_file(&c, "init", 0755, "12345", 5);
	cpio_add_symlink(&c, "link", "init");
	cpio_finish(&c);

	at = read_entry(&c.buf, 0, &e);
	assert_string_equal(e.name, "dev");
	assert_int_equal(e.mode, S_IFDIR | 0755);
	assert_int_equal(e.mtime, 0);
	at = read_entry(&c.buf, at, &e);
	assert_string_equal(e.name, "dev/console");
	assert_int_equal(e.mode, S_IFCHR | 0600);
	assert_int_equal(e.rdev_major, 5);
	assert_int_equal(e.rdev_minor, 1);
	at = read_entry(&c.buf, at, &e);
	assert_string_equal(e.name, "init");
	assert_int_equal(e.mode, S_IFREG | 0755);
	assert_int_equal(e.nlink, 1);
	assert_int_equal(e.size, 5);
	assert_memory_equal(e.data, "12345", 5);
	at = read_entry(&c.buf, at, &e);
	assert_int_equal(e.mode, S_IFLNK | 0777);
	assert_memory_equal(e.data, "init", 4);
	at = read_entry(&c.buf, at, &e);
	assert_string_equal(e.name, "TRAILER!!!");
	assert_true(at <= c.buf.len);
	assert_int_equal(c.buf.len % 512, 0);
}

static void same_content_same_bytes(void **state)
{
	_cleanup_cpio_ struct cpio a = {}, b = {};

	for (int i = 0; i < 2; i++) {
		struct cpio *c = i ? &a : &b;

		cpio_add_dir(c, "d", 0755);
		cpio_add_file(c, "d/f", 0644, "x", 1);
		cpio_finish(c);
	}
	assert_int_equal(a.buf.len, b.buf.len);
	assert_memory_equal(a.buf.data, b.buf.data, a.buf.len);
}

/* The kernel reads archives one behind the other. */
static void archives_can_follow_each_other(void **state)
{
	_cleanup_cpio_ struct cpio a = {}, b = {};
	struct read_entry e;
	size_t second;

	cpio_add_file(&a, "init", 0755, "abc", 3);
	cpio_finish(&a);
	second = a.buf.len;
	cpio_add_dir(&b, "assay", 0755);
	cpio_finish(&b);
	buf_append(&a.buf, b.buf.data, b.buf.len);
	read_entry(&a.buf, second, &e);
	assert_string_equal(e.name, "assay");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries_are_read_back),
		cmocka_unit_test(same_content_same_bytes),
		cmocka_unit_test(archives_can_follow_each_other),
	};

	return cmocka_run_group_tests_name("image-cpio", tests, NULL, NULL);
}
