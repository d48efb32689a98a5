#!/bin/sh
# SPDX-License-Identifier: MIT
# The writable layer, empty: a sparse ext4 with what overlayfs wants.
#   scratch.sh FILE BYTES
set -eu
file=$1 bytes=$2

# The overlay's "/" has the owner and the permissions of upper.
mkdir -m 0755 scratch-tree scratch-tree/upper scratch-tree/work
truncate -s "$bytes" "$file"
# Lazy: all that mke2fs would write as zeros is a hole already.
mke2fs -q -t ext4 -m 0 -L scratch0 \
	-E lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0 -d scratch-tree "$file"
rm -rf scratch-tree
