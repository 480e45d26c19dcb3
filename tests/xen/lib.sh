# For scripts in dom0: SRs and disks by the plugins, as xapi-storage-script calls them; guests by xl; checks.

PLUGINS=/share/installed/usr/libexec/xapi-storage-script
CONTROL=/run/blktap-control
checks=0
# It serves domains that come after it alone.
[ ! -x /share/bin/tapback ] || tapback

# check WHAT COMMAND...: one line for each check; the first that fails ends the script.
check() {
    checks=$((checks + 1))
    what=$1
    shift
    if "$@" > /tmp/check 2>&1; then
        echo "ok $checks - $what ($(cut -d ' ' -f 1 /proc/uptime) s)"
    else
        echo "not ok $checks - $what"
        cat /tmp/check
        failed
    fi
}
failed() {
    for log in /out/guests/guest-*.log /var/log/xen/qemu-*.log; do echo "== $log"; tail -n 25 "$log"; done
    echo "== syslog"; tail -n 25 /out/syslog
    exit 1
}
# eventually SECONDS COMMAND...
eventually() {
    left=$1
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 1
    done
}

# call METHOD PARAMS: the answer of a plugin
call() {
    case $1 in
        Datapath.*) program=$PLUGINS/datapath/ram/$1 ;;
        *) program=$PLUGINS/volume/org.xen.xapi.storage.ram/$1 ;;
    esac
    echo "{\"dbg\":\"test\",$2}" | $program --json || { echo "$1 {$2}" >&2; return 1; }
}
# first NAME: of the JSON on stdin, the first value of that name
first() { grep -o "\"$1\":\"\{0,1\}[^\",}]*" | head -n 1 | sed 's/.*:"\{0,1\}//'; }

# sr_make SIZE [KEYS [NUMBER]]: KEYS: more of device-config, as JSON with a comma behind each; NUMBER: of the SR,
# where there are several, of two digits
sr_make() {
    configuration=$(call SR.create "\"uuid\":\"7c4f0f6e-5f0b-4b7e-9c55-0d6f4f1c2a${3:-10}\",\"name\":\"ram\",\"description\":\"\",\"configuration\":{$2\"size\":\"$1\"}") || exit 1
    SR=$(call SR.attach "\"configuration\":$configuration" | tr -d '"') || exit 1
}
# volume SIZE: the key of a new volume
volume() { call Volume.create "\"sr\":\"$SR\",\"name\":\"disk\",\"description\":\"\",\"size\":$1,\"sharable\":false" | first key; }
on_volume() { call "$1" "\"sr\":\"$SR\",\"key\":\"$2\"${3:+,$3}"; }
# memory: bytes of the SR's data, as the kernel counts them
memory() { df -P -k "/run/sr-mount/$SR/data" | awk 'NR == 2 { print $3 * 1024 }'; }
uri() { on_volume Volume.stat "$1" | grep -o '"uri":\["[^"]*' | cut -d '"' -f 4; }
# attach DOMID KEY r|w: as xapi does before a machine is built; sets PARAMS, which names the disk
attach() {
    uri=$(uri "$2")
    attached=$(call Datapath.attach "\"uri\":\"$uri\",\"domain\":\"$1\"") || return 1
    activate=activate
    [ "$3" = w ] || activate=activate_readonly
    call Datapath.$activate "\"uri\":\"$uri\",\"domain\":\"$1\"" >/dev/null || return 1
    PARAMS=$(echo "$attached" | grep -o '"params":"[^"]*' | cut -d '"' -f 4)
    [ -n "$PARAMS" ] || { echo "no params in $attached"; return 1; }
}
# socket_of PARAMS: the path of the NBD server there
socket_of() { echo "$1" | sed 's/^nbd:unix:\([^:]*\).*/\1/'; }
# plug DOMID DEVID KEY r|w [cdrom]: as xapi and xenopsd do; the backend is served until the disk is unplugged, by
# tapback where run.sh was given one
plug() {
    attach "$1" "$3" "$4" || return 1
    [ -x /share/bin/tapback ] || xen-toolstack serve "$1" "$2" >> /out/toolstack.log 2>&1 &
    xen-toolstack plug "$1" "$2" "$(socket_of "$PARAMS")" "$4" "${5:-disk}"
}
# unplug DOMID DEVID KEY
unplug() {
    xen-toolstack unplug "$1" "$2" && release "$1" "$3"
}
release() {
    uri=$(uri "$2")
    call Datapath.deactivate "\"uri\":\"$uri\",\"domain\":\"$1\"" >/dev/null &&
        call Datapath.detach "\"uri\":\"$uri\",\"domain\":\"$1\"" >/dev/null
}

# initrd NAME SCRIPT [packed]: makes the root file system of a guest that will run SCRIPT. GUEST_FILES: what else is put
# there.
initrd() {
    files=/tmp/guest-$1
    rm -rf "$files"
    mkdir -p "$files/bin"
    cp "/share/$2" "$files/guest.sh"
    cp /share/bin/xen-load "$files/bin/"
    for file in $GUEST_FILES; do cp -a "$file" "$files/"; done
    (cd "$files" && find . | cpio -o -H newc 2>/dev/null) > "$files.cpio"
    rm -rf "$files"
    cat "/boot/guest.cpio${3:+.gz}" "$files.cpio" > "$files.initrd"
    rm "$files.cpio"
}
# guest NAME SCRIPT [TYPE]: a paused guest that will run SCRIPT; sets DOMID. SOFT_RESET: what xl does when it asks for
# that. LOADER: what starts it from its disk, in the place of a kernel and initrd.
guest() {
    initrd "$1" "$2"
    cat > "$files.cfg" <<C
name = "$1"
type = "${3:-pv}"
memory = ${GUEST_MEMORY:-256}
vcpus = 1
on_poweroff = "preserve"
on_reboot = "preserve"
on_crash = "preserve"
C
    [ -z "$SOFT_RESET" ] || echo "on_soft_reset = \"$SOFT_RESET\"" >> "$files.cfg"
    # Xen would emulate RDTSCP for a PVH or HVM guest, and cannot: the emulated machine does not say how long
    # the instruction was.
    case ${3:-pv} in pvh|hvm) echo 'tsc_mode = "native"' ;; esac >> "$files.cfg"
    if [ "$3" = hvm ]; then model; elif [ -n "$LOADER" ]; then echo "kernel = \"$LOADER\""; else kernel; fi >> "$files.cfg"
    xl create -p "$files.cfg" > "$files.log" 2>&1 || { cat "$files.log"; return 1; }
    DOMID=$(xl domid "$1")
    [ "$3" != pvh ] || alone "$1"
}
# alone NAME: a guest has a processor for itself. QEMU 7.2 lets PVH guests fault at times where it has not, with the
# address of Xen's VMRUN in their CR2, also before they have a disk.
alone() { xl vcpu-pin Domain-0 all 0 && xl vcpu-pin "$1" all 1; }
# What the domain builder is told of other guests. GUEST_WORDS: more words for the kernel
kernel() {
    cat <<C
kernel = "/boot/vmlinux"
ramdisk = "$files.initrd"
extra = "console=hvc0 loglevel=6 mitigations=off panic=1 $GUEST_WORDS"
C
}
# What an HVM guest has instead. DRIVES: words for its device model
model() {
    cat <<C
boot = "c"
vga = "none"
vnc = 0
device_model_args_hvm = [ "-L", "/usr/share/qemu", "-L", "/usr/share/seabios"$(for word in $DRIVES; do printf ', "%s"' "$word"; done) ]
C
}
says() { grep -q "$2" "/out/guests/guest-$1.log"; }
# said NAME WORD: what a guest has printed behind "guest: WORD "
said() { sed -n "s/^guest: $2 \([^\r]*\).*/\1/p" "/out/guests/guest-$1.log" | tail -n 1; }
# waits NAME PATTERN [SECONDS]: until a guest has printed it
waits() {
    eventually "${3:-120}" said_or_ended "$1" "$2"
    says "$1" "$2"
}
said_or_ended() { says "$1" "$2" || says "$1" "guest: ended"; }
