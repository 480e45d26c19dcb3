# No guest: SRs take all memory that dom0 may give them, again and again, beside another program that takes
# memory and gives it back. What dom0 has left is read all the while.
. /share/lib.sh
. /share/settings
grep -E '^(MemTotal|MemAvailable)' /proc/meminfo
fill_ups "$FILL_UPS"
