# A guest that crashes while requests of it are unanswered, and its second kernel (kdump): the domain is reset softly,
# by xenopsd's steps, and the second kernel takes the disk over through the same backend, to write a dump. Another
# guest writes to its own disk and compares, all the while.
. /share/lib.sh
SOFT_RESET=preserve
MiB=1048576
cp -a /boot/python/. /
sr_make 200MiB
disk=$(volume $((16 * MiB)))
other=$(volume $((8 * MiB)))
end=$(volume $MiB)
# Without acpi_init Linux asks the tables of ACPI for its processor alone. Methods in those that Xen makes for a PVH
# guest take it for one with 128 processors, and mark these in the tables, over what comes behind its only one: the
# second kernel would not find its timer.
GUEST_WORDS="crashkernel=112M initcall_blacklist=acpi_init"
GUEST_FILES="/boot/kexec/. /boot/kernel"
GUEST_MEMORY=352
guest g1 guest-kdump.sh pvh || failed
crashing=$DOMID
check "a disk is plugged" plug "$crashing" 51712 "$disk" w
keeper=$(ls "$CONTROL" | sed -n 's/^ctl//p')
GUEST_WORDS='' GUEST_FILES='' GUEST_MEMORY=128
guest g2 guest-kill.sh || failed
beside=$DOMID
check "another guest has another disk" plug "$beside" 51712 "$other" w
xl vcpu-pin g2 all 0
xl unpause g1
check "the guest has loaded a second kernel" waits g1 "guest: loaded 1" 300
check "it has written and synced" waits g1 "guest: written"
check "it reads and writes" waits g1 "guest: in flight"
xl unpause g2
check "the other guest does, too" waits g2 "guest: load begins"
# Nothing is answered from here on.
server=$(cat "/proc/$keeper/task/$keeper/children") && server=${server%% *}
check "the process that serves the disk is stopped" kill -STOP "$server"
in_flight() { said g1 "in flight" | grep -q '[1-9][0-9]* *[1-9]'; }
sleep 3
check "reads and writes are in flight" eventually 60 in_flight
said g1 "in flight"
is_shut_down() { xl list | grep -q '^g1 .* ---s'; }
xl sysrq g1 c
check "the guest crashes" eventually 100 is_shut_down
check "its domain is reset softly" python3 -BSs /share/soft-reset.py "$crashing"
check "the process that serves the disk goes on" kill -CONT "$server"
check "the second kernel is up" waits g1 "guest: second kernel" 300
check "it reads what was written before the crash" waits g1 "guest: kept"
check "the very same" [ "$(said g1 kept)" = "$(said g1 written)" ]
check "it writes a dump" waits g1 "guest: dumped"
check "and reads it" [ "$(said g1 dumped)" = "$(said g1 dump)" ]
check "the second kernel ends" waits g1 "guest: ended with 0"
connects() { grep -c "tapdisk-ram.*device 51712 of domain $crashing is $1" /out/syslog; }
check "it had another ring than the first" [ "$(connects connected)" = 2 ]
check "and both have ended" eventually 60 [ "$(connects disconnected)" = 2 ]
check "the same process has served both" [ -d "/proc/$server" ]
check "the other guest is told" plug "$beside" 51728 "$end" r
check "it has seen no error" waits g2 "guest: errors 0" 240
check "everything that it has written is right" says g2 "load: .*: right"
xl destroy g1
xl destroy g2
check "the disk can be ended" release "$crashing" "$disk"
check "the other one" release "$beside" "$other"
check "and what told the other guest" release "$beside" "$end"
check "no tapdisk has met an error" [ "$(grep 'tapdisk-ram' /out/syslog | grep -ciE 'error|fail|cannot')" = 0 ]
check "nothing is left" [ -z "$(ls /dev/shm | grep -E '^(vbd3|td3)-')" ]
check "no domain waits for its pages" [ "$(xl list | wc -l)" = 2 ]
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
