# A guest that writes and compares while it is suspended and resumed.
set -e
until [ -e /dev/xvda ]; do usleep 200000; done
echo "guest: load begins"
xen-load /dev/xvda "${LOAD_SECONDS:-40}" 4 "$RANDOM"
dd if=/dev/xvda bs=1M iflag=direct 2>/dev/null | sha256sum | sed 's/^\([^ ]*\).*/guest: sum \1/'
dmesg | grep -iE 'blkfront|xvda|suspend|error' | tail -n 12
