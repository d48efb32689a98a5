/* SPDX-License-Identifier: MIT */
/* The speed of the host's time stamp counter. */
#include "backend/qemu/tsc.h"

#include <string.h>

#include "base/file.h"
#include "fiber-test.h"

static char dir[] = "/tmp/assay-test-XXXXXX";

static int make_dir(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	return setenv("XDG_RUNTIME_DIR", dir, 1);
}

static int remove_dir(void **state)
{
	return path_remove_tree(dir, NULL);
}

/* Two measurements of one counter. */
FIBER_TEST(measured_twice_it_is_the_same)
{
	_cleanup_free_ char *path = path_join(dir, "assay/tsc-khz");
	unsigned a = 0, b = 0;

	check(qemu_host_tsc_khz(&a, NULL) == 0);
	check(path_remove_tree(path, NULL) == 0);
	check(qemu_host_tsc_khz(&b, NULL) == 0);
	print_message("%u kHz, %u kHz\n", a, b);
	check((a == 0) == (b == 0));
	/* 1 part in 1000: wrong by far, were it not for a very busy host. */
	check(a <= b + b / 1000 && b <= a + a / 1000);
	check(a % 10 == 0);
}

FIBER_TEST(then_it_is_remembered)
{
	_cleanup_free_ char *path = path_join(dir, "assay/tsc-khz");
	_cleanup_buf_ struct buf text = {};
	unsigned khz = 0;

	check(qemu_host_tsc_khz(&khz, NULL) == 0);
	check(file_read(path, 256, &text, NULL) == 0);
	buf_truncate(&text, 36);
	buf_puts(&text, " 12345670\n");
	check(file_write_atomic(path, text.data, text.len, 0600, NULL) == 0);
	check(qemu_host_tsc_khz(&khz, NULL) == 0);
	check(khz == 12345670);
	/* But not beyond the boot. */
	text.data[3] = text.data[3] == '0' ? '1' : '0';
	check(file_write_atomic(path, text.data, text.len, 0600, NULL) == 0);
	check(qemu_host_tsc_khz(&khz, NULL) == 0);
	check(khz != 12345670);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(measured_twice_it_is_the_same),
		cmocka_unit_test(then_it_is_remembered),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
