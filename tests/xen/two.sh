# Two guests at the same time, one of them with two disks; a disk that is reverted between two plugs; a guest
# that is destroyed while its disks are in use.
. /share/lib.sh
MiB=1048576
sr_make 400MiB
a=$(volume $((24 * MiB)))
b=$(volume $((24 * MiB)))
c=$(volume $((24 * MiB)))
guest g1 guest-load.sh || failed
first=$DOMID
guest g2 guest-load.sh || failed
second=$DOMID
check "the first disk of the first guest" plug "$first" 51712 "$a" w
check "the second disk of the first guest" plug "$first" 51728 "$b" w
check "the disk of the second guest" plug "$second" 51712 "$c" w
xl unpause g1
xl unpause g2
check "both guests write" waits g2 "guest: load begins"
check "the first too" waits g1 "guest: load begins"
check "all that the second guest has written is right" waits g2 "load: .*: right" 240
check "all that the first guest has written is right" waits g1 "load: .*: right" 240
check "on both disks" waits g1 "guest: busy" 240
check "none was wrong" [ "$(grep -c 'load: .*: right' /out/guests/guest-g1.log)" = 2 ]
grep -h load: /out/guests/guest-g?.log
check "what is there now is told" waits g2 "guest: sum"
before=$(said g2 sum)
snapshot=$(on_volume Volume.snapshot "$c" | first key)
check "the guest writes something else" waits g2 "guest: changed"
check "it lets go" waits g2 "guest: unplug"
check "the disk is unplugged" unplug "$second" 51712 "$c"
check "the volume is reverted" on_volume Volume.revert "$c" "\"snapshot\":\"$snapshot\""
check "what was there before is plugged" plug "$second" 51712 "$c" w
check "the guest reads it" waits g2 "guest: again"
check "it is the same" [ "$(said g2 again)" = "$before" ]
check "the second guest ends" waits g2 "guest: ended with 0"
xl destroy g1
xl destroy g2
check "its disks can be ended" release "$first" "$a"
check "all of them" release "$first" "$b"
check "and that of the other" release "$second" "$c"
check "nothing is left of their rings" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "no domain waits for its pages" [ "$(xl list | wc -l)" = 2 ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
