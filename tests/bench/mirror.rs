//! A mirror, as a migration makes it: to another host through a proxy of 64 KiB, beside nbdcopy through the same
//! one; what the guest notices of it; and how long the machine stands still at the cut-over.
//!
//! All of it shares two processors here: the guest, the two tapdisks, and both directions of the proxy.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use end_to_end::{Side, Xapi, tools};
use nbd::client::{Client, Wish};
use serde_json::{Value, json};

use crate::{
    Bench,
    lean::Until,
    load::Load,
    plugin::timed,
    process,
    samples::Samples,
    servers::{Server, sr_bytes},
    table::{Goal, Row},
};

const MIRROR: &str = "Data.mirror";
const NBDCOPY: &str = "nbdcopy";
const ALONE: &str = "without";
/// The domain for which servers of the benchmark are active.
const DOMAIN: &str = "bench";
/// Data in the first of each four pieces of that many bytes.
const PIECE_BYTES: u64 = 64 << 20;
/// The part of the disk that the guest writes to.
const GUEST_BYTES: u64 = PIECE_BYTES;
const STEP_BYTES: u64 = 4 << 20;
/// As the benchmark aims at: the bitmap, one bit for each 64 KiB, and buffers of a fixed size.
const BUFFERS_KIB: f64 = 1024.0;
const ROUNDS_MAX: usize = 5;

/// xapi's proxy for one connection, and what has gone through it to the destination.
struct Proxy {
    socket: PathBuf,
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    fn start(bench: &Bench, to: &Path) -> Result<Self> {
        let socket = bench.directory.path().join("proxy");
        // That of the connection before.
        let _none = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let bytes = Arc::new(AtomicU64::new(0));
        let (to, counted) = (to.to_owned(), Arc::clone(&bytes));
        thread::spawn(move || {
            let Ok((source, _)) = listener.accept() else { return };
            let Ok(destination) = UnixStream::connect(to) else { return };
            let Ok(back) = [&destination, &source]
                .map(UnixStream::try_clone)
                .into_iter()
                .collect::<std::io::Result<Vec<_>>>()
            else {
                return;
            };
            thread::spawn(move || copy(&back[0], &back[1], &AtomicU64::new(0)));
            copy(&source, &destination, &counted);
        });
        Ok(Self { socket, bytes })
    }

    fn uri(&self, server: &Server<'_>) -> String {
        format!("nbd+unix:///{}?socket={}", server.export(), self.socket.display())
    }

    fn bytes(&self) -> f64 {
        self.bytes.load(Ordering::Relaxed) as f64
    }
}

fn copy(mut from: &UnixStream, mut to: &UnixStream, bytes: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer)
        && count > 0
        && to.write_all(&buffer[..count]).is_ok()
    {
        bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
    let _closed = to.shutdown(Shutdown::Write);
}

/// The disk that is mirrored, and the host that it goes to.
struct Hosts<'a> {
    bench: &'a Bench,
    source: Server<'a>,
    uri: Value,
    destination: &'a Xapi,
    sr: String,
    data: f64,
}

/// What one copy was like.
#[derive(Default)]
struct Copies {
    rate: Samples,
    sent: Samples,
    cut_over: Samples,
    memory: Samples,
}

/// 4 KiB writes per second of the guest.
#[derive(Default)]
struct Guest {
    alone: Samples,
    during: Samples,
    in_sync: Samples,
    beside_nbdcopy: Samples,
    cut_over: Samples,
}

impl<'a> Hosts<'a> {
    fn new(bench: &'a Bench, source_sr: &str, destination: &'a Xapi, size: u64) -> Result<Self> {
        let source = Server::ours(MIRROR, &bench.xapi, source_sr, size)?;
        let wish = Wish { name: source.export().as_bytes(), ..Wish::default() };
        let mut client = Client::connect(source.socket(), &wish).context("connecting")?;
        let noise = tools::noise(1, usize::try_from(STEP_BYTES)?);
        let mut data = 0.0;
        for piece in (0..size).step_by(4 * PIECE_BYTES as usize) {
            for at in (piece..piece + PIECE_BYTES).step_by(STEP_BYTES as usize) {
                client.write(at, &noise)?;
                data += STEP_BYTES as f64;
            }
        }
        let volume = json!({ "sr": source_sr, "key": source.export() });
        let uri = bench.xapi.volume("Volume.stat", volume)?["uri"][0].clone();
        let sr = destination.create_sr(&sr_bytes(size / 4 + GUEST_BYTES));
        Ok(Self { bench, source, uri, destination, sr, data })
    }

    fn target(&self) -> Result<(Server<'a>, Proxy)> {
        let target = Server::ours(NBDCOPY, self.destination, &self.sr, self.source.size)?;
        let proxy = Proxy::start(self.bench, target.socket())?;
        Ok((target, proxy))
    }

    fn begin(&self, remote: &str) -> Result<Value> {
        let params = json!({ "uri": self.uri, "domain": DOMAIN, "remote": remote });
        Ok(timed(&self.bench.xapi, Side::Datapath, MIRROR, params)?.1)
    }

    /// The machine is suspended: how long that takes, in milliseconds.
    fn cut_over(&self) -> Result<f64> {
        let place = json!({ "uri": self.uri, "domain": DOMAIN });
        let host = &self.bench.xapi;
        let (time, _) = timed(host, Side::Datapath, "Datapath.deactivate", place.clone())?;
        timed(host, Side::Datapath, "Datapath.activate", place)?;
        Ok(time)
    }

    fn by_nbdcopy(&self, copies: &mut Copies) -> Result<()> {
        let (target, proxy) = self.target()?;
        let start = Instant::now();
        nbdcopy(&self.source.uri(), &proxy.uri(&target));
        copies.rate.push(self.data / 1e6 / start.elapsed().as_secs_f64());
        copies.sent.push(proxy.bytes() / self.data);
        target.end();
        Ok(())
    }

    fn by_mirror(&self, copies: &mut Copies, verify: bool) -> Result<()> {
        let (target, proxy) = self.target()?;
        let before = process::anonymous(self.source.pid)?;
        let start = Instant::now();
        let operation = self.begin(&proxy.uri(&target))?;
        wait(&self.bench.xapi, &operation)?;
        copies.rate.push(self.data / 1e6 / start.elapsed().as_secs_f64());
        copies.sent.push(proxy.bytes() / self.data);
        let grown = process::anonymous(self.source.pid)?.saturating_sub(before);
        copies.memory.push(grown as f64 / 1024.0);
        copies.cut_over.push(self.cut_over()?);
        if verify {
            ensure!(same(&self.source, &target)?, "the mirror has other bytes");
        }
        target.end();
        Ok(())
    }

    /// The guest writes without pause: alone, while the disk is copied, and when the mirror is in sync.
    fn beside_guest(&self, guest: &mut Guest, verify: bool) -> Result<()> {
        let load = Load::random(true, 4 << 10, 32);
        let time = self.bench.scale.time;
        let mut lean = self.source.lean(&load)?.within(GUEST_BYTES);
        guest.alone.push(lean.run(&load, Until::Time(time), |_| {})?.per_second());

        let (target, proxy) = self.target()?;
        let (from, to) = (self.source.uri(), proxy.uri(&target));
        guest.beside_nbdcopy.push(while_busy(&mut lean, &load, || {
            nbdcopy(&from, &to);
            Ok(())
        })?);
        target.end();

        let (target, proxy) = self.target()?;
        let operation = self.begin(&proxy.uri(&target))?;
        let host = &self.bench.xapi;
        guest.during.push(while_busy(&mut lean, &load, || wait(host, &operation))?);
        guest.in_sync.push(lean.run(&load, Until::Time(time), |_| {})?.per_second());
        drop(lean);
        guest.cut_over.push(self.cut_over()?);
        if verify {
            let is_same = same(&self.source, &target)?;
            ensure!(is_same, "the mirror of a disk under load has other bytes");
        }
        target.end();
        Ok(())
    }
}

/// mirror_wait.
fn wait(xapi: &Xapi, operation: &Value) -> Result<()> {
    loop {
        let params = json!({ "operation": operation });
        let (_, status) = timed(xapi, Side::Datapath, "Data.stat", params)?;
        ensure!(status["failed"] == false, "the mirror has failed");
        if status["complete"] == true {
            return Ok(());
        }
    }
}

fn nbdcopy(from: &str, to: &str) {
    // One connection, as the proxy takes one; its fastest way for a disk that is blank.
    tools::run("nbdcopy", &["--connections=1", "--destination-is-zero", "--flush", from, to]);
}

/// The guest's requests per second while `busy` goes on.
fn while_busy(
    lean: &mut crate::lean::Lean,
    load: &Load,
    busy: impl FnOnce() -> Result<()> + Send,
) -> Result<f64> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            let done = busy();
            over.store(true, Ordering::Relaxed);
            done
        });
        let (mut requests, mut elapsed) = (0, Duration::ZERO);
        while !over.load(Ordering::Relaxed) {
            let outcome = lean.run(load, Until::Time(Duration::from_millis(20)), |_| {})?;
            requests += outcome.requests;
            elapsed += outcome.elapsed;
        }
        working.join().map_err(|_| anyhow::anyhow!("the copy has panicked"))??;
        Ok(requests as f64 / elapsed.as_secs_f64())
    })
}

/// Whether two disks have the same bytes.
fn same(one: &Server<'_>, other: &Server<'_>) -> Result<bool> {
    let connect = |server: &Server<'_>| {
        let wish = Wish { name: server.export().as_bytes(), ..Wish::default() };
        Client::connect(server.socket(), &wish).context("connecting")
    };
    let (mut first, mut second) = (connect(one)?, connect(other)?);
    for at in (0..one.size).step_by(STEP_BYTES as usize) {
        if first.read(at, STEP_BYTES as u32)? != second.read(at, STEP_BYTES as u32)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All rows of mirrors.
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let size = if bench.scale.quick { 1 << 30 } else { 8 << 30 };
    let destination = Xapi::new();
    let source_sr = bench.xapi.create_sr(&sr_bytes(size / 4 + GUEST_BYTES));
    let hosts = Hosts::new(bench, &source_sr, &destination, size)?;
    bench.progress("a disk to mirror is made")?;
    let (mut mirror, mut nbdcopy) = (Copies::default(), Copies::default());
    let mut guest = Guest::default();
    for round in 0..bench.scale.rounds.min(ROUNDS_MAX) {
        hosts.by_nbdcopy(&mut nbdcopy)?;
        hosts.by_mirror(&mut mirror, round == 0)?;
        hosts.beside_guest(&mut guest, round == 0)?;
    }
    bench.progress("mirrors")?;
    hosts.source.end();
    bench.xapi.volume("SR.destroy", json!({ "sr": source_sr }))?;
    destination.volume("SR.destroy", json!({ "sr": hosts.sr }))?;
    let bitmap = size as f64 / (64 << 10) as f64 / 8.0 / 1024.0;
    let gib = size >> 30;
    Ok(vec![
        Row::new(format!("mirror of {gib} GiB, a quarter full, through a proxy"), "MB/s of data")
            .figure(MIRROR, mirror.rate)
            .figure(NBDCOPY, nbdcopy.rate)
            .against(NBDCOPY, Goal::AtLeast(0.8)),
        Row::new("bytes sent for each byte of data", "B/B")
            .figure(MIRROR, mirror.sent)
            .figure(NBDCOPY, nbdcopy.sent)
            .goal(Goal::AtMost(1.001))
            .note("the rest are heads of requests: nothing is sent for holes"),
        Row::new("guest's 4 KiB random writes, depth 32, during it", "IOPS")
            .figure(MIRROR, guest.during)
            .figure("in sync", guest.in_sync)
            .figure(NBDCOPY, guest.beside_nbdcopy)
            .figure(ALONE, guest.alone)
            .against(ALONE, Goal::AtLeast(0.5))
            .also("in sync", ALONE, Goal::AtLeast(0.5)),
        Row::new("cut-over with nothing left to send", "ms")
            .figure(MIRROR, mirror.cut_over)
            .figure("under load until then", guest.cut_over)
            .goal(Goal::AtMost(10.0)),
        Row::new("memory of a mirror that is in sync", "KiB")
            .figure(MIRROR, mirror.memory)
            .goal(Goal::AtMost(bitmap + BUFFERS_KIB))
            .note(format!("of it {bitmap:.0} KiB say what is dirty: a bit for each 64 KiB")),
    ])
}
