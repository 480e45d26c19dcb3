//! Clients that misbehave and processes that are killed: other clients are served, and leftovers are
//! removed.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use end_to_end::{programs, tools};
use nbd::wire::command;
use rustix::process::Signal;
use tapctl::{Client, Open, Resume, minors};

use super::{Host, Tapdisk, eventually};

/// How long a request of a client that behaves may take, on a busy machine.
const PROMPTLY: Duration = Duration::from_millis(1500);

#[test]
fn callers_who_hang_hold_nobody_up() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let mut client = host.connect(&tapdisk);
    let mut hanging = Vec::new();
    for length in 0..200 {
        let mut socket = UnixStream::connect(host.dir.ctl(tapdisk.pid)).unwrap();
        socket.write_all(&vec![3; length]).unwrap();
        hanging.push(socket);
        let start = Instant::now();
        assert_eq!(client.read(0, 5).unwrap(), b"image");
        assert!(start.elapsed() < PROMPTLY);
        // Those who are accepted and stay silent give way, at the latest after a second.
        if length % 50 == 49 {
            assert_eq!(tapdisk.control.pid().unwrap(), tapdisk.pid);
        }
    }
    // While all of that waits, the process does too.
    let before = cpu_ticks(tapdisk.server().pid);
    thread::sleep(Duration::from_millis(500));
    let spent = cpu_ticks(tapdisk.server().pid) - before;
    assert!(spent < 20, "{spent} ticks of 50 were spent on waiting");
}

/// Fields 14 and 15 of /proc/<pid>/stat: in user space and in the kernel.
pub(super) fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_flood_of_connections_holds_nobody_up() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let mut client = host.connect(&tapdisk);
    let (pid, minor) = (tapdisk.pid, tapdisk.minor);
    let paths = [host.dir.ctl(pid), host.dir.nbd(pid, minor), host.dir.nbdserver(pid, minor)];
    let end = Instant::now() + Duration::from_secs(2);
    let floods = paths.map(|path| {
        thread::spawn(move || {
            let mut kept = Vec::new();
            while Instant::now() < end {
                if let Ok(socket) = UnixStream::connect(&path) {
                    kept.push(socket);
                }
                if kept.len() > 300 {
                    kept.clear();
                }
            }
        })
    });
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let start = Instant::now();
        assert_eq!(client.read(0, 5).unwrap(), b"image");
        slowest = slowest.max(start.elapsed());
    }
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    assert!(slowest < PROMPTLY, "{slowest:?}");
    assert_eq!(tapdisk.control.pid().unwrap(), pid);
    drop(host.connect(&tapdisk));
}

#[test]
fn more_descriptors_than_there_may_be_end_nothing() {
    if !tools::present(&["prlimit"]) {
        return;
    }
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    tools::run("prlimit", &["--pid", &tapdisk.server().pid.to_string(), "--nofile=40"]);
    let mut client = host.connect(&tapdisk);
    let kept: Vec<_> =
        (0..60).filter_map(|_| UnixStream::connect(host.nbd_path(&tapdisk)).ok()).collect();
    assert_eq!(client.read(0, 5).unwrap(), b"image");
    let before = cpu_ticks(tapdisk.server().pid);
    thread::sleep(Duration::from_millis(300));
    assert!(cpu_ticks(tapdisk.server().pid) - before < 12, "it does not try again and again");
    drop(kept);
    assert_eq!(tapdisk.control.pid().unwrap(), tapdisk.pid);
    drop(host.connect(&tapdisk));
}

#[test]
fn requests_of_a_paused_disk_are_answered_when_it_is_resumed() {
    let host = Host::new();
    let sr = host.xapi.create_sr("64MiB");
    let key = host.xapi.create_vdi(&sr, 1 << 20);
    let disk = host.xapi.plug(&sr, &key, "0");
    let control = Client::new(&host.dir, disk.tapdisk().pid);
    let minor = u16::try_from(control.list().unwrap()[0].minor).unwrap();
    let mut client = disk.connect();
    let mut leaver = disk.connect();
    client.write(0, b"before").unwrap();
    control.pause(minor).unwrap();
    let write = client.submit(0, command::WRITE, 8192, 6, b"paused").unwrap();
    let read = client.submit(0, command::READ, 0, 6, &[]).unwrap();
    leaver.submit(0, command::WRITE, 16384, 6, b"leaver").unwrap();
    drop(leaver);
    client.socket().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.socket().read(&mut [0]).is_err(), "nothing is answered");
    let before = cpu_ticks(disk.server().pid);
    thread::sleep(Duration::from_millis(300));
    assert!(cpu_ticks(disk.server().pid) - before < 12, "and nothing done about who left");
    client.socket().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    control.resume(minor, Resume::default()).unwrap();
    client.finish(write).unwrap();
    assert_eq!(client.finish_read(read, 0, 6).unwrap(), b"before");
    assert_eq!(client.read(8192, 6).unwrap(), b"paused");
    assert_eq!(client.read(16384, 6).unwrap(), b"leaver");
    disk.unplug();
}

#[test]
fn a_disk_is_resumed_with_another_image() {
    let host = Host::new();
    let tapdisk = host.serve("image", 65536);
    let other = format!("ram:{}", host.image("other", 65536));
    let mut client = host.connect(&tapdisk);
    tapdisk.control.pause(tapdisk.minor).unwrap();
    let read = client.submit(0, command::READ, 0, 5, &[]).unwrap();
    let resume = Resume { params: Some(other.clone().into()), ..Resume::default() };
    tapdisk.control.resume(tapdisk.minor, resume).unwrap();
    assert_eq!(client.finish_read(read, 0, 5).unwrap(), b"other");
    assert_eq!(tapdisk.control.list().unwrap()[0].params, other.as_str());
}

/// Every request that has come is answered, also those that the tapdisk could not take while the answers
/// before them were not read. A client that reads nothing is waited for for a second.
#[test]
fn close_answers_what_has_come_and_gives_up_on_a_client_that_does_not_read() {
    let host = Host::new();
    let tapdisk = host.serve_filled("image", 16 << 20);
    let minor = tapdisk.minor;
    let other = minors::allocate(&host.dir, PROMPTLY).unwrap();
    tapdisk.control.attach(other).unwrap();
    tapdisk.control.open(other, Open::new(format!("ram:{}", host.image("b", 65536)))).unwrap();
    let second = Tapdisk {
        minor: other,
        control: tapdisk.control.clone(),
        identity: tapdisk.identity.clone(),
        ..tapdisk
    };
    let mut beside = host.connect(&second);
    // One begins to read its answers when the disk is being closed, the other one never does.
    let (mut late, mut never) = (host.connect(&tapdisk), host.connect(&tapdisk));
    let reads: Vec<u64> = (0..16)
        .map(|index| late.submit(0, command::READ, index << 20, 1 << 20, &[]).unwrap())
        .collect();
    (0..4).for_each(|_| _ = never.submit(0, command::READ, 0, 16 << 20, &[]).unwrap());
    let start = Instant::now();
    thread::scope(|scope| {
        let closing = scope.spawn(|| tapdisk.control.close(minor).unwrap());
        eventually("closing", || !host.nbd_path(&tapdisk).exists());
        assert_eq!(beside.read(0, 1).unwrap(), b"b");
        for (index, read) in reads.into_iter().enumerate() {
            let data = late.finish_read(read, (index as u64) << 20, 1 << 20).unwrap();
            assert!(data.iter().all(|&byte| byte == 0x5a), "read {index}");
        }
        closing.join().unwrap();
    });
    assert!(start.elapsed() < 3 * PROMPTLY, "close gives up on one that does not read");
    // The disk may be opened again while clients drain.
    let image = format!("ram:{}", host.image("again", 65536));
    tapdisk.control.open(minor, Open::new(image)).unwrap();
    assert_eq!(host.connect(&tapdisk).read(0, 5).unwrap(), b"again");
    let mut rest = Vec::new();
    thread::sleep(Duration::from_secs(4).saturating_sub(start.elapsed()));
    never.socket().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut socket = never.socket();
    // A reset where requests of it were still in the socket.
    let ended = socket.read_to_end(&mut rest).map_err(|error| error.kind());
    assert!(matches!(ended, Ok(_) | Err(ErrorKind::ConnectionReset)), "{ended:?}");
    assert!(rest.len() < 16 << 20, "it got {} bytes, and no more", rest.len());
}

#[test]
fn a_forced_close_waits_for_nobody_at_all() {
    let host = Host::new();
    let tapdisk = host.serve_filled("image", 8 << 20);
    let mut never = host.connect(&tapdisk);
    never.submit(0, command::READ, 0, 8 << 20, &[]).unwrap();
    let start = Instant::now();
    tapdisk.control.force_shutdown(tapdisk.minor).unwrap();
    tapdisk.control.detach(tapdisk.minor).unwrap();
    tapdisk.ends();
    assert!(start.elapsed() < Duration::from_millis(900));
}

#[test]
fn signals_end_it_cleanly_and_minors_stay_reserved() {
    for signal in [Signal::TERM, Signal::INT] {
        let host = Host::new();
        let tapdisk = host.serve_filled("image", 8 << 20);
        let mut client = host.connect(&tapdisk);
        let read = client.submit(0, command::READ, 0, 4 << 20, &[]).unwrap();
        client.socket().peek_one();
        tapdisk.identity.signal(signal).unwrap();
        assert_eq!(client.finish_read(read, 0, 4 << 20).unwrap().len(), 4 << 20);
        tapdisk.ends();
        assert_eq!(host.names_of(tapdisk.pid), Vec::<String>::new());
        assert!(!host.dir.metrics().process(tapdisk.pid).exists());
        // As in blktap, the program that reserved a minor frees it.
        assert_eq!(host.dir.reserved().unwrap(), [tapdisk.minor]);
        host.prints(&["free", "-m", "0"], "");
    }
}

/// Waiting for the first byte of an answer, without taking it.
trait PeekOne {
    fn peek_one(&self);
}

impl PeekOne for UnixStream {
    fn peek_one(&self) {
        let mut byte = [0; 1];
        rustix::net::recv(self, &mut byte[..], rustix::net::RecvFlags::PEEK).unwrap();
    }
}

#[test]
fn what_a_killed_one_leaves_is_cleaned_and_nothing_else() {
    let host = Host::new();
    let (dead, alive) = (host.serve("dead", 65536), host.serve("alive", 65536));
    let mut client = host.connect(&alive);
    dead.identity.kill().unwrap();
    dead.ends();
    assert_eq!(host.names_of(dead.pid).len(), 5, "the files of blktap's stay as well");
    assert!(host.dir.metrics().process(dead.pid).exists());
    let living = format!(
        "pid={} minor=1 state=0 args=ram:{}/alive\n",
        alive.pid,
        host.xapi.root().display()
    );
    host.prints(&["list"], &format!("{living}minor=0\n"));
    host.fails(&["close", "-p", &dead.pid.to_string(), "-m", "0"], 111, "Connection refused");
    // The minor goes to the next one, which serves it beside what is left.
    let next = {
        let image = format!("ram:{}", host.image("next", 65536));
        host.prints(&["free", "-m", "0"], "");
        let next = host.spawn();
        next.control.open(next.minor, Open::new(image)).unwrap();
        next
    };
    assert_eq!(next.minor, 0);
    let removed = host.dir.remove_leftovers(dead.pid, Some(&dead.identity)).unwrap();
    assert_eq!(removed.len(), 6, "{removed:?}");
    assert_eq!(host.names_of(dead.pid), Vec::<String>::new());
    assert!(!host.dir.metrics().process(dead.pid).exists());
    assert!(host.dir.remove_leftovers(alive.pid, None).unwrap().is_empty());
    assert_eq!(client.read(0, 5).unwrap(), b"alive");
    assert_eq!(host.connect(&next).read(0, 4).unwrap(), b"next");
}

#[test]
fn the_next_one_with_the_number_of_a_dead_one_cleans_up() {
    let host = Host::new();
    let mut command = host.xapi.command("/bin/sh".as_ref());
    let script = "read line; exec \"$0\" serve";
    command.args(["-c", script]).arg(programs::path("tapdisk-ram"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // What one that was killed would have left under the number that this one has.
    let (pid, dir) = (child.id(), &host.dir);
    dir.create().unwrap();
    for path in [dir.ctl(pid), dir.nbdclient(pid), dir.nbd(pid, 9), dir.nbdserver_new(pid, 9)] {
        drop(UnixListener::bind(path).unwrap());
    }
    let metrics = dir.metrics();
    fs::create_dir_all(metrics.process(pid)).unwrap();
    fs::write(metrics.vdi(pid, 9), "left").unwrap();
    // Not its own.
    let other = UnixListener::bind(dir.nbd(1, 9)).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("{}\n", dir.ctl(pid).display()));
    let name = format!("ctl{pid}");
    assert_eq!(host.names_of(pid), [name]);
    assert_eq!(fs::read_dir(metrics.process(pid)).unwrap().count(), 0);
    assert!(dir.nbd(1, 9).exists());
    drop(other);
    tapctl::Identity::of(pid).unwrap().unwrap().kill().unwrap();
    child.wait().unwrap();
}
