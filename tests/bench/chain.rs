//! Reading through a long chain of snapshots, beside no snapshot at all, and qcow2's chain.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use end_to_end::{Side, tools};
use nbd::client::{Client, Wish};
use serde_json::json;

use crate::{
    Bench,
    load::Load,
    plugin::timed,
    process::Running,
    samples::Samples,
    servers::{Generator, OURS, Server},
    table::{Goal, Row},
};

const SNAPSHOTS: u64 = 100;
const STRIPE_BYTES: u64 = 64 << 10;
const WITHOUT: &str = "without snapshots";
const QCOW2: &str = "qcow2 chain, qemu-nbd";
const QCOW2_ALONE: &str = "qcow2 alone, qemu-nbd";

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let size = 256 << 20;
    let sr = bench.xapi.create_sr(&(4 * size).to_string());
    let chained = Server::ours(OURS, &bench.xapi, &sr, size)?;
    let alone = Server::ours(WITHOUT, &bench.xapi, &sr, size)?;
    let volume = json!({ "sr": sr, "key": chained.export() });
    for round in 0..SNAPSHOTS {
        for server in [&chained, &alone] {
            write(server, round)?;
        }
        timed(&bench.xapi, Side::Volume, "Volume.snapshot", volume.clone())?;
    }
    let image = qcow2(bench.directory.path(), size, SNAPSHOTS)?;
    let one = qcow2(bench.directory.path(), size, 1)?;
    let mut servers = vec![chained, alone];
    servers.push(Server::with(QCOW2, size, &image, |socket| serve(&image, socket))?);
    servers.push(Server::with(QCOW2_ALONE, size, &one, |socket| serve(&one, socket))?);
    bench.progress("chains of snapshots are made")?;
    let mut rows = Vec::new();
    for load in [
        Load::random(false, 4 << 10, 32),
        Load::sequential(false, 64 << 10, 32),
        Load::sequential(false, 1 << 20, 32),
    ] {
        let mut results = vec![Samples::default(); servers.len()];
        for round in 0..bench.scale.rounds {
            for number in 0..servers.len() {
                let at = (number + round) % servers.len();
                let measured = servers[at].measure(Generator::Lean, &load, bench.scale.time)?;
                results[at].push(measured.outcome.megabytes(&load));
            }
        }
        let label = format!("through {SNAPSHOTS} snapshots, {}, lean", load.label());
        let row = servers
            .iter()
            .zip(results)
            .fold(Row::new(label, "MB/s"), |row, (server, samples)| {
                row.figure(server.name, samples)
            })
            .against(WITHOUT, Goal::AtLeast(0.95));
        rows.push(row.note("every 64 KiB comes from another snapshot than its neighbour"));
    }
    servers.into_iter().for_each(Server::end);
    bench.xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    bench.progress("reading through snapshots")?;
    Ok(rows)
}

/// Every hundredth stripe, from the `round`-th on.
fn stripes(size: u64, round: u64) -> impl Iterator<Item = u64> {
    (0..size / STRIPE_BYTES).filter(move |stripe| stripe % SNAPSHOTS == round)
}

fn write(server: &Server<'_>, round: u64) -> Result<()> {
    let wish = Wish { name: server.export().as_bytes(), ..Wish::default() };
    let mut client = Client::connect(server.socket(), &wish).context("connecting")?;
    let data = tools::noise(round, usize::try_from(STRIPE_BYTES)?);
    for stripe in stripes(server.size, round) {
        client.write(stripe * STRIPE_BYTES, &data)?;
    }
    Ok(())
}

/// The same stripes in `links` images, each over the one before; the last of them.
fn qcow2(directory: &Path, size: u64, links: u64) -> Result<PathBuf> {
    let path = |number: u64| directory.join(format!("chain-{links}-{number}.qcow2"));
    for number in 0..links {
        let (own, below) = (path(number).display().to_string(), number.checked_sub(1).map(path));
        let below = below.map(|below| below.display().to_string());
        let size = size.to_string();
        let mut arguments = vec!["create", "-q", "-f", "qcow2"];
        if let Some(below) = &below {
            arguments.extend(["-b", below, "-F", "qcow2"]);
        }
        arguments.extend([own.as_str(), &size]);
        tools::run("qemu-img", &arguments);
        let rounds = if links == 1 { 0..SNAPSHOTS } else { number..number + 1 };
        let writes: Vec<String> = rounds
            .flat_map(|round| stripes(256 << 20, round))
            .map(|stripe| format!("write -q -P 7 {} {STRIPE_BYTES}", stripe * STRIPE_BYTES))
            .collect();
        let mut command = Command::new("qemu-io");
        command.args(["-f", "qcow2"]);
        writes.iter().for_each(|write| {
            command.args(["-c", write]);
        });
        let done = command.arg(&own).output().context("qemu-io")?;
        anyhow::ensure!(done.status.success(), "qemu-io: {done:?}");
    }
    Ok(path(links - 1))
}

fn serve(image: &Path, socket: &Path) -> Result<Running> {
    let mut command = Command::new("qemu-nbd");
    command.args(["-f", "qcow2", "-t", "-e", "16", "-k"]).arg(socket).arg(image);
    Running::start(&mut command, socket)
}
