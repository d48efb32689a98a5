/* SPDX-License-Identifier: MIT */
/* Logging for developers, to stderr; silent unless asked for. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static enum log_level current_level = LOG_LEVEL_ERROR;
static bool level_is_set;

void log_set_level(enum log_level level)
{
	current_level = level;
	level_is_set = true;
}

enum log_level log_get_level(void)
{
	if (!level_is_set) {
		const char *env = getenv("ASSAY_DEBUG");

		if (env && *env && strcmp(env, "0") != 0)
			current_level = LOG_LEVEL_DEBUG;
		level_is_set = true;
	}
	return current_level;
}

void log_message(enum log_level level, const char *file, int line, const char *fmt, ...)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	int saved_errno = errno;
	struct timespec ts;
	char text[2048];
	const char *base;
	va_list ap;

	if (level > log_get_level())
		return;
	va_start(ap, fmt);
	errno = saved_errno; /* for %m */
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	base = strrchr(file, '/');
	base = base ? base + 1 : file;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	/* One call, so that the lines of several processes do not mix. */
	dprintf(STDERR_FILENO, "%5lld.%06ld assay[%d] %s: %s:%d: %s\n", (long long)ts.tv_sec,
		ts.tv_nsec / 1000, (int)getpid(), names[level], base, line, text);
	errno = saved_errno;
}
