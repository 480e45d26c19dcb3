//! A guest with one ring, and the backend's half in the same process.

use std::{path::PathBuf, rc::Rc};

use blkif::{
    Abi, Journal, Ring, Xen,
    mock::{Completion, Frontend, FrontendRequest, Guest, MockXen},
};
use block::{Budget, Drive, Frontend as _, Progress, memory::Memory};
use scratch::Scratch;

/// Size of the disk. Bytes.
pub(crate) const SIZE: u64 = 16 << 20;
pub(crate) const SECTOR: u64 = 512;

/// A guest, its ring, and a disk in memory.
pub(crate) struct Rig {
    pub(crate) frontend: Frontend,
    pub(crate) ring: Ring,
    pub(crate) drive: Drive<Memory>,
    pub(crate) xen: MockXen,
    // Behind what is in it.
    _root: Scratch,
}

impl Rig {
    pub(crate) fn new(abi: Abi, order: u32) -> Self {
        let root = Scratch::in_memory();
        let dir: PathBuf = root.path().join("guests");
        let guest = Rc::new(Guest::create(&dir, 7, 4096).unwrap());
        let frontend = Frontend::create(&guest, abi, order).unwrap();
        let xen = MockXen::new(dir);
        let domain = xen.domain(7).unwrap();
        let ring = Ring::connect(domain, &frontend.location(), Journal::create().unwrap()).unwrap();
        let drive = Drive::new(Memory::new(SIZE).unwrap());
        Self { frontend, ring, drive, xen, _root: root }
    }

    pub(crate) fn guest(&self) -> &Rc<Guest> {
        self.frontend.guest()
    }

    /// One turn of the backend.
    pub(crate) fn turn(&mut self) -> Progress {
        self.ring.turn(&mut self.drive, &mut Budget::turn())
    }

    /// Turns of the backend and of the drive until neither has anything to do.
    pub(crate) fn serve(&mut self) {
        loop {
            let progress = self.turn();
            assert!(!matches!(progress, Progress::Closed { .. }), "{progress:?}");
            let has_work = self.drive.attachments().has_work();
            self.drive.work(&mut Budget::turn());
            if progress == Progress::Idle && !has_work {
                return;
            }
        }
    }

    /// Submits requests and returns their ids.
    pub(crate) fn submit(&mut self, requests: &[FrontendRequest]) -> Vec<u64> {
        let ids = requests.iter().map(|it| self.frontend.submit(it).expect("room")).collect();
        self.frontend.push().unwrap();
        ids
    }

    pub(crate) fn completions(&mut self) -> Vec<Completion> {
        let mut completions = Vec::new();
        self.frontend.complete(&mut completions).unwrap();
        completions
    }

    /// The guest begins again with an empty ring, which is connected anew.
    pub(crate) fn reconnect(&mut self) {
        self.frontend.reset();
        let domain = self.xen.domain(7).unwrap();
        let journal = Journal::create().unwrap();
        self.ring = Ring::connect(domain, &self.frontend.location(), journal).unwrap();
    }

    /// Another process serves the ring from now on, as after a death of this one.
    pub(crate) fn take_over(&mut self) {
        let journal = self.ring.journal().file().try_clone().unwrap();
        let location = self.frontend.location();
        let domain = self.xen.domain(7).unwrap();
        self.ring = Ring::resume(domain, &location, journal).unwrap();
    }
}
