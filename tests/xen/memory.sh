#!/bin/bash
# SRs take all memory that a host may give them, again and again, beside another program that takes memory and gives
# it back, and what the host has left is read all the while: examples/fill_ups of the store, in a small emulated
# machine without Xen, as it takes all memory of its machine.
#
#   tests/xen/memory.sh PROGRAM WORK [ROUNDS]
#
# PROGRAM: fill_ups, linked statically. WORK: that of run.sh, with what build.sh makes.
set -euo pipefail
files=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "$1")
mkdir -p "$2"
work=$(cd "$2" && pwd)
rounds=${3:-100}
if [ "$(id -u)" != 0 ]; then
    echo "SKIPPED: root file systems with device nodes are made as root" >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
[ -e "$work/build/guest.cpio" ] || "$files/build.sh" "$work/build"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root/files"
cp "$program" "$root/files/fill_ups"
cat > "$root/files/memory-init" <<I
#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /run
mount -t tmpfs -o mode=1777 shm /dev/shm
/fill_ups $rounds
echo "fill_ups: status \$?"
poweroff -f
I
chmod +x "$root/files/memory-init"
{ cat "$work/build/guest.cpio"; (cd "$root/files" && find . | cpio -o -H newc 2>/dev/null); } > "$root/initrd"
timeout "${MEMORY_SECONDS:-3600}" qemu-system-x86_64 -M q35 -cpu max -accel tcg,thread=multi -smp 2 -m 768 \
    -display none -nodefaults -no-user-config -no-reboot -serial stdio -kernel "$work/build/vmlinux" \
    -initrd "$root/initrd" -append "console=ttyS0 rdinit=/memory-init loglevel=4 panic=-1 mitigations=off" \
    < /dev/null | tee "$root/output"
grep -q 'fill_ups: status 0' "$root/output"
