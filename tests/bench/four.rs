//! Four disks at once, each with a server and a client of its own.

use std::{thread, time::Duration};

use anyhow::Result;
use serde_json::json;

use crate::{
    Bench,
    lean::Until,
    load::{self, Load},
    samples::Samples,
    servers::{FLOOR, NBDKIT, OURS, Server, sr_bytes},
    table::{Goal, Row},
};

const COUNT: usize = 4;

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let size = bench.scale.disk / COUNT as u64;
    let sr = bench.xapi.create_sr(&sr_bytes(bench.scale.disk));
    let mut groups: Vec<Vec<Server<'_>>> = vec![
        (0..COUNT).map(|_| Server::ours(OURS, &bench.xapi, &sr, size)).collect::<Result<_>>()?,
    ];
    let directory = bench.directory.path();
    for name in [NBDKIT, FLOOR] {
        let group = (0..COUNT).map(|number| Server::foreign(name, directory, number + 1, size));
        groups.push(group.collect::<Result<_>>()?);
    }
    let image = bench.image(size)?;
    for server in groups.iter().flatten() {
        server.verify(&image, &directory.join("back"))?;
    }
    let loads = [Load::random(false, 4 << 10, 32), Load::sequential(false, 64 << 10, 32)];
    let mut rows = Vec::new();
    for load in loads {
        let mut by_fio = vec![Samples::default(); groups.len()];
        let mut by_lean = by_fio.clone();
        for round in 0..bench.scale.rounds {
            for number in 0..groups.len() {
                let at = (number + round) % groups.len();
                if groups[at][0].name != FLOOR {
                    let uris: Vec<String> = groups[at].iter().map(Server::uri).collect();
                    let outcome = load::fio(&uris, &load, bench.scale.time)?;
                    by_fio[at].push(outcome.megabytes(&load));
                }
                by_lean[at].push(lean(&groups[at], &load, bench.scale.time)?);
            }
        }
        for (by, results) in [("fio", by_fio), ("lean", by_lean)] {
            let row = Row::new(format!("four disks at once, {}, {by}", load.label()), "MB/s");
            let row = groups
                .iter()
                .zip(results)
                .fold(row, |row, (group, samples)| row.figure(group[0].name, samples));
            rows.push(row.against(NBDKIT, Goal::AtLeast(1.5)));
        }
    }
    groups.into_iter().flatten().for_each(Server::end);
    bench.xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    bench.progress("four disks at once")?;
    Ok(rows)
}

/// A thread of our own generator for each; megabytes a second of all together.
fn lean(servers: &[Server<'_>], load: &Load, time: Duration) -> Result<f64> {
    let clients = servers.iter().map(|server| server.lean(load)).collect::<Result<Vec<_>>>()?;
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let load = *load;
            thread::spawn(move || client.run(&load, Until::Time(time), |_| {}))
        })
        .collect();
    let mut sum = 0.0;
    for thread in threads {
        sum += thread.join().expect("a generator does not panic")?.megabytes(load);
    }
    Ok(sum)
}
