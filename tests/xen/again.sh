# A guest whose frontend vanishes without a word to the backend, and that has another one for the same disk on the
# same domain, by other pages: as after a crash. Its rings have eight pages.
. /share/lib.sh
MiB=1048576
sr_make 200MiB
disk=$(volume $((16 * MiB)))
GUEST_WORDS=xen_blkfront.max_ring_page_order=3
guest g1 guest-again.sh || failed
frontend=/local/domain/$DOMID/device/vbd/51712
check "a disk is plugged" plug "$DOMID" 51712 "$disk" w
xl unpause g1
# What of the frontend's nodes names its ring.
pages() { xenstore-ls "$frontend" | grep -E 'ring-ref|event-channel'; }
before=
for round in 1 2 3; do
    check "the guest has written, for the $round. time" waits g1 "guest: writes $round" 200
    check "its ring has eight pages" [ "$(xenstore-read "$frontend/ring-page-order")" = 3 ]
    check "other ones than before" [ "$(pages)" != "$before" ]
    before=$(pages)
    check "the frontend vanishes" xenstore-rm "$frontend"
    eventually 60 [ ! -e "/dev/shm/vbd3-$DOMID-51712" ]
    check "its ring is disconnected" [ ! -e "/dev/shm/vbd3-$DOMID-51712" ]
    check "the guest has no disk" waits g1 "guest: gone $round" 200
    check "it has another frontend" plug "$DOMID" 51712 "$disk" w
done
check "everything is on the disk" waits g1 "guest: right" 200
check "the guest ends" waits g1 "guest: ended with 0"
xl destroy g1
release "$DOMID" "$disk"
check "nothing is left" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "no domain waits for its pages" [ "$(xl list | wc -l)" = 2 ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
