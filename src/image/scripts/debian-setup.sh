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

# Below: processes that find nothing to do in any machine of ours. Each is a fork and exec or two at
# every boot, which under emulation is a tenth of a second.
units=$root/etc/systemd/system
mkdir -p "$units"

# Generators for what a machine of ours cannot have: partitions of a GPT root disk, a hibernation
# image, a boot counter, a TPM; and sshd on a vsock.
mkdir -p "$root/etc/systemd/system-generators"
for generator in gpt-auto hibernate-resume bless-boot tpm2 ssh; do
	ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done

# Modules that systemd loads ahead, in case: the kernel loads them itself when they are asked for
# (a mount of configfs or fuse, a graphics card, EFI variables).
for module in configfs drm efi_pstore fuse; do
	ln -s /dev/null "$units/modprobe@$module.service"
done

# Modules that udev loads because of the CPU: ciphers and checksums of which the kernel has plain
# versions, and clock speeds that only the host can set. Loaded as ever by who names them.
mkdir -p "$root/usr/lib/modprobe.d"
for module in aesni_intel ghash_clmulni_intel polyval_clmulni sha1_ssse3 sha256_ssse3 sha512_ssse3 \
	crct10dif_pclmul crc32_pclmul powernow_k8 acpi_cpufreq; do
	printf 'blacklist %s\n' "$module"
done >"$root/usr/lib/modprobe.d/assay.conf"

# Nodes by which modules are loaded on demand: the kernel is this one, so is their list.
for list in "$root"/usr/lib/modules/*/modules.devname; do
	while read -r _ node device; do
		case $node in */*) printf 'd /dev/%s 0755 - - -\n' "${node%/*}" ;; esac
		case $device in
		[bc][0-9]*) printf '%.1s! /dev/%s 0600 - - - %s\n' "$device" "$node" "${device#?}" ;;
		esac
	done <"$list"
done >"$root/usr/lib/tmpfiles.d/static-nodes.conf"
ln -s /dev/null "$units/kmod-static-nodes.service"

# systemd-tmpfiles-setup-dev makes the same nodes, in time for all but sysusers. The root has no
# other mount options than it was mounted with. Entropy comes from virtio-rng.
for unit in systemd-tmpfiles-setup-dev-early systemd-remount-fs systemd-random-seed; do
	ln -s /dev/null "$units/$unit.service"
done

drop_in() { # UNIT; its text comes on stdin
	mkdir -p "$units/$1.d"
	cat >"$units/$1.d/50-assay.conf"
}
# Only where there are credentials.
drop_in systemd-udev-load-credentials.service <<'EOF'
[Unit]
ConditionDirectoryNotEmpty=/run/credentials/@system
EOF
# Only where there are modules to load. Debian's /etc/modules is asked for by itself, and its link
# lies where no condition sees it.
: >"$root/etc/modules"
rm -f "$root/etc/modules-load.d/modules.conf"
mkdir -p "$root/usr/local/lib/modules-load.d"
ln -s /etc/modules "$root/usr/local/lib/modules-load.d/modules.conf"
drop_in systemd-modules-load.service <<'EOF'
[Unit]
ConditionCapability=
ConditionCapability=CAP_SYS_MODULE
ConditionFileNotEmpty=|/etc/modules
ConditionDirectoryNotEmpty=|/etc/modules-load.d
ConditionDirectoryNotEmpty=|/run/modules-load.d
ConditionDirectoryNotEmpty=|/usr/lib/modules-load.d
ConditionKernelCommandLine=|modules-load
ConditionKernelCommandLine=|modules_load
EOF
