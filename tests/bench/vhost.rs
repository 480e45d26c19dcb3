//! Disks of qemu-storage-daemon that are exported by vhost-user-blk: like a guest's ring, they are reached
//! by memory that is shared.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Bench,
    load::{Load, Outcome},
    process::{self, Running},
    servers::Measured,
};

/// A file on tmpfs.
pub(crate) const FILE: &str = "vhost-user tmpfs";
/// No data at all.
pub(crate) const NULL: &str = "vhost-user null-co (ceiling)";

/// An export, and the program that puts load on it.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) name: &'static str,
    running: Running,
    socket: PathBuf,
    program: PathBuf,
}

impl Export {
    /// Both of them; none where there is no program that could put load on them.
    pub(crate) fn all(bench: &Bench) -> Vec<Self> {
        let start =
            |name| Self::start(name, bench).map_err(|error| bench.skipped(name, &error)).ok();
        [FILE, NULL].into_iter().filter_map(start).collect()
    }

    fn start(name: &'static str, bench: &Bench) -> Result<Self> {
        let program = bench.vhost_load.clone().context("no --vhost-load")?;
        let size = bench.scale.disk;
        let place = |end| bench.directory.path().join(format!("vhost-{}.{end}", name.len()));
        let (socket, file) = (place("sock"), place("raw"));
        let disk = if name == NULL {
            format!("driver=null-co,node-name=disk,size={size},read-zeroes=off")
        } else {
            // All of it has a place before anything is measured.
            io::copy(&mut io::repeat(1).take(size), &mut File::create(&file)?)?;
            format!("driver=file,node-name=disk,filename={}", file.display())
        };
        let export = format!(
            "type=vhost-user-blk,id=e,node-name=disk,writable=on,addr.type=unix,addr.path={}",
            socket.display()
        );
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &disk, "--export", &export]);
        let running = Running::start(&mut command, &socket)?;
        Ok(Self { name, running, socket, program })
    }

    /// Puts load on it for a while.
    pub(crate) fn measure(&self, load: &Load, time: Duration) -> Result<Measured> {
        let before = process::cpu(self.running.pid())?;
        let mut command = Command::new(&self.program);
        command.arg(&self.socket).arg(if load.write { "write" } else { "read" });
        command.arg(if load.random { "random" } else { "sequential" });
        command.args([load.bytes.to_string(), load.depth.to_string()]);
        let output = command.arg(time.as_secs_f64().to_string()).output()?;
        let cpu = process::cpu(self.running.pid())? - before;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let (requests, seconds) = text.trim().split_once(' ').context("two numbers")?;
        let (requests, seconds): (u64, f64) = (requests.parse()?, seconds.parse()?);
        let elapsed = Duration::from_secs_f64(seconds);
        let latency = elapsed.div_f64(requests.max(1) as f64) * load.depth as u32;
        let outcome = Outcome { requests, elapsed, latency };
        Ok(Measured { outcome, cpu: cpu.div_f64(requests.max(1) as f64) })
    }
}
