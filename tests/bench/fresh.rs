//! Memory that is not there yet: the first write to it, reads of what was never written, and the
//! block status of a disk that is nearly all hole.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use end_to_end::tools;
use nbd::client::{Client, Wish};
use serde_json::json;

use crate::{
    Bench,
    lean::{Contents, Until},
    load::Load,
    samples::Samples,
    servers::{FLOOR, Generator, NBDKIT, OURS, QSD, Server},
    table::{Goal, Row},
};

const TIB: u64 = 1 << 40;
/// The longest range that one request for the block status can have, in whole blocks.
const STATUS_BYTES_MAX: u32 = 0xffff_f000;

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let sr = bench.xapi.create_sr(&(2 * bench.scale.disk).to_string());
    let mut rows = Vec::new();
    for depth in [1, 32] {
        rows.push(first_write(bench, &sr, depth)?);
    }
    for load in [Load::sequential(true, 4 << 10, 32), Load::sequential(true, 1 << 20, 8)] {
        rows.extend(zeroes(bench, &sr, &load)?);
    }
    rows.extend(sparse(bench, &sr)?);
    bench.xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    bench.progress("fresh memory")?;
    Ok(rows)
}

fn first_write(bench: &Bench, sr: &str, depth: usize) -> Result<Row> {
    let load = Load::sequential(true, 1 << 20, depth);
    let size = bench.scale.disk;
    let names = [OURS, NBDKIT, QSD, FLOOR];
    let mut results = vec![Samples::default(); names.len()];
    let mut dd = Samples::default();
    let directory = bench.directory.path();
    for round in 0..bench.scale.rounds {
        for number in 0..names.len() {
            let at = (number + round) % names.len();
            let server = if names[at] == OURS {
                Server::ours(OURS, &bench.xapi, sr, size)?
            } else {
                Server::foreign(names[at], directory, 9, size)?
            };
            let mut lean = server.fresh(&load)?;
            let outcome = lean.run(&load, Until::Count(size / (1 << 20)), |_| {})?;
            results[at].push(outcome.megabytes(&load));
            drop(lean);
            server.end();
        }
        dd.push(size as f64 / 1e6 / copy_zeroes(&directory.join("dd"), size)?.as_secs_f64());
    }
    let row = Row::new(format!("first write to fresh memory, {}, lean", load.label()), "MB/s");
    let row =
        names.iter().zip(results).fold(row, |row, (name, samples)| row.figure(*name, samples));
    Ok(row.figure("dd to tmpfs", dd).against(FLOOR, Goal::AtLeast(0.85)))
}

/// What it costs to see that data is not zeroes, which most of it says in its first word, and what zeroes
/// take.
fn zeroes(bench: &Bench, sr: &str, load: &Load) -> Result<[Row; 2]> {
    const DATA: &str = "data";
    let size = bench.scale.disk / 4;
    let all = [
        (Contents::Data, DATA),
        (Contents::NearlyZeroes, "zeroes but the last byte of each block"),
        (Contents::Zeroes, "zeroes"),
    ];
    let mut results = vec![Samples::default(); all.len()];
    let empty = bench.xapi.used(sr);
    let mut taken = 0;
    // Each round takes a tenth of a second: more of them tell more.
    for round in 0..3 * bench.scale.rounds {
        for number in 0..all.len() {
            let at = (number + round) % all.len();
            let server = Server::ours(OURS, &bench.xapi, sr, size)?;
            let mut lean = server.lean(load)?.writing(all[at].0);
            let count = Until::Count(size / u64::from(load.bytes));
            results[at].push(lean.run(load, count, |_| {})?.megabytes(load));
            let used = bench.xapi.used(sr) - empty;
            match all[at].0 {
                Contents::Zeroes => taken = taken.max(used),
                _ => ensure!(used >= size, "{used} bytes hold {size}"),
            }
            drop(lean);
            server.end();
        }
    }
    let row =
        Row::new(format!("first write of what may be zeroes, {}, lean", load.label()), "MB/s");
    let row = all.iter().zip(results).fold(row, |row, ((_, name), it)| row.figure(*name, it));
    let memory = Row::new(format!("memory of {} MiB of zeroes, written so", size >> 20), "KiB")
        .figure(OURS, taken as f64 / 1024.0)
        .goal(Goal::AtMost(64.0));
    Ok([row.against(DATA, Goal::AtLeast(0.9)), memory])
}

fn copy_zeroes(file: &Path, size: u64) -> Result<Duration> {
    let start = Instant::now();
    let (to, count) = (format!("of={}", file.display()), format!("count={}", size >> 20));
    tools::run("dd", &["if=/dev/zero", "bs=1M", &to, &count, "status=none"]);
    let time = start.elapsed();
    std::fs::remove_file(file)?;
    Ok(time)
}

/// A disk of 1 TiB with 64 KiB written to every 16 GiB.
fn sparse(bench: &Bench, sr: &str) -> Result<Vec<Row>> {
    let directory = bench.directory.path();
    let servers = [
        Server::ours(OURS, &bench.xapi, sr, TIB)?,
        Server::foreign(NBDKIT, directory, 8, TIB)?,
        Server::foreign(QSD, directory, 8, TIB)?,
    ];
    let wish = |server: &Server<'_>| {
        let wish = Wish { name: server.export().as_bytes(), structured: true, allocation: true };
        Client::connect(server.socket(), &wish)
    };
    for server in &servers {
        let mut client = wish(server)?;
        for place in 0..64 {
            client.write(place << 34, &[7; 64 << 10])?;
        }
    }
    let used = bench.xapi.used(sr);
    let mut times = vec![Samples::default(); servers.len()];
    for round in 0..bench.scale.rounds {
        for number in 0..servers.len() {
            let at = (number + round) % servers.len();
            let mut client = wish(&servers[at])?;
            let start = Instant::now();
            let mut offset = 0;
            while offset < TIB {
                let length = u32::try_from(TIB - offset).unwrap_or(STATUS_BYTES_MAX);
                let told = client.status(offset, length.min(STATUS_BYTES_MAX), false)?;
                offset += told.iter().map(|extent| extent.length).sum::<u64>();
            }
            times[at].push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let row = Row::new("block status of a sparse disk of 1 TiB, own client", "ms");
    let row =
        servers.iter().zip(times).fold(row, |row, (it, samples)| row.figure(it.name, samples));
    let status = row.goal(Goal::AtMost(5.0)).note("64 KiB of data in every 16 GiB");
    let load = Load::random(false, 64 << 10, 32);
    let mut row = Row::new(format!("never written areas of it: {}, lean", load.label()), "MB/s");
    for server in &servers {
        let outcome = server.measure(Generator::Lean, &load, bench.scale.time)?.outcome;
        row = row.figure(server.name, outcome.megabytes(&load));
    }
    let touched = bench.xapi.used(sr) - used;
    let pages = Row::new("data pages that reading never written areas has touched", "pages")
        .figure(OURS, (touched / 4096) as f64)
        .goal(Goal::AtMost(0.0));
    ensure!(touched < TIB, "used memory fell while reading");
    servers.into_iter().for_each(Server::end);
    Ok(vec![status, row, pages])
}
