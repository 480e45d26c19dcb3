# A guest that reads and writes 4 KiB at random places, past its page cache, with one thread and with sixteen. It rests
# before each, which tells them apart in the tapdisk's counters.
set -e
until [ -e /dev/xvda ]; do usleep 200000; done
for way in write read; do
    for threads in 1 16; do
        sleep 10
        xen-load rates /dev/xvda 8 "$threads" "$way"
    done
done
sleep 10
echo "guest: unplug"
while [ -e /sys/block/xvda ]; do usleep 200000; done
