//! Closing a disk in steps. To unmap a gigabyte that was touched takes tens of milliseconds, and to free one that
//! belongs to this process alone more: an event loop that serves other disks does both bit by bit.

use std::{
    mem,
    time::{Duration, Instant},
};

use super::{Disk, layers::Layers};
use crate::record::Served;

/// About how long one step takes.
const STEP: Duration = Duration::from_millis(1);

/// What is left of a disk that is closed: mappings, and the memory of a loaded file. Nothing of it protects or
/// changes the volume any more. Dropping it lets go of all at once.
#[derive(Debug)]
pub struct Closed(Layers);

impl Disk {
    /// Closes the disk: from now on another process may serve the volume.
    #[must_use]
    pub fn close(mut self) -> Closed {
        self.let_go();
        Closed(mem::replace(&mut self.layers, Layers::new(None, None)))
    }

    /// Says that the volume is not served any more, and what is left in its layers.
    fn let_go(&mut self) {
        self.map.note_blocks();
        let (Some(lock), Some(key)) = (self.serving.take(), &self.key) else { return };
        if let Some(dirs) = self.layers.dirs()
            && !self.unswept
            && !self.map.has_superseded()
        {
            // A text that stays has it swept in vain.
            let _kept = Served::clear(dirs, key, &lock);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Closed {
    /// Lets go of a part; whether there is more.
    pub fn step(&mut self) -> bool {
        let begun = Instant::now();
        while self.0.let_go_of_some() {
            if begun.elapsed() >= STEP {
                return true;
            }
        }
        false
    }
}
