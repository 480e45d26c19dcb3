//! Snapshots: what a disk under load notices of one, how long one takes against the size of the
//! disk, and what it costs in memory.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use end_to_end::{Side, tools};
use serde_json::json;

use crate::{
    Bench,
    lean::{Flight, Lean, Until},
    load::Load,
    memory::scatter,
    plugin::{empty_program, timed},
    process,
    samples::Samples,
    servers::{OURS, Server},
    table::{Goal, Row},
};

/// The load that a snapshot meets.
const BUSY: Load = Load::random(true, 4 << 10, 32);
/// Between two snapshots, and before the first.
const BREATH: Duration = Duration::from_millis(30);
/// A disk of which no two blocks share a page of the map.
const SCATTERED: &str = "16 GiB of scattered blocks";
/// Number of snapshots of one unchanged disk, in a full and in a quick run.
const UNCHANGED: u64 = 32;
const UNCHANGED_QUICK: u64 = 8;
/// What one page of the map describes.
const CHUNK_BYTES: u64 = 4 << 20;
/// Blocks in each chunk: so many that its page is there.
const PAGED: usize = 8;

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = pauses(bench)?;
    bench.progress("snapshots of a busy disk")?;
    rows.extend(sizes(bench)?);
    bench.progress("snapshots of disks of several sizes")?;
    Ok(rows)
}

/// When something was called, and when it had answered.
type Window = (Instant, Instant);

fn pauses(bench: &Bench) -> Result<Vec<Row>> {
    let size = bench.scale.large;
    // Written through, and room for what is written beside snapshots.
    let sr = bench.xapi.create_sr(&(size + (2 << 30)).to_string());
    let server = Server::ours(OURS, &bench.xapi, &sr, size)?;
    let fill = Load::sequential(true, 1 << 20, 8);
    server.lean(&fill)?.run(&fill, Until::Count(size >> 20), |_| {})?;
    let count = if bench.scale.quick { 20 } else { 200 };
    let empty = empty_program(bench)?;
    let volume = json!({ "sr": sr, "key": server.export() });

    let (flights, windows) = under_load(&server, || {
        let (mut snapshots, mut destroys, mut nothings) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            thread::sleep(BREATH);
            let start = Instant::now();
            let (_, made) = timed(&bench.xapi, Side::Volume, "Volume.snapshot", volume.clone())?;
            snapshots.push((start, Instant::now()));
            thread::sleep(BREATH);
            let start = Instant::now();
            let copy = json!({ "sr": sr, "key": made["key"] });
            timed(&bench.xapi, Side::Volume, "Volume.destroy", copy)?;
            destroys.push((start, Instant::now()));
            thread::sleep(BREATH);
            let start = Instant::now();
            Command::new(&empty).status()?;
            nothings.push((start, Instant::now()));
        }
        Ok([("Volume.snapshot", snapshots), ("Volume.destroy", destroys), ("nothing", nothings)])
    })?;
    let milliseconds = |flight: &&Flight| (flight.answered - flight.sent).as_secs_f64() * 1e3;
    let all: Samples = flights.iter().map(|flight| milliseconds(&flight)).collect();
    let mut rows = Vec::new();
    let what = format!("{} GiB written through, {}", size >> 30, BUSY.label());
    let mut p99 = Row::new(format!("pause of a busy disk: {what}: p99 of the slowest"), "ms");
    let mut max = Row::new("the same: the slowest of all", "ms");
    let mut wall = Row::new("the same: the call itself", "ms");
    for (name, windows) in &windows {
        let slowest = slowest(&flights, windows);
        let name = if *name == "Volume.snapshot" { OURS } else { name };
        p99 = p99.figure(name, slowest.quantile(0.99));
        max = max.figure(name, slowest.quantile(1.0));
        let times = windows.iter().map(|(start, end)| (*end - *start).as_secs_f64() * 1e3);
        wall = wall.figure(name, times.collect::<Samples>());
    }
    let note = format!(
        "of each of {count} snapshots the {} slowest requests that overlap the call; beside it a \
         call of Volume.destroy, and of an empty program; all requests: median {:.2}, p99 {:.2}",
        BUSY.depth,
        all.median(),
        all.quantile(0.99)
    );
    rows.push(p99.goal(Goal::AtMost(1.0)).against("nothing", Goal::AtMost(1.5)).note(note));
    rows.extend([max, wall]);
    server.end();
    bench.xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    Ok(rows)
}

/// Does something while the disk is written to; every request with its times.
fn under_load<T>(server: &Server<'_>, act: impl FnOnce() -> Result<T>) -> Result<(Vec<Flight>, T)> {
    let over = AtomicBool::new(false);
    let mut lean = server.lean(&BUSY)?;
    thread::scope(|scope| {
        let over = &over;
        let writer = scope.spawn(move || busy(&mut lean, over));
        let done = act();
        over.store(true, Ordering::Relaxed);
        let flights = writer.join().expect("a generator does not panic")?;
        Ok((flights, done?))
    })
}

fn busy(lean: &mut Lean, over: &AtomicBool) -> Result<Vec<Flight>> {
    let mut flights = Vec::new();
    while !over.load(Ordering::Relaxed) {
        lean.run(&BUSY, Until::Time(Duration::from_millis(500)), |flight| flights.push(flight))?;
    }
    Ok(flights)
}

/// Milliseconds of those requests that a pause in one of the windows can have hit: as many of each
/// as are in flight at a time.
fn slowest(flights: &[Flight], windows: &[Window]) -> Samples {
    let mut found = Vec::new();
    for (start, end) in windows {
        // In the order of their answers.
        let from = flights.partition_point(|flight| flight.answered < *start);
        let overlapping = flights[from..]
            .iter()
            .take_while(|flight| flight.answered <= *end + Duration::from_millis(100));
        let mut times: Vec<f64> = overlapping
            .filter(|flight| flight.sent <= *end)
            .map(|flight| (flight.answered - flight.sent).as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        found.extend_from_slice(&times[times.len().saturating_sub(BUSY.depth)..]);
    }
    found.into_iter().collect()
}

fn sizes(bench: &Bench) -> Result<Vec<Row>> {
    let sr = bench.xapi.create_sr(&(1_u64 << 30).to_string());
    let meta = bench.xapi.sr_dir(&sr).join("meta");
    let count = if bench.scale.quick { UNCHANGED_QUICK } else { UNCHANGED };
    let mut rows = Vec::new();
    let mut first = None;
    for (label, size, distance, blocks) in [
        ("1 GiB", 1_u64 << 30, CHUNK_BYTES, PAGED),
        ("8 GiB", 8 << 30, CHUNK_BYTES, PAGED),
        ("16 GiB", 16 << 30, CHUNK_BYTES, PAGED),
        ("1 TiB sparse", 1 << 40, 16 << 30, PAGED),
        (SCATTERED, 16 << 30, CHUNK_BYTES, 1),
    ] {
        let server = Server::ours(OURS, &bench.xapi, &sr, size)?;
        scatter(&server, distance, blocks)?;
        let key = server.export().to_owned();
        let mut samples = Samples::default();
        let before = process::blocks(&meta)?;
        let mut made = Vec::new();
        for _ in 0..count {
            let params = json!({ "sr": sr, "key": key });
            let (time, copy) = timed(&bench.xapi, Side::Volume, "Volume.snapshot", params)?;
            samples.push(time);
            made.push(copy["key"].clone());
        }
        let each = (process::blocks(&meta)?.saturating_sub(before)) / count;
        for copy in made {
            bench.xapi.volume("Volume.destroy", json!({ "sr": sr, "key": copy }))?;
        }
        server.end();
        let mut row = Row::new(format!("Volume.snapshot of an active disk of {label}"), "ms")
            .figure(OURS, samples.clone());
        if let Some(first) = &first {
            row = row.figure("of 1 GiB", Samples::clone(first));
            if blocks == PAGED {
                row = row.against("of 1 GiB", Goal::AtMost(1.5));
            }
        }
        first.get_or_insert(samples);
        let qcow2 = qcow2(bench.directory.path(), size, distance == CHUNK_BYTES)?;
        for (who, samples) in qcow2 {
            row = row.figure(who, samples);
        }
        let note = match blocks {
            PAGED => "8 blocks written in every 4 MiB (1 TiB: 16 GiB): all map pages exist",
            _ => "one block written in every 4 MiB: no map page exists, and all slots are copied",
        };
        rows.push(row.note(note));
        if size == 16 << 30 {
            // What ram-sr(7) says: where all blocks are scattered 17 KiB for each GiB, and 4.
            let goal = if blocks == PAGED { 64.0 } else { 16.0 * 17.0 + 4.0 };
            rows.push(
                Row::new(format!("memory for a snapshot of an unchanged disk of {label}"), "KiB")
                    .figure(OURS, each as f64 / 1024.0)
                    .goal(Goal::AtMost(goal)),
            );
        }
    }
    bench.xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    Ok(rows)
}

/// The time that qemu-img takes for a snapshot within an image and for an overlay over it.
fn qcow2(directory: &Path, size: u64, full: bool) -> Result<Vec<(&'static str, Samples)>> {
    let image = directory.join("disk.qcow2").display().to_string();
    let overlay = directory.join("overlay.qcow2").display().to_string();
    let size = size.to_string();
    let preallocation = if full { "preallocation=metadata" } else { "preallocation=off" };
    tools::run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", preallocation, &image, &size]);
    let time = |arguments: &[&str]| {
        let start = Instant::now();
        tools::run("qemu-img", arguments);
        start.elapsed().as_secs_f64() * 1e3
    };
    let (mut internal, mut external) = (Samples::default(), Samples::default());
    for number in 0..5 {
        internal.push(time(&["snapshot", "-c", &number.to_string(), &image]));
        external
            .push(time(&["create", "-q", "-f", "qcow2", "-b", &image, "-F", "qcow2", &overlay]));
    }
    for file in [&image, &overlay] {
        std::fs::remove_file(file).with_context(|| file.clone())?;
    }
    Ok(vec![("qemu-img snapshot", internal), ("qcow2 overlay", external)])
}
