/* SPDX-License-Identifier: MIT */
/* Finds the compressed kernel inside a Linux bzImage. Pure. */
#pragma once

#include "base/error.h"
#include "base/util.h"

struct bzimage {
	size_t payload_offset; /* in the file */
	size_t payload_len;    /* of the compressed stream, without the size behind it */
	uint32_t vmlinux_len;  /* uncompressed; 0 if the format does not tell */
	const char *tool;      /* program that decompresses it: "xz", "zstd", "gzip", …; static */
	/* Its arguments: "-dc" and what else is needed; NULL-terminated, static. */
	const char *const *tool_args;
};

/* -EINVAL/USAGE with the reason if it is no bzImage, or packed in a way that we do not know. */
int bzimage_parse(const void *data, size_t len, struct bzimage *ret, struct error *err);
