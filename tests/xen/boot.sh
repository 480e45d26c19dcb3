#!/bin/bash
# Boots the host that build.sh has made in QEMU, without KVM, and runs a script in its dom0:
#
#   tests/xen/boot.sh BUILD SHARE OUT SCRIPT [WORD...]
#
# dom0 sees SHARE as /share, read-only, and OUT as /out, which also gets the consoles' logs. The script's
# output is this one's, and so is its exit status; 124: it took longer than XEN_SECONDS (300), 125: dom0 did
# not get as far as the script. XEN_WITHOUT=yes: dom0's kernel and root file system run without the hypervisor;
# XEN_WORDS: more words for that kernel.
set -euo pipefail
build=$1 share=$2 out=$3 script=$4
shift 3
mkdir -p "$out"
rm -rf "$out/guests" "$out/status" "$out/syslog" "$out/toolstack.log"
: > "$out/output"
echo "$(printf '%q ' "/share/$script" "${@:2}")" > "$out/command"
# -cpu max would crash dom0 at its first IRET: QEMU 7.2 reads the stack of IRET as the supervisor, which
# SMAP forbids. qemu64 has no SMAP. PVH guests need nested paging.
virtfs() { echo "-virtfs" "local,path=$1,mount_tag=$2,security_model=none,multidevs=remap$3"; }
memory=${XEN_MEMORY:-2048}
if [ -z "${XEN_WITHOUT:-}" ]; then
    kernel=(-kernel "$build/xen"
        -append "com1=115200,8n1 console=com1 dom0_mem=${XEN_DOM0_MEMORY:-900}M,max:${XEN_DOM0_MEMORY:-900}M dom0_max_vcpus=2 no-real-mode loglvl=warning guest_loglvl=warning"
        -initrd "$build/vmlinux console=hvc0 loglevel=5 panic=1 mitigations=off,$build/dom0.cpio")
else
    kernel=(-kernel "$build/vmlinux" -initrd "$build/dom0.cpio"
        -append "console=ttyS0 loglevel=5 panic=1 mitigations=off ${XEN_WORDS:-}")
fi
# shellcheck disable=SC2046 # words
qemu-system-x86_64 -M q35 -cpu qemu64,+npt -accel tcg,thread=multi -smp 2 -m "$memory" \
    -display none -nodefaults -no-user-config -no-reboot \
    "${kernel[@]}" \
    -chardev "file,id=console,path=$out/console.log" -serial chardev:console \
    -device virtio-serial-pci -chardev "file,id=output,path=$out/output" \
    -device virtserialport,chardev=output,name=output \
    $(virtfs "$share" share ,readonly=on) $(virtfs "$build" boot ,readonly=on) $(virtfs "$out" out "") &
qemu=$!
trap 'kill $qemu 2>/dev/null || true' EXIT
tail -n +1 -f --pid=$qemu -s 0.2 "$out/output" &
tail=$!
status=
end=$((SECONDS + ${XEN_SECONDS:-300}))
while kill -0 $qemu 2>/dev/null; do
    if [ $SECONDS -ge $end ]; then
        echo "boot.sh: ended after ${XEN_SECONDS:-300} s" >&2
        status=124
        kill $qemu
    fi
    sleep 0.2
done
wait $qemu 2>/dev/null || true
wait $tail || true
status=${status:-$(cat "$out/status" 2>/dev/null || echo 125)}
if [ "$status" -ge 124 ]; then tail -n 40 "$out/console.log" >&2; fi
exit "$status"
