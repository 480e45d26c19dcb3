//! The loop of a tapdisk waits nowhere but for events: whatever one disk or one client makes it do, it
//! looks for the requests of the others within a moment. The tapdisk itself tells its longest pass.

use std::{
    fs::File,
    os::{fd::AsFd, unix::net::UnixStream},
    thread,
    time::{Duration, Instant},
};

use nbd::{client::Client as Nbd, wire::command};
use rustix::{fs::CWD, process::Signal};
use serde_json::Value;
use tapctl::{Open, minors};

use super::{Host, Tapdisk, eventually, hostile::cpu_ticks, sockets::pass};

/// The longest pass that a busy machine may make of a short one. Before, each of these cases stopped the
/// loop for longer.
const PASS_MAX: Duration = Duration::from_millis(400);

fn longest_pass(tapdisk: &Tapdisk) -> Duration {
    let stats: Value =
        serde_json::from_str(&tapdisk.control.stats(tapdisk.minor).unwrap()).unwrap();
    Duration::from_micros(stats["longest_pass_us"].as_u64().unwrap())
}

#[track_caller]
fn assert_was_not_stopped(tapdisk: &Tapdisk) {
    let longest = longest_pass(tapdisk);
    assert!(longest < PASS_MAX, "the loop was busy for {longest:?} without looking for requests");
}

/// A second minor of the same process.
fn second_minor(host: &Host, tapdisk: &Tapdisk) -> u16 {
    let minor = minors::allocate(&host.dir, Duration::from_secs(5)).unwrap();
    tapdisk.control.attach(minor).unwrap();
    minor
}

/// Reads from a disk until `done`; how many times.
fn read_while(client: &mut Nbd, done: impl Fn() -> bool) -> u64 {
    let mut reads = 0;
    while !done() {
        assert_eq!(client.read(0, 5).unwrap(), b"image");
        reads += 1;
    }
    reads
}

/// Reads through `other` until a request of `first` is answered; how many times. On a busy machine there are some more,
/// until the thread that waits for the answer has a processor.
fn read_until_answered(first: &mut Nbd, cookie: u64, other: &mut Nbd) -> u64 {
    thread::scope(|scope| {
        let answered = scope.spawn(|| first.finish(cookie).unwrap());
        let reads = read_while(other, || answered.is_finished());
        answered.join().unwrap();
        reads
    })
}

/// Does something that tells how many reads were answered beside it, and again, a few times, until there are enough:
/// on a busy machine the reader may have to wait for a processor.
#[track_caller]
fn assert_reads_beside(enough: u64, mut work: impl FnMut() -> u64) {
    let mut counts = Vec::new();
    while counts.len() < 10 {
        let reads = work();
        if reads >= enough {
            return;
        }
        counts.push(reads);
    }
    panic!("{counts:?} reads were answered beside it, never {enough}");
}

#[test]
fn a_fifo_is_refused_and_stops_no_disk() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let minor = second_minor(&host, &tapdisk);
    let fifo = host.xapi.root().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let error = tapdisk.control.open(minor, Open::new(format!("ram:{}", fifo.display())));
    let text = error.unwrap_err().to_string();
    assert!(text.contains("neither a plain file nor a block device"), "{text}");
    assert_was_not_stopped(&tapdisk);
    // The minor can be used as if nothing had been tried.
    tapdisk.control.open(minor, Open::new(format!("ram:{}", host.image("b", 512)))).unwrap();
}

/// The lock of a volume is held for the length of a structural operation, and an open waits for it.
#[test]
fn opening_a_locked_volume_waits_beside_other_disks() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let minor = second_minor(&host, &tapdisk);
    let sr = host.xapi.create_sr("64MiB");
    let key = host.xapi.create_vdi(&sr, 1 << 20);
    let meta = host.xapi.sr_dir(&sr).join("meta");
    let lock = File::options().append(true).create(true).open(meta.join("serving").join(&key));
    let lock = lock.unwrap();
    lock.lock().unwrap();
    let params = format!("ram:{}", meta.join("volume").join(&key).display());
    let mut client = host.connect(&tapdisk);
    thread::scope(|scope| {
        let open = scope.spawn(|| tapdisk.control.open(minor, Open::new(params)).unwrap());
        let start = Instant::now();
        let reads = read_while(&mut client, || start.elapsed() > Duration::from_millis(700));
        assert!(reads > 10, "{reads} reads beside the open");
        assert!(!open.is_finished(), "the volume is locked");
        drop(lock);
        open.join().unwrap();
    });
    assert_was_not_stopped(&tapdisk);
}

#[test]
fn loading_a_large_file_goes_on_beside_other_disks() {
    const BYTES: usize = 512 << 20;
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let minor = second_minor(&host, &tapdisk);
    let path = host.xapi.root().join("large");
    std::fs::write(&path, vec![7; BYTES]).unwrap();
    let mut client = host.connect(&tapdisk);
    let image = || Open::new(format!("ram:{}", path.display()));
    assert_reads_beside(11, || {
        let (size, reads) = thread::scope(|scope| {
            let open = scope.spawn(|| tapdisk.control.open(minor, image()).unwrap());
            let reads = read_while(&mut client, || open.is_finished());
            (open.join().unwrap(), reads)
        });
        assert_eq!(size.sectors, BYTES as u64 / 512);
        tapdisk.control.close(minor).unwrap();
        reads
    });
    assert_was_not_stopped(&tapdisk);
    // A disk that is closed while it is being loaded is given up, and the caller hears of it.
    thread::scope(|scope| {
        let open = scope.spawn(|| tapdisk.control.open(minor, image()));
        eventually("given up", || {
            tapdisk.control.close(minor).unwrap();
            open.is_finished()
        });
        // It may have been fast enough.
        if let Err(error) = open.join().unwrap() {
            assert_eq!(error.errno(), rustix::io::Errno::CANCELED.raw_os_error(), "{error}");
        }
    });
}

/// Freeing gigabytes takes seconds: requests of other clients are served in between, and the client that
/// has asked for it is answered at the end.
#[test]
fn discarding_a_large_range_goes_on_beside_other_requests() {
    const BYTES: u32 = 1 << 30;
    const PIECE: u32 = 16 << 20;
    let host = Host::new();
    let tapdisk = host.serve("image", 2 * u64::from(BYTES));
    let (mut first, mut other) = (host.connect(&tapdisk), host.connect(&tapdisk));
    let data = vec![9; PIECE as usize];
    for code in [command::TRIM, command::WRITE_ZEROES] {
        assert_reads_beside(21, || {
            for at in (PIECE..BYTES).step_by(PIECE as usize) {
                first.write(at.into(), &data).unwrap();
            }
            let cookie = first.submit(0, code, PIECE.into(), BYTES - PIECE, &[]).unwrap();
            let reads = read_until_answered(&mut first, cookie, &mut other);
            assert_eq!(other.read(u64::from(BYTES) - 4096, 4096).unwrap(), [0; 4096]);
            reads
        });
    }
    assert_was_not_stopped(&tapdisk);
}

/// The largest write that there is, over and over: the loop looks for the requests of others in between.
#[test]
fn large_writes_go_on_beside_other_requests() {
    const BYTES: u32 = 32 << 20;
    let host = Host::new();
    let tapdisk = host.serve("image", 2 * u64::from(BYTES));
    let (mut first, mut other) = (host.connect(&tapdisk), host.connect(&tapdisk));
    let data = vec![9; BYTES as usize];
    // The write takes eight turns. If it took one, a read would be answered before it and one behind it.
    assert_reads_beside(5, || {
        let cookie = first.submit(0, command::WRITE, BYTES.into(), BYTES, &data).unwrap();
        let reads = read_until_answered(&mut first, cookie, &mut other);
        assert_eq!(other.read(u64::from(2 * BYTES) - 5, 5).unwrap(), [9; 5]);
        reads
    });
    assert_was_not_stopped(&tapdisk);
}

/// A process that passes on a connection may keep a copy of it, for which epoll(7) goes on reporting
/// events when the tapdisk has closed its own.
#[test]
fn a_copy_of_a_connection_that_was_passed_on_costs_no_processor_time() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let receiver = host.dir.nbdserver_new(tapdisk.pid, tapdisk.minor);
    let (ours, theirs) = UnixStream::pair().unwrap();
    pass(&receiver, b"", &[theirs.as_fd()]);
    let mut client = host.connect(&tapdisk);
    assert_eq!(client.read(0, 5).unwrap(), b"image");
    drop(ours);
    thread::sleep(Duration::from_millis(100));
    let before = cpu_ticks(tapdisk.server().pid);
    thread::sleep(Duration::from_millis(1000));
    let spent = cpu_ticks(tapdisk.server().pid) - before;
    assert!(spent < 20, "{spent} ticks of 100 were spent on a client that is gone");
    drop(theirs);
}

/// Of the signals that other programs send, only TERM, INT and KILL end a disk: blktap's tapdisks reopen
/// logs, dump their state or start polling on some of the others.
#[test]
fn signals_that_other_programs_send_end_no_disk() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let mut client = host.connect(&tapdisk);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::IO, Signal::PIPE]
    {
        end_to_end::signal_all(&tapdisk.identity, signal);
        assert_eq!(client.read(0, 5).unwrap(), b"image", "after {signal:?}");
    }
}

/// With no room left, the client gives way that has been connected longest without a request.
#[test]
fn the_oldest_silent_client_gives_way_and_not_the_youngest() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let socket = host.nbd_path(&tapdisk);
    let mut working = host.connect(&tapdisk);
    let leaver = host.connect(&tapdisk);
    let mut silent: Vec<_> = (0..254).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    silent.iter().for_each(|client| greeting(client).unwrap());
    // The slot of the one that leaves is the first free one; the youngest client gets it.
    leaver.disconnect().unwrap();
    let young = UnixStream::connect(&socket).unwrap();
    greeting(&young).unwrap();
    silent.push(UnixStream::connect(&socket).unwrap());
    greeting(&silent[254]).unwrap();
    assert!(greeting(&silent[0]).is_err(), "the oldest is closed");
    young.set_nonblocking(true).unwrap();
    assert!(greeting(&young).unwrap_err().kind() == std::io::ErrorKind::WouldBlock);
    assert_eq!(working.read(0, 5).unwrap(), b"image");
}

/// Memory of the process that is in no file, in KiB.
fn anonymous_kib(tapdisk: &Tapdisk) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", tapdisk.server().pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What 200 clients have needed is given back when they are gone, most of it also while another one goes on.
#[test]
fn clients_that_have_left_leave_no_memory() {
    let host = Host::new();
    let tapdisk = host.serve("image", 1 << 20);
    let mut busy = host.connect(&tapdisk);
    let before = anonymous_kib(&tapdisk);
    let mut clients: Vec<Nbd> = (0..200).map(|_| host.connect(&tapdisk)).collect();
    for client in &mut clients {
        client.write(0, &[7; 256 << 10]).unwrap();
    }
    assert!(anonymous_kib(&tapdisk) > before + (32 << 10), "they have needed it");
    clients.into_iter().for_each(|client| client.disconnect().unwrap());
    eventually("given back beside a busy client", || {
        busy.read(0, 512).unwrap();
        anonymous_kib(&tapdisk) < before + (8 << 10)
    });
    eventually("all given back", || anonymous_kib(&tapdisk) < before + (1 << 10));
}

/// Receives the greeting of a server.
fn greeting(mut client: &UnixStream) -> std::io::Result<()> {
    std::io::Read::read_exact(&mut client, &mut [0; 18])
}
