//! Making way for the program that is installed now: this process ends, and its keeper starts that.

use rustix::io::Errno;
use tapctl::{Failure, Reply};

use super::handle::Handled;
use crate::{tapdisk::Tapdisk, vbd::Image, volume::is_volume, volume::path_of};

impl Tapdisk {
    pub(super) fn upgrade(&mut self) -> Handled {
        if !self.keeper.is_there() {
            let text =
                "its keeper was killed, so no process would go on: unplug and plug its disks";
            return Err(Failure::new(Errno::SRCH, text));
        }
        if self.is_stopping() {
            return Err(Failure::new(Errno::SHUTDOWN, "this tapdisk is about to end"));
        }
        let is_loaded = |image: &Image| !path_of(&image.params).is_ok_and(is_volume);
        let loaded = self.vbds.iter().find(|(_, vbd)| vbd.image().is_some_and(is_loaded));
        if let Some((_, vbd)) = loaded {
            let text = format!(
                "minor {} is a loaded file, which exists in this process alone: close it first",
                vbd.minor()
            );
            return Err(Failure::new(Errno::BUSY, text));
        }
        if let Some((_, vbd)) = self.vbds.iter().find(|(_, vbd)| vbd.is_mirrored()) {
            let text = format!(
                "minor {} is being mirrored, which no other process would go on with: repeat when its \
                 migration has ended",
                vbd.minor()
            );
            return Err(Failure::new(Errno::BUSY, text));
        }
        self.is_replaced = true;
        Ok(Some(Reply::Done))
    }

    /// The keeper was killed. Everything is served on, under the same names, but no process would go on
    /// after this one.
    pub(crate) fn keeper_died(&mut self) {
        self.keeper.is_lost();
        self.keeper_end = None;
        self.warn(format_args!(
            "keeper {} was killed: its disks are served on, but no process goes on should this one die; \
             unplug and plug them to have one again",
            self.pid
        ));
    }
}
