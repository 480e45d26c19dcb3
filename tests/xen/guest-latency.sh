# A guest that measures how long its requests take, one at a time and of 4 KiB at most: first as they are, then, when
# dom0 has plugged another disk, with a tapdisk that is made slow.
set -e
until [ -e /dev/xvda ]; do usleep 200000; done
echo "guest: plain begins"
xen-load /dev/xvda 12 1 "$RANDOM" 8
echo "guest: waits"
until [ -e /dev/xvdb ]; do usleep 200000; done
echo "guest: slow begins"
xen-load /dev/xvda 25 1 "$RANDOM" 8
echo "guest: unplug"
while [ -e /sys/block/xvda ]; do usleep 200000; done
