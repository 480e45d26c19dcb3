#!/bin/sh
# Makes sure of the programs that the demonstration, the tests and the benchmark need; installs
# Debian's packages of those that are missing. As an ordinary user this takes sudo.
#
#   tests/tools.sh run|package|test|bench
set -eu

# program:package
build='cc:gcc ld:binutils make:make'
run='mkfs.ext4:e2fsprogs nbdcopy:libnbd-bin qemu-img:qemu-utils cmp:diffutils'
package='rpmbuild:rpm rpm:rpm dpkg-deb:dpkg gzip:gzip'
test="$run $package man:man-db mandoc:mandoc fish:fish zsh:zsh nbdinfo:libnbd-bin nbdsh:python3-libnbd qemu-io:qemu-utils fio:fio strace:strace setpriv:util-linux"
# qemu-storage-daemon comes with qemu-utils since qemu 10; Debian 12 has it in qemu-system-common.
bench="$test nbdkit:nbdkit qemu-nbd:qemu-utils qemu-storage-daemon:qemu-system-common python3:python3"

case "${1:-}" in
run) wanted="$build $run" ;;
package) wanted="$build $package" ;;
test) wanted="$build $test" ;;
bench) wanted="$build $bench" ;;
*)
    echo "usage: $0 run|package|test|bench" >&2
    exit 2
    ;;
esac

PATH="$PATH:/usr/sbin:/sbin"
packages=
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || packages="$packages ${pair#*:}"
done
# libc's headers have no program of their own.
[ -e /usr/include/stdio.h ] || packages="$packages libc6-dev"
[ -n "$packages" ] || exit 0

echo "installing:$packages"
as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "$0: as root, run: apt-get update && apt-get install -y$packages" >&2
        exit 1
    fi
    as_root=sudo
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086 # a list of packages
$as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null
