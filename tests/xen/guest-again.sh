# A guest whose disk dom0 takes away and gives back, three times. What it has written has to be there afterwards.
until_disk() { until [ -b /dev/xvda ]; do usleep 200000; done; }
sum() { dd if=/dev/xvda bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1; }
for round in 1 2 3; do
    until_disk
    [ $round = 1 ] || [ "$(sum)" = "$expected" ] || { echo "guest: wrong in round $round"; exit 1; }
    xen-load /dev/xvda 4 4 "$RANDOM"
    expected=$(sum)
    echo "guest: writes $round"
    while [ -e /sys/block/xvda ]; do usleep 200000; done
    echo "guest: gone $round"
done
until_disk
dmesg | grep -E 'xvda' | tail -n 5
[ "$(sum)" = "$expected" ] && echo "guest: right"
