//! The memory of an SR: tmpfs mounts as root, directories on an existing tmpfs otherwise.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, StatFs, major, minor, statat, statfs, unlinkat},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount},
    system::uname,
};

use crate::{
    budget::OVERHEAD_BYTES,
    error::{Context, Error, ErrorKind, Result},
    files::{Directory, Dirs, Layout, OWN, names_in, open_directory, parse_number, steps},
};

/// `TMPFS_MAGIC` of `include/uapi/linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// The two places of an SR, each with a tmpfs of its own where that can be.
const PLACES: [Directory; 2] = [Directory::Data, Directory::Meta];

const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The device that mount(8) shows.
const SOURCE: &str = "xapi-storage-ram";

/// Makes the two places of an SR of `size` bytes, empty. `swap`: whether the kernel may swap what is in them, where
/// it has a choice.
pub(crate) fn make(layout: &Layout, size: u64, may_mount: bool, swap: bool) -> Result<()> {
    // Either may take all of it: the SR's own count limits them together.
    let limit = size + OVERHEAD_BYTES;
    let made = PLACES
        .into_iter()
        .try_for_each(|directory| {
            let path = layout.directory(directory);
            create_private(&path)?;
            if may_mount { mount_tmpfs(&path, limit, swap) } else { require_tmpfs(&path) }
        })
        .and_then(|()| {
            Directory::ALL.iter().try_for_each(|&it| create_private(&layout.directory(it)))
        });
    if made.is_err() {
        // The first error is the one to tell.
        let _incomplete = remove(layout);
    }
    made
}

/// Lets the mounts of an SR hold `size` bytes. Directories on another file system have no limit.
pub(crate) fn resize(layout: &Layout, size: u64) -> Result<()> {
    let limit = format!("size={}", size + OVERHEAD_BYTES);
    let mounted = PLACES.map(|place| layout.directory(place));
    mounted.iter().filter(|path| is_mount_point(path)).try_for_each(|path| {
        // A mount keeps what it has of noswap: any other is refused.
        with_options(&limit, has_noswap(path), |options| mount_remount(path, FLAGS, options))
            .doing("changing the size of the tmpfs on", || &**path)
    })
}

/// Removes the two places with all that is in them. A place that does not exist is no error.
pub(crate) fn remove(layout: &Layout) -> Result<()> {
    for directory in PLACES.map(|place| layout.directory(place)) {
        while is_mount_point(&directory) {
            // A file that is still open somewhere keeps only itself, not the SR.
            steps::step();
            unmount(&directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .doing("unmounting", || &*directory)?;
        }
    }
    let root = layout.root();
    let removed = PLACES
        .iter()
        .try_for_each(|place| remove_tree(CWD, &layout.directory(*place)))
        .and_then(|()| steps::remove_dir(root));
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing("removing", || root)
        }
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it, or a file in its place; links are removed and never
/// followed. A directory that does not exist is no error.
fn remove_tree(above: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    let remove = |flags| {
        steps::step();
        match unlinkat(above, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    };
    match statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
        Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Directory => {
            return remove(AtFlags::empty());
        }
        Ok(_) => {}
    }
    let directory = open_directory(above, name)?;
    for entry in names_in(open_directory(&directory, Path::new("."))?)? {
        remove_tree(directory.as_fd(), Path::new(&entry))?;
    }
    remove(AtFlags::REMOVEDIR)
}

/// Refuses a directory that holds anything that is not part of a ram SR: SRs of all types have
/// their mounts below one root.
pub(crate) fn check_ours(layout: &Layout) -> Result<()> {
    match foreign(layout) {
        Ok(None) => Ok(()),
        Ok(Some(path)) => Err(not_ours(layout, &path)),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Err(not_ours(layout, layout.root()).caused_by(error))
        }
        Err(error) => Err(error),
    }
}

fn not_ours(layout: &Layout, what: &Path) -> Error {
    let root = layout.root().display();
    let sentence =
        format!("{root} is not a ram SR (it holds {}) and is left alone", what.display());
    Error::new(ErrorKind::SrMissing, sentence)
}

/// Something in an SR's directories that is none of its own.
fn foreign(layout: &Layout) -> Result<Option<PathBuf>> {
    let Some(dirs) = Dirs::open(layout)? else { return Ok(None) };
    if is_mount_point(layout.root()) {
        return Ok(Some(layout.root().to_owned()));
    }
    let is_place = |name: &str| PLACES.iter().any(|place| place.place().1 == name);
    if let Some(name) = dirs.list_root()?.into_iter().find(|name| !is_place(name)) {
        return Ok(Some(layout.root().join(name)));
    }
    let is_layer = |name: &str| parse_number(name).is_some();
    let other = |directory: Directory, ours: &dyn Fn(&str) -> bool| {
        let found = dirs.list(directory)?.into_iter().find(|name| !ours(name));
        Ok(found.map(|name| layout.directory(directory).join(name)))
    };
    Ok(other(Directory::Data, &is_layer)?.or(other(Directory::Meta, &is_metadata)?))
}

/// Whether something directly below `meta` has one of the names that are used there.
fn is_metadata(name: &str) -> bool {
    let directories = Directory::ALL.iter().map(|directory| directory.place());
    let mut directories = directories.filter(|(above, _)| above.is_some());
    directories.any(|(_, known)| known == name) || OWN.iter().any(|file| file.is_named(name))
}

fn is_mount_point(directory: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.dev());
    match (device(directory), directory.parent().and_then(device)) {
        (Some(own), Some(above)) => own != above,
        _ => false,
    }
}

/// Whether the kernel keeps an SR's data out of swap; `None`: the SR has no mounts of its own, or none yet.
pub(crate) fn is_kept_from_swap(layout: &Layout) -> Option<bool> {
    let data = layout.directory(Directory::Data);
    is_mount_point(&data).then(|| has_noswap(&data))
}

/// Whether the tmpfs below a path has the option noswap, as /proc/self/mountinfo (proc(5)) tells.
fn has_noswap(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let device = format!("{}:{}", major(found.dev()), minor(found.dev()));
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    all.lines().any(|line| is_noswap_mount(line, &device))
}

/// Whether a line of mountinfo is a mount of that device with the option noswap.
fn is_noswap_mount(line: &str, device: &str) -> bool {
    // The options of the file system are the last word: its name, its source, and those.
    let is_of_device = line.split(' ').nth(2) == Some(device);
    let options = line.split_once(" - ").and_then(|(_, rest)| rest.rsplit(' ').next());
    is_of_device && options.is_some_and(|options| options.split(',').any(|it| it == "noswap"))
}

fn create_private(path: &Path) -> Result<()> {
    steps::make_dir(path).doing("creating", || path)
}

/// Whether this kernel can keep a tmpfs out of swap.
pub(crate) fn kernel_knows_noswap() -> bool {
    knows_noswap(&uname().release().to_string_lossy())
}

/// Whether the tmpfs of a kernel has the option noswap (tmpfs(5)): Linux 6.4 and later. An earlier one warns of it in
/// its log.
fn knows_noswap(release: &str) -> bool {
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or_default();
    (next(), next()) >= (6, 4)
}

fn mount_tmpfs(directory: &Path, bytes: u64, swap: bool) -> Result<()> {
    let limits = format!("size={bytes},nr_inodes=0,mode=0700");
    let mount = |options: &CStr| mount(SOURCE, directory, "tmpfs", FLAGS, Some(options));
    let noswap = !swap && kernel_knows_noswap();
    match with_options(&limits, noswap, mount) {
        // The kernel does not know it all the same.
        Err(Errno::INVAL) if noswap => with_options(&limits, false, mount),
        done => done,
    }
    .doing("mounting a tmpfs on", || directory)
}

fn with_options(
    limits: &str,
    noswap: bool,
    act: impl Fn(&CStr) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let options = format!("{limits}{}", if noswap { ",noswap" } else { "" });
    let options = CString::new(options).expect("no NUL in numbers");
    steps::step();
    act(&options)
}

fn require_tmpfs(directory: &Path) -> Result<()> {
    let found: io::Result<StatFs> = statfs(directory).map_err(io::Error::from);
    let found = found.doing("statfs", || directory)?;
    if u64::try_from(found.f_type).ok() == Some(TMPFS_MAGIC) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadArgument,
        format!(
            "{} is not on a tmpfs, and only root can mount one: set XAPI_RAM_SR_ROOT to a \
             directory below /dev/shm or $XDG_RUNTIME_DIR",
            directory.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Releases as uname(2) of XCP-ng 8.3, Debian and others tells them.
    #[test]
    fn only_kernels_that_know_noswap_are_asked_for_it() {
        for release in ["4.19.0+1", "5.10.0-39-amd64", "6.1.0-41-amd64", "6.3.13", "", "x"] {
            assert!(!knows_noswap(release), "{release}");
        }
        for release in ["6.4.0-rc1", "6.12.48+deb13-amd64", "7.0", "10.1.2"] {
            assert!(knows_noswap(release), "{release}");
        }
    }

    #[test]
    fn a_mount_tells_whether_it_is_kept_from_swap() {
        let line = |options| {
            format!("36 1 0:31 / /run/sr-mount/a/data rw,nosuid - tmpfs ram rw,{options}")
        };
        assert!(is_noswap_mount(&line("size=5120k,noswap"), "0:31"));
        assert!(is_noswap_mount(&line("noswap,mode=700"), "0:31"));
        assert!(!is_noswap_mount(&line("size=5120k,mode=700"), "0:31"));
        assert!(!is_noswap_mount(&line("size=5120k,noswap"), "0:3"), "another one");
        assert!(!is_noswap_mount("", "0:31"));
    }
}
