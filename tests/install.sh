#!/bin/sh
# Installs the plugins below DESTDIR, or takes them away.
#
#   install.sh install|uninstall <directory of the programs> [DESTDIR]
#
# Methods are links in a directory beside the programs. xapi-storage-script queries a plugin as soon as its
# name appears, and takes every entry of volume/ for a plugin: so a link to that directory, which is whole
# then, is made elsewhere on the same file system and renamed into place. A link that is there is left
# alone, as renaming it makes the daemon forget the plugin for a moment.
#
# PLUGINS=no installs all but those two links: packages make them when their files are in place.
set -eu

act=$1 built=$2 dest=${3:-}
libexec=$dest/usr/libexec
programs=$libexec/xapi-storage-ram
script=$libexec/xapi-storage-script
dropin=$dest/usr/lib/systemd/system/xapi-storage-script.service.d/xapi-storage-ram.conf
man=$dest/usr/share/man
# What a status report of the host has of this package.
bugtool=$dest/etc/xensource/bugtool/xapi-storage-ram
# Where each shell finds completions. ZSH_FUNCTIONS=<name> is another directory of zsh's: Debian's has a name of
# its own.
bash=$dest/usr/share/bash-completion/completions
fish=$dest/usr/share/fish/vendor_completions.d
zsh=$dest/usr/share/zsh/${ZSH_FUNCTIONS:-site-functions}
tree=$(dirname "$0")/..
staging=$libexec/.xapi-storage-ram.new
plugins='volume/org.xen.xapi.storage.ram datapath/ram'
pages='ram-sr.7 volume-plugin.8 datapath-plugin.8 tapdisk-ram.8 tap-ctl-ram.8'

# links <program> <directory>: one link for each method that works
links() {
    mkdir "$2"
    for method in $("$built/$1" methods); do
        ln -s "../$1" "$2/$method"
    done
}

# into_place <new> <final>: the old directory is there until the new one is
into_place() {
    rm -rf "$staging.old"
    if [ -e "$2" ] || [ -L "$2" ]; then mv "$2" "$staging.old"; fi
    mv -T "$1" "$2"
    rm -rf "$staging.old"
}

case $act in
install)
    mkdir -p "$libexec" "$man/man7" "$man/man8" "$bash" "$fish" "$zsh" "$(dirname "$dropin")" "$bugtool"
    rm -rf "$staging"
    mkdir "$staging"
    for program in volume-plugin datapath-plugin tapdisk-ram tap-ctl-ram; do
        install -m 0755 "$built/$program" "$staging/$program"
        if command -v strip >/dev/null; then strip "$staging/$program"; fi
    done
    # A daemon that traces calls runs methods through Python: see schemas/plugin/src/runpy.rs.
    for program in volume-plugin datapath-plugin; do
        "$built/$program" python-archive >>"$staging/$program"
    done
    links volume-plugin "$staging/volume"
    links datapath-plugin "$staging/datapath"
    into_place "$staging" "$programs"
    for plugin in $plugins; do
        mkdir -p "$script/${plugin%/*}"
        link=../../xapi-storage-ram/${plugin%/*}
        if [ "${PLUGINS:-}" != no ] && [ "$(readlink "$script/$plugin")" != "$link" ]; then
            ln -s "$link" "$staging"
            into_place "$staging" "$script/$plugin"
        fi
    done
    for page in $pages; do
        # The same bytes each time: without a time stamp.
        gzip -9nc "$tree"/*/man/"$page" >"$man/man${page##*.}/$page.gz"
    done
    install -m 0644 "$tree"/*/completions/bash/* "$bash"
    install -m 0644 "$tree"/*/completions/fish/* "$fish"
    install -m 0644 "$tree"/*/completions/zsh/* "$zsh"
    install -m 0644 "$tree/datapath/systemd/xapi-storage-ram.conf" "$dropin"
    install -m 0644 "$tree/volume/package/bugtool/xapi-storage-ram.xml" "$bugtool.xml"
    install -m 0644 "$tree/volume/package/bugtool/xapi-storage-ram/state.xml" "$bugtool/state.xml"
    ;;
uninstall)
    # The methods first: what is not there any more is not called any more.
    for plugin in $plugins; do
        rm -rf "${script:?}/$plugin"
    done
    rm -rf "$programs"
    for page in $pages; do
        rm -f "$man/man${page##*.}/$page.gz"
    done
    for completion in "$tree"/*/completions/*/*; do
        name=${completion##*/}
        rm -f "$bash/$name" "$fish/$name" "$zsh/$name"
    done
    # What the programs have left in /run: locks, the last errors, what was granted of the memory. The lock of an SR in memory stays.
    locks=$dest/run/xapi-storage-ram
    for file in "$locks"/* "$locks"/.[!.]*; do
        if [ ! -e "$dest/run/sr-mount/${file##*/}" ]; then rm -f "$file"; fi
    done
    rmdir "$locks" 2>/dev/null || true
    rm -f "$dest/run/sr-mount/.memory"
    rm -f "$dropin" "$bugtool.xml" "$bugtool/state.xml"
    rmdir "$bugtool" 2>/dev/null || true
    rmdir "$(dirname "$dropin")" 2>/dev/null || true
    ;;
*)
    echo "usage: $0 install|uninstall <directory of the programs> [DESTDIR]" >&2
    exit 2
    ;;
esac
