/* SPDX-License-Identifier: MIT */
/* Runs a harness over the files of its corpus, without a fuzzer: for compilers that have none. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int main(int argc, char **argv)
{
	size_t n = 0;
	struct dirent *e;
	DIR *d;

	if (argc != 2 || !(d = opendir(argv[1]))) {
		fprintf(stderr, "usage: replay DIRECTORY (with files in it)\n");
		return 2;
	}
	while ((e = readdir(d))) {
		_cleanup_free_ char *path = xasprintf("%s/%s", argv[1], e->d_name);
		_cleanup_buf_ struct buf b = {};

		if (e->d_name[0] == '.')
			continue;
		if (buf_read_file(&b, path, 16 * MIB) < 0) {
			fprintf(stderr, "cannot read '%s'\n", path);
			return 1;
		}
		fprintf(stderr, "%s\n", path);
		(void)LLVMFuzzerTestOneInput((const uint8_t *)buf_str(&b), b.len);
		n++;
	}
	closedir(d);
	/* An empty corpus would pass for ever. */
	return n > 0 ? 0 : 1;
}
