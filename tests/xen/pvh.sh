# The same as disk.sh for a PVH guest.
GUEST_TYPE=pvh
. /share/disk.sh
