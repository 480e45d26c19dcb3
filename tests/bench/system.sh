#!/bin/bash
# Makes a disk with Debian (disk.raw), and the same disk after it was started once (booted.raw): for the rows of
# `make bench-fleet`. In QEMU without KVM a start takes about two minutes.
#
#   tests/bench/system.sh WORK
#
# WORK: is made, and kept for the next run.
set -euo pipefail
mkdir -p "$1"
cd "$1"
[ -e booted.raw ] && [ -e disk.raw ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "SKIPPED: the files of a system belong to several users, which takes root" >&2
    exit 1
fi
command -v mmdebstrap qemu-system-x86_64 mke2fs >/dev/null ||
    apt-get install -y -q mmdebstrap qemu-system-x86 e2fsprogs
trap 'rm -rf root root.tar monitor' EXIT
install_system() {
    rm -rf root
    mmdebstrap --variant=important \
        --include=linux-image-amd64,systemd-sysv,dbus,openssh-server,python3 bookworm root.tar
    mkdir root
    tar -C root -xf root.tar
    echo fleet > root/etc/hostname
    echo '/dev/vda / ext4 defaults 0 1' > root/etc/fstab
    cp root/boot/vmlinuz-* vmlinuz
    cp root/boot/initrd.img-* initrd
    mke2fs -q -t ext4 -F -d root installed.raw 2G
    mv installed.raw disk.raw
}
[ -e disk.raw ] || install_system
cp --sparse=always disk.raw starting.raw
rm -f console
mkfifo monitor
exec 3<>monitor
qemu-system-x86_64 -machine q35 -m 1024 -smp 2 -display none -no-reboot -net none \
    -kernel vmlinuz -initrd initrd -append 'root=/dev/vda rw console=ttyS0' \
    -drive file=starting.raw,format=raw,if=virtio,cache=unsafe,discard=ignore \
    -serial file:console -monitor stdio <&3 >/dev/null &
qemu=$!
# The console belongs to the login from then on, and says nothing of the last services.
has_started() { grep -q 'fleet login:' console 2>/dev/null; }
trap 'kill "$qemu" 2>/dev/null || true; rm -rf root root.tar monitor' EXIT
# within SECONDS WHAT COMMAND...: waits until it is so
within() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if [ $SECONDS -ge $end ] || ! kill -0 "$qemu" 2>/dev/null; then
            echo "$what: not so; the end of its console:" >&2
            tail -n 20 console >&2
            exit 1
        fi
        sleep 1
    done
}
within 1200 "the system has started" has_started
# What services write when they have started.
sleep 15
echo system_powerdown >&3
has_stopped() { grep -q 'Reached target.*poweroff.target\|reboot: Power down' console; }
within 300 "the system has shut down" has_stopped
wait "$qemu"
mv starting.raw booted.raw
