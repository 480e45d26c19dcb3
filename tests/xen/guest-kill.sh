# A guest whose disk is served by one process after the other.
set -e
until [ -e /dev/xvda ]; do usleep 200000; done
usleep 500000
echo "guest: load begins"
xen-load /dev/xvda 60 2 "$RANDOM"
echo "guest: errors $(dmesg | grep -cE 'I/O error|xvda disabled|Buffer I/O' || true)"
echo "guest: unplug"
while [ -e /sys/block/xvda ]; do usleep 200000; done
