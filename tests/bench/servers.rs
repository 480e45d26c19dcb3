//! The servers that are compared: ours, what a user would run instead, a ceiling and a floor.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use end_to_end::{Disk, Xapi, tools};
use serde_json::json;

use crate::{
    floor::Mode,
    lean::{Lean, Until},
    load::{self, Load, Outcome},
    process::{self, Running},
};

pub(crate) const OURS: &str = "ours";
pub(crate) const SLEEPING: &str = "ours, no polling";
pub(crate) const NBDKIT: &str = "nbdkit memory";
/// The strongest setting that it has: no threads, no sparseness.
pub(crate) const NBDKIT_PLAIN: &str = "nbdkit -t 1, malloc";
pub(crate) const QEMU_NBD: &str = "qemu-nbd tmpfs";
pub(crate) const QSD: &str = "qemu-storage-daemon tmpfs";
pub(crate) const NULL: &str = "null-co (ceiling)";
pub(crate) const FLOOR: &str = "floor";
/// The servers whose best figure the goals are held against.
pub(crate) const PEERS: [&str; 4] = [NBDKIT, NBDKIT_PLAIN, QEMU_NBD, QSD];
/// Those whose processor time is to be beaten: qemu has more to do for a request.
pub(crate) const NBDKITS: [&str; 2] = [NBDKIT, NBDKIT_PLAIN];

/// The size of an SR for so many bytes of data, which covers metadata too.
pub(crate) fn sr_bytes(data: u64) -> String {
    (data + data / 32 + (16 << 20)).to_string()
}

/// Which generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generator {
    Fio,
    Lean,
}

/// A server with one disk.
#[derive(Debug)]
pub(crate) struct Server<'a> {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
    pub(crate) size: u64,
    socket: PathBuf,
    export: String,
    ours: Option<(&'a Xapi, String, Disk<'a>)>,
    _running: Option<Running>,
    file: Option<PathBuf>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    /// Of the server, per request.
    pub(crate) cpu: Duration,
}

impl<'a> Server<'a> {
    /// A new volume, plugged as xapi plugs it.
    pub(crate) fn ours(name: &'static str, xapi: &'a Xapi, sr: &str, size: u64) -> Result<Self> {
        let key = xapi.create_vdi(sr, size);
        let disk = Disk::plug(xapi, sr, &key, "bench", false)?;
        Ok(Self {
            name,
            pid: disk.server().pid,
            size,
            socket: PathBuf::from(&disk.socket),
            export: key,
            ours: Some((xapi, sr.to_owned(), disk)),
            _running: None,
            file: None,
        })
    }

    /// The tapdisk of one of ours, by whose number it is controlled; its server has another one.
    pub(crate) fn tapdisk(&self) -> Option<u32> {
        self.ours.as_ref().map(|(.., disk)| disk.tapdisk().pid)
    }

    /// A server of `name` in a directory on tmpfs; `number` tells several apart.
    pub(crate) fn foreign(
        name: &'static str,
        directory: &Path,
        number: usize,
        size: u64,
    ) -> Result<Self> {
        let word = name.split(' ').next().unwrap_or_default();
        let place = |end: &str| directory.join(format!("{word}-{}-{number}.{end}", name.len()));
        let (socket, file) = (place("sock"), place("raw"));
        let (mut command, has_file) = command(name, &socket, &file, size)?;
        if has_file {
            File::create(&file)?.set_len(size)?;
        }
        let running = Running::start(&mut command, &socket)?;
        Ok(Self {
            name,
            pid: running.pid(),
            size,
            socket,
            export: if name == QSD || name == NULL { "disk".into() } else { String::new() },
            ours: None,
            _running: Some(running),
            file: has_file.then_some(file),
        })
    }

    /// A server that `start` starts.
    pub(crate) fn with(
        name: &'static str,
        size: u64,
        file: &Path,
        start: impl FnOnce(&Path) -> Result<Running>,
    ) -> Result<Self> {
        let socket = file.with_extension("sock");
        let running = start(&socket)?;
        Ok(Self {
            name,
            pid: running.pid(),
            size,
            socket,
            export: String::new(),
            ours: None,
            _running: Some(running),
            file: None,
        })
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn export(&self) -> &str {
        &self.export
    }

    /// A connection of our own generator for this load.
    pub(crate) fn lean(&self, load: &Load) -> Result<Lean> {
        if self.name != FLOOR {
            return Lean::nbd(&self.socket, &self.export);
        }
        let mode = if load.write { Mode::Write } else { Mode::Read };
        Lean::floor(&self.socket, self.size, mode, load.bytes)
    }

    /// A connection that writes to memory which is not allocated yet.
    pub(crate) fn fresh(&self, load: &Load) -> Result<Lean> {
        if self.name == FLOOR {
            return Lean::floor(&self.socket, self.size, Mode::Fresh, load.bytes);
        }
        self.lean(load)
    }

    /// Puts load on it for a while.
    pub(crate) fn measure(
        &self,
        generator: Generator,
        load: &Load,
        time: Duration,
    ) -> Result<Measured> {
        let (outcome, cpu) = match generator {
            Generator::Fio => {
                let before = process::cpu(self.pid)?;
                let outcome = load::fio(&[self.uri()], load, time)?;
                (outcome, process::cpu(self.pid)? - before)
            }
            Generator::Lean => {
                let mut lean = self.lean(load)?;
                lean.run(load, Until::Count(4 * load.depth as u64), |_| {})?;
                let before = process::cpu(self.pid)?;
                let outcome = lean.run(load, Until::Time(time), |_| {})?;
                (outcome, process::cpu(self.pid)? - before)
            }
        };
        Ok(Measured { outcome, cpu: cpu.div_f64(outcome.requests.max(1) as f64) })
    }

    /// Fills the disk by nbdcopy and reads it back by nbdcopy: what is fast and wrong is not
    /// measured. The ceiling and the floor keep no data.
    pub(crate) fn verify(&self, image: &Path, back: &Path) -> Result<()> {
        if self.name == NULL || self.name == FLOOR {
            return Ok(());
        }
        let text = |path: &Path| path.display().to_string();
        tools::run("nbdcopy", &["--allocated", &text(image), &self.uri()]);
        tools::run("nbdcopy", &[&self.uri(), &text(back)]);
        let same = tools::attempt("cmp", &[&text(image), &text(back)]);
        fs::remove_file(back)?;
        ensure!(same.status.success(), "{}: reads other bytes than were written", self.name);
        Ok(())
    }

    /// Allocated bytes of its file.
    pub(crate) fn file_bytes(&self) -> Result<u64> {
        let file = self.file.as_ref().context("it serves no file")?;
        Ok(file.metadata()?.blocks() * 512)
    }

    /// Ends it and frees its memory.
    pub(crate) fn end(mut self) {
        if let Some((xapi, sr, disk)) = self.ours.take() {
            disk.unplug();
            let key = self.export.clone();
            xapi.volume("Volume.destroy", json!({ "sr": sr, "key": key })).expect("destroy");
        }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // The directory goes in the end at any rate.
            let _gone = fs::remove_file(file);
        }
    }
}

/// How each is started, and whether it serves a file.
fn command(name: &str, socket: &Path, file: &Path, size: u64) -> Result<(Command, bool)> {
    let (path, raw) = (socket.display(), file.display());
    let mut command;
    match name {
        NBDKIT => {
            command = Command::new("nbdkit");
            command.arg("-f").arg("-U").arg(socket).args(["memory", &size.to_string()]);
            return Ok((command, false));
        }
        NBDKIT_PLAIN => {
            command = Command::new("nbdkit");
            command.args(["-t", "1", "-f", "-U"]).arg(socket);
            command.args(["memory", &size.to_string(), "allocator=malloc"]);
            return Ok((command, false));
        }
        FLOOR => {
            command = Command::new(std::env::current_exe().context("this program")?);
            command.arg("floor").arg(socket).arg(size.to_string()).arg(file);
            return Ok((command, false));
        }
        QEMU_NBD => {
            command = Command::new("qemu-nbd");
            command.args(["-f", "raw", "-t", "-e", "16", "--discard=unmap", "-k"]);
            command.arg(socket).arg(file);
            return Ok((command, true));
        }
        _ => {}
    }
    command = Command::new("qemu-storage-daemon");
    let blockdev = if name == NULL {
        format!("driver=null-co,node-name=disk,size={size},read-zeroes=off")
    } else {
        format!("driver=file,node-name=disk,filename={raw},discard=unmap")
    };
    command.args(["--blockdev", &blockdev]);
    command.args(["--nbd-server", &format!("addr.type=unix,addr.path={path},max-connections=16")]);
    command.args(["--export", "type=nbd,id=e,node-name=disk,name=disk,writable=on"]);
    Ok((command, name != NULL))
}
