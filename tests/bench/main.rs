//! The benchmark: what a user of a RAM disk waits for, side by side with what they would use
//! instead, all of it in one run on one machine.
//!
//! `make bench` runs all of it, `make bench-quick` a shorter one. Every row says what was aimed at
//! and what was measured; nothing here passes or fails. The rows are in `path`, `ring`, `four`,
//! `memory`, `plugin`, `snapshots` and `mirror`; who is compared is in `servers`, `load` and `lean` are the generators
//! and `floor` is the least that moving bytes costs.

mod beside;
mod chain;
mod fleet;
mod floor;
mod four;
mod fresh;
mod lean;
mod load;
mod machine;
mod memory;
mod mirror;
mod path;
mod plugin;
mod process;
mod ring;
mod samples;
mod servers;
mod snapshots;
mod table;
mod vhost;

use std::{
    cell::RefCell,
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use end_to_end::{Xapi, tools};
use scratch::Scratch;
use serde_json::json;

use lean::{Lean, Until};
use load::Load;
use table::Row;

/// Measures the RAM SR beside its peers.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// A shorter run: small disks, few rounds, under two minutes
    #[arg(long)]
    quick: bool,
    /// How often everything is measured
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A Plugin.query in Python, made with xapi-storage's bindings, to be compared too
    #[arg(long, value_name = "FILE")]
    python_plugin: Option<PathBuf>,
    /// The program of tests/vhost, to compare a guest's ring with vhost-user-blk too
    #[arg(long, value_name = "PROGRAM")]
    vhost_load: Option<PathBuf>,
    /// A disk with an operating system, raw, of which a hundred clones are made
    #[arg(long, value_name = "FILE", requires = "booted")]
    image: Option<PathBuf>,
    /// The same disk after it was started once: each clone gets what differs
    #[arg(long, value_name = "FILE", requires = "image")]
    booted: Option<PathBuf>,
    /// Where the numbers go as JSON
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be the floor
    #[command(hide = true)]
    Floor { socket: PathBuf, bytes: usize, fresh: PathBuf },
    /// Put our own load on an NBD server: for a profiler that watches it
    Load {
        socket: PathBuf,
        /// Of one request
        bytes: u32,
        depth: usize,
        seconds: f64,
        #[arg(long)]
        write: bool,
        #[arg(long)]
        random: bool,
        #[arg(long, default_value = "")]
        export: String,
    },
}

/// The size of a run.
#[derive(Clone, Copy, Debug)]
struct Scale {
    quick: bool,
    rounds: usize,
    /// For one measurement.
    time: Duration,
    /// Bytes of the disks that are read and written again and again.
    disk: u64,
    /// Bytes of a disk that is large.
    large: u64,
    /// Calls of one method.
    calls: usize,
}

impl Scale {
    fn new(quick: bool) -> Self {
        if quick {
            Self {
                quick: true,
                rounds: 2,
                time: Duration::from_millis(200),
                disk: 256 << 20,
                large: 1 << 30,
                calls: 50,
            }
        } else {
            Self {
                quick: false,
                rounds: 9,
                time: Duration::from_secs(1),
                disk: 1 << 30,
                large: 8 << 30,
                calls: 300,
            }
        }
    }
}

/// State that all parts share.
struct Bench {
    scale: Scale,
    xapi: Xapi,
    /// A host whose tapdisks do not poll.
    sleeping: Xapi,
    python_plugin: Option<PathBuf>,
    vhost_load: Option<PathBuf>,
    /// An operating system's disk, and the same disk after a start.
    system: Option<(PathBuf, PathBuf)>,
    /// On tmpfs.
    directory: Scratch,
    start: Instant,
    skipped: RefCell<Vec<String>>,
}

impl Bench {
    /// Says how far it is.
    fn progress(&self, text: impl fmt::Display) -> Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        Ok(writeln!(io::stderr(), "{seconds:>6.1} s  {text}")?)
    }

    /// Tells of a peer that is not there.
    fn skipped(&self, name: &str, error: &anyhow::Error) {
        self.skipped.borrow_mut().push(format!("SKIPPED: {name}: {error:#}"));
    }

    /// A file of bytes that look random.
    fn image(&self, size: u64) -> Result<PathBuf> {
        let path = self.directory.path().join("image");
        let mut file = File::create(&path)?;
        let mut left = size;
        let mut seed = 1;
        while left > 0 {
            let part = left.min(64 << 20);
            file.write_all(&tools::noise(seed, usize::try_from(part)?))?;
            left -= part;
            seed += 1;
        }
        Ok(path)
    }
}

/// A part of the benchmark, and what it is called.
type Part = (&'static str, fn(&Bench) -> Result<Vec<Row>>);

const PARTS: [Part; 11] = [
    ("path", path::rows),
    ("ring", ring::rows),
    ("four", four::rows),
    ("fresh", fresh::rows),
    ("memory", memory::rows),
    ("plugin", plugin::rows),
    ("fleet", fleet::rows),
    ("snapshots", snapshots::rows),
    ("chain", chain::rows),
    ("beside", beside::rows),
    ("mirror", mirror::rows),
];

fn main() -> Result<()> {
    let options = Options::parse();
    match options.command {
        Some(Command::Floor { socket, bytes, fresh }) => {
            return floor::serve(&socket, bytes, &fresh);
        }
        Some(Command::Load { socket, bytes, depth, seconds, write, random, export }) => {
            let load = Load { write, random, bytes, depth };
            let time = Until::Time(Duration::from_secs_f64(seconds));
            let outcome = Lean::nbd(&socket, &export)?.run(&load, time, |_| {})?;
            let (speed, rate) = (outcome.megabytes(&load), outcome.per_second());
            writeln!(io::stdout(), "{}: {rate:.0} IOPS, {speed:.0} MB/s", load.label())?;
            return Ok(());
        }
        None => {}
    }
    let mut scale = Scale::new(options.quick);
    scale.rounds = options.rounds.unwrap_or(scale.rounds);
    // Two servers of a large disk are never there at the same time; nor is the SR to be refused.
    scale.large = scale.large.min(process::available()? / 3).next_multiple_of(1 << 30);
    let sleeping = Xapi::with(&[("XAPI_RAM_POLL_US", "0")]);
    let directory = Scratch::in_memory();
    let start = Instant::now();
    let skipped = RefCell::default();
    let (python_plugin, vhost_load) = (options.python_plugin, options.vhost_load);
    let system = options.image.zip(options.booted);
    let bench = Bench {
        scale,
        xapi: Xapi::new(),
        sleeping,
        python_plugin,
        vhost_load,
        system,
        directory,
        start,
        skipped,
    };
    let machine = machine::describe()?;
    let mut rows = Vec::new();
    for (name, part) in PARTS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            rows.extend(part(&bench).with_context(|| name)?);
        }
    }
    if let Some(directory) = options.json.parent() {
        fs::create_dir_all(directory)?;
    }
    let report = json!({
        "machine": machine,
        "quick": scale.quick,
        "rounds": scale.rounds,
        "skipped": *bench.skipped.borrow(),
        "rows": table::json(&rows),
    });
    fs::write(&options.json, serde_json::to_string_pretty(&report)?)?;
    let mut out = io::stdout();
    writeln!(out, "{}", machine::text(&machine))?;
    writeln!(out, "medians of {} rounds of {:?} each", scale.rounds, scale.time)?;
    writeln!(out, "{}", table::text(&rows))?;
    bench.skipped.borrow().iter().try_for_each(|line| writeln!(out, "{line}"))?;
    writeln!(out, "all numbers: {}", options.json.display())?;
    Ok(())
}
