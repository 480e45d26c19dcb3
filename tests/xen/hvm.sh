# An HVM guest that starts from disks of its device model, which is an NBD client of the tapdisks. The one with the
# kernel (NVMe) it has by the ring, too, later: both at once. The one with the boot loader (IDE) Linux unplugs, as
# drivers do that find Xen, and uses it by the ring. The third is a CD. The words for the device model are xenopsd's.
. /share/lib.sh
MiB=1048576
cp -a /boot/model/. /
sr_make 300MiB
start=$(volume $((48 * MiB)))
data=$(volume $((16 * MiB)))
cd=$(volume $((4 * MiB)))
# put PARAMS OFFSET < BYTES
put() { xen-toolstack write "$(socket_of "$1")" "$2"; }
put_system() { put "$1" $MiB < /boot/kernel && put "$1" $((16 * MiB)) < /tmp/guest-g1.initrd; }
put_loader() { put "$1" 0 < /boot/loader; }
put_cd() {
    dd if=/dev/urandom of=/tmp/cd bs=1M count=4 2>/dev/null && attach 1 "$cd" w && put "$PARAMS" 0 < /tmp/cd &&
        release 1 "$cd"
}
# The first guest is domain 1.
check "the disk to start from is attached" attach 1 "$start" w
DRIVES="-device nvme,id=nvme0,serial=nvme0,addr=7
    -drive id=disk0,if=none,file=$PARAMS,media=disk,auto-read-only=off,format=raw -device nvme-ns,drive=disk0,bus=nvme0,nsid=1"
initrd g1 guest-hvm.sh packed
check "a kernel and files are put there" put_system "$PARAMS"
check "a second disk is attached" attach 1 "$data" w
check "a boot loader is put there" put_loader "$PARAMS"
DRIVES="$DRIVES -drive file=$PARAMS,if=none,id=ide0-hd0,auto-read-only=off,format=raw -device ide-hd,drive=ide0-hd0,bus=ide.0,unit=0"
check "a CD is made" put_cd
check "it is attached" attach 1 "$cd" r
DRIVES="$DRIVES -drive file=$PARAMS,if=none,id=ide1-cd0,auto-read-only=off,readonly=on,format=raw -device ide-cd,drive=ide1-cd0,bus=ide.1,unit=0"
check "a guest with a device model" guest g1 guest-hvm.sh hvm
DOMID=$(xl domid g1)
check "is the first one" [ "$DOMID" = 1 ]
sockets() { ls -l "/proc/$(pidof xen-qemu-system-i386)/fd" | grep -c socket; }
emulated=$(sockets)
check "what it starts from is plugged" plug 1 51712 "$start" w
check "its second disk is plugged" plug 1 51728 "$data" w
xl unpause g1
check "it starts" waits g1 "guest: begin" 1500
check "it has unplugged the second disk of its device model" waits g1 "guest: unplugged 0"
check "which has let go of it" [ "$(sockets)" = $((emulated - 1)) ]
# Zeroes are behind it.
kernel=$(dd if=/boot/kernel bs=12M count=1 iflag=fullblock conv=sync 2>/dev/null | sha256sum | cut -d ' ' -f 1)
check "by the ring it reads what it was started from" waits g1 "guest: ring"
check "that is what was put there" [ "$(said g1 ring)" = "$kernel" ]
check "by the device model it reads the same" waits g1 "guest: emulated"
check "the very same" [ "$(said g1 emulated)" = "$(said g1 ring)" ]
check "what is written by either way is read by both" waits g1 "guest: both right" 240
check "the second disk works by its ring" waits g1 "guest: data right" 240
grep load: /out/guests/guest-g1.log
check "the CD is read" waits g1 "guest: cd"
check "right" [ "$(said g1 cd)" = "$(sha256sum < /tmp/cd | cut -d ' ' -f 1)" ]
check "and cannot be written" waits g1 "guest: refused 1"
check "the guest ends" waits g1 "guest: ended with 0"
xl destroy g1
check "its disks can be ended" release 1 "$start"
check "all of them" release 1 "$data"
check "and the CD" release 1 "$cd"
check "nothing is left" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
