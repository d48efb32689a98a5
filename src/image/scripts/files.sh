#!/bin/sh
# SPDX-License-Identifier: MIT
# Puts files and trees into a root. All paths are resolved inside a chroot: an absolute link
# there (/var/run) must never lead to a file of the host.
#   files.sh ROOT (SOURCE PATH MODE OWNER)...
# MODE is octal, or "-" for the source's own.
set -eu
root=$1
shift

in_root() {
	chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"
}

while [ $# -ge 4 ]; do
	source=$1 path=$2 mode=$3 owner=$4
	shift 4
	in_root mkdir -p "$(dirname "$path")"
	if [ -d "$source" ]; then
		in_root mkdir -p "$path"
		tar -C "$source" --numeric-owner --owner=0 --group=0 -cf - . |
			in_root tar -C "$path" -xpf -
	else
		# shellcheck disable=SC2016 # expanded inside
		in_root sh -c 'rm -f "$1" && cat >"$1"' sh "$path" <"$source"
		[ "$mode" != - ] || mode=$(stat -c %a "$source")
	fi
	[ "$owner" = - ] || in_root chown -R "$owner" "$path"
	[ "$mode" = - ] || in_root chmod "$mode" "$path"
done
