#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs a user's script as root inside a tree: bash where there is one.
#   run.sh ROOT SCRIPT
set -eu
root=$1 script=$2

mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
	: >"$root/dev/$node"
	mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir -p "$root/dev/pts" "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
cp "$script" "$root/tmp/run"

shell='sh -eu'
[ ! -x "$root/bin/bash" ] || shell='bash -euo pipefail'
# shellcheck disable=SC2086 # two words
chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive $shell /tmp/run
