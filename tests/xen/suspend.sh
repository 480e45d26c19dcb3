# A guest under load that is saved beside its running on (a checkpoint), and then suspended to a file and
# resumed as another domain: its frontend connects again, by new pages, and repeats what was not answered.
. /share/lib.sh
MiB=1048576
sr_make 200MiB
disk=$(volume $((24 * MiB)))
guest g1 guest-suspend.sh "${GUEST_TYPE:-pv}" || failed
check "a disk is plugged" plug "$DOMID" 51712 "$disk" w
xl unpause g1
check "the guest writes" waits g1 "guest: load begins"
sleep 4
check "a checkpoint beside load" xl save -c g1 /tmp/checkpoint
rm /tmp/checkpoint
before=$DOMID
check "the ring is still connected" [ -d "/dev/shm/vbd3-$before-51712" ]
sleep 2
check "the guest is suspended" xl save g1 /tmp/suspended
check "its disk is taken from the domain that is no more" unplug "$before" 51712 "$disk"
check "nothing is left of its rings" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "a snapshot of the suspended guest's disk" on_volume Volume.snapshot "$disk"
check "it is made again from the file" xl restore -p /tmp/suspended
rm /tmp/suspended
DOMID=$(xl domid g1)
check "as another domain" [ "$DOMID" != "$before" ]
check "with the same disk" plug "$DOMID" 51712 "$disk" w
xl unpause g1
check "all that it has written before and after is right" waits g1 "load: .*: right" 200
grep load: /out/guests/guest-g1.log
check "the guest ends" waits g1 "guest: ended with 0"
check "its last bytes are the disk's" waits g1 "guest: sum"
xl destroy g1
release "$DOMID" "$disk"
check "nothing is left" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
