#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the built-in images and a derived one into a store of their own and looks at the results;
# then what goes wrong: unknown package, two builders at once, kill -9, a full disk.
# Wants a Debian mirror; runs as root or as an ordinary user.
#   image.sh IMAGE-TOOL [IMAGE...]
set -eu

tool=$1
shift
[ $# -gt 0 ] || set -- tiny debian-13
dir=$(mktemp -d "${TMPDIR:-/tmp}/assay-image-vm-XXXXXX")
export ASSAY_CACHE="$dir/cache"
failed=0 passed=0

remove() {
	# Half-built trees of an ordinary user belong to ids that only his namespace can remove.
	rm -rf "$dir" 2>/dev/null || unshare --map-root-user --map-auto rm -rf "$dir"
}
trap remove EXIT

check() {
	name=$1
	shift
	if "$@" >"$dir/output" 2>&1; then
		passed=$((passed + 1))
		echo "ok - $name"
	else
		failed=$((failed + 1))
		echo "not ok - $name"
		sed 's/^/    /' "$dir/output"
	fi
}

no_rubbish() {
	[ "$(find "$ASSAY_CACHE/images" -maxdepth 1 -name 'tmp.*' | wc -l)" -eq 0 ]
}

# In a subshell: what the tool prints sets variables, "dir" among them.
part_sizes() (
	eval "$("$tool" "$1")"
	# shellcheck disable=SC2154 # set by the eval
	[ "$(stat -c %s "$scratch")" -eq 8589934592 ] && [ "$(stat -c %b "$scratch")" -lt 100000 ] &&
		[ "$(head -c 4 "$vmlinux" | tail -c 3)" = ELF ] && [ -s "$root" ] &&
		fsck.erofs "$root"
)

second_is_instant() {
	[ "$("$tool" "$1" 2>&1 >/dev/null | wc -l)" -eq 0 ]
}

for image in "$@"; do
	check "$image is built" "$tool" "$image"
	check "$image has its parts" part_sizes "$image"
	check "$image is not built twice" second_is_instant "$image"
done
check "nothing is left behind" no_rubbish

erofs_has() (
	eval "$1"
	# shellcheck disable=SC2154
	dump.erofs --path="$2" "$root" | grep -q 'File:\|Size:'
)

derived() {
	erofs_has "$("$tool" -f /etc/motd=hello -f /var/run/x=y -r 'echo built >/etc/built' tiny)" \
		/etc/built && [ ! -e /run/x ]
}
check "files and a script are added" derived

script_fails() {
	! "$tool" -r 'echo "no way" >&2; exit 7' tiny 2>"$dir/err" && cat "$dir/err" &&
		grep -q "the image's 'run' script: sh exited with status 7: no way" "$dir/err"
}
check "a failing script tells why" script_fails
check "a failing script leaves nothing" no_rubbish

unknown_package() {
	! "$tool" -p nginxx debian-13 2>"$dir/err" && cat "$dir/err" &&
		grep -q "usage: package 'nginxx' not found in debian-13: E: Unable to locate" "$dir/err"
}
case " $* " in
*" debian-13 "*)
	check "an unknown package is told by apt's words" unknown_package
	check "an unknown package leaves nothing" no_rubbish
	check "nginx is installed" "$tool" -p nginx debian-13
	;;
esac

# Starts the tool with arguments and returns when it announces a phase: its id is in $builder, what
# it says goes on coming by descriptor 3.
start_until() {
	phase=$1
	shift
	rm -f "$dir/fifo"
	mkfifo "$dir/fifo"
	"$tool" "$@" 2>"$dir/fifo" &
	builder=$!
	exec 3<"$dir/fifo"
	while read -r line <&3; do
		echo "$line"
		case $line in *"$phase"*) return ;; esac
	done
}

two_builders() {
	"$tool" -r 'sleep 1; echo x >/etc/two' tiny >"$dir/a" 2>"$dir/a.err" &
	first=$!
	"$tool" -r 'sleep 1; echo x >/etc/two' tiny >"$dir/b" 2>"$dir/b.err"
	wait "$first"
	# One of the two built, the other waited and said nothing.
	cmp "$dir/a" "$dir/b" && [ "$(cat "$dir/a.err" "$dir/b.err" | grep -c ' packing')" -eq 1 ]
}
check "two builders build once" two_builders

killed_builder() {
	start_until "running the image's script" -r 'sleep 100' tiny
	kill -9 "$builder"
	wait "$builder" 2>/dev/null || :
	"$tool" -r 'true' tiny
	no_rubbish
}
check "a killed builder's rubbish goes with the next build" killed_builder

full_disk() {
	mkdir "$dir/small"
	mount -t tmpfs -o size=140M tmpfs "$dir/small"
	mkdir -p "$dir/small/images"
	status=0
	ASSAY_CACHE="$dir/small" "$tool" tiny 2>"$dir/err" || status=$?
	cat "$dir/err"
	left=$(find "$dir/small/images" -mindepth 1 | wc -l)
	umount "$dir/small"
	grep -q '^infra: not enough space' "$dir/err" && grep -q 'assay cache prune' "$dir/err" &&
		[ "$left" -eq 0 ] && [ "$status" -eq 1 ]
}
# Enough for the check beforehand, too little for the build: something else eats it meanwhile.
filling_disk() {
	mount -t tmpfs -o size=340M tmpfs "$dir/small"
	store=$ASSAY_CACHE
	ASSAY_CACHE="$dir/small"
	start_until 'fetching the kernel' tiny
	ASSAY_CACHE=$store
	dd if=/dev/zero of="$dir/small/other" bs=1M count=330 2>/dev/null || :
	cat <&3 >"$dir/err"
	status=0
	wait "$builder" || status=$?
	cat "$dir/err"
	left=$(find "$dir/small/images" -mindepth 1 | wc -l)
	umount "$dir/small"
	grep -q '^infra: the disk became full' "$dir/err" && [ "$left" -eq 0 ] &&
		[ "$status" -eq 1 ]
}
if [ "$(id -u)" -eq 0 ]; then
	check "too small a disk is told beforehand" full_disk
	check "a disk that fills up is told, nothing stays" filling_disk
fi

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
