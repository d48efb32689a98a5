/* SPDX-License-Identifier: MIT */
/* Logging for developers: off by default, `ASSAY_DEBUG=1` or `-v` sends it to stderr. What a user
 * must see is an event or an error, never a log line. */
#pragma once

#include "base/util.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set_level(enum log_level level);
enum log_level log_get_level(void);
void log_message(enum log_level level, const char *file, int line, const char *fmt, ...)
	_printf_(4, 5);
#define log_debug(...) log_message(LOG_LEVEL_DEBUG, __FILE__, __LINE__, __VA_ARGS__)
#define log_warn(...)  log_message(LOG_LEVEL_WARN, __FILE__, __LINE__, __VA_ARGS__)
