#!/bin/sh
# SPDX-License-Identifier: MIT
# The last step on a Debian tree, base or derived.
#   debian-seal.sh ROOT
set -eu
root=$1

# Housekeeping by the calendar: a template may be days old when it is forked, and then all of
# them would fire at once. Disabled, not masked: a test may start or enable them.
for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim logrotate man-db \
	exim4-base phpsessionclean mdcheck_start mdmonitor-oneshot; do
	rm -f "$root/etc/systemd/system/timers.target.wants/$timer.timer"
done

rm -rf "$root"/tmp/* "$root"/var/tmp/* "$root"/run/* "$root/var/cache/apt"/*.bin \
	"$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root/root/.bash_history"
rm -f "$root"/var/log/apt/*.log* "$root/var/log/dpkg.log" "$root/var/log/bootstrap.log" \
	"$root/var/log/alternatives.log" "$root/var/cache/ldconfig/aux-cache"
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"

# ConditionNeedsUpdate= compares these with /usr: nothing to update at the first boot.
touch "$root/usr"
touch "$root/etc/.updated" "$root/var/.updated"
