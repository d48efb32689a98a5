/* SPDX-License-Identifier: MIT */
/* What every test of src/base includes: cmocka and the headers that it wants before it. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* Compares a malloc'd string and frees it. */
#define assert_taken_string(got, wanted)                                                           \
	do {                                                                                       \
		char *got_ = (got);                                                                \
		assert_string_equal(got_, wanted);                                                 \
		free(got_);                                                                        \
	} while (0)
