#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs packages that lie in a directory of the host into a tree.
#   debian-install.sh ROOT DIR DEB...
# No network and no mirror here: all was fetched (and verified) by the host's apt before.
set -eu
root=$1 dir=$2
shift 2

mkdir -p "$root/assay-debs"
mount --bind "$dir" "$root/assay-debs"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
	: >"$root/dev/$node"
	mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir -p "$root/dev/pts" "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"

# Services are enabled as Debian does it, but nothing starts inside the build.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"

n=$#
while [ "$n" -gt 0 ]; do
	set -- "$@" "/assay-debs/$1"
	shift
	n=$((n - 1))
done
status=0
chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
	DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true \
	apt-get -q -y -o Dpkg::Use-Pty=false -o Dpkg::Options::=--force-unsafe-io \
	-o Dpkg::Options::=--force-confnew -o APT::Install-Recommends=false \
	-o APT::Sandbox::User=root -o Acquire::Languages=none \
	-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=/dev/null \
	--allow-downgrades install "$@" || status=$?

rm -f "$root/usr/sbin/policy-rc.d"
# The other mounts end with the namespace.
umount "$root/assay-debs"
rmdir "$root/assay-debs"
exit "$status"
