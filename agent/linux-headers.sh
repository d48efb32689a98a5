#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes a directory with the kernel's headers alone, for a compiler that must not see glibc's.
#
# usage: linux-headers.sh DIRECTORY MULTIARCH-TRIPLET
#
# musl-gcc looks into musl's own directory only. All of /usr/include behind it would work, too, until
# the day a header that musl lacks is found there.
set -eu
dir=$1
triplet=$2
mkdir -p "$dir"
for name in linux asm-generic asm; do
	for from in "/usr/include/$triplet/$name" "/usr/include/$name"; do
		if [ -d "$from" ]; then
			ln -sfn "$from" "$dir/$name"
			break
		fi
	done
	if [ ! -e "$dir/$name" ]; then
		echo "linux-headers.sh: no $name headers (package linux-libc-dev)" >&2
		exit 1
	fi
done
