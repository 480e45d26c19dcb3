//! A fleet: a hundred clones of one image, made one after the other by the installed plugin as the daemon
//! calls it.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result};
use end_to_end::{Side, tools};
use nbd::client::{Client, Wish};
use serde_json::{Value, json};

use crate::{
    Bench,
    plugin::timed,
    process,
    samples::Samples,
    servers::{OURS, Server},
    table::{Goal, Row},
};

const CLONES: usize = 100;
/// The size of the image's disk, and where its data is: a run in each so many bytes, as files have it.
const DISK_BYTES: u64 = 8 << 30;
const RUN_DISTANCE: u64 = 16 << 20;
const RUN_BYTES: usize = 1 << 20;
/// Files are read in such steps.
const STEP_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let sr = bench.xapi.create_sr(&(1_u64 << 30).to_string());
    let server = Server::ours(OURS, &bench.xapi, &sr, DISK_BYTES)?;
    write_image(&server)?;
    let origin = server.export().to_owned();
    let snapshot = json!({ "sr": sr, "key": origin });
    let (_, made) = timed(&bench.xapi, Side::Volume, "Volume.snapshot", snapshot)?;
    let mut rows = Vec::new();
    let meta = bench.xapi.sr_dir(&sr).join("meta");
    for (what, key) in [("a snapshot", &made["key"]), ("a disk in use", &json!(origin))] {
        let mut seconds = Samples::default();
        let (mut first, mut last) = (Samples::default(), Samples::default());
        let mut each = 0;
        for _ in 0..bench.scale.rounds {
            let before = process::blocks(&meta)?;
            let (times, clones) = clone_all(bench, &sr, key)?;
            each = process::blocks(&meta)?.saturating_sub(before) / CLONES as u64;
            seconds.push(times.iter().sum::<f64>() / 1e3);
            times[..10].iter().for_each(|&time| first.push(time));
            times[CLONES - 10..].iter().for_each(|&time| last.push(time));
            for key in clones {
                bench.xapi.volume("Volume.destroy", json!({ "sr": sr, "key": key }))?;
            }
        }
        rows.extend([
            Row::new(format!("{CLONES} times Volume.clone of {what} of 8 GiB"), "s")
                .figure(OURS, seconds)
                .goal(Goal::AtMost(0.5)),
            Row::new("the same: one call of the last ten", "ms")
                .figure(OURS, last)
                .figure("of the first ten", first)
                .against("of the first ten", Goal::AtMost(1.5)),
            Row::new("the same: memory for one clone", "KiB").figure(OURS, each as f64 / 1024.0),
        ]);
    }
    server.end();
    bench.xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    bench.progress("a hundred clones")?;
    if let Some((image, booted)) = &bench.system {
        rows.extend(systems(bench, image, booted)?);
        bench.progress("a hundred clones of an operating system")?;
    }
    Ok(rows)
}

/// Memory of an operating system's disk that is written as it is, zeroes included, and of a hundred clones of it
/// of which each has what a start of the system changes.
fn systems(bench: &Bench, image: &Path, booted: &Path) -> Result<Vec<Row>> {
    let (before, after) = (File::open(image)?, File::open(booted)?);
    let size = before.metadata()?.len();
    let sr = bench.xapi.create_sr(&(process::available()? / 2).to_string());
    let server = Server::ours(OURS, &bench.xapi, &sr, size)?;
    let mut client = connect(&server)?;
    in_steps(&before, size, |at, bytes| Ok(client.write(at, bytes)?))?;
    let origin = server.export().to_owned();
    let one = bench.xapi.used(&sr);
    let changed = changes(&before, &after, size)?;
    let differs: usize = changed.iter().map(|(_, bytes)| bytes.len()).sum();
    client.disconnect()?;
    let (times, clones) = clone_all(bench, &sr, &json!(origin))?;
    let fresh = bench.xapi.used(&sr);
    for key in &clones {
        let key = key.as_str().context("a key")?;
        let disk = bench.xapi.plug(&sr, key, "1");
        let mut client = disk.connect();
        changed.iter().try_for_each(|(at, bytes)| client.write(*at, bytes))?;
        disk.unplug();
    }
    let all = bench.xapi.used(&sr);
    server.end();
    bench.xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let own = (differs * CLONES) as u64;
    let factor = all.saturating_sub(own) as f64 / one as f64;
    Ok(vec![
        Row::new(
            format!("memory of a system's disk of {} MiB, written through", size >> 20),
            "MiB",
        )
        .figure(OURS, mib(one))
        .figure("without a look for zeroes", mib(size)),
        Row::new(format!("{CLONES} clones of it"), "s")
            .figure(OURS, times.iter().sum::<f64>() / 1e3)
            .goal(Goal::AtMost(0.5)),
        Row::new("the same: memory of all together", "MiB").figure(OURS, mib(fresh)),
        Row::new(format!("after a start of each changed {:.1} MiB", mib(differs as u64)), "MiB")
            .figure(OURS, mib(all))
            .figure("copies of the disk", mib((one + differs as u64) * CLONES as u64)),
        Row::new("the same, less what was changed, in disks of the system", "times")
            .figure(OURS, factor)
            .goal(Goal::AtMost(1.2)),
    ])
}

/// Blocks that differ between two disks, as writes.
fn changes(before: &File, after: &File, size: u64) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut old = vec![0; STEP_BYTES];
    in_steps(after, size, |at, new| {
        before.read_exact_at(&mut old[..new.len()], at)?;
        let blocks = new.chunks(BLOCK_BYTES).zip(old.chunks(BLOCK_BYTES));
        for (number, (new, _)) in blocks.enumerate().filter(|(_, (new, old))| new != old) {
            let at = at + (number * BLOCK_BYTES) as u64;
            match found.last_mut().filter(|(start, bytes)| start + bytes.len() as u64 == at) {
                Some((_, bytes)) if bytes.len() < STEP_BYTES => bytes.extend(new),
                _ => found.push((at, new.to_vec())),
            }
        }
        Ok(())
    })?;
    Ok(found)
}

fn in_steps(file: &File, size: u64, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; STEP_BYTES];
    for at in (0..size).step_by(STEP_BYTES) {
        let length = usize::try_from(size - at)?.min(STEP_BYTES);
        file.read_exact_at(&mut buffer[..length], at)?;
        each(at, &buffer[..length])?;
    }
    Ok(())
}

fn connect(server: &Server<'_>) -> Result<Client> {
    let wish = Wish { name: server.export().as_bytes(), ..Wish::default() };
    Client::connect(server.socket(), &wish).context("connecting")
}

/// Milliseconds of each call, and the clones.
fn clone_all(bench: &Bench, sr: &str, key: &Value) -> Result<(Vec<f64>, Vec<Value>)> {
    let volume = json!({ "sr": sr, "key": key });
    let mut made = Vec::with_capacity(CLONES);
    for _ in 0..CLONES {
        let (time, clone) = timed(&bench.xapi, Side::Volume, "Volume.clone", volume.clone())?;
        made.push((time, clone["key"].clone()));
    }
    Ok(made.into_iter().unzip())
}

/// Writes half a gigabyte all over the disk.
fn write_image(server: &Server<'_>) -> Result<()> {
    let bytes = tools::noise(1, RUN_BYTES);
    let mut client = connect(server)?;
    for place in 0..server.size / RUN_DISTANCE {
        client.write(place * RUN_DISTANCE, &bytes)?;
    }
    Ok(())
}
