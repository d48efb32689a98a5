/* SPDX-License-Identifier: MIT */
/* Measures the host's time stamp counter against its clock. */
#include "backend/qemu/tsc.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "loop/fiber.h"

/* Reading both takes 0.1 us, so this long gives 4 parts in a million; a quartz is off by 20. */
#define MEASURE_NS (50 * NS_PER_MS)
/* Of several readings of both the one that took the shortest time is the most exact. */
#define READINGS  16
#define ROUND_KHZ 10
#define PLAUSIBLE 100000 /* kHz; what is slower is no TSC of a processor with long mode */

#ifdef __x86_64__

struct reading {
	uint64_t ticks, ns;
};

static uint64_t raw_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static struct reading take_reading(void)
{
	struct reading best = {};
	uint64_t best_span = UINT64_MAX;

	for (int i = 0; i < READINGS; i++) {
		uint64_t before = raw_ns();
		uint64_t ticks = __builtin_ia32_rdtsc();
		uint64_t after = raw_ns();

		if (after - before < best_span) {
			best_span = after - before;
			best = (struct reading){ticks, before + best_span / 2};
		}
	}
	return best;
}

static int measure(unsigned *ret, struct error *err)
{
	struct reading a = take_reading(), b;
	double khz;
	int r;

	r = fiber_sleep(MEASURE_NS, err);
	if (r < 0)
		return r;
	b = take_reading();
	khz = (double)(b.ticks - a.ticks) / ((double)(b.ns - a.ns) / 1e6);
	*ret = (unsigned)(khz / ROUND_KHZ + 0.5) * ROUND_KHZ;
	return 0;
}

#else

static int measure(unsigned *ret, struct error *err)
{
	*ret = 0;
	return 0;
}

#endif

/* "<boot id> <kHz>" */
static char *cache_path(void)
{
	_cleanup_free_ char *dir = NULL;

	if (path_runtime_dir(&dir, NULL) < 0)
		return NULL;
	return path_join(dir, "tsc-khz");
}

static bool read_boot_id(char ret[37])
{
	_cleanup_buf_ struct buf text = {};

	if (buf_read_file(&text, "/proc/sys/kernel/random/boot_id", 64) < 0 || text.len < 36)
		return false;
	memcpy(ret, text.data, 36);
	ret[36] = '\0';
	return true;
}

static bool cache_read(const char *path, const char *boot_id, unsigned *ret)
{
	_cleanup_buf_ struct buf text = {};

	return path && path_exists(path) && file_read(path, 256, &text, NULL) == 0 &&
	       str_starts(buf_str(&text), boot_id) &&
	       sscanf(text.data + strlen(boot_id), " %u", ret) == 1;
}

static void cache_write(const char *path, const char *boot_id, unsigned khz)
{
	_cleanup_free_ char *text = xasprintf("%s %u\n", boot_id, khz);

	if (path)
		(void)file_write_atomic(path, text, strlen(text), 0600, NULL); /* only a cache */
}

int qemu_host_tsc_khz(unsigned *ret, struct error *err)
{
	_cleanup_free_ char *path = cache_path();
	char boot_id[37] = "";
	bool known = read_boot_id(boot_id);
	int r;

	if (known && cache_read(path, boot_id, ret))
		return 0;
	r = measure(ret, err);
	if (r < 0)
		return r;
	if (*ret < PLAUSIBLE)
		*ret = 0;
	if (known)
		cache_write(path, boot_id, *ret);
	return 0;
}
