/* SPDX-License-Identifier: MIT */
/* Finds the compressed kernel inside a Linux bzImage. */
#include "image/bzimage.h"

#include <string.h>

/*
 * QEMU boots an uncompressed vmlinux directly (PVH note) and so saves the guest the work of
 * decompressing itself, which is 0.7 s under TCG. The kernel's build puts the stream, followed by
 * the uncompressed size as a little-endian number, into the protected-mode part; since boot
 * protocol 2.08 the setup header says where. Source: Documentation/arch/x86/boot.rst, fields
 * setup_sects (0x1f1), header (0x202), version (0x206), payload_offset (0x248), payload_length.
 */
#define SETUP_SECTS    0x1f1
#define HEADER_MAGIC   0x202
#define VERSION	       0x206
#define PAYLOAD_OFFSET 0x248
#define PAYLOAD_LENGTH 0x24c
#define HEADER_END     0x250

static const char *const ARGS_PLAIN[] = {"-dc", NULL};
/* The kernel is packed with a window of up to 128 MiB, more than zstd unpacks unasked. */
static const char *const ARGS_ZSTD[] = {"-dcq", "--long=31", NULL};
static const char *const ARGS_LZMA[] = {"-dc", "--format=lzma", NULL};

static const struct codec {
	const char *magic;
	size_t magic_len;
	const char *tool;
	const char *const *args;
} CODECS[] = {
	{"\x1f\x8b", 2, "gzip", ARGS_PLAIN},
	{"\xfd\x37\x7a\x58\x5a\x00", 6, "xz", ARGS_PLAIN},
	{"\x28\xb5\x2f\xfd", 4, "zstd", ARGS_ZSTD},
	{"BZh", 3, "bzip2", ARGS_PLAIN},
	{"\x02\x21\x4c\x18", 4, "lz4", ARGS_PLAIN},
	{"\x5d\x00\x00", 3, "xz", ARGS_LZMA},
	{"\x89LZO\x00", 5, "lzop", ARGS_PLAIN},
};

static uint32_t le32(const unsigned char *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int bzimage_parse(const void *data, size_t len, struct bzimage *ret, struct error *err)
{
	const unsigned char *p = data;
	size_t setup_sects, offset, payload;

	if (len < HEADER_END || memcmp(p + HEADER_MAGIC, "HdrS", 4) != 0)
		return error_set(err, ERROR_USAGE, EINVAL, "not a Linux kernel (bzImage)");
	if (p[VERSION] + 256 * p[VERSION + 1] < 0x0208)
		return error_set(err, ERROR_USAGE, EINVAL,
				 "kernel with boot protocol %u.%02u is too old (2.08 wanted)",
				 p[VERSION + 1], p[VERSION]);
	/* 0 means 4, for the sake of kernels older than we take. */
	setup_sects = p[SETUP_SECTS] ? p[SETUP_SECTS] : 4;
	offset = (setup_sects + 1) * 512 + le32(p + PAYLOAD_OFFSET);
	payload = le32(p + PAYLOAD_LENGTH);
	if (payload < 16 || offset > len || payload > len - offset)
		return error_set(err, ERROR_USAGE, EINVAL,
				 "truncated kernel: the payload ends at %zu, the file at %zu",
				 offset + payload, len);
	for (size_t i = 0; i < ARRAY_SIZE(CODECS); i++) {
		const struct codec *codec = &CODECS[i];

		if (memcmp(p + offset, codec->magic, codec->magic_len) != 0)
			continue;
		*ret = (struct bzimage){
			.payload_offset = offset,
			.payload_len = payload - 4,
			.vmlinux_len = le32(p + offset + payload - 4),
			.tool = codec->tool,
			.tool_args = codec->args,
		};
		return 0;
	}
	return error_set(err, ERROR_USAGE, EINVAL,
			 "kernel is compressed in an unknown way (starts with %02x%02x%02x%02x)",
			 p[offset], p[offset + 1], p[offset + 2], p[offset + 3]);
}
