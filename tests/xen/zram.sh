# Cold blocks and zram: what a disk with an operating system and one with a database take of the memory with and
# without it, what a first access costs, and what a working set notices. Without Xen, on the same kernel: the numbers
# are of an emulated processor, and only their ratios say something.
. /share/lib.sh
. /share/settings
MiB=1048576
# What is written of the system at first, and what is in all, in MiB of its disk; how much memory is to be available
# after cold memory was swapped; and the size that the SR then grows to.
SYSTEM_MIB=400 SYSTEM_END=720 TARGET=620MiB LARGER=900MiB
meminfo() { awk -v name="$1:" '$1 == name { print $2 * 1024 }' /proc/meminfo; }
mib() { echo $(($1 / MiB)); }
plugin() { /share/installed/usr/libexec/xapi-storage-ram/volume-plugin "$@"; }
# cold KEY ...: xen-cold on a disk that is attached
cold() {
    key=$1
    shift
    xen-cold "$CONTROL/nbd/$SR/$key" "$key" "$@"
}
# use: bytes of the host's memory that the SR takes, with what zram takes
use() { echo $((empty - $(meminfo MemAvailable))); }
report() {
    data=$(memory)
    echo "$1: $(mib "$data") MiB of data take $(mib "$(use)") MiB of memory, $(($(use) * 1000 / data)) thousandths"
}
swap_out() { check "cold memory is swapped" plugin swap-out --available "$1"; cat /tmp/check; }

echo "kernel $(uname -r), $(mib "$(meminfo MemTotal)") MiB"
sr_make 640MiB '"swap":"true",'
database=$(volume $((1024 * MiB)))
system=$(volume $((2048 * MiB)))
hot=$(volume $((64 * MiB)))
for key in $database $system $hot; do attach 0 "$key" w || failed; done
sync
empty=$(meminfo MemAvailable)
check "a database is written" cold "$database" write /boot/data/database 0 1024
check "a part of a system is written" cold "$system" write /boot/data/system 0 "$SYSTEM_MIB"
check "and a working set" cold "$hot" write /boot/data/database 0 32
report "without zram"
echo "a first access and a warm one, the same without zram:"
cold "$system" touch 2000 1 || failed
before=$(cold "$hot" rate 32 10) || failed
echo "the working set, $before"

modprobe zram
modprobe zstd
echo "$ZRAM_ALGORITHM" > /sys/block/zram0/comp_algorithm
cat /sys/block/zram0/comp_algorithm
# Twice the memory: what swap-out takes itself is swapped, too, until it ends.
echo $((2048 * MiB)) > /sys/block/zram0/disksize
mkswap /dev/zram0 > /dev/null
check "zram is swap" swapon /dev/zram0
echo 100 > /proc/sys/vm/swappiness
echo 0 > /proc/sys/vm/page-cluster
cold "$hot" rate 32 60 > /tmp/meanwhile &
reader=$!
sleep 3
swap_out "$TARGET"
check "the working set was read meanwhile" wait $reader
echo "the working set meanwhile, $(cat /tmp/meanwhile)"
report "with zram"
echo "mm_stat: $(cat /sys/block/zram0/mm_stat)"
echo "a first access to a cold block, and a warm one, of the system:"
cold "$system" touch 2000 2 || failed
echo "of the database:"
cold "$database" touch 2000 2 || failed
after=$(cold "$hot" rate 32 10) || failed
echo "the working set, $after"

echo "more than the memory without zram would hold:"
check "the SR grows by what swap has given" plugin resize --sr "$SR" --size "$LARGER"
check "the rest of the system is written" cold "$system" write /boot/data/system "$SYSTEM_MIB" "$SYSTEM_END"
report "all of it"
swap_out "$TARGET"
report "all of it, cold"
check "the database is right" cold "$database" compare /boot/data/database 0 1024
check "the system is right" cold "$system" compare /boot/data/system 0 "$SYSTEM_END"
check "the kernel has killed nothing" [ -z "$(dmesg | grep -i 'out of memory\|oom-kill')" ]
check "no disk has found no room" [ -z "$(grep -i 'no room\|Input/output' /out/syslog)" ]
plugin Plugin.diagnostics | sed -n 's/^\(memory\|swap\|SR\).*/&/p'
for key in $database $system $hot; do release 0 "$key" || failed; done
check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\""
