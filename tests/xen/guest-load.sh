# A guest that writes to and compares all its disks at the same time.
set -e
until [ -e /dev/xvda ]; do usleep 200000; done
usleep 1000000
sum() { dd if=/dev/xvda bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1; }
echo "guest: load begins"
for disk in /dev/xvd?; do xen-load "$disk" 15 2 "$RANDOM" & done
wait
echo "guest: sum $(sum)"
if [ -e /dev/xvdb ]; then
    echo "guest: busy"
    dd if=/dev/xvda of=/dev/xvdb bs=64k iflag=direct oflag=direct count=100000 2>/dev/null
    while true; do dd if=/dev/xvdb of=/dev/null bs=64k iflag=direct 2>/dev/null; done
fi
usleep 4000000
dd if=/dev/urandom of=/dev/xvda bs=64k count=64 oflag=direct conv=notrunc 2>/dev/null
echo "guest: changed"
echo "guest: unplug"
while [ -e /sys/block/xvda ]; do usleep 200000; done
until [ -e /dev/xvda ]; do usleep 200000; done
echo "guest: again $(sum)"
