#!/bin/sh
# Makes a package of programs that are built.
#
#   package.sh deb|rpm <directory of the programs> <directory for the package>
#
# VERSION=<version> names another one than that of Cargo.toml. The same programs make the same package, byte
# for byte, at the same commit. Prints the path of the package.
set -eu

kind=$1 built=$2 out=$3
tree=$(cd "$(dirname "$0")/.." && pwd)
package=$tree/volume/package
version=${VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$tree/Cargo.toml")}
: "${SOURCE_DATE_EPOCH:=$(git -C "$tree" log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
files=$work/files
functions=site-functions
if [ "$kind" = deb ]; then functions=vendor-completions; fi
ZSH_FUNCTIONS=$functions PLUGINS=no "$tree/tests/install.sh" install "$built" "$files"
doc=$files/usr/share/doc/xapi-storage-ram
mkdir -p "$doc" "$out"
install -m 0644 "$tree/LICENSE" "$doc/copyright"
gzip -9nc "$tree/CHANGELOG.md" >"$doc/changelog.gz"
find "$files" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +

case $kind in
deb)
    architecture=$(dpkg --print-architecture)
    mkdir "$files/DEBIAN"
    sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" \
        -e "s/@KIB@/$(du -sk "$files" | cut -f 1)/" "$package/control" >"$files/DEBIAN/control"
    install -m 0755 "$package/postinst" "$package/prerm" "$package/postrm" "$files/DEBIAN/"
    made=$out/xapi-storage-ram_${version}_$architecture.deb
    dpkg-deb --root-owner-group -Zgzip -z6 --build "$files" "$made" >/dev/null
    ;;
rpm)
    rpmbuild -bb --quiet --define "_topdir $work/rpm" --define "_rpmdir $work/made" \
        --define "its_version $version" --define "its_files $files" "$package/xapi-storage-ram.spec"
    made=$(echo "$work"/made/*/*.rpm)
    cp "$made" "$out/"
    made=$out/${made##*/}
    ;;
*)
    echo "usage: $0 deb|rpm <directory of the programs> <directory for the package>" >&2
    exit 2
    ;;
esac
echo "$made"
