//! Closing a disk in steps. To unmap a gigabyte that was touched takes ten milliseconds, and to free one that
//! belongs to this process alone seventy: an event loop that serves other disks does both bit by bit.

use std::time::{Duration, Instant};

use super::{Disk, layers::Layers};

/// About how long one step takes.
const STEP: Duration = Duration::from_millis(1);

/// What is left of a disk that is closed: mappings, and the memory of a loaded file. Nothing of it protects or
/// changes the volume any more. Dropping it lets go of all at once.
#[derive(Debug)]
pub struct Closed(Layers);

impl Disk {
    /// Closes the disk: from now on another process may serve the volume.
    #[must_use]
    pub fn close(self) -> Closed {
        let Self { map, layers, serving, .. } = self;
        // Before the lock is released: the map notes its last changes.
        drop(map);
        drop(serving);
        Closed(layers)
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
