/* SPDX-License-Identifier: MIT */
/* What the host says that it has, against what a page allocator could say. */
#include "base/host.h"

#include <sys/sysinfo.h>

#include "base/util.h"
#include "unit-test.h"

static void memory_is_plausible(void **state)
{
	uint64_t total = host_memory_bytes(), available = host_memory_available_bytes();
	struct sysinfo info;

	assert_int_equal(sysinfo(&info), 0);
	assert_true(total > 64 * MIB && total <= (uint64_t)info.totalram * info.mem_unit);
	assert_true(available > 0 && available <= total);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_plausible),
	};

	return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}
