# Ends a scratch directory: the processes that were started for it, the mounts below it, its files.
#
#   end.sh <directory>         at once
#   end.sh <directory> guard   when the other end of stdin is closed, by whatever death of its
#                              owner; not where the owner has said "keep"
#
# A process was started for the directory if a variable of its environment begins with it: the
# plugins get XAPI_RAM_SR_ROOT and hand their environment on to the tapdisks that they start.
root=$1
if [ "${2:-}" = guard ]; then
    trap '' HUP INT TERM
    read -r word
    [ "$word" = keep ] && exit
fi

# What a process starts while it is being killed is found in the next round.
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=$(grep -lsF -e "=$root" /proc/[0-9]*/environ)
    [ -n "$found" ] || break
    for environ in $found; do
        pid=${environ#/proc/}
        kill -9 "${pid%/environ}" 2>/dev/null
    done
    [ "$round" = 1 ] || sleep 0.1
done

# Later mounts may lie below earlier ones.
mounts=
while read -r _ _ _ _ place _; do
    case $place in "$root"/*) mounts="$place $mounts" ;; esac
done </proc/self/mountinfo
for place in $mounts; do
    umount -l "$place"
done

rm -rf "$root"
