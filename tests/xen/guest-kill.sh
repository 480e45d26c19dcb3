# A guest whose disk is served by one process after the other, until dom0 plugs another disk.
set -e
until [ -e /dev/xvda ]; do usleep 200000; done
usleep 500000
echo "guest: load begins"
until [ -e /dev/xvdb ]; do xen-load /dev/xvda 8 2 "$RANDOM"; done
echo "guest: errors $(dmesg | grep -cE 'I/O error|xvda disabled|Buffer I/O' || true)"
echo "guest: unplug"
while [ -e /sys/block/xvda ]; do usleep 200000; done
