//! A disk that is copied, and the loop that drives its transfer.

use std::{
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use block::{Budget, Drive, Extent, memory::Memory};
use mirror::{Connecting, Error, Limits, State, Transfer, Turned};
use nbd::Remote;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Limits for tests: what is waited for comes at once, even on a busy machine, or never.
pub(crate) const LIMITS: Limits = Limits {
    connect: Duration::from_millis(500),
    handshake: Duration::from_secs(3),
    stall: Duration::from_secs(3),
    gather: Duration::from_millis(1),
};

/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Random numbers (xorshift64*), repeatable by their seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A disk with data and holes in turn, of 4 KiB, of 64 KiB, and of megabytes.
pub(crate) fn source(size: u64) -> Drive<Memory> {
    let mut drive = Drive::new(Memory::new(size).unwrap());
    let mut random = Random(size | 1);
    let mut at = 0;
    while at < size {
        let run = [4096, 4096, 8192, 65536, 1 << 20][random.below(5) as usize].min(size - at);
        if random.below(2) == 0 {
            let bytes: Vec<u8> = (0..run).map(|_| random.next() as u8 | 1).collect();
            drive.write(at, &bytes).unwrap();
        }
        at += run;
    }
    drive
}

/// All bytes of a disk.
pub(crate) fn contents(drive: &mut Drive<Memory>) -> Vec<u8> {
    let mut extents = Vec::new();
    drive.read(0, drive.size().try_into().unwrap(), &mut extents).unwrap();
    let mut bytes = Vec::new();
    for extent in &extents {
        let start = bytes.len();
        bytes.resize(start + extent.length(), 0);
        if let Extent::Data(slice) = extent {
            slice.read(0, &mut bytes[start..]);
        }
    }
    bytes
}

/// How many bytes of a disk are in blocks that are there.
pub(crate) fn data_bytes(drive: &mut Drive<Memory>) -> u64 {
    let mut status = Vec::new();
    drive.status(0, drive.size(), &mut status).unwrap();
    status.iter().filter(|it| !it.hole).map(|it| it.length).sum()
}

pub(crate) fn connect(uri: &str) -> Result<(UnixStream, Remote), Error> {
    connect_with(uri, LIMITS)
}

pub(crate) fn connect_with(uri: &str, limits: Limits) -> Result<(UnixStream, Remote), Error> {
    let remote = Remote::parse(uri).unwrap();
    let mut connecting = Connecting::start(remote.clone(), &limits, Instant::now());
    loop {
        if let Some(connected) = connecting.poll(Instant::now()) {
            return connected.map(|socket| (socket, remote));
        }
        thread::sleep(connecting.retry_at().saturating_duration_since(Instant::now()));
    }
}

/// A mirror of `drive` to a server.
pub(crate) fn mirror(uri: &str, drive: &mut Drive<Memory>) -> Transfer {
    let (socket, remote) = connect(uri).unwrap();
    Transfer::mirror(socket, &remote, drive, LIMITS, Instant::now()).unwrap()
}

/// Gives turns until `is_enough` says so, and between the turns does `meanwhile`. Each turn is given when
/// it is due, as the loop of a tapdisk does, so that a transfer which does not ask for a turn hangs here.
pub(crate) fn run(
    transfer: &mut Transfer,
    drive: &mut Drive<Memory>,
    mut meanwhile: impl FnMut(&mut Drive<Memory>),
    is_enough: impl Fn(&Transfer) -> bool,
) {
    let begun = Instant::now();
    let mut turned = transfer.turn(drive, &mut Budget::turn(), Instant::now());
    let mut was_complete = false;
    loop {
        let status = transfer.status();
        assert!(!(status.failed && status.complete), "{:?}", transfer.state());
        assert!(!was_complete || status.complete || status.failed, "complete is taken back");
        was_complete = status.complete;
        if is_enough(transfer) || turned == Turned::Over {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{:?} {:?}", transfer.state(), transfer.counters());
        meanwhile(drive);
        if turned == Turned::Waits {
            wait(transfer, drive);
        }
        turned = transfer.turn(drive, &mut Budget::turn(), Instant::now());
    }
}

/// Waits for what a transfer waits for, at most until another program might change the disk.
fn wait(transfer: &Transfer, drive: &Drive<Memory>) {
    let interest = transfer.interest();
    let mut events = PollFlags::empty();
    events.set(PollFlags::IN, interest.readable);
    events.set(PollFlags::OUT, interest.writable);
    let due = transfer.due(drive.attachments()).unwrap_or_else(|| Instant::now() + PATIENCE);
    let most = due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50));
    let timeout = Timespec::try_from(most).unwrap();
    poll(&mut [PollFd::new(transfer, events)], Some(&timeout)).unwrap();
}

/// Runs until it is in sync.
pub(crate) fn until_in_sync(transfer: &mut Transfer, drive: &mut Drive<Memory>) {
    run(transfer, drive, |_| {}, |it| it.status().complete);
    assert_eq!(transfer.state(), State::InSync);
}

/// Sends what is left, and ends it.
pub(crate) fn cut_over(transfer: &mut Transfer, drive: &mut Drive<Memory>) {
    transfer.finish();
    run(transfer, drive, |_| {}, |_| false);
}

/// Runs until it has failed, and gives the reason.
pub(crate) fn until_failed(transfer: &mut Transfer, drive: &mut Drive<Memory>) -> Error {
    run(transfer, drive, |_| {}, |_| false);
    match transfer.state() {
        State::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}
