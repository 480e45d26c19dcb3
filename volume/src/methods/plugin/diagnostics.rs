//! `Plugin.diagnostics`: the host's memory, the SRs that it is promised to, their volumes and layers, the
//! tapdisks, what the datapath plugin knows of domains and mirrors, and the last errors of all programs. None of
//! it is data of guests.
//! Where something cannot be read, the error stands in its place.

use std::{
    fmt,
    process::{Command, Stdio},
};

use smapiv3::{Error, NoParams};
use store::{Host, Memory, Name, Serving, Sr, SrStat, Swap, SwapSpace, Volume};

use super::tapdisks;
use crate::{Context, methods};

/// How many errors and warnings are told.
const FAULTS_TOLD: usize = 30;

pub(crate) fn run(ctx: &Context<'_>, _: NoParams) -> Result<String, Error> {
    let host = methods::host(ctx);
    let mut lines = vec![
        format!(
            "volume-plugin {} on host {}, Linux {}",
            env!("CARGO_PKG_VERSION"),
            host.uuid,
            rustix::system::uname().release().to_string_lossy()
        ),
        memory(),
        swap(),
        place(&host),
    ];
    match host.srs() {
        Err(error) => lines.push(format!("SRs: {error}")),
        Ok(found) if found.is_empty() => lines.push("SRs: none".into()),
        Ok(found) => found.iter().for_each(|sr| {
            lines.push(describe_sr(&sr.stat));
            if sr.stat.attached {
                lines.extend(volumes(&host, &sr.stat));
            }
        }),
    }
    for (uuid, error) in host.damaged_srs().unwrap_or_default() {
        lines.push(describe_damaged_sr(&uuid, &error));
    }
    lines.extend(tapdisks::describe(&ctx.config.control));
    lines.extend(datapath(ctx));
    lines.extend(faults(ctx));
    Ok(lines.join("\n") + "\n")
}

/// What the datapath plugin tells. It is called as a program: the records of domains and mirrors are its own.
fn datapath(ctx: &Context<'_>) -> Vec<String> {
    let program = ctx.config.datapath_plugin();
    let mut command = Command::new(&program);
    let told = command.arg(ctx.method).stdin(Stdio::null()).output();
    let lines = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    match told {
        Ok(told) if told.status.success() => lines(&told.stdout),
        Ok(told) => lines(&told.stderr),
        Err(error) => vec![format!("{}: {error}", program.display())],
    }
}

/// The last warnings and errors of all programs.
fn faults(ctx: &Context<'_>) -> Vec<String> {
    let last = ctx.config.faults().last(FAULTS_TOLD);
    let head =
        if last.is_empty() { "errors and warnings: none" } else { "the last errors and warnings:" };
    let told = last.into_iter().map(|line| format!("  {line}"));
    [head.to_owned()].into_iter().chain(told).collect()
}

/// One line on an SR.
pub(crate) fn describe_sr(stat: &SrStat) -> String {
    let state = if stat.attached { "attached" } else { "detached" };
    let (used, total) = (Mib(stat.used), Mib(stat.total));
    let swap = match stat.swap {
        Swap::Never | Swap::OfAnother => "",
        Swap::Wanted => ", may be swapped",
        Swap::InAnyCase => ", may be swapped, as this kernel knows no other tmpfs",
        Swap::StillPossible => ", may be swapped until the host restarts",
        Swap::NotYet => ", may be swapped when the host has restarted",
    };
    format!("SR {} {:?}: {state}, {used} of {total} used{swap}", stat.uuid, stat.name)
}

/// One line on an SR of which nothing more is known.
pub(crate) fn describe_damaged_sr(uuid: &Name, error: &store::Error) -> String {
    format!("SR {uuid}: damaged: {}", error.chain())
}

fn memory() -> String {
    match Memory::now() {
        Err(error) => format!("memory: {error}"),
        Ok(memory) => format!(
            "memory: {} in all, {} available, {} kept for the host{}",
            Mib(memory.total),
            Mib(memory.available),
            Mib(memory.reserve()),
            if memory.above_watermark() == 0 {
                "; so little is left that disks cannot grow"
            } else {
                ""
            }
        ),
    }
}

fn swap() -> String {
    match SwapSpace::now() {
        Err(error) => format!("swap: {error}"),
        Ok(swap) if swap.size == 0 => "swap: none".to_owned(),
        Ok(swap) => format!(
            "swap: {} in all, {} in use, of which zram holds {} in {} of memory",
            Mib(swap.size),
            Mib(swap.used),
            Mib(swap.zram_holds),
            Mib(swap.zram_takes)
        ),
    }
}

fn place(host: &Host) -> String {
    let root = host.sr_root.display();
    let kind = if host.may_mount { "a tmpfs each" } else { "directories on a tmpfs" };
    format!("place: {root} ({kind}), locks in {}", host.lock_dir.display())
}

fn volumes(host: &Host, stat: &SrStat) -> Vec<String> {
    let found = Sr::open(host, stat.uuid.as_str()).and_then(|sr| Ok((sr.list()?, sr)));
    match found {
        Err(error) => vec![format!("  {error}")],
        Ok(((volumes, damaged), sr)) => {
            let sound = volumes.iter().map(|volume| describe_volume(&sr, volume, &volumes));
            let damaged = damaged.iter().map(|it| format!("  {}", it.error.chain()));
            let layers = match sr.layers() {
                Ok(layers) => format!("  {} volumes in {layers} layers", volumes.len()),
                Err(error) => format!("  {error}"),
            };
            [layers].into_iter().chain(sound).chain(damaged).collect()
        }
    }
}

fn describe_volume(sr: &Sr, volume: &Volume, all: &[Volume]) -> String {
    let kind = match (volume.has_data, volume.read_write) {
        (false, _) => "changed blocks only",
        (true, false) => "read-only",
        (true, true) => "writable",
    };
    let active = match served_by(sr, volume) {
        Ok(None) => "not active".to_owned(),
        Ok(Some(by)) if by.pid == 0 => "being activated".to_owned(),
        Ok(Some(by)) => {
            format!("active in process {}, minor {}, {}", by.pid, by.minor, by.control_dir)
        }
        Err(error) => error.to_string(),
    };
    let (size, data) = (Mib(volume.size), Mib(volume.utilisation));
    let is_related = |it: &&Volume| {
        it.key != volume.key
            && it.sharing_groups.iter().any(|group| volume.sharing_groups.contains(group))
    };
    let sharing = match all.iter().filter(is_related).count() {
        0 => "shares nothing".to_owned(),
        others => format!("may share memory with {others} (groups {:?})", volume.sharing_groups),
    };
    format!(
        "  volume {} {:?}: {size}, {data} of data, {sharing}, {kind}, {active}",
        volume.key, volume.name
    )
}

/// The process that serves a volume: one that holds it, or the host's tapdisk with a copy of it.
fn served_by(sr: &Sr, volume: &Volume) -> store::Result<Option<Serving>> {
    match sr.serving(&volume.key)? {
        None => sr.living_holder(&volume.key),
        serving => Ok(serving),
    }
}

/// Bytes for a reader.
struct Mib(u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = self.0 % (1 << 20);
        write!(f, "{}.{} MiB", self.0 >> 20, (rest * 10) >> 20)
    }
}
