# The process that serves a guest's disk is killed again and again while the guest writes to it and compares:
# another one goes on, and the guest notices nothing.
. /share/lib.sh
. /share/settings
MiB=1048576
sr_make 200MiB
disk=$(volume $((8 * MiB)))
end=$(volume $MiB)
guest g1 guest-kill.sh || failed
check "a disk is plugged" plug "$DOMID" 51712 "$disk" w
keeper=$(ls "$CONTROL" | sed -n 's/^ctl//p')
# The process that serves: the child of the one whose number other programs know.
server() {
    server=$(cat "/proc/$keeper/task/$keeper/children") && server=${server%% *}
    [ -n "$server" ]
}
successors() { grep -c 'took over in' /out/syslog; }
has_successors() { [ "$(successors)" -ge "$1" ]; }
kill_servers() {
    killed=0
    while [ $killed -lt "$KILLS" ]; do
        eventually 30 server || return 1
        if kill -9 "$server" 2>/dev/null; then killed=$((killed + 1)); fi
        # Every fourth dies while it takes over, or a moment after that.
        [ $((killed % 4)) = 0 ] || eventually 60 has_successors $((killed - killed / 4)) || return 1
        usleep $((50000 + killed * 53000 % 400000))
    done
}
xl unpause g1
check "the guest writes" waits g1 "guest: load begins"
check "$KILLS servers are killed" kill_servers
echo "until $(cut -d ' ' -f 1 /proc/uptime) s; $(successors) successors, the last took over in $(sed -n 's/.*took over in //p' /out/syslog | tail -n 5 | tr '\n' ' ')"
check "a snapshot after that" on_volume Volume.snapshot "$disk"
check "the guest is told" plug "$DOMID" 51728 "$end" r
check "it has seen no error" waits g1 "guest: errors" 240
grep load: /out/guests/guest-g1.log
check "none at all" [ "$(said g1 errors)" = 0 ]
check "everything that it has written is right" says g1 "load: .*: right"
check "the tapdisk has its number as before" [ -S "$CONTROL/ctl$keeper" ]
check "what told it is unplugged" unplug "$DOMID" 51728 "$end"
check "the guest lets go" waits g1 "guest: unplug"
check "the disk is unplugged" unplug "$DOMID" 51712 "$disk"
check "the guest ends" waits g1 "guest: ended with 0"
xl destroy g1
check "no process is left" [ ! -e "/proc/$keeper" ]
check "nothing is left of its rings" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "no domain waits for its pages" [ "$(xl list | wc -l)" = 2 ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
