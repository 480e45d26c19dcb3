//! The data path: requests per second, bytes per second, latency and CPU time of every server,
//! under the same loads, one after another in rotating order.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result};

use crate::{
    Bench,
    load::Load,
    process::Pinned,
    samples::Samples,
    servers::{
        FLOOR, Generator, Measured, NBDKIT, NBDKIT_PLAIN, NBDKITS, NULL, OURS, PEERS, QEMU_NBD,
        QSD, SLEEPING, Server, sr_bytes,
    },
    table::{Goal, Row},
};

const SMALL: u32 = 4 << 10;
const ALL: [&str; 8] = [OURS, SLEEPING, NBDKIT, NBDKIT_PLAIN, QEMU_NBD, QSD, NULL, FLOOR];

/// One cell: who is measured how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    load: Load,
    generator: Generator,
    pinned: bool,
}

/// Everything measured of one test.
#[derive(Debug, Default)]
struct Results {
    by_server: HashMap<&'static str, Vec<Measured>>,
}

impl Results {
    fn of(&self, who: &str, value: impl Fn(&Measured) -> f64) -> Samples {
        self.by_server.get(who).into_iter().flatten().map(value).collect()
    }

    fn row(&self, measure: String, unit: &'static str, value: impl Fn(&Measured) -> f64) -> Row {
        ALL.iter().fold(Row::new(measure, unit), |row, who| row.figure(*who, self.of(who, &value)))
    }
}

/// All rows of the data path.
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let size = bench.scale.disk;
    let hosts = [(OURS, &bench.xapi), (SLEEPING, &bench.sleeping)];
    let srs = hosts.map(|(_, xapi)| xapi.create_sr(&sr_bytes(size)));
    let mut servers = Vec::new();
    for ((name, xapi), sr) in hosts.into_iter().zip(&srs) {
        servers.push(Server::ours(name, xapi, sr, size)?);
    }
    for name in [NBDKIT, NBDKIT_PLAIN, QEMU_NBD, QSD, NULL, FLOOR] {
        // A quick run has no time for a server that keeps no data and that no goal refers to.
        if bench.scale.quick && name == NULL {
            continue;
        }
        match Server::foreign(name, bench.directory.path(), 0, size) {
            Ok(server) => servers.push(server),
            Err(error) => bench.skipped(name, &error),
        }
    }
    let image = bench.image(size)?;
    for server in &servers {
        server.verify(&image, &bench.directory.path().join("back"))?;
    }
    bench.progress("every server reads what was written to it")?;
    let tests = tests(bench.scale.quick);
    let results = measure(bench, &servers, &tests)?;
    servers.into_iter().for_each(Server::end);
    for ((_, xapi), sr) in hosts.into_iter().zip(&srs) {
        xapi.volume("SR.destroy", serde_json::json!({ "sr": sr }))?;
    }
    Ok(tests.iter().zip(&results).flat_map(|(test, results)| rows_of(test, results)).collect())
}

fn tests(quick: bool) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut add = |load, generators: &[Generator], pinned| {
        for &generator in generators {
            tests.push(Test { load, generator, pinned });
        }
    };
    let both = [Generator::Fio, Generator::Lean];
    for write in [false, true] {
        add(Load::random(write, SMALL, 32), &both, false);
    }
    for pinned in [false, true] {
        add(Load::random(false, SMALL, 1), &both, pinned);
    }
    // fio needs half a second to start: in a quick run the large ones are left to our own.
    let large = if quick { &both[1..] } else { &both[..] };
    for bytes in [64 << 10, 1 << 20] {
        for depth in [1, 32] {
            for write in [false, true] {
                add(Load::sequential(write, bytes, depth), large, false);
            }
        }
    }
    tests
}

fn measure(bench: &Bench, servers: &[Server<'_>], tests: &[Test]) -> Result<Vec<Results>> {
    let mut results: Vec<Results> = tests.iter().map(|_| Results::default()).collect();
    for round in 0..bench.scale.rounds {
        for (test, results) in tests.iter().zip(&mut results) {
            for number in 0..servers.len() {
                let server = &servers[(number + round) % servers.len()];
                if server.name == FLOOR && test.generator == Generator::Fio {
                    continue;
                }
                let pinned = if test.pinned { Some(Pinned::new(&[server.pid])?) } else { None };
                let measured = server
                    .measure(test.generator, &test.load, bench.scale.time)
                    .with_context(|| format!("{}: {}", server.name, test.load.label()))?;
                drop(pinned);
                results.by_server.entry(server.name).or_default().push(measured);
            }
        }
        bench.progress(format!("data path, round {} of {}", round + 1, bench.scale.rounds))?;
    }
    Ok(results)
}

fn rows_of(test: &Test, results: &Results) -> Vec<Row> {
    let Test { load, generator, pinned } = *test;
    let by = if generator == Generator::Fio { "fio" } else { "lean" };
    let label = format!("{}, {by}", load.label());
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    let cpu =
        || results.row(format!("{label}: server CPU"), "us/request", |it| microseconds(it.cpu));
    if load.depth == 1 && load.bytes == SMALL {
        let place = if pinned { ", one core" } else { "" };
        let row = results
            .row(format!("{label}{place}: latency"), "us", |it| microseconds(it.outcome.latency));
        // On one core there is nothing to be won by polling.
        let row = if pinned { row } else { row.against_best(&NBDKITS, Goal::AtMost(0.5)) };
        return vec![row.also(SLEEPING, NBDKIT, Goal::AtMost(0.8))];
    }
    if load.bytes == SMALL {
        let goal = if generator == Generator::Fio { 1.5 } else { 2.5 };
        let speed = results
            .row(label.clone(), "IOPS", |it| it.outcome.per_second())
            .against_best(&PEERS, Goal::AtLeast(goal));
        let limit = Goal::AtMost(0.4);
        let cpu = cpu().against_best(&NBDKITS, limit).also(SLEEPING, NBDKIT, limit);
        return vec![speed, cpu];
    }
    let mut row = results
        .row(label.clone(), "MB/s", |it| it.outcome.megabytes(&load))
        .against_best(&PEERS, Goal::AtLeast(1.5));
    if generator == Generator::Lean {
        row = row.against(FLOOR, Goal::AtLeast(0.85));
    }
    vec![row, cpu()]
}
