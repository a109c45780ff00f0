#!/bin/sh
# Installs Durward as a service of this host: binary, units, user, an empty /etc/durward. Run as root.
#   deploy/systemd/install.sh [--nat] [--root DIR] [--dry-run] BINARY
# --nat adds the drop-in for port mappings and egress in the kernel; --root puts everything below DIR and starts nothing;
# --dry-run prints what would be done.
set -eu

nat=no root= dry= binary=
while [ $# -gt 0 ]; do
    case $1 in
    --nat) nat=yes ;;
    --root) root=${2:?--root needs a directory}; shift ;;
    --dry-run) dry=echo ;;
    -*) echo "install.sh: unknown option $1" >&2; exit 2 ;;
    *) binary=$1 ;;
    esac
    shift
done
[ -n "$binary" ] || { echo "usage: install.sh [--nat] [--root DIR] [--dry-run] BINARY" >&2; exit 2; }
[ -x "$binary" ] || { echo "install.sh: $binary is not a program" >&2; exit 1; }
here=$(dirname "$0")
units=$root/etc/systemd/system

$dry install -D -m 0755 "$binary" "$root/usr/local/bin/durward"
$dry install -D -m 0644 "$here/durward.service" "$units/durward.service"
$dry install -D -m 0644 "$here/durward.socket" "$units/durward.socket"
$dry install -D -m 0644 "$here/durward.sysusers" "$root/usr/lib/sysusers.d/durward.conf"
$dry install -d -m 0750 "$root/etc/durward"
# The unit names /usr/bin, where packages install; a local one is elsewhere.
$dry sed -i 's|/usr/bin/durward|/usr/local/bin/durward|' "$units/durward.service"
if [ "$nat" = yes ]; then
    $dry install -D -m 0644 "$here/nat.conf" "$units/durward.service.d/nat.conf"
fi
# systemd 252 (Debian 12) knows no notify-reload.
case $(systemctl --version 2>/dev/null) in
"systemd 252"*) $dry install -D -m 0644 "$here/durward.service.d/systemd-252.conf" "$units/durward.service.d/systemd-252.conf" ;;
esac
if [ -z "$root" ]; then
    $dry systemd-sysusers
    $dry chgrp durward /etc/durward
    $dry systemctl daemon-reload
    if ls /etc/durward/*.* >/dev/null 2>&1; then
        $dry systemctl enable --now durward.service
    else
        $dry systemctl enable durward.service
        echo "install.sh: /etc/durward is empty; put documents there, readable by group durward, then: systemctl start durward"
    fi
fi
