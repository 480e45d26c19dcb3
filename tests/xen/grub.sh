# Guests that start from their disk, PV and PVH: GRUB uses it by a ring of one page, reads the kernel, and leaves the
# disk to Linux, which connects a ring of its own. GRUB for PVH guests has 32 bits, and its requests another layout
# than those of Linux behind it.
. /share/lib.sh
MiB=1048576
sr_make 200MiB
# put OFFSET < BYTES
put() { xen-toolstack write "$(socket_of "$PARAMS")" "$1"; }
put_system() { put $MiB < /boot/kernel && put $((16 * MiB)) < "/tmp/guest-$1.initrd"; }
# The layout of requests that the frontend has asked for.
layout() { xenstore-read "/local/domain/$DOMID/device/vbd/51712/protocol" 2>/dev/null; }
# It reads for some seconds.
asks() {
    until layout >/dev/null; do usleep 100000; done
    layout
}
connects() { [ "$(grep -c "tapdisk-ram.*device 51712 of domain $DOMID is $1" /out/syslog)" = "$2" ]; }
kernel=$(dd if=/boot/kernel bs=12M count=1 iflag=fullblock conv=sync 2>/dev/null | sha256sum | cut -d ' ' -f 1)
# starts TYPE LAYOUT: of GRUB's requests
starts() {
    type=$1
    disk=$(volume $((48 * MiB)))
    LOADER=/boot/grub-$type
    guest "$type" guest-grub.sh "$type" || failed
    initrd "$type" guest-grub.sh packed
    check "$type: a disk is attached" attach "$DOMID" "$disk" w
    check "a kernel and files are put there" put_system "$type"
    check "it is plugged" plug "$DOMID" 51712 "$disk" w
    xl unpause "$type"
    check "GRUB asks for its layout" [ "$(asks)" = "$2" ]
    check "it has started Linux" waits "$type" "guest: read" 240
    check "whose layout is another one, or the same" [ "$(layout)" = x86_64-abi ]
    check "each has had a ring" connects connected 2
    check "and the first has ended" connects disconnected 1
    check "Linux reads what GRUB has read" [ "$(said "$type" read)" = "$kernel" ]
    check "it writes, and all is right" waits "$type" "load: .*: right"
    check "the guest ends" waits "$type" "guest: ended with 0"
    xl destroy "$type"
    check "its disk can be ended" release "$DOMID" "$disk"
    check "nothing is left of its rings" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
    check "no domain waits for its pages" [ "$(xl list | wc -l)" = 2 ]
}
starts pv x86_64-abi
starts pvh x86_32-abi
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
