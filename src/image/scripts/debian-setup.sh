#!/bin/sh
# SPDX-License-Identifier: MIT
# Turns a fresh mmdebstrap tree into our base system. Runs as root of the build's namespace.
#   debian-setup.sh ROOT KERNEL SOURCES
# ROOT: the tree; KERNEL: the unpacked kernel package (its modules uncompressed); SOURCES: what
# becomes /etc/apt/sources.list.
#
# The system stays an honest one: udev, dbus, journald, logind and every package's own units run.
# Preset is only what a first boot would do once and then never again.
set -eu
root=$1 kernel=$2 sources=$3

in_root() {
	chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C SYSTEMD_OFFLINE=1 \
		SYSTEMD_IGNORE_CHROOT=0 "$@"
}

# The host's proxies and credentials served the build; they are no business of the guest.
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/apt/auth.conf"
rm -rf "$root/etc/apt/auth.conf.d" "$root/etc/apt/sources.list.d"
mkdir -p "$root/etc/apt/auth.conf.d" "$root/etc/apt/sources.list.d"
cp "$sources" "$root/etc/apt/sources.list"
rm -f "$root/etc/resolv.conf"
printf '127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
printf 'localhost\n' >"$root/etc/hostname"
# Root and the scratch disk are mounted before init runs.
: >"$root/etc/fstab"

# Usr-merged since Debian 12: /lib is a link.
modules=$kernel/usr/lib/modules
[ -d "$modules" ] || modules=$kernel/lib/modules
cp -a "$modules" "$root/usr/lib/"
for release in "$root"/usr/lib/modules/*; do
	in_root depmod "${release##*/}"
done

# Root logs in on the console without a password (PAM's nullok; no sshd accepts that).
in_root passwd -q -d root

# A preset id: else systemd takes this for a first boot and makes all units anew. A machine's own
# comes from the kernel command line (systemd.machine_id=).
printf '61737361790000000000000000000001\n' >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
ln -s /etc/machine-id "$root/var/lib/dbus/machine-id" 2>/dev/null || :

# These generators look for things that a machine of ours cannot have: partitions of a GPT root
# disk, a hibernation image, a boot counter. Each costs a fork and exec at every boot.
mkdir -p "$root/etc/systemd/system-generators"
for generator in gpt-auto hibernate-resume bless-boot; do
	ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done

# Modules that systemd loads ahead, in case: the kernel loads them itself when they are asked for
# (a mount of configfs or fuse, a graphics card, EFI variables). Each is a fork and exec.
for module in configfs drm efi_pstore fuse; do
	ln -s /dev/null "$root/etc/systemd/system/modprobe@$module.service"
done
