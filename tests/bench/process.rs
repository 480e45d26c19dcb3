//! Figures of a server from /proc: CPU time, memory, and on which core it runs.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// CPU time of a process with all its threads, those that have ended included.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone")?;
    // The name may contain anything, and ends with the last bracket (proc(5)).
    let fields: Vec<&str> =
        text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("/proc/pid/stat")?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64((user + system) as f64 / per_second as f64))
}

/// Bytes that only this process has and that are no part of a file below `shared`: what it costs
/// beside the data; and its page tables.
pub(crate) fn private(pid: u32, shared: &Path) -> Result<(u64, u64)> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).context("smaps")?;
    let shared = shared.display().to_string();
    let (mut is_data, mut kilo) = (false, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Private_Clean:" | "Private_Dirty:"), Some(size)) if !is_data => {
                kilo += size.parse::<u64>()?;
            }
            (Some(word), _) if !word.ends_with(':') => is_data = line.contains(&shared),
            _ => {}
        }
    }
    Ok((kilo << 10, status(pid, "VmPTE:")?))
}

/// Bytes that a process has for itself, without mapped files.
pub(crate) fn anonymous(pid: u32) -> Result<u64> {
    status(pid, "RssAnon:")
}

/// Bytes resident.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("a field")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Bytes of memory that a program which starts now may have.
pub(crate) fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let line = line.context("MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Bytes that files below a directory take: blocks, as du counts them.
pub(crate) fn blocks(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(directory)?.flatten() {
        let metadata = entry.metadata()?;
        sum += metadata.blocks() * 512;
        if metadata.is_dir() {
            sum += blocks(&entry.path())?;
        }
    }
    Ok(sum)
}

/// While it lives, this thread, what it starts, and some processes run on one core.
#[derive(Debug)]
pub(crate) struct Pinned {
    before: CpuSet,
    pids: Vec<u32>,
}

impl Pinned {
    pub(crate) fn new(pids: &[u32]) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|&cpu| before.is_set(cpu)).unwrap_or_default());
        pin(pids, &one)?;
        Ok(Self { before, pids: pids.to_owned() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A server that has ended needs no core.
        let _gone = pin(&self.pids, &self.before);
    }
}

fn pin(pids: &[u32], cores: &CpuSet) -> Result<()> {
    sched_setaffinity(None, cores)?;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let task = task.file_name().to_string_lossy().parse()?;
            // A thread that ends meanwhile is no loss.
            let _ended = sched_setaffinity(Pid::from_raw(task), cores);
        }
    }
    Ok(())
}

/// A program that runs until it is dropped. What it says of itself is told where it does not start,
/// and is not mixed into what the benchmark says.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts it and waits for its socket.
    pub(crate) fn start(command: &mut Command, socket: &Path) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        // One that was killed has left its own.
        let _none = fs::remove_file(socket);
        // It ends with the directory, also where this program is killed.
        command.env(scratch::VARIABLE, socket);
        let log = socket.with_extension("log");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut running = Self { child: command.spawn().with_context(|| program.clone())? };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            let ended = running.child.try_wait()?;
            ensure!(ended.is_none(), "{program} has ended: {ended:?}: {}", said());
            ensure!(Instant::now() < deadline, "{program} does not listen: {}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended already.
            let _gone = kill_process(pid, Signal::KILL);
        }
        let _reaped = self.child.wait();
    }
}
