# The process that serves a guest's disk is killed again and again while the guest writes to it and compares:
# another one goes on, and the guest notices nothing.
. /share/lib.sh
MiB=1048576
KILLS=${KILLS:-50}
sr_make 200MiB
disk=$(volume $((32 * MiB)))
guest g1 guest-kill.sh || failed
check "a disk is plugged" plug "$DOMID" 51712 "$disk" w
keeper=$(ls "$CONTROL" | sed -n 's/^ctl//p')
# server: the process whose keeper has the number that other programs know
server() {
    for arguments in /proc/[0-9]*/cmdline; do
        if tr '\0' ' ' < "$arguments" 2>/dev/null | grep -q "serve-for $keeper:"; then
            echo "$arguments" | cut -d / -f 3
            return
        fi
    done
}
kill_servers() {
    killed=0
    while [ $killed -lt "$KILLS" ]; do
        process=$(server)
        if [ -n "$process" ] && kill -9 "$process" 2>/dev/null; then killed=$((killed + 1)); fi
        usleep $((100000 + killed * 53000 % 500000))
    done
}
xl unpause g1
check "the guest writes" waits g1 "guest: load begins"
check "$KILLS servers are killed" kill_servers
check "a snapshot after that" on_volume Volume.snapshot "$disk"
check "everything that the guest has written is right" waits g1 "load: .*: right" 240
grep load: /out/guests/guest-g1.log
check "the guest has seen no error" waits g1 "guest: errors"
check "none at all" [ "$(said g1 errors)" = 0 ]
check "the tapdisk has its number as before" [ -S "$CONTROL/ctl$keeper" ]
took=$(sed -n 's/.*took over in \(.*\)/\1/p' /out/syslog | tail -n 3 | tr '\n' ' ')
echo "successors: $(grep -c 'took over in' /out/syslog), the last took over in $took"
check "each was succeeded" [ "$(grep -c 'took over in' /out/syslog)" -ge "$KILLS" ]
check "the guest lets go" waits g1 "guest: unplug"
check "the disk is unplugged" unplug "$DOMID" 51712 "$disk"
check "the guest ends" waits g1 "guest: ended with 0"
xl destroy g1
check "no process is left" [ -z "$(server)" ]
check "nothing is left of its rings" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "no domain waits for its pages" [ "$(xl list | wc -l)" = 2 ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
