# What Windows' PV driver does with a disk, by a program in a guest: it closes and connects again and again, crashes
# with requests under way, and has a second driver write a dump. Linux reads the disk then.
. /share/lib.sh
MiB=1048576
sr_make 64MiB
disk=$(volume $((8 * MiB)))
guest g1 guest-xenvbd.sh || failed
xl unpause g1
check "a guest without a driver for disks" waits g1 "guest: ready"
check "a disk is plugged" plug "$DOMID" 51712 "$disk" w
for abi in x86_64-abi x86_32-abi; do
    check "$abi: what the driver has written is right, each time" waits g1 "guest: $abi round 2 is right" 200
    check "its dump is right, with requests of the crashed one lost" waits g1 "guest: $abi dump is right, [1-9]" 200
done
check "it is offered rings of eight pages, flushes and discards" \
    says g1 "offered pages=8 .*feature-flush-cache=1 feature-discard=1"
check "and no indirect requests" says g1 "offered pages=8 .*feature-max-indirect-segments=0"
check "Linux reads the disk" waits g1 "guest: sum"
check "and finds the same" [ "$(said g1 sum)" = "$(said g1 model)" ]
check "by indirect requests, which it is offered" says g1 "xvda.*indirect descriptors: enabled"
check "the guest ends" waits g1 "guest: ended with 0"
grep -E 'guest: .*(unsupported|offered|dump)' /out/guests/guest-g1.log
check "nothing was wrong with its rings" sh -c '! grep -iE "tapdisk.*(lie|fault|error)" /out/syslog'
xl destroy g1
release "$DOMID" "$disk"
check "nothing is left of its rings" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
