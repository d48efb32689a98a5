/* SPDX-License-Identifier: MIT */
/* Small macros that every file uses: clean-up attributes, ownership transfer, units. */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f)   __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _noreturn_     __attribute__((noreturn))
#define _unused_       __attribute__((unused))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))

/* Times are uint64_t nanoseconds of CLOCK_MONOTONIC unless a name says otherwise. */
#define NS_PER_US  1000ULL
#define NS_PER_MS  1000000ULL
#define NS_PER_SEC 1000000000ULL
#define NS_FOREVER UINT64_MAX

#define KIB 1024ULL
#define MIB (1024ULL * KIB)
#define GIB (1024ULL * MIB)

/* Gives the value away and leaves the variable harmless for its clean-up. */
#define TAKE_PTR(p)                                                                                \
	({                                                                                         \
		__typeof__(p) take_ptr_value_ = (p);                                               \
		(p) = NULL;                                                                        \
		take_ptr_value_;                                                                   \
	})
#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int take_fd_value_ = (fd);                                                         \
		(fd) = -EBADF;                                                                     \
		take_fd_value_;                                                                    \
	})

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}
#define _cleanup_free_ _cleanup_(cleanup_free)

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define _cleanup_close_ _cleanup_(cleanup_close)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
