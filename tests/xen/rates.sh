# How many requests a guest has answered in a second, and how many system calls the tapdisk needs for each: by its own
# counters, which are written down every second. rates.py has the table. The machine is an emulated one: what it can
# tell is the calls, and ratios of the rates.
. /share/lib.sh
MiB=1048576
rm -f /out/rates-*
sr_make 100MiB
disk=$(volume $((64 * MiB)))
guest g1 guest-rates.sh || failed
check "a disk is plugged" plug "$DOMID" 51712 "$disk" w
keeper=$(ls "$CONTROL" | sed -n 's/^ctl//p')
minor=$(tap-ctl-ram list -p "$keeper" | sed -n 's/.*minor=\([0-9]*\).*/\1/p')
xl unpause g1
while sleep 1; do tap-ctl-ram stats -p "$keeper" -m "$minor"; done >> /out/rates-stats 2>/dev/null &
stats=$!
check "the guest has read and written" waits g1 "guest: unplug" 240
kill "$stats"
check "the disk is unplugged" unplug "$DOMID" 51712 "$disk"
check "the guest ends" waits g1 "guest: ended with 0"
grep '^rates: ' /out/guests/guest-g1.log > /out/rates-guest
xl destroy g1
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
