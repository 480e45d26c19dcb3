# A guest that crashes with requests in flight, and its second kernel, which runs this again: that looks at what the
# first one has written, and puts a part of the dump behind it.
set -e
until_disk() { until [ -b /dev/xvda ]; do usleep 200000; done; }
# sum MiB: of 4 MiB that begin there
sum() { dd if=/dev/xvda bs=1M count=4 "skip=$1" iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1; }
if [ -e /proc/vmcore ]; then
    echo "guest: second kernel"
    until_disk
    echo "guest: kept $(sum 0)"
    dd if=/proc/vmcore of=/tmp/dump bs=1M count=4 iflag=fullblock 2>/dev/null
    dd if=/tmp/dump of=/dev/xvda bs=1M seek=12 oflag=direct conv=notrunc,fsync 2>/dev/null
    echo "guest: dump $(sha256sum < /tmp/dump | cut -d ' ' -f 1)"
    echo "guest: dumped $(sum 12)"
    exit
fi
# The second kernel gets the root file system of the first, as it is.
cd /
{ find bin sbin lib usr etc; printf '%s\n' init guest.sh dev dev/console dev/null proc sys tmp run mnt; } |
    cpio -o -H newc 2>/dev/null > /tmp/initrd
# By itself it would look for the tables of ACPI where a PC has them, and measure the processor's clock by a PC's
# timer, which it does not have.
tables=$(dmesg | sed -n 's/.*ACPI: RSDP \(0x[0-9A-F]*\).*/\1/p')
clock=$(sed -n 's/^cpu MHz.*: \([0-9]*\)\.\([0-9]*\)/\1\2/p' /proc/cpuinfo)
kexec -s -p /kernel --initrd=/tmp/initrd --command-line="console=hvc0 loglevel=6 mitigations=off panic=1 nr_cpus=1 \
reset_devices initcall_blacklist=acpi_init acpi_rsdp=$tables tsc_early_khz=$clock"
rm /tmp/initrd /kernel
echo "guest: loaded $(cat /sys/kernel/kexec_crash_loaded)"
until_disk
dd if=/dev/urandom of=/dev/xvda bs=1M count=4 oflag=direct conv=notrunc,fsync 2>/dev/null
echo "guest: written $(sum 0)"
# xl sysrq may let it crash.
echo 1 > /proc/sys/kernel/sysrq
for block in 80 96 112 128; do
    while dd if=/dev/zero of=/dev/xvda bs=64k count=16 seek=$block oflag=direct conv=notrunc 2>/dev/null; do :; done &
    while dd if=/dev/xvda of=/dev/null bs=64k count=16 skip=$block iflag=direct 2>/dev/null; do :; done &
done
while usleep 500000; do echo "guest: in flight $(cat /sys/block/xvda/inflight)"; done
