//! Serving disks: per active disk a directory with the socket of its server, and a file per domain that uses it.

use std::{fs, path::Path, path::PathBuf, process::Command, thread, time::Duration};

use smapiv3::datapath::{Backend, DomainParams, Implementation, Nbd};
use smapiv3_plugin::files::{file_name, lock, of_file, start_server};

use crate::{Context, Result};

struct Disk {
    image: PathBuf,
    key: String,
    active: PathBuf,
}

impl Disk {
    /// The disk of a URI that Volume.stat told.
    fn of(to: &Context<'_>, uri: &str) -> Result<Self> {
        let image = uri.strip_prefix("dir://").map(PathBuf::from).unwrap_or_default();
        let key = image.file_stem().and_then(|it| it.to_str()).unwrap_or_default().to_owned();
        let active = to.config.join("active").join(file_name(&key)?);
        Ok(Self { image, key, active })
    }

    /// The file that says that a domain uses the disk.
    fn user(&self, domain: &str) -> PathBuf {
        let safe = |it: char| if it.is_ascii_alphanumeric() { it } else { '_' };
        self.active.join(format!("user-{}", domain.chars().map(safe).collect::<String>()))
    }

    /// The process of the server, if it lives: a dead one has no command line, and its number is used again.
    fn server(&self) -> Option<String> {
        let pid = fs::read_to_string(self.active.join("pid")).ok()?.trim().to_owned();
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        line.starts_with("qemu-nbd\0").then_some(pid)
    }

    fn start(&self, read_only: bool) -> Result<()> {
        of_file(&self.active, fs::create_dir_all(&self.active))?;
        let at = |name: &str| self.active.join(name).display().to_string();
        let mut server = Command::new("qemu-nbd");
        server.args(["--fork", "--persistent", "--shared=0", "--format=raw", "--discard=unmap"]);
        server.args(["--export-name", &self.key, "--socket", &at("nbd"), "--pid-file", &at("pid")]);
        server.args(read_only.then_some("--read-only")).arg(&self.image);
        start_server(&server, &self.active.join("log"))
            .inspect_err(|_| drop(fs::remove_dir_all(&self.active)))
    }
}

/// Says where the disk will be served, from Datapath.activate on: dom0 reads it there. For guests, xenopsd wants
/// a XenDisk beside it: a block device for blkback, or a tapdisk's socket.
pub(crate) fn attach(to: &Context<'_>, it: &DomainParams) -> Result<Backend> {
    let disk = Disk::of(to, &it.uri)?;
    of_file(&disk.image, fs::metadata(&disk.image))?;
    let uri = format!("nbd:unix:{}:exportname={}", disk.active.join("nbd").display(), disk.key);
    Ok(Backend { implementations: vec![Implementation::Nbd(Nbd { uri })] })
}

pub(crate) fn activate(to: &Context<'_>, it: &DomainParams, read_only: bool) -> Result<()> {
    let disk = Disk::of(to, &it.uri)?;
    let _lock = lock(disk.image.parent().unwrap_or(Path::new("/")))?;
    // A snapshot's file cannot be written to.
    let permissions = of_file(&disk.image, fs::metadata(&disk.image))?.permissions();
    let read_only = read_only || permissions.readonly();
    if disk.server().is_none() {
        disk.start(read_only)?;
    }
    of_file(&disk.active, fs::write(disk.user(&it.domain), ""))
}

/// Of a domain that never activated the disk, too: migrations do that. The last one ends the server.
pub(crate) fn deactivate(to: &Context<'_>, it: &DomainParams) -> Result<()> {
    let disk = Disk::of(to, &it.uri)?;
    let _lock = lock(disk.image.parent().unwrap_or(Path::new("/")))?;
    let _was_there = fs::remove_file(disk.user(&it.domain));
    let entries = fs::read_dir(&disk.active).into_iter().flatten().flatten();
    if entries.into_iter().any(|it| it.file_name().to_string_lossy().starts_with("user-")) {
        return Ok(());
    }
    while let Some(pid) = disk.server() {
        // A snapshot that was killed may have left it stopped.
        for signal in ["-TERM", "-CONT"] {
            of_file(&disk.active, Command::new("kill").args([signal, &pid]).output())?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let gone = fs::remove_dir_all(&disk.active);
    if disk.active.exists() { of_file(&disk.active, gone) } else { Ok(()) }
}
