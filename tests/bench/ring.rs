//! A guest's ring beside NBD: the same disk, the same tapdisk, the same loads; and beside qemu's
//! vhost-user-blk, which moves requests by shared memory too.
//!
//! The guest is the mock, a thread of this process that sleeps until an event comes, as a guest does. The
//! tapdisk copies between its pages and the disk by itself; with Xen the hypervisor does so, and one call
//! is for all requests of a pass: a row says how many calls there were for a request.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use blkif::{
    Abi, Status,
    mock::{Completion, Frontend, FrontendRequest, Guest, Span},
};
use end_to_end::Xapi;
use scratch::Scratch;
use serde_json::json;
use tapctl::{Client, Ring};

use crate::{
    Bench,
    lean::Until,
    load::{Load, Outcome},
    process,
    samples::Samples,
    servers::{Generator, Measured, Server},
    table::{Goal, Row},
    vhost::Export,
};

const RING: &str = "ring";
const RING_SLEEPING: &str = "ring, no polling";
const NBD: &str = "NBD";
const NBD_SLEEPING: &str = "NBD, no polling";

const DOMID: u32 = 1;
const DEVID: u32 = 51712;
const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u32 = 4096;
/// Pages of the guest: 32 requests of 64 KiB, and the ring.
const PAGES: u32 = 1024;
const DEPTH_MAX: u32 = 32;
const REQUEST_PAGES_MAX: u32 = 16;
/// What is written.
const DATA: [u8; PAGE_BYTES as usize] = [0x5a; PAGE_BYTES as usize];
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A guest that puts load on its ring.
struct RingLoad {
    frontend: Frontend,
    /// The first page of data.
    pages: u32,
    size: u64,
    state: u64,
    client: Client,
    minor: u16,
    // Behind the guest, whose directory is in it.
    _directory: Rc<Scratch>,
}

impl RingLoad {
    fn connect(directory: &Rc<Scratch>, xapi: &Xapi, server: &Server<'_>) -> Result<Self> {
        let guest = Rc::new(Guest::create(directory.path(), DOMID, PAGES)?);
        let frontend = Frontend::create(&guest, Abi::X86_64, 0)?;
        let pages = guest.take_pages(DEPTH_MAX * REQUEST_PAGES_MAX);
        // Zeroes that are written take no memory.
        let count = DEPTH_MAX * REQUEST_PAGES_MAX;
        (pages..pages + count).for_each(|page| guest.write(page, 0, &DATA));
        let location = frontend.location();
        let mut grefs = [0; 8];
        grefs[0] = location.grefs[0];
        let ring = Ring {
            domid: DOMID,
            devid: DEVID,
            grefs,
            order: 0,
            protocol: 1,
            pool: Some("".into()),
            port: location.port,
            poll_duration: 1000,
            poll_idle_threshold: 50,
        };
        let client = Client::new(&xapi.control_dir(), server.tapdisk().context("a tapdisk")?);
        let listed = client.list().context("the tapdisk's disks")?;
        let minor = u16::try_from(listed.first().context("a disk")?.minor)?;
        client.connect(minor, ring).context("connecting the ring")?;
        let (state, size) = (0x9e37_79b9_7f4a_7c15, server.size);
        let _directory = Rc::clone(directory);
        Ok(Self { frontend, pages, size, state, client, minor, _directory })
    }

    fn run(&mut self, load: &Load, until: Until) -> Result<Outcome> {
        let count = load.bytes / PAGE_BYTES;
        let spans = |slot: u32| {
            let first = self.pages + slot * count;
            (first..first + count).map(Span::page).collect::<Vec<_>>()
        };
        let mut requests: Vec<FrontendRequest> = (0..load.depth as u32)
            .map(|slot| match load.write {
                true => FrontendRequest::Write(0, spans(slot)),
                false => FrontendRequest::Read(0, spans(slot)),
            })
            .collect();
        let start = Instant::now();
        let mut now = start;
        let mut sent = vec![(0, start); self.frontend.entries() as usize];
        let mut due: Vec<usize> = (0..load.depth).collect();
        let mut completions: Vec<Completion> = Vec::new();
        let (mut issued, mut answered, mut position) = (0_u64, 0_u64, 0_u64);
        let mut waited = Duration::ZERO;
        loop {
            for slot in due.drain(..) {
                let is_over = match until {
                    Until::Time(time) => now - start >= time,
                    Until::Count(count) => issued >= count,
                };
                if is_over {
                    continue;
                }
                let (FrontendRequest::Read(sector, _) | FrontendRequest::Write(sector, _)) =
                    &mut requests[slot]
                else {
                    continue;
                };
                *sector = load.place(self.size, &mut self.state, &mut position) / SECTOR_BYTES;
                let id = self.frontend.submit(&requests[slot]).context("a slot of the ring")?;
                sent[usize::try_from(id)?] = (slot, now);
                issued += 1;
            }
            self.frontend.push()?;
            if answered == issued {
                break;
            }
            self.frontend.complete(&mut completions)?;
            if completions.is_empty() {
                ensure!(self.frontend.wait(PATIENCE)?, "no answer");
                continue;
            }
            now = Instant::now();
            for Completion { id, status } in completions.drain(..) {
                ensure!(status == Status::Okay, "the tapdisk answers {status:?}");
                let (slot, since) = sent[usize::try_from(id)?];
                waited += now - since;
                answered += 1;
                due.push(slot);
            }
        }
        let latency = waited.div_f64(answered.max(1) as f64);
        Ok(Outcome { requests: answered, elapsed: start.elapsed(), latency })
    }

    fn measure(&mut self, pid: u32, load: &Load, time: Duration) -> Result<Measured> {
        self.run(load, Until::Count(4 * load.depth as u64))?;
        let before = process::cpu(pid)?;
        let outcome = self.run(load, Until::Time(time))?;
        let cpu = process::cpu(pid)? - before;
        Ok(Measured { outcome, cpu: cpu.div_f64(outcome.requests.max(1) as f64) })
    }

    /// Calls of the tapdisk that copied data, so far.
    fn copies(&self) -> Result<u64> {
        let stats: serde_json::Value = serde_json::from_str(&self.client.stats(self.minor)?)?;
        stats["ring_copies"].as_u64().context("ring_copies")
    }
}

/// A host whose guests are those of a directory, and one of its disks.
struct Host<'a> {
    xapi: &'a Xapi,
    sr: String,
    server: Server<'a>,
    ring: RingLoad,
}

impl<'a> Host<'a> {
    fn new(bench: &Bench, xapi: &'a Xapi, guests: &Rc<Scratch>) -> Result<Self> {
        let size = bench.scale.disk;
        let sr = xapi.create_sr(&(size + (size >> 4)).to_string());
        let server = Server::ours(RING, xapi, &sr, size)?;
        let mut ring = RingLoad::connect(guests, xapi, &server)?;
        // All of it has a place before anything is measured.
        let fill = Load::sequential(true, 64 << 10, DEPTH_MAX as usize);
        ring.run(&fill, Until::Count(size / u64::from(fill.bytes)))?;
        Ok(Self { xapi, sr, server, ring })
    }

    fn end(self) -> Result<()> {
        drop(self.ring);
        self.server.end();
        self.xapi.volume("SR.destroy", json!({ "sr": self.sr }))?;
        Ok(())
    }
}

/// All rows of the ring.
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let guests = [Rc::new(Scratch::in_memory()), Rc::new(Scratch::in_memory())];
    let variable = |guests: &Rc<Scratch>| guests.path().display().to_string();
    let polling = Xapi::with(&[("XAPI_RAM_MOCK_XEN", &variable(&guests[0]))]);
    let sleeping =
        Xapi::with(&[("XAPI_RAM_MOCK_XEN", &variable(&guests[1])), ("XAPI_RAM_POLL_US", "0")]);
    let mut hosts =
        [Host::new(bench, &polling, &guests[0])?, Host::new(bench, &sleeping, &guests[1])?];
    let exports = Export::all(bench);
    let mut names = vec![RING, NBD, RING_SLEEPING, NBD_SLEEPING];
    names.extend(exports.iter().map(|export| export.name));
    let mut rows = Vec::new();
    for load in loads() {
        let mut measured: Vec<(&'static str, Vec<Measured>)> =
            names.iter().map(|&name| (name, Vec::new())).collect();
        let mut copies = Samples::default();
        for _ in 0..bench.scale.rounds {
            for (index, host) in hosts.iter_mut().enumerate() {
                let time = bench.scale.time;
                let before = host.ring.copies()?;
                let by_ring = host.ring.measure(host.server.pid, &load, time)?;
                if index == 0 {
                    let calls = host.ring.copies()? - before;
                    copies.push(calls as f64 / by_ring.outcome.requests.max(1) as f64);
                }
                measured[2 * index].1.push(by_ring);
                measured[2 * index + 1].1.push(host.server.measure(
                    Generator::Lean,
                    &load,
                    time,
                )?);
            }
            for (export, (_, measured)) in exports.iter().zip(&mut measured[2 * hosts.len()..]) {
                measured.push(export.measure(&load, bench.scale.time)?);
            }
        }
        rows.extend(rows_of(&load, &measured));
        let calls = format!("{}: copy calls", load.label());
        rows.push(Row::new(calls, "per request").figure(RING, copies));
    }
    bench.progress("rings")?;
    hosts.into_iter().try_for_each(Host::end)?;
    Ok(rows)
}

fn loads() -> Vec<Load> {
    let small = PAGE_BYTES;
    let mut loads = Vec::new();
    for write in [false, true] {
        loads.extend([1, 32].map(|depth| Load::random(write, small, depth)));
        loads.extend([1, 32].map(|depth| Load::sequential(write, 64 << 10, depth)));
    }
    loads
}

fn rows_of(load: &Load, measured: &[(&'static str, Vec<Measured>)]) -> [Row; 2] {
    let row = |measure: String, unit, value: &dyn Fn(&Measured) -> f64| {
        measured.iter().fold(Row::new(measure, unit), |row, (name, measured)| {
            row.figure(*name, measured.iter().map(value).collect::<Samples>())
        })
    };
    let label = load.label();
    let speed = row(label.clone(), "IOPS", &|it| it.outcome.per_second());
    let cpu = row(format!("{label}: server CPU"), "us/request", &|it| it.cpu.as_secs_f64() * 1e6);
    let (faster, cheaper) = match (load.bytes, load.depth) {
        (PAGE_BYTES, 32) => (2.0, 0.6),
        _ => (1.0, 1.0),
    };
    [speed.against(NBD, Goal::AtLeast(faster)), cpu.against(NBD, Goal::AtMost(cheaper))]
}
