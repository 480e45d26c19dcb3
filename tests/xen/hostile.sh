# A guest that attacks the process that serves its disk, beside another guest that writes to its own disk and compares.
# Then Linux uses the attacked disk as if nothing had been.
. /share/lib.sh
MiB=1048576
sr_make 200MiB
attacked=$(volume $((8 * MiB)))
other=$(volume $((8 * MiB)))
end=$(volume $MiB)
GUEST_FILES=/share/corpus
guest g1 guest-hostile.sh || failed
hostile=$DOMID
GUEST_FILES=
guest g2 guest-kill.sh || failed
beside=$DOMID
xl unpause g1
check "a guest without a driver for disks" waits g1 "guest: ready"
check "another guest has a disk" plug "$beside" 51712 "$other" w
xl unpause g2
check "it writes" waits g2 "guest: load begins"
check "the first guest's disk is plugged" plug "$hostile" 51712 "$attacked" w
keeper=$(readlink -f "$(socket_of "$PARAMS")" | sed 's/.*nbd\([0-9]*\)\..*/\1/')
server=$(cat "/proc/$keeper/task/$keeper/children") && server=${server%% *}
# kilobytes of its memory, without that of disks
private() { sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$server/status"; }
before=$(private)
check "it attacks" waits g1 "hostile: .* slots"
after=$(private)
grep hostile: /out/guests/guest-g1.log
echo "private memory: $before KiB, $after KiB after the attack"
check "the same process serves its disk" [ -d "/proc/$server" ]
check "with no more memory than 64 MiB beyond before" [ "$((after - before))" -le 65536 ]
check "the log has said what was wrong" grep -q "tapdisk-ram.*domain $hostile.*says that it has" /out/syslog
check "and has not been flooded" [ "$(grep -c "tapdisk-ram.*domain $hostile" /out/syslog)" -le 1000 ]
check "its disk can be used afterwards" waits g1 "load: .*: right"
check "the guest ends" waits g1 "guest: ended with 0"
check "the other guest is told" plug "$beside" 51728 "$end" r
check "it has seen no error" waits g2 "guest: errors 0" 240
check "everything that it has written is right" says g2 "load: .*: right"
check "what told it is unplugged" unplug "$beside" 51728 "$end"
check "it lets go" waits g2 "guest: unplug"
check "its disk is unplugged" unplug "$beside" 51712 "$other"
check "it ends" waits g2 "guest: ended with 0"
xl destroy g1
xl destroy g2
check "the attacked disk can be ended" release "$hostile" "$attacked"
check "nothing is left of their rings" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "no domain waits for its pages" [ "$(xl list | wc -l)" = 2 ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
