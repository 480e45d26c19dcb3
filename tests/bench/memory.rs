//! Memory that serving a disk takes beside its data, and that stays when everything was discarded.

use std::path::Path;

use anyhow::{Context, Result};
use nbd::client::{Client, Wish};
use serde_json::json;

use crate::{
    Bench,
    lean::Until,
    load::Load,
    process,
    servers::{NBDKIT, OURS, QEMU_NBD, Server},
    table::{Goal, Row},
};

const MIB: f64 = (1 << 20) as f64;
/// Bytes that one request discards.
const DISCARD_BYTES: u32 = 1 << 30;
/// The SR's unit of maps: scattered writes touch each once.
const SCATTER_BYTES: u64 = 4 << 20;

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let size = bench.scale.large;
    let sr = bench.xapi.create_sr(&(size + (256 << 20)).to_string());
    let meta = bench.xapi.sr_dir(&sr).join("meta");
    let served = format!("after serving {} GiB", size >> 30);

    let empty = process::blocks(&meta)?;
    let ours = Server::ours(OURS, &bench.xapi, &sr, size)?;
    serve(&ours)?;
    let (private, tables) = process::private(ours.pid, bench.xapi.root())?;
    let full = process::blocks(&meta)?;
    discard(&ours)?;
    let left = bench.xapi.used(&sr);
    let left_meta = process::blocks(&meta)?.saturating_sub(empty);
    let left_private = process::private(ours.pid, bench.xapi.root())?.0;
    ours.end();

    let mut served_row = Row::new(format!("server memory beside the data, {served}"), "MiB")
        .figure(OURS, private as f64 / MIB);
    let mut after = Row::new("memory after discarding everything: of the disk", "MiB")
        .figure(OURS, left as f64 / MIB);
    for name in [NBDKIT, QEMU_NBD] {
        let server = Server::foreign(name, bench.directory.path(), 7, size)?;
        serve(&server)?;
        if name == QEMU_NBD {
            let (private, _) = process::private(server.pid, bench.directory.path())?;
            served_row = served_row.figure(name, private as f64 / MIB);
        }
        discard(&server)?;
        let left =
            if name == NBDKIT { process::resident(server.pid)? } else { server.file_bytes()? };
        after = after.figure(name, left as f64 / MIB);
        server.end();
    }
    let scattered = scattered(bench, &sr, &meta, size)?;
    bench.xapi.volume("SR.destroy", json!({ "sr": sr }))?;
    bench.progress("memory")?;
    let percent = (full - empty) as f64 * 100.0 / size as f64;
    Ok(vec![
        served_row.goal(Goal::AtMost(8.0)).note("without mappings of the SR's files"),
        Row::new(format!("page tables of the server, {served}"), "MiB")
            .figure(OURS, tables as f64 / MIB),
        Row::new("the store's own memory, disk written through", "% of the data")
            .figure(OURS, percent)
            .goal(Goal::AtMost(1.0)),
        Row::new("the store's own memory, 4 KiB written in every 4 MiB", "% of the data")
            .figure(OURS, scattered),
        after.goal(Goal::AtMost(1.0)).note("nbdkit: resident; qemu-nbd: the file"),
        Row::new("memory after discarding everything: of the maps", "MiB")
            .figure(OURS, left_meta as f64 / MIB)
            .goal(Goal::AtMost(1.0)),
        Row::new("memory after discarding everything: of the server", "MiB")
            .figure(OURS, left_private as f64 / MIB),
    ])
}

/// Writes all of it and reads all of it.
fn serve(server: &Server<'_>) -> Result<()> {
    for write in [true, false] {
        let load = Load::sequential(write, 1 << 20, 8);
        let count = Until::Count(server.size / u64::from(load.bytes));
        server.lean(&load)?.run(&load, count, |_| {})?;
    }
    Ok(())
}

fn discard(server: &Server<'_>) -> Result<()> {
    let wish = Wish { name: server.export().as_bytes(), ..Wish::default() };
    let mut client = Client::connect(server.socket(), &wish).context("connecting")?;
    let mut offset = 0;
    while offset < server.size {
        let length = u32::try_from(server.size - offset).unwrap_or(u32::MAX).min(DISCARD_BYTES);
        client.trim(offset, length)?;
        offset += u64::from(length);
    }
    Ok(())
}

/// Memory of the store for data that lies far apart, in percent of the data.
fn scattered(bench: &Bench, sr: &str, meta: &Path, size: u64) -> Result<f64> {
    let before = process::blocks(meta)?;
    let server = Server::ours(OURS, &bench.xapi, sr, size)?;
    let data = scatter(&server, SCATTER_BYTES, 1)?;
    let maps = process::blocks(meta)? - before;
    server.end();
    Ok(maps as f64 * 100.0 / data as f64)
}

/// Writes so many blocks in every `distance`; how many bytes that were.
pub(crate) fn scatter(server: &Server<'_>, distance: u64, blocks: usize) -> Result<u64> {
    let data = vec![7; 4096 * blocks];
    let wish = Wish { name: server.export().as_bytes(), ..Wish::default() };
    let mut client = Client::connect(server.socket(), &wish).context("connecting")?;
    let mut written = 0;
    for place in 0..server.size / distance {
        client.write(place * distance, &data)?;
        written += data.len() as u64;
    }
    Ok(written)
}
