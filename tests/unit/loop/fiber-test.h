/* SPDX-License-Identifier: MIT */
/* Tests whose body is a fiber; checks that may fail there. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "loop/loop.h"

/* cmocka's own assertions leave by longjmp, which must not cross stacks: in fibers use this one. */
#define check(expr)                                                                                \
	do {                                                                                       \
		if (!(expr)) {                                                                     \
			fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #expr);   \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#define check_str(got, wanted)                                                                     \
	do {                                                                                       \
		const char *got_ = (got), *wanted_ = (wanted);                                     \
		if (strcmp(got_, wanted_) != 0) {                                                  \
			fprintf(stderr, "%s:%d: got '%s', wanted '%s'\n", __FILE__, __LINE__,      \
				got_, wanted_);                                                    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* A cmocka test that runs the block behind it as the main fiber of a loop of its own. */
#define FIBER_TEST(name)                                                                           \
	static void body_##name(void);                                                             \
	static int fiber_##name(void *userdata)                                                    \
	{                                                                                          \
		body_##name();                                                                     \
		return 17;                                                                         \
	}                                                                                          \
	static void name(void **state)                                                             \
	{                                                                                          \
		assert_int_equal(loop_main(#name, fiber_##name, NULL), 17);                        \
	}                                                                                          \
	static void body_##name(void)
