# One guest, everything that it can do with a disk and that is done to the disk beside it.
. /share/lib.sh
MiB=1048576
sr_make 400MiB
disk=$(volume $((64 * MiB)))
guest g1 guest-disk.sh "${GUEST_TYPE:-pv}" || failed
check "a disk is plugged" plug "$DOMID" 51712 "$disk" w
xl unpause g1
check "the frontend connects and offers flush, discard and indirect segments" \
    waits g1 "blkfront: xvda: flush diskcache: enabled; persistent grants: disabled; indirect descriptors: enabled"
check "the guest writes, and reads holes beside it" waits g1 "guest: load begins"
check "which does dom0's kernel no harm" sh -c 'sync; sleep 1; ! dmesg | grep -E "kernel BUG|Oops"'
sleep 6
check "a snapshot beside load" on_volume Volume.snapshot "$disk"
check "everything that the guest has written is right" waits g1 "load: .*: right"
grep load: /out/guests/guest-g1.log
machine=$(xl vm-list | awk '$3 == "g1" { print $1 }')
check "its graphs belong to the machine that xl knows" [ -n "$machine" ]
check "as the tapdisk reads in xenstore" \
    eventually 20 grep -q "vbd_xvda_iops_write.*\"vm $machine\"" "/dev/shm/metrics/xapi-storage-ram-$SR"
check "it tells what it has" waits g1 "guest: sum"
copy=$(on_volume Volume.snapshot "$disk" | first key)
# Linux has CDs from an emulated drive alone in guests that are not PV (xen-blkfront.c, blkfront_probe).
case $GUEST_TYPE in pvh) kind=disk info=4 ;; *) kind=cdrom info=5 ;; esac
check "the snapshot is plugged beside its origin, as a $kind" plug "$DOMID" 51728 "$copy" r $kind
check "the guest reads it" waits g1 "guest: copy"
copied=$(said g1 copy)
check "it is the same" [ "$(said g1 copy)" = "$(said g1 sum)" ]
check "it is read-only" [ "$(said g1 read-only)" = 1 ]
check "which the guest is told, and what it is" [ "$(xenstore-read "/local/domain/0/backend/vbd3/$DOMID/51728/info")" = $info ]
check "a write is refused" waits g1 "guest: refused 1"
check "and the same is read again" waits g1 "guest: still $copied"
check "it is unplugged" unplug "$DOMID" 51728 "$copy"
check "a file system" waits g1 "guest: grow"
empty=$(memory)
check "the disk grows" on_volume Volume.resize "$disk" "\"new_size\":$((80 * MiB))"
check "the guest sees it and writes there" waits g1 "guest: filled"
check "to the size that was asked for" [ "$(said g1 size)" = $((160 * 1024)) ]
full=$(memory)
check "the file takes memory" [ $((full - empty)) -ge $((40 * MiB)) ]
check "the disk grows again" on_volume Volume.resize "$disk" "\"new_size\":$((96 * MiB))"
check "the guest deletes and trims" waits g1 "guest: trimmed"
trimmed=$(memory)
echo "bytes of memory: empty $empty, full $full, trimmed $trimmed"
check "to within 1 MiB its memory is free again" [ $((trimmed - empty)) -le $MiB ]
check "the guest lets go" waits g1 "guest: unplug"
check "the disk is unplugged" unplug "$DOMID" 51712 "$disk"
check "and plugged again" plug "$DOMID" 51712 "$disk" w
check "with what was on it" waits g1 "guest: again"
check "the same bytes" [ "$(said g1 again)" = "$(said g1 kept)" ]
check "the guest ends" waits g1 "guest: ended with 0"
xl destroy g1
release "$DOMID" "$disk"
check "nothing is left of its rings" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
