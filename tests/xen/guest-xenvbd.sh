# A guest whose disk is not its kernel's at first, but of a program that does what Windows' PV driver does.
set -e
rmmod xen_blkfront
modprobe xen-evtchn
modprobe xen-gntalloc
echo "guest: ready"
for abi in x86_64-abi x86_32-abi; do
    until xen-load xenvbd 51712 $abi /tmp/model > /tmp/log 2>&1; do
        # Not plugged yet.
        grep -q 'no such disk' /tmp/log || { cat /tmp/log; exit 1; }
        usleep 200000
    done
    cat /tmp/log
done
echo "guest: model $(sha256sum /tmp/model | cut -d ' ' -f 1)"
# The frontend of Linux sees the same.
modprobe xen-blkfront
until [ -e /dev/xvda ]; do usleep 200000; done
dmesg | grep 'blkfront: xvda'
echo "guest: sum $(dd if=/dev/xvda bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1)"
