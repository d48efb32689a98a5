#!/bin/sh
# SPDX-License-Identifier: MIT
# A finished tree becomes the read-only root, and what images are derived from: an archive, and
# dpkg's list of what is installed (empty where there is no dpkg).
#   pack.sh ROOT EROFS ARCHIVE STATUS
set -eu
root=$1 erofs=$2 archive=$3 status=$4

cat "$root/var/lib/dpkg/status" >"$status" 2>/dev/null || :

tar -I 'zstd -1 -T0 -q' --numeric-owner --xattrs --xattrs-include='*' -C "$root" -cf "$archive" . &
tar_pid=$!
mkfs.erofs -zlz4 --quiet "$erofs" "$root"
wait "$tar_pid"
rm -rf "$root"
