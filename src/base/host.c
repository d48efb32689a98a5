/* SPDX-License-Identifier: MIT */
/* What this host has. */
#include "base/host.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/util.h"

/* One line of /proc/meminfo; proc(5). */
static uint64_t meminfo(const char *field)
{
	_cleanup_buf_ struct buf b = {};
	unsigned long long kib;
	const char *line;

	if (buf_read_file(&b, "/proc/meminfo", 64 * KIB) < 0)
		return UINT64_MAX;
	line = strstr(buf_str(&b), field);
	if (!line || sscanf(line + strlen(field), ": %llu", &kib) != 1)
		return UINT64_MAX;
	return kib * KIB;
}

static uint64_t cgroup_limit(void)
{
	_cleanup_buf_ struct buf b = {};
	unsigned long long n;

	if (buf_read_file(&b, "/sys/fs/cgroup/memory.max", 64) < 0)
		return UINT64_MAX;
	return sscanf(buf_str(&b), "%llu", &n) == 1 ? n : UINT64_MAX;
}

uint64_t host_memory_bytes(void)
{
	uint64_t host = meminfo("MemTotal"), limit = cgroup_limit();

	return MIN(host, limit);
}

uint64_t host_memory_available_bytes(void)
{
	uint64_t host = meminfo("MemAvailable"), limit = cgroup_limit();

	return MIN(host, limit);
}
