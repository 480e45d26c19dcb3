//! What one client of a disk notices of long operations that another client, a caller of the control socket,
//! or a plugin asks the same tapdisk for: each is done in bounded steps, or by a thread.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nbd::{client::Client, wire::command};
use serde_json::json;
use tapctl::{Open, minors};

use crate::{
    Bench,
    samples::Samples,
    servers::OURS,
    table::{Goal, Row},
};

/// The most that a read may take beside anything, at the 99th percentile. Milliseconds.
const P99_MAX: f64 = 10.0;
const READ_BYTES: u32 = 4096;
/// Between two reads.
const PAUSE: Duration = Duration::from_micros(500);
const PIECE_BYTES: u32 = 32 << 20;
/// For how long reads are measured beside an operation that is shorter, and beside nothing.
const TIME: Duration = Duration::from_secs(1);

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let bytes = if bench.scale.quick { 512 << 20 } else { bench.scale.large.min(2 << 30) };
    let xapi = &bench.xapi;
    let sr = xapi.create_sr(&(2 * bytes).to_string());
    let key = xapi.create_vdi(&sr, 2 * bytes);
    let disk = xapi.plug(&sr, &key, "0");
    let mut client = disk.connect();
    client.write(2 * bytes - u64::from(READ_BYTES), &[1; READ_BYTES as usize])?;
    let mut rows = Vec::new();
    let mut measure = |what: &str, act: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let (reads, took) = beside(&mut disk.connect(), 2 * bytes, act)?;
        let row = Row::new(format!("4 KiB read beside {what}: p99"), "ms");
        let note = format!(
            "median {:.2}, slowest {:.1}; it took {:.0} ms",
            reads.median(),
            reads.quantile(1.0),
            took.as_secs_f64() * 1e3
        );
        rows.push(row.figure(OURS, reads.quantile(0.99)).goal(Goal::AtMost(P99_MAX)).note(note));
        Ok(())
    };
    measure("nothing", &mut || Ok(()))?;
    let amount = format!("{} MiB of data", bytes >> 20);
    for (code, name) in [(command::TRIM, "a TRIM"), (command::WRITE_ZEROES, "a WRITE_ZEROES")] {
        fill(&mut client, bytes)?;
        measure(&format!("{name} of {amount}"), &mut || {
            let length = u32::try_from(bytes).unwrap_or(u32::MAX / READ_BYTES * READ_BYTES);
            let cookie = client.submit(0, code, 0, length, &[])?;
            Ok(client.finish(cookie)?)
        })?;
    }
    measure("writes of 32 MiB", &mut || fill(&mut client, bytes))?;
    let volume = json!({ "sr": sr, "key": key });
    let mut snapshots = Vec::new();
    measure("20 snapshots", &mut || {
        for _ in 0..20 {
            snapshots.push(xapi.volume("Volume.snapshot", volume.clone())?);
        }
        Ok(())
    })?;
    measure("destroying them", &mut || {
        for snapshot in &snapshots {
            xapi.volume("Volume.destroy", json!({ "sr": sr, "key": snapshot["key"] }))?;
        }
        Ok(())
    })?;
    // A second disk in the same process: a file that is loaded, and a volume that another process has.
    let control = tapctl::Client::new(&xapi.control_dir(), disk.tapdisk().pid);
    let control = control.timeout(Duration::from_secs(60));
    let minor = minors::allocate(&xapi.control_dir(), Duration::from_secs(5))?;
    control.attach(minor)?;
    let image = bench.directory.path().join("image");
    write_file(&image, bytes / 2)?;
    measure(&format!("loading a file of {} MiB", bytes >> 21), &mut || {
        control.open(minor, Open::new(format!("ram:{}", image.display())))?;
        Ok(())
    })?;
    measure("closing it", &mut || Ok(control.close(minor)?))?;
    fs::remove_file(&image)?;
    let other = xapi.create_vdi(&sr, 1 << 20);
    let meta = xapi.sr_dir(&sr).join("meta");
    let lock = File::options().append(true).create(true).open(meta.join("serving").join(&other))?;
    lock.lock().context("locking a volume")?;
    measure("opening a volume that is locked", &mut || {
        let path = meta.join("volume").join(&other);
        let opened = control.open(minor, Open::new(format!("ram:{}", path.display())));
        anyhow::ensure!(opened.is_err(), "it was opened");
        Ok(())
    })?;
    drop(lock);
    control.detach(minor)?;
    minors::free(&xapi.control_dir(), minor, Duration::from_secs(5))?;
    drop(client);
    disk.unplug();
    xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    bench.progress("reads beside long operations")?;
    Ok(rows)
}

/// Milliseconds of each read while something is done, and how long that took.
fn beside(
    client: &mut Client,
    size: u64,
    act: &mut dyn FnMut() -> Result<()>,
) -> Result<(Samples, Duration)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<Vec<f64>> {
            let begun = Instant::now();
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) || begun.elapsed() < TIME {
                let start = Instant::now();
                client.read(size - u64::from(READ_BYTES), READ_BYTES)?;
                times.push(start.elapsed().as_secs_f64() * 1e3);
                thread::sleep(PAUSE);
            }
            Ok(times)
        });
        let start = Instant::now();
        let done = act();
        let took = start.elapsed();
        over.store(true, Ordering::Relaxed);
        let times = reader.join().expect("a reader does not panic")?;
        done?;
        Ok((times.into_iter().collect(), took))
    })
}

fn fill(client: &mut Client, bytes: u64) -> Result<()> {
    let data = vec![7; PIECE_BYTES as usize];
    for at in (0..bytes).step_by(PIECE_BYTES as usize) {
        client.write(at, &data)?;
    }
    Ok(())
}

fn write_file(path: &std::path::Path, bytes: u64) -> Result<()> {
    let (file, data) = (File::create(path)?, vec![7; PIECE_BYTES as usize]);
    for at in (0..bytes).step_by(PIECE_BYTES as usize) {
        file.write_all_at(&data, at)?;
    }
    Ok(())
}
