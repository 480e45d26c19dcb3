//! The memory of an SR: tmpfs mounts as root, directories on an existing tmpfs otherwise.

use std::{
    ffi::CString,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{StatFs, statfs},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::{
    layout::{Layout, parse_number},
    steps,
};
use crate::error::{Context, Error, Kind, Result};

/// `TMPFS_MAGIC` of `include/uapi/linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// The metadata of an SR may grow to this share of its size, one part in...
const META_PART: u64 = 16;
/// ... plus this. Bytes. A limit: what is not used costs nothing.
const META_BYTES_MIN: u64 = 64 << 20;

/// What mount(8) shows as the device.
const SOURCE: &str = "xapi-storage-ram";

/// Makes the two places of an SR of `size` bytes, empty.
pub(crate) fn make(layout: &Layout, size: u64, may_mount: bool) -> Result<()> {
    let made = [(layout.data(), size), (layout.meta(), size / META_PART + META_BYTES_MIN)]
        .into_iter()
        .try_for_each(|(directory, bytes)| {
            create_private(&directory)?;
            if may_mount { mount_tmpfs(&directory, bytes) } else { require_tmpfs(&directory) }
        })
        .and_then(|()| layout.directories().iter().try_for_each(|path| create_private(path)));
    if made.is_err() {
        // The first error is the one to tell.
        let _incomplete = remove(layout);
    }
    made
}

/// Takes the two places away with all that is in them. What is gone already is no error.
pub(crate) fn remove(layout: &Layout) -> Result<()> {
    for directory in [layout.data(), layout.meta()] {
        while is_mount_point(&directory) {
            // A file that is still open somewhere keeps only itself, not the SR.
            steps::step();
            unmount(&directory, UnmountFlags::DETACH)
                .while_doing(|| format!("unmounting {}", directory.display()))?;
        }
    }
    let root = layout.root();
    let doing = || format!("removing {}", root.display());
    for directory in [layout.data(), layout.meta()] {
        match steps::remove_tree(&directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io(doing(), error));
            }
            _ => {}
        }
    }
    match steps::remove_dir(root) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(doing(), error)),
        _ => Ok(()),
    }
}

/// Refuses a directory that holds anything but what an SR of this sort consists of: SRs of all
/// types have their mounts below one root.
pub(crate) fn check_ours(layout: &Layout) -> Result<()> {
    let (data, meta) = (layout.data(), layout.meta());
    let is_layer =
        |path: &Path| path.file_name().and_then(|name| parse_number(name.to_str()?)).is_some();
    let foreign = foreign_entry(layout.root(), |path| path == data || path == meta)?
        .or(foreign_entry(&data, is_layer)?)
        .or(foreign_entry(&meta, |path| layout.is_metadata(path))?)
        .or(is_mount_point(layout.root()).then(|| layout.root().to_owned()));
    foreign.map_or(Ok(()), |path| {
        Err(Error::new(
            Kind::SrMissing,
            format!(
                "{} is not a ram SR (it holds {}) and is left alone",
                layout.root().display(),
                path.display()
            ),
        ))
    })
}

/// Something in a directory that is none of `ours`; a directory that is not there holds nothing.
fn foreign_entry(directory: &Path, ours: impl Fn(&Path) -> bool) -> Result<Option<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries.while_doing(|| format!("reading {}", directory.display()))?,
    };
    Ok(entries.flatten().map(|entry| entry.path()).find(|path| !ours(path)))
}

/// Whether the data of the SR has a tmpfs of its own, which counts and limits it.
pub(crate) fn is_mounted(layout: &Layout) -> bool {
    is_mount_point(&layout.data())
}

/// Bytes in use on the SR's own tmpfs.
pub(crate) fn used(layout: &Layout) -> Result<u64> {
    let StatFs { f_blocks, f_bfree, f_bsize, .. } =
        statfs(layout.data()).while_doing(|| format!("statfs {}", layout.data().display()))?;
    Ok((f_blocks - f_bfree) * u64::try_from(f_bsize).expect("a block size is positive"))
}

fn is_mount_point(directory: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.dev());
    match (device(directory), directory.parent().and_then(device)) {
        (Some(own), Some(above)) => own != above,
        _ => false,
    }
}

fn create_private(path: &Path) -> Result<()> {
    steps::make_dir(path).while_doing(|| format!("creating {}", path.display()))
}

fn mount_tmpfs(directory: &Path, bytes: u64) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let limits = format!("size={bytes},nr_inodes=0,mode=0700");
    let with = |options: String| {
        let options = CString::new(options).expect("no NUL in numbers");
        steps::step();
        mount(SOURCE, directory, "tmpfs", flags, Some(options.as_c_str()))
    };
    // Kernels before 6.4 do not know noswap (tmpfs(5)) and refuse it.
    match with(format!("{limits},noswap")) {
        Err(Errno::INVAL) => with(limits),
        done => done,
    }
    .while_doing(|| format!("mounting a tmpfs of {bytes} bytes on {}", directory.display()))
}

fn require_tmpfs(directory: &Path) -> Result<()> {
    let found: io::Result<StatFs> = statfs(directory).map_err(io::Error::from);
    let found = found.while_doing(|| format!("statfs {}", directory.display()))?;
    if u64::try_from(found.f_type).ok() == Some(TMPFS_MAGIC) {
        return Ok(());
    }
    Err(Error::new(
        Kind::BadArgument,
        format!(
            "{} is not on a tmpfs, and only root can mount one: set XAPI_RAM_SR_ROOT to a \
             directory below /dev/shm or $XDG_RUNTIME_DIR",
            directory.display()
        ),
    ))
}
