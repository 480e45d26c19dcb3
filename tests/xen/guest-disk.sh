# A guest that uses its first disk in every way. It goes on when dom0 plugs and unplugs further disks.
until_disk() { until [ -e "/dev/$1" ]; do usleep 200000; done; }
until_gone() { while [ -e "/sys/block/$1" ]; do usleep 200000; done; }
sum() { dd "if=/dev/$1" bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1; }
set -e
until_disk xvda
dmesg | grep 'blkfront: xvda'
echo "guest: discard $(cat /sys/block/xvda/queue/discard_max_bytes)"
echo "guest: segments $(cat /sys/block/xvda/queue/max_segments)"
echo "guest: cache $(cat /sys/block/xvda/queue/write_cache)"
# Holes are read beside writes.
xen-load rates /dev/xvda 2 8 read &
xen-load rates /dev/xvda 2 8 write
wait
echo "guest: load begins"
xen-load /dev/xvda 12 4 "$RANDOM"
echo "guest: sum $(sum xvda)"
# dom0 has taken a snapshot meanwhile, and another one now, which is xvdb.
until_disk xvdb
echo "guest: copy $(sum xvdb)"
echo "guest: read-only $(cat /sys/block/xvdb/ro)"
echo "guest: refused $(dd if=/dev/zero of=/dev/xvdb bs=4096 count=1 conv=notrunc oflag=direct 2>/dev/null; echo $?)"
echo "guest: still $(sum xvdb)"
until_gone xvdb
old=$(cat /sys/block/xvda/size)
mke2fs -F /dev/xvda 65536 >/dev/null 2>&1
mount -t ext4 /dev/xvda /mnt
dd if=/dev/urandom of=/mnt/kept bs=1M count=4 2>/dev/null
echo "guest: kept $(sha256sum /mnt/kept | cut -d ' ' -f 1)"
sync
echo "guest: grow"
until_grown() { until [ "$(cat /sys/block/xvda/size)" -gt "$1" ]; do usleep 200000; done; }
until_grown "$old"
size=$(cat /sys/block/xvda/size)
echo "guest: size $size"
# Beyond its old end.
dd if=/dev/urandom of=/tmp/end bs=4096 count=64 2>/dev/null
dd if=/tmp/end of=/dev/xvda bs=4096 count=64 seek=$((old / 8)) oflag=direct conv=notrunc 2>/dev/null
dd if=/dev/xvda of=/tmp/back bs=4096 count=64 skip=$((old / 8)) iflag=direct 2>/dev/null
cmp /tmp/end /tmp/back
dd if=/dev/urandom of=/mnt/big bs=1M count=40 2>/dev/null
sync
echo "guest: filled"
# dom0 looks at how much memory the disk takes, and has it grow again.
until_grown "$size"
rm /mnt/big
sync
fstrim /mnt
sync
echo "guest: trimmed"
umount /mnt
echo "guest: unplug"
until_gone xvda
until_disk xvda
mount -t ext4 /dev/xvda /mnt
echo "guest: again $(sha256sum /mnt/kept | cut -d ' ' -f 1)"
umount /mnt
echo "guest: done"
