#!/bin/bash
# Guests of a real Xen on disks of this SR: boots a small host in QEMU and runs scripts in its dom0.
#
#   tests/xen/run.sh PROGRAMS WORK SCRIPT...
#
# PROGRAMS: where the programs were built. WORK: is made, and kept for the next run. XEN_KERNEL: as build.sh says.
# TAPBACK: the program of blktap that connects guests to tapdisks, in the place of xen-toolstack, which does the same.
set -euo pipefail
files=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "$1" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
shift 2
if [ "$(id -u)" != 0 ]; then
    echo "SKIPPED: root file systems with device nodes are made as root" >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
build=$work/build${XEN_KERNEL:+-$XEN_KERNEL}
[ -e "$build/dom0.cpio" ] && [ "$build/dom0.cpio" -nt "$files/dom0-init" ] &&
    [ "$build/guest.cpio" -nt "$files/guest-init" ] &&
    [ "$build/dom0.cpio" -nt "$files/build.sh" ] || "$files/build.sh" "$build"
share=$work/share
rm -rf "$share"
mkdir -p "$share/bin"
cp "$files"/*.sh "$files/soft-reset.py" "$share/"
cp -r "$files/../../datapath/blkif/corpus" "$share/corpus"
cp "$programs"/xen-{toolstack,load,cold} "$programs"/tap-ctl-ram "$share/bin/"
if [ -n "${TAPBACK:-}" ]; then install -m 755 "$TAPBACK" "$share/bin/tapback"; fi
# How many servers kill.sh has to kill, and how zram.sh compresses.
printf 'KILLS=%s\nZRAM_ALGORITHM=%s\n' "${XEN_KILLS:-50}" "${ZRAM_ALGORITHM:-zstd}" > "$share/settings"
"$files/../install.sh" install "$programs" "$share/installed" >/dev/null
status=0
for script; do
    echo "== $script"
    begin=$SECONDS
    out=$work/out-${script%.sh}${XEN_KERNEL:+-$XEN_KERNEL}
    # Each kill takes an emulated machine a second, and a busy one four. An HVM guest is emulated twice.
    case $script in
        kill.sh) seconds=900 ;;
        hvm.sh) seconds=2700 ;;
        latency.sh) seconds=600 ;;
        kdump.sh|zram.sh) seconds=900 ;;
        *) seconds=300 ;;
    esac
    XEN_SECONDS=${XEN_SECONDS:-$seconds} "$files/boot.sh" "$build" "$share" "$out" "$script" || status=$?
    # What a script leaves to be looked at here.
    judge=$files/${script%.sh}.py
    if [ "$status" = 0 ] && [ -e "$judge" ]; then python3 "$judge" "$out" || status=$?; fi
    echo "== $script: status $status after $((SECONDS - begin)) s"
    [ "$status" = 0 ] || exit "$status"
done
