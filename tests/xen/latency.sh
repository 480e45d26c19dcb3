# The latencies in the graphs beside those that a guest measures. An emulated guest needs longer for a request than the
# tapdisk does, so that each grant copy of the tapdisk is made to take more than half a second, too: then it is
# the tapdisk that the guest waits for, and both have to tell the same, to 5 %. latency.py compares them. Not on a machine
# that does something else: a guest that waits for a processor waits for no tapdisk.
. /share/lib.sh
MiB=1048576
rm -f /out/graphs-*
sr_make 100MiB
disk=$(volume $MiB)
signal=$(volume $MiB)
guest g1 guest-latency.sh || failed
check "a disk is plugged" plug "$DOMID" 51712 "$disk" w
keeper=$(ls "$CONTROL" | sed -n 's/^ctl//p')
server=$(cat "/proc/$keeper/task/$keeper/children") && server=${server%% *}
xl unpause g1
# graphs NAME: the file of the graphs, a few times, since it may be written meanwhile
graphs() {
    for copy in 1 2 3; do
        cp "/dev/shm/metrics/xapi-storage-ram-$SR" "/out/graphs-$1-$copy" || return 1
        usleep 300000
    done
}
check "the guest measures" waits g1 "guest: plain begins"
# The file is written every five seconds.
sleep 9
check "so do the graphs" graphs plain
check "what it has read is right" waits g1 "guest: waits"
check "and was all the time" [ "$(grep -c 'load: .*: right' /out/guests/guest-g1.log)" = 1 ]
strace -qq -o /dev/null -p "$server" -e trace=ioctl -P /dev/xen/gntdev -e inject=ioctl:delay_enter=600000 &
strace=$!
sleep 2
check "the tapdisk is slow" plug "$DOMID" 51728 "$signal" r
check "the guest measures" waits g1 "guest: slow begins"
sleep 18
check "so do the graphs" graphs slow
check "what it has read is right" waits g1 "guest: unplug"
check "again" [ "$(grep -c 'load: .*: right' /out/guests/guest-g1.log)" = 2 ]
kill "$strace"
check "the signal is unplugged" unplug "$DOMID" 51728 "$signal"
check "the disk is unplugged" unplug "$DOMID" 51712 "$disk"
check "the guest ends" waits g1 "guest: ended with 0"
xl destroy g1
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
