#!/bin/bash
# Makes a small Xen host to boot in QEMU, of Debian 12's packages alone:
#
#   tests/xen/build.sh DIRECTORY
#
# XEN_KERNEL=backports: with the newest kernel of Debian 12's backports in the place of its own, which is Linux 6.1.
#
# DIRECTORY gets xen (the hypervisor), vmlinux (the kernel of dom0 and guests), dom0.cpio and guest.cpio
# (their root file systems), model (the device model of HVM guests) and what such a guest is started by, python and
# kexec (what dom0 and a guest need beside that for a soft reset). QEMU, cpio and strace are installed on this machine;
# everything else is downloaded and unpacked only, since the packages' scripts would set up a boot loader and start
# services here.
set -euo pipefail
files=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
directory=$PWD

apt() { apt-get -qq -o DPkg::Lock::Timeout=300 -o APT::Sandbox::User=root "$@"; }

missing=
for pair in qemu-system-x86_64:qemu-system-x86 cpio:cpio python3:python3 strace:strace xz:xz-utils zstd:zstd; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list
    DEBIAN_FRONTEND=noninteractive apt install -y --no-install-recommends $missing >/dev/null
fi

# of_kernel COMMAND WORD...: apt, which knows the packages of the suite that the kernel is from. Other packages of
# the backports would not be those that fit Debian 12: they are no source of this machine.
of_kernel() { "$@"; }
case ${XEN_KERNEL:-} in
    '') ;;
    backports)
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -1)
        mkdir -p backports/partial
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm-backports main" > backports.list
        of_kernel() {
            local command=$1
            shift
            "$command" -o Dir::Etc::SourceList="$directory/backports.list" -o Dir::Etc::SourceParts=/dev/null \
                -o Dir::State::Lists="$directory/backports" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
        }
        of_kernel apt update
        ;;
    *) echo "XEN_KERNEL=$XEN_KERNEL: it may be backports, or empty" >&2; exit 2 ;;
esac
kernel=$(of_kernel apt-cache depends linux-image-amd64 |
    sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -1)
release=${kernel#linux-image-}
packages="busybox-static qemu-system-xen xen-hypervisor-4.17-amd64 xen-utils-4.17 xen-utils-common
    xenstore-utils libyajl2 grub-common grub-pc-bin grub-xen-bin libdevmapper1.02.1 kexec-tools
    python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libffi8"
for library in store4 misc4.17 call1 devicemodel1 evtchn1 foreignmemory1 gnttab1 hypfs1 toolcore1 toollog1; do
    packages="$packages libxen$library"
done
if [ "$(cat unpacked/.complete 2>/dev/null)" != "$kernel $packages" ]; then
    rm -rf packages unpacked
    mkdir packages unpacked
    # shellcheck disable=SC2086 # a list
    (cd packages && of_kernel apt download "$kernel" && apt download $packages)
    for package in packages/*.deb; do dpkg-deb -x "$package" unpacked; done
    # QEMU loads a hypervisor only when it is not compressed. The kernel is unpacked here, since Xen takes
    # long for that in an emulated machine. Its header says where it lies in the file (the kernel's
    # Documentation/arch/x86/boot.rst), and four bytes behind it are its size.
    gzip -dc unpacked/boot/xen-4.17-amd64.gz > xen
    python3 - "unpacked/boot/vmlinuz-$release" > packed <<'P'
import struct, sys
image = open(sys.argv[1], "rb").read()
start, length = struct.unpack_from("<II", image, 0x248)
start += (image[0x1f1] + 1) * 512
sys.stdout.buffer.write(image[start:start + length - 4])
P
    # Debian 12's own kernel is packed by xz, those of its backports are by zstd.
    if xz -t packed 2>/dev/null; then xz -dc packed > vmlinux; else zstd -qdc packed > vmlinux; fi
    rm packed
    echo "$kernel $packages" > unpacked/.complete
fi

first() { for path; do if [ -e "$path" ]; then echo "$path"; return; fi; done; echo "none of $*" >&2; exit 1; }
busybox=$(first unpacked/bin/busybox unpacked/usr/bin/busybox)
modules=$(first "unpacked/lib/modules/$release" "unpacked/usr/lib/modules/$release")
"$busybox" depmod -b "${modules%/lib/modules/*}" "$release"

# root DIRECTORY MODULE...: a root file system with busybox and kernel modules, and those that they need
root() {
    local root=$1 module line file
    shift
    rm -rf "$root"
    mkdir -p "$root"/{bin,sbin,usr/sbin,usr/bin,dev,proc,sys,run,tmp,root,mnt,etc,var/lib,var/log}
    ln -s ../run "$root/var/run"
    cp "$busybox" "$root/bin/busybox"
    for applet in $("$busybox" --list); do ln -s busybox "$root/bin/$applet" 2>/dev/null || true; done
    mkdir -p "$root/lib/modules/$release"
    cp "$modules"/modules.{builtin,order} "$root/lib/modules/$release/"
    for module; do
        ! grep -q "/$module\.ko" "$modules/modules.builtin" || continue
        line=$(grep -E "(^|/)$module\.ko[.a-z]*:" "$modules/modules.dep")
        for file in ${line/:/ }; do
            install -D -m 644 "$modules/$file" "$root/lib/modules/$release/$file"
        done
    done
    "$busybox" depmod -b "$root" "$release"
    echo root:x:0:0:root:/root:/bin/sh > "$root/etc/passwd"
    echo root:x:0: > "$root/etc/group"
    mknod -m 600 "$root/dev/console" c 5 1
    mknod -m 666 "$root/dev/null" c 1 3
}

root guest xen-blkfront xen-evtchn xen-gntalloc ext4 crc32c_generic nvme ata_piix sd_mod sr_mod
install -m 755 "$files/guest-init" guest/init

root dom0 xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs virtio_pci virtio_console 9p 9pnet_virtio zram zstd
install -m 755 "$files/dom0-init" dom0/init
mkdir -p dom0/usr/lib/xen-4.17/bin dom0/etc/xen dom0/usr/lib/x86_64-linux-gnu
for program in xl oxenstored xenconsoled xen-init-dom0 libxl-save-helper; do
    cp "unpacked/usr/lib/xen-4.17/bin/$program" dom0/usr/lib/xen-4.17/bin/
done
cp -a unpacked/etc/xen/. dom0/etc/xen/
cp -a unpacked/usr/bin/xenstore* dom0/usr/bin/
cp "$(command -v strace)" dom0/usr/bin/
cp -a unpacked/usr/lib/x86_64-linux-gnu/*.so* dom0/usr/lib/x86_64-linux-gnu/
# libraries DIRECTORY: the C library and what else the programs there ask for, which are this machine's.
# libgcc_s is opened by glibc when a thread is cancelled, which xl does.
libraries() {
    local root=$1
    {
        find "$root/usr" -type f \( -perm -u+x -o -name '*.so*' \) -print0 |
            LD_LIBRARY_PATH=$PWD/dom0/usr/lib/x86_64-linux-gnu xargs -0 -n1 ldd 2>/dev/null |
            awk '/=> \//{print $3} /^\t\/lib64/{print $1}'
        echo /lib/x86_64-linux-gnu/libgcc_s.so.1
    } | sort -u | while read -r library; do
        case $library in
            "$PWD"/*) ;;
            /lib64/*) install -D -m 755 "$library" "$root$library" ;;
            *) install -D -m 755 "$library" "$root/usr/lib/x86_64-linux-gnu/${library##*/}" ;;
        esac
    done
}
libraries dom0
mkdir -p dom0/lib64 dom0/lib
ln -sfn ../usr/lib/x86_64-linux-gnu dom0/lib/x86_64-linux-gnu

# The device model of HVM guests and the firmware, which only scripts that need them copy into dom0.
rm -rf model
mkdir -p model/usr/{libexec,share/{qemu/keymaps,seabios},lib/xen-4.17/boot}
cp unpacked/usr/lib/xen-4.17/boot/hvmloader model/usr/lib/xen-4.17/boot/
cp unpacked/usr/libexec/xen-qemu-system-i386 model/usr/libexec/
cp /usr/share/seabios/bios-256k.bin model/usr/share/seabios/
cp /usr/share/qemu/kvmvapic.bin model/usr/share/qemu/
cp /usr/share/qemu/keymaps/en-us model/usr/share/qemu/keymaps/
libraries model
(cd model && find . -type f) | while read -r file; do [ ! -e "dom0/$file" ] || rm "model/$file"; done

# Python with what its ctypes needs, for the script that copies it into dom0.
rm -rf python
mkdir -p python/usr/bin
cp unpacked/usr/bin/python3.11 python/usr/bin/python3
PYTHONHOME=unpacked/usr LD_LIBRARY_PATH=$PWD/unpacked/usr/lib/x86_64-linux-gnu unpacked/usr/bin/python3.11 -BSs -c '
import ctypes, sys
print(*{module.__file__ for module in sys.modules.values() if hasattr(module, "__file__")}, sep="\n")' |
    sed 's:.*unpacked/::' | while read -r file; do install -D -m 644 "unpacked/$file" "python/$file"; done
chmod +x python/usr/lib/python3.11/lib-dynload/*
libraries python
(cd python && find . -type f) | while read -r file; do [ ! -e "dom0/$file" ] || rm "python/$file"; done

# kexec for guests that have a second kernel, with its libraries, of which some are Xen's.
rm -rf kexec
mkdir -p kexec/usr/sbin kexec/usr/lib/x86_64-linux-gnu kexec/lib64
cp "$(first unpacked/sbin/kexec unpacked/usr/sbin/kexec)" kexec/usr/sbin/
LD_LIBRARY_PATH=dom0/usr/lib/x86_64-linux-gnu ldd kexec/usr/sbin/kexec | awk '/=> /{print $3}' |
    while read -r library; do cp -L "$library" kexec/usr/lib/x86_64-linux-gnu/; done
cp -L dom0/lib64/ld-linux-x86-64.so.2 kexec/lib64/

# What starts guests from a disk: the kernel at its 1 MiB, and at 16 MiB the root file system, of 6 MiB at most. An HVM
# guest has them on the second disk that its firmware sees, the boot loader is on the first. PV and PVH guests have
# them on xvda, and GRUB is what xl starts; it is a frontend of its own (grub-core/disk/xen/xendisk.c), of 32 bits for
# PVH guests.
cp "unpacked/boot/vmlinuz-$release" kernel
# grub FORMAT DISK MODULE...: prints a boot loader
grub() {
    local format=$1 disk=$2
    shift 2
    cat > boot.cfg <<C
linux ($disk)2048+$((($(stat -c %s kernel) + 511) / 512)) console=hvc0 loglevel=6 mitigations=off panic=1
initrd ($disk)32768+12288
boot
C
    LD_LIBRARY_PATH=$PWD/unpacked/lib/x86_64-linux-gnu:$PWD/unpacked/usr/lib/x86_64-linux-gnu \
        unpacked/usr/bin/grub-mkimage -d "unpacked/usr/lib/grub/$format" -O "$format" -p / -c boot.cfg "$@"
}
{ cat unpacked/usr/lib/grub/i386-pc/boot.img && grub i386-pc hd1 biosdisk linux boot; } > loader
grub x86_64-xen xen/xvda linux xzio > grub-pv
grub i386-xen_pvh xen/xvda linux > grub-pvh
# The first part of the root file system is packed here, as boot loaders read slowly.
(cd guest && find . | cpio --quiet -o -H newc) | gzip -9 | dd of=guest.cpio.gz bs=512 conv=sync status=none

for root in guest dom0; do
    (cd $root && find . | cpio --quiet -o -H newc) > $root.cpio.part
    mv $root.cpio.part $root.cpio
done
