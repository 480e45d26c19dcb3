# An HVM guest with a disk that it has twice, by its device model (NVMe) and by the ring; a disk that it has by the
# ring alone, since Linux unplugs IDE disks; and an IDE CD.
set -e
modprobe nvme
modprobe ata_piix
modprobe sd_mod
modprobe sr_mod
echo "guest: begin"
for disk in nvme0n1 xvda xvdb sr0; do until [ -e "/dev/$disk" ]; do usleep 200000; done; done
echo "guest: unplugged $(ls /dev/sd? 2>/dev/null | wc -l)"
# Where the kernel is.
sum() { dd "if=/dev/$1" bs=1M skip=1 count=12 iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1; }
echo "guest: ring $(sum xvda)"
echo "guest: emulated $(sum nvme0n1)"
xen-load /dev/xvda,/dev/nvme0n1 15 2 "$RANDOM"
echo "guest: both right"
xen-load /dev/xvdb 8 2 "$RANDOM"
echo "guest: data right"
echo "guest: cd $(sha256sum < /dev/sr0 | cut -d ' ' -f 1)"
echo "guest: refused $(dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 conv=notrunc 2>/dev/null; echo $?)"
