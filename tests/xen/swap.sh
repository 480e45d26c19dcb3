# What swap makes of an SR: one without device-config:swap stays in memory where the kernel can keep a tmpfs out of
# swap (Linux 6.4), however short memory is; one with it goes to zram, and is read back as it was. An earlier kernel
# swaps both, and the plugin says so. Without Xen; which of the two it is, the kernel's release says.
. /share/lib.sh
MiB=1048576
DATA_MIB=48
# What the tmpfs beside the SRs may take more or less of the memory meanwhile, and how much of the data has to go to
# swap where it may.
NOISE=$((512 * 1024)) MOST=$((28 * MiB))
DATA=/boot/vmlinux
meminfo() { awk -v name="$1:" '$1 == name { print $2 * 1024 }' /proc/meminfo; }
swapped_pages() { awk '$1 == "pswpout" { print $2 }' /proc/vmstat; }
plugin() { /share/installed/usr/libexec/xapi-storage-ram/volume-plugin "$@"; }
knows_noswap() { uname -r | awk -F '[.-]' '{ exit !($1 > 6 || $1 == 6 && $2 >= 4) }'; }
# noswap SR: how many of its two mounts are kept out of swap
noswap() { grep "^xapi-storage-ram /run/sr-mount/$1/" /proc/mounts | grep -c '[ ,]noswap[, ]'; }
is() { [ "$1" = "$2" ] || { echo "it is $1, not $2"; false; }; }
# mounted NAME SR COUNT: what the mounts of a kernel that has a choice are like
mounted() {
    check "$1 has two mounts" is "$(grep -c "/run/sr-mount/$2/" /proc/mounts)" 2
    if knows_noswap; then wanted=$3; else wanted=0; fi
    check "$1 has noswap on $wanted of them" is "$(noswap "$2")" "$wanted"
}
# logged NUMBER SR TEXT: at a kernel that has a choice and at one that has none, what the log says of an SR
logged() {
    if knows_noswap; then text=$2; else text=$3; fi
    [ -z "$text" ] || check "the log says: $text" grep -q "SR $1.*$text" /out/syslog
    [ -n "$text" ] || check "the log says nothing of swap" [ -z "$(grep "SR $1.*swap" /out/syslog)" ]
}
health() {
    call SR.stat "\"sr\":\"$1\"" > /tmp/stat || return 1
    if knows_noswap; then text=$2; else text=$3; fi
    if [ -n "$text" ]; then grep -q "$text" /tmp/stat; else ! grep -q 'swapped\|out of swap' /tmp/stat; fi ||
        { cat /tmp/stat; false; }
}
write() { xen-cold "$CONTROL/nbd/$1/$2" "$2" write $DATA 0 $DATA_MIB; }
compare() { xen-cold "$CONTROL/nbd/$1/$2" "$2" compare $DATA 0 $DATA_MIB; }
# press: takes all memory that there is, as long as the kernel finds anything to swap; sets GONE, bytes of tmpfs that
# went there. There is nearly no tmpfs but the SRs: the root file system is a ramfs.
press() {
    before=$(meminfo Shmem) pages=$(swapped_pages)
    plugin swap-out --available "$(meminfo MemTotal)" || echo "the kernel has ended it"
    GONE=$((before - $(meminfo Shmem)))
    echo "$((GONE / 1024)) KiB of $((before / 1024)) KiB of tmpfs went to swap"
    check "memory was short: the kernel has swapped" [ "$(swapped_pages)" -gt $((pages + 2048)) ]
}
attach_again() { call SR.attach "\"configuration\":$1" > /dev/null; }

echo "kernel $(uname -r), $(($(meminfo MemTotal) / MiB)) MiB"
modprobe zram
echo $((1024 * MiB)) > /sys/block/zram0/disksize
mkswap /dev/zram0 > /dev/null
check "zram is swap" swapon /dev/zram0
echo 100 > /proc/sys/vm/swappiness
echo 0 > /proc/sys/vm/page-cluster

sr_make 128MiB '' 10
kept=$SR kept_configuration=$configuration
mounted "an SR without the key" "$kept" 2
logged "$kept" '' 'may be swapped, which is slower and was not asked for'
check "its health says so, too" health "$kept" '' 'may be swapped, which is slower'
kept_key=$(volume $((64 * MiB)))
attach 0 "$kept_key" w || failed
check "its disk is written" write "$kept" "$kept_key"
press
if knows_noswap; then
    check "none of it went to swap" [ "$GONE" -lt $NOISE ]
else
    check "most of it went to swap" [ "$GONE" -gt $MOST ]
fi
check "its disk is right" compare "$kept" "$kept_key"

sr_make 128MiB '"swap":"true",' 11
cold=$SR cold_configuration=$configuration
mounted "an SR with swap=true" "$cold" 0
logged "$cold" '' 'swap=true makes no difference here'
check "its health has nothing to say of swap" health "$cold" '' ''
cold_key=$(volume $((64 * MiB)))
attach 0 "$cold_key" w || failed
check "its disk is written" write "$cold" "$cold_key"
press
check "most of it went to swap" [ "$GONE" -gt $MOST ]
if knows_noswap; then
    check "and nothing of the other one did" [ "$(meminfo Shmem)" -ge "$(SR=$kept memory)" ]
fi
zram=$(awk '{ print $1, $3 }' /sys/block/zram0/mm_stat)
echo "zram holds and takes: $zram"
check "zram has packed it" [ "${zram#* }" -lt $((${zram% *} * 9 / 10)) ]
check "the disk of the SR with swap=true is right" compare "$cold" "$cold_key"
check "and the other one" compare "$kept" "$kept_key"

check "an SR with memory is attached with swap=true" \
    attach_again "$(echo "$kept_configuration" | sed 's/"swap":"false"/"swap":"true"/; t; s/{/{"swap":"true",/')"
mounted "its memory is what it was, and it" "$kept" 2
logged "$kept" 'is kept out of swap, as when its memory was made' 'swap=true makes no difference here'
check "its health says so" health "$kept" 'swap=true holds from the next restart' ''
check "one with swap=true is attached without" \
    attach_again "$(echo "$cold_configuration" | sed 's/"swap":"true"/"swap":"false"/')"
mounted "its memory is what it was, and it" "$cold" 0
logged "$cold" 'may be swapped, as when its memory was made' 'may be swapped, which is slower'
check "its health says so" health "$cold" 'swap=false holds from the next restart' 'may be swapped, which is slower'
check "the SR that is kept grows" plugin resize --sr "$kept" --size 160MiB
check "and shrinks" plugin resize --sr "$kept" --size 100MiB
mounted "it" "$kept" 2
check "the other one grows" plugin resize --sr "$cold" --size 160MiB
mounted "it" "$cold" 0

SR=$cold
release 0 "$cold_key" || failed
check "the SR is destroyed, with what is in swap" call SR.destroy "\"sr\":\"$cold\""
sr_make 128MiB '' 11
mounted "memory that is made anew without the key" "$cold" 2
SR=$kept
check "the disk is right at the end" compare "$kept" "$kept_key"
release 0 "$kept_key" || failed
for SR in "$kept" "$cold"; do check "the SR is destroyed" call SR.destroy "\"sr\":\"$SR\"" || failed; done
check "the kernel has ended nothing but what takes the memory" \
    [ -z "$(dmesg | grep -i 'killed process' | grep -v volume-plugin)" ]
check "no disk has found no room" [ -z "$(grep -i 'no room\|Input/output' /out/syslog)" ]
