/* SPDX-License-Identifier: MIT */
/* What the tests of src/image share: cmocka, and a store of their own in a temporary directory. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/str.h"

static char test_dir[64];

/* cmocka's setup: an empty store, found by $ASSAY_CACHE. */
static _unused_ int make_store(void **state)
{
	snprintf(test_dir, sizeof(test_dir), "/tmp/assay-image-XXXXXX");
	if (!mkdtemp(test_dir))
		return -1;
	return setenv("ASSAY_CACHE", test_dir, 1);
}

static _unused_ int remove_store(void **state)
{
	return path_remove_tree(test_dir, NULL);
}

static _unused_ char *write_file(const char *name, const char *text)
{
	char *path = path_join(test_dir, name);

	assert_int_equal(file_write_atomic(path, text, strlen(text), 0644, NULL), 0);
	return path;
}
