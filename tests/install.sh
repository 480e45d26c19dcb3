#!/bin/sh
# Installs the plugins below DESTDIR, or takes them away.
#
#   install.sh install|uninstall <directory of the programs> [DESTDIR]
#
# xapi-storage-script queries a plugin as soon as its directory appears, and takes every entry of
# volume/ for a plugin: so each directory is made elsewhere on the same file system and renamed
# into place when it is whole.
set -eu

act=$1 built=$2 dest=${3:-}
libexec=$dest/usr/libexec
programs=$libexec/xapi-storage-ram
dropin=$dest/usr/lib/systemd/system/xapi-storage-script.service.d/xapi-storage-ram.conf
here=$(dirname "$0")
volume=$libexec/xapi-storage-script/volume/org.xen.xapi.storage.ram
datapath=$libexec/xapi-storage-script/datapath/ram
staging=$libexec/.xapi-storage-ram.new

# links <program> <directory>: one link for each method that works
links() {
    mkdir -p "$2"
    for method in $("$built/$1" methods); do
        # From <libexec>/xapi-storage-script/<kind>/<plugin>/ to <libexec>/xapi-storage-ram/.
        ln -s "../../../xapi-storage-ram/$1" "$2/$method"
    done
}

# into_place <new> <final>: the old directory is there until the new one is
into_place() {
    mkdir -p "$(dirname "$2")"
    rm -rf "$staging.old"
    if [ -e "$2" ]; then mv "$2" "$staging.old"; fi
    mv "$1" "$2"
    rm -rf "$staging.old"
}

case $act in
install)
    mkdir -p "$libexec"
    rm -rf "$staging"
    mkdir "$staging" "$staging/programs"
    for program in volume-plugin datapath-plugin tapdisk-ram tap-ctl-ram; do
        install -m 0755 "$built/$program" "$staging/programs/$program"
        if command -v strip >/dev/null; then strip "$staging/programs/$program"; fi
    done
    # A daemon that traces calls runs methods through Python: see schemas/plugin/src/runpy.rs.
    for program in volume-plugin datapath-plugin; do
        "$built/$program" python-archive >>"$staging/programs/$program"
    done
    links volume-plugin "$staging/volume"
    links datapath-plugin "$staging/datapath"
    into_place "$staging/programs" "$programs"
    into_place "$staging/volume" "$volume"
    into_place "$staging/datapath" "$datapath"
    rmdir "$staging"
    mkdir -p "$(dirname "$dropin")"
    install -m 0644 "$here/../datapath/systemd/xapi-storage-ram.conf" "$dropin"
    ;;
uninstall)
    # The methods first: what is not there any more is not called any more.
    rm -rf "$datapath" "$volume" "$programs"
    rm -f "$dropin"
    ;;
*)
    echo "usage: $0 install|uninstall <directory of the programs> [DESTDIR]" >&2
    exit 2
    ;;
esac
