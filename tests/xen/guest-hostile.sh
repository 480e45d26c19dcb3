# A guest that attacks who serves its disk, before its kernel has a driver for it, and uses the disk afterwards.
set -e
rmmod xen_blkfront
modprobe xen-evtchn
modprobe xen-gntalloc
echo "guest: ready"
until xen-load hostile 51712 /corpus 30 "$RANDOM" > /tmp/log 2>&1; do
    # Not plugged yet.
    grep -q 'no such disk' /tmp/log || { cat /tmp/log; exit 1; }
    usleep 200000
done
cat /tmp/log
modprobe xen-blkfront
until [ -e /dev/xvda ]; do usleep 200000; done
xen-load /dev/xvda 5 2 "$RANDOM"
