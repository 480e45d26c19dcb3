//! A client that uses a disk all the time and knows what was acknowledged.

use std::{
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use end_to_end::Disk;
use nbd::client::{Client as Nbd, Wish};

/// Size of a block that is written at once, in bytes.
pub(crate) const BLOCK: u64 = 4096;
/// How many blocks of the disk are used, from its beginning.
pub(crate) const BLOCKS: u64 = 512;
/// How long one request may take, connecting included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A client that reconnects as nbd-client does with -persist: it writes numbers that grow to one block after
/// the other, each until it is acknowledged, and reads one back each time.
pub(crate) struct Load<'a> {
    disk: &'a Disk<'a>,
    client: Option<Nbd>,
    /// What each block holds.
    pub(crate) acknowledged: Vec<u64>,
    sequence: u64,
    pub(crate) reconnects: u64,
    pub(crate) longest: Duration,
}

impl<'a> Load<'a> {
    /// A load of an empty disk.
    pub(crate) fn new(disk: &'a Disk<'a>) -> Self {
        Self::of(disk, vec![0; BLOCKS as usize])
    }

    /// A load of a disk that holds these numbers.
    pub(crate) fn of(disk: &'a Disk<'a>, acknowledged: Vec<u64>) -> Self {
        let longest = Duration::ZERO;
        Self { disk, client: None, acknowledged, sequence: 0, reconnects: 0, longest }
    }

    /// Does something with a connection, until it is done. A connection may end at any moment; that one is
    /// refused is a failure.
    pub(crate) fn insist<T>(
        &mut self,
        mut act: impl FnMut(&mut Nbd) -> nbd::client::Result<T>,
    ) -> T {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "not done in {PATIENCE:?}");
            if self.client.is_none() {
                let socket = UnixStream::connect(&self.disk.socket).expect("no client is refused");
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                // It may end before it was greeted.
                self.client = Nbd::negotiate(socket, &Wish::default()).ok();
                self.reconnects += 1;
            }
            let Some(client) = &mut self.client else { continue };
            match act(client) {
                Ok(done) => {
                    self.longest = self.longest.max(begun.elapsed());
                    return done;
                }
                Err(_) => self.client = None,
            }
        }
    }

    pub(crate) fn round(&mut self) {
        self.sequence += 1;
        let number = self.sequence;
        let block = number * 7919 % BLOCKS;
        let bytes = number.to_ne_bytes().repeat(BLOCK as usize / 8);
        self.insist(|client| client.write(block * BLOCK, &bytes));
        self.acknowledged[block as usize] = number;
        self.check(number * 104_729 % BLOCKS);
    }

    fn check(&mut self, block: u64) {
        let bytes = self.insist(|client| client.read(block * BLOCK, BLOCK as u32));
        let wanted = self.acknowledged[block as usize].to_ne_bytes().repeat(BLOCK as usize / 8);
        assert!(bytes == wanted, "block {block} does not hold what was acknowledged");
    }

    pub(crate) fn check_all(&mut self) {
        (0..BLOCKS).for_each(|block| self.check(block));
    }
}

/// A load that another thread sees from the outside.
#[derive(Default)]
pub(crate) struct Watch {
    rounds: AtomicU64,
    over: AtomicBool,
}

impl Watch {
    /// Runs `act` beside a load of the disk, which never rests; the load, once both are done.
    ///
    /// # Panics
    /// Where the load fails, and as `act` does.
    pub(crate) fn during<'a>(&self, disk: &'a Disk<'a>, act: impl FnOnce()) -> Load<'a> {
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                let _over = Over(&self.over);
                let mut load = Load::new(disk);
                while !self.over.load(Ordering::Relaxed) {
                    load.round();
                    self.rounds.fetch_add(1, Ordering::Relaxed);
                }
                load
            });
            {
                // Also where `act` panics, so that the load ends and the panic is told.
                let _over = Over(&self.over);
                self.progress();
                act();
                self.progress();
            }
            load.join().expect("the load's own failure is above")
        })
    }

    /// How many rounds the load has made.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits until the load has made two more rounds: of these one was begun after the call.
    ///
    /// # Panics
    /// Where it makes none.
    pub(crate) fn progress(&self) {
        let (before, begun) = (self.rounds(), Instant::now());
        while self.rounds() < before + 2 {
            assert!(!self.over.load(Ordering::Relaxed), "the load has failed");
            assert!(begun.elapsed() < PATIENCE, "the disk serves no request");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Says that it is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
