/* SPDX-License-Identifier: MIT */
/* Writes empty qcow2 disks without an exec, and tells disk formats apart by their magic. */
#include "image/image.h"

#include <endian.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"

/*
 * An empty qcow2 is four things, each at the start of a cluster of its own:
 *
 *	cluster 0	header (version 3, 104 bytes) and the end mark of the header extensions
 *	cluster 1	refcount table: one entry, pointing to
 *	cluster 2	the refcount block: 1 for each cluster in use
 *	cluster 3…	L1 table, all zero: nothing is allocated, reads go to the backing node
 *
 * The file names no backing file: every machine gets its block graph by explicit nodes
 * (`-blockdev driver=qcow2,…,backing=<node>`), so that an image can be moved, and a descriptor
 * can be passed. Source: docs/interop/qcow2.txt in the QEMU tree.
 */
#define QCOW2_MAGIC   0x514649fbU
#define CLUSTER_BITS  16
#define CLUSTER_BYTES (1ULL << CLUSTER_BITS)
/* One L1 entry leads to an L2 table of one cluster, whose 8-byte entries each map a cluster. */
#define L1_ENTRY_COVERS (CLUSTER_BYTES / 8 * CLUSTER_BYTES)
/* QEMU refuses an L1 table above 32 MiB (block/qcow2.h, QCOW_MAX_L1_SIZE). */
#define L1_ENTRIES_MAX (32 * MIB / 8)

/* docs/interop/qcow2.txt in QEMU's sources */
#define QCOW2_NAME_MAX 1023

struct qcow2_header {
	uint32_t magic;
	uint32_t version;
	uint64_t backing_file_offset;
	uint32_t backing_file_size;
	uint32_t cluster_bits;
	uint64_t size;
	uint32_t crypt_method;
	uint32_t l1_size;
	uint64_t l1_table_offset;
	uint64_t refcount_table_offset;
	uint32_t refcount_table_clusters;
	uint32_t nb_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible_features;
	uint64_t compatible_features;
	uint64_t autoclear_features;
	uint32_t refcount_order;
	uint32_t header_length;
	uint32_t extension_type; /* 0: no extensions follow */
	uint32_t extension_length;
} __attribute__((packed));

_Static_assert(offsetof(struct qcow2_header, extension_type) == 104, "qcow2 v3 header");

static int write_at(int fd, const void *data, size_t len, off_t offset, struct error *err)
{
	ssize_t n = pwrite(fd, data, len, offset);

	if (n < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write a disk's header");
	if ((size_t)n != len)
		return error_set_errno(err, ERROR_INFRA, ENOSPC, "cannot write a disk's header");
	return 0;
}

int qcow2_write_empty(int fd, uint64_t virtual_size, struct error *err)
{
	uint64_t size = (virtual_size + 511) & ~511ULL;
	uint64_t l1_entries = (size + L1_ENTRY_COVERS - 1) / L1_ENTRY_COVERS;
	uint64_t l1_clusters = MAX((l1_entries * 8 + CLUSTER_BYTES - 1) / CLUSTER_BYTES, 1ULL);
	size_t n_clusters = 3 + l1_clusters;
	int r;

	if (l1_entries > L1_ENTRIES_MAX || size < virtual_size)
		return error_set(err, ERROR_USAGE, EFBIG,
				 "a disk of %llu bytes is larger than a qcow2 can be",
				 (unsigned long long)virtual_size);

	struct qcow2_header header = {
		.magic = htobe32(QCOW2_MAGIC),
		.version = htobe32(3),
		.cluster_bits = htobe32(CLUSTER_BITS),
		.size = htobe64(size),
		.l1_size = htobe32((uint32_t)l1_entries),
		.l1_table_offset = htobe64(3 * CLUSTER_BYTES),
		.refcount_table_offset = htobe64(CLUSTER_BYTES),
		.refcount_table_clusters = htobe32(1),
		.refcount_order = htobe32(4), /* 16 bits each */
		.header_length = htobe32(offsetof(struct qcow2_header, extension_type)),
	};
	uint64_t refcount_block = htobe64(2 * CLUSTER_BYTES);
	uint16_t refcounts[3 + L1_ENTRIES_MAX * 8 / CLUSTER_BYTES];

	for (size_t i = 0; i < n_clusters; i++)
		refcounts[i] = htobe16(1);
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)(n_clusters * CLUSTER_BYTES)) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot size a disk's file");
	r = write_at(fd, &header, sizeof(header), 0, err);
	if (r >= 0)
		r = write_at(fd, &refcount_block, sizeof(refcount_block), CLUSTER_BYTES, err);
	if (r >= 0)
		r = write_at(fd, refcounts, n_clusters * sizeof(refcounts[0]), 2 * CLUSTER_BYTES,
			     err);
	return r;
}

int qcow2_virtual_size(int fd, uint64_t *ret, struct error *err)
{
	struct qcow2_header header = {};
	ssize_t n = pread(fd, &header, sizeof(header), 0);

	if (n < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot read a disk's header");
	if ((size_t)n < offsetof(struct qcow2_header, crypt_method) ||
	    be32toh(header.magic) != QCOW2_MAGIC)
		return error_set(err, ERROR_USAGE, EINVAL, "not a qcow2 disk");
	*ret = be64toh(header.size);
	return 0;
}

int qcow2_backing_file(int fd, char **ret, struct error *err)
{
	struct qcow2_header header = {};
	uint64_t offset;
	uint32_t size;
	ssize_t n = pread(fd, &header, sizeof(header), 0);

	*ret = NULL;
	if (n < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot read a disk's header");
	offset = be64toh(header.backing_file_offset);
	size = be32toh(header.backing_file_size);
	if ((size_t)n < offsetof(struct qcow2_header, crypt_method) ||
	    be32toh(header.magic) != QCOW2_MAGIC || offset == 0)
		return 0;
	if (offset > INT64_MAX || size == 0 || size > QCOW2_NAME_MAX)
		return error_set(err, ERROR_USAGE, EINVAL, "a qcow2 disk with a damaged header");
	*ret = xcalloc(size + 1, 1);
	if (pread(fd, *ret, size, (off_t)offset) == (ssize_t)size)
		return 0;
	free(TAKE_PTR(*ret));
	return error_set(err, ERROR_USAGE, EINVAL, "a qcow2 disk that ends in its header");
}

const char *disk_format_probe(const void *head, size_t len)
{
	static const struct {
		const char *format, *magic;
		size_t offset, len;
	} table[] = {
		{"qcow2", "QFI\xfb", 0, 4},	    {"vmdk", "KDMV", 0, 4},
		{"vhdx", "vhdxfile", 0, 8},	    {"vpc", "conectix", 0, 8},
		{"vdi", "\x7f\x10\xda\xbe", 64, 4}, {"vmdk", "# Disk DescriptorFile", 0, 21},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (len >= table[i].offset + table[i].len &&
		    memcmp((const char *)head + table[i].offset, table[i].magic, table[i].len) == 0)
			return table[i].format;
	return "raw";
}
