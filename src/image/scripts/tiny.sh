#!/bin/sh
# SPDX-License-Identifier: MIT
# The tree of the image "tiny": busybox as init, a shell on the console, nothing else.
#   tiny.sh ROOT BUSYBOX KERNEL
set -eu
root=$1 busybox=$2 kernel=$3

mkdir -p "$root"
cd "$root"
mkdir -p bin dev etc/init.d lib proc root run sbin sys tmp usr/bin usr/sbin var/log var/tmp mnt home
chmod 1777 tmp var/tmp
chmod 0700 root
ln -s ../run var/run
cp "$busybox" bin/busybox
chmod 0755 bin/busybox
for applet in $(bin/busybox --list); do
	case $applet in
	busybox | linuxrc) ;;
	init | halt | poweroff | reboot | modprobe | insmod | rmmod | lsmod | depmod | getty | ifconfig | \
		ip | route | switch_root | sulogin | mdev | sysctl) ln -s ../bin/busybox "sbin/$applet" ;;
	env | awk | [ | [[ | test | id | tail | head | sort | find | xargs) ln -s ../../bin/busybox "usr/bin/$applet"
		ln -s busybox "bin/$applet" ;;
	*) ln -s busybox "bin/$applet" ;;
	esac
done

modules=$kernel/usr/lib/modules
[ -d "$modules" ] || modules=$kernel/lib/modules
cp -a "$modules" lib/
for release in lib/modules/*; do
	bin/busybox depmod -b "$root" "${release##*/}"
done

cat >etc/inittab <<'EOF'
::sysinit:/etc/init.d/rcS
console::respawn:/bin/cttyhack /bin/sh -l
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
EOF
cat >etc/init.d/rcS <<'EOF'
#!/bin/sh
# Whatever the initramfs has mounted already stays.
mount_once() {
	grep -q " $3 " /proc/mounts 2>/dev/null || mount -t "$1" -o "$4" "$2" "$3"
}
mount_once proc proc /proc nosuid,nodev,noexec
mount_once sysfs sysfs /sys nosuid,nodev,noexec
mount_once devtmpfs devtmpfs /dev mode=0755
mkdir -p /dev/pts /dev/shm
mount_once devpts devpts /dev/pts gid=5,mode=0620
mount_once tmpfs tmpfs /dev/shm mode=1777
mount_once tmpfs tmpfs /run mode=0755,nosuid,nodev
mount_once tmpfs tmpfs /tmp mode=1777
for word in $(cat /proc/cmdline); do
	case $word in
	systemd.hostname=*) hostname "${word#*=}" ;;
	esac
done
ip link set lo up
# The only device that devtmpfs does not bring by itself.
for device in /sys/bus/virtio/devices/*/device; do
	if [ "$(cat "$device" 2>/dev/null)" = 0x0001 ]; then
		modprobe virtio_net
		break
	fi
done
echo "assay: tiny is up"
EOF
chmod 0755 etc/init.d/rcS
cat >etc/passwd <<'EOF'
root::0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
EOF
cat >etc/group <<'EOF'
root:x:0:
tty:x:5:
nogroup:x:65534:
EOF
printf '127.0.0.1\tlocalhost\n::1\t\tlocalhost\n' >etc/hosts
printf 'localhost\n' >etc/hostname
# shellcheck disable=SC2016 # expanded at the prompt
printf 'export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nPS1='"'"'\\h:\\w\\$ '"'"'\n' >etc/profile
printf 'NAME="Assay tiny"\nID=assay-tiny\nPRETTY_NAME="Assay tiny (busybox)"\n' >etc/os-release
: >etc/fstab
