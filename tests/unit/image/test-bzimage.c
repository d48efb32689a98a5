/* SPDX-License-Identifier: MIT */
/* Finding the payload in synthetic bzImages. */
#include "image-test.h"

#include "image/bzimage.h"

#define SETUP_SECTS 3
#define PAYLOAD	    ((SETUP_SECTS + 1) * 512 + 64)
#define PAYLOAD_LEN 100

static void put32(unsigned char *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (unsigned char)(v >> (8 * i));
}

static void make(unsigned char image[4096], const char *magic, size_t magic_len)
{
	memset(image, 0, 4096);
	image[0x1f1] = SETUP_SECTS;
	memcpy(image + 0x202, "HdrS", 4);
	image[0x206] = 0x0f; /* 2.15 */
	image[0x207] = 0x02;
	put32(image + 0x248, 64);
	put32(image + 0x24c, PAYLOAD_LEN);
	memcpy(image + PAYLOAD, magic, magic_len);
	put32(image + PAYLOAD + PAYLOAD_LEN - 4, 123456);
}

static void payloads_are_found(void **state)
{
	static const struct {
		const char *magic;
		size_t len;
		const char *tool;
	} cases[] = {
		{"\x28\xb5\x2f\xfd", 4, "zstd"}, {"\xfd\x37\x7a\x58\x5a\x00", 6, "xz"},
		{"\x1f\x8b\x08", 3, "gzip"},	 {"\x5d\x00\x00", 3, "xz"},
		{"\x02\x21\x4c\x18", 4, "lz4"},
	};
	unsigned char image[4096];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bzimage bz = {};

		make(image, cases[i].magic, cases[i].len);
		assert_int_equal(bzimage_parse(image, sizeof(image), &bz, NULL), 0);
		assert_int_equal(bz.payload_offset, PAYLOAD);
		assert_int_equal(bz.payload_len, PAYLOAD_LEN - 4);
		assert_int_equal(bz.vmlinux_len, 123456);
		assert_string_equal(bz.tool, cases[i].tool);
		assert_non_null(bz.tool_args[0]);
	}
}

static void no_setup_sectors_mean_four(void **state)
{
	unsigned char image[4096];
	struct bzimage bz = {};

	make(image, "", 0);
	image[0x1f1] = 0;
	memcpy(image + 5 * 512 + 64, "\x1f\x8b", 2);
	assert_int_equal(bzimage_parse(image, sizeof(image), &bz, NULL), 0);
	assert_int_equal(bz.payload_offset, 5 * 512 + 64);
}

static void check_refused(const unsigned char *image, size_t len, const char *part)
{
	struct error err = {};
	struct bzimage bz;

	assert_int_equal(bzimage_parse(image, len, &bz, &err), -EINVAL);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_non_null(strstr(err.message, part));
}

static void rubbish_is_refused(void **state)
{
	unsigned char image[4096] = {};

	check_refused(image, sizeof(image), "not a Linux kernel");
	check_refused(image, 16, "not a Linux kernel");
	make(image, "\x28\xb5\x2f\xfd", 4);
	check_refused(image, PAYLOAD + 50, "truncated kernel");
	put32(image + 0x24c, 0xffffffff);
	check_refused(image, sizeof(image), "truncated kernel");
	put32(image + 0x24c, 3);
	check_refused(image, sizeof(image), "truncated kernel");
	make(image, "\x28\xb5\x2f\xfd", 4);
	put32(image + 0x248, 0xffffff00);
	check_refused(image, sizeof(image), "truncated kernel");
	make(image, "ABCD", 4);
	check_refused(image, sizeof(image), "unknown way");
	make(image, "\x28\xb5\x2f\xfd", 4);
	image[0x206] = 7;
	check_refused(image, sizeof(image), "too old");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(payloads_are_found),
		cmocka_unit_test(no_setup_sectors_mean_four),
		cmocka_unit_test(rubbish_is_refused),
	};

	return cmocka_run_group_tests_name("image-bzimage", tests, NULL, NULL);
}
