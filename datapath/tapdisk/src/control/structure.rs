//! Our own messages about a volume that changes while it is served: another top, another size, another
//! sole set. Each takes effect between two requests.

use rustix::io::Errno;
use tapctl::{Failure, Minor, Reply, Switch};

use super::handle::Handled;
use crate::{
    tapdisk::Tapdisk,
    vbd::Image,
    volume::{Structure, failure},
};

impl Tapdisk {
    pub(super) fn switch(&mut self, minor: Minor, switch: &Switch) -> Handled {
        let switch = store::Switch { top: switch.new_top, index: switch.index.clone() };
        self.change_structure(minor, |disk| disk.switch(&switch))
    }

    pub(super) fn resize(&mut self, minor: Minor, size_bytes: u64) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        if self.vbds[key].drive().is_some_and(|drive| drive.structure().is_loaded()) {
            return Err(Failure::new(Errno::OPNOTSUPP, "a loaded file cannot be resized"));
        }
        if size_bytes > store::VOLUME_BYTES_MAX {
            return Err(Failure::new(Errno::FBIG, "larger than the largest volume"));
        }
        let done = self.change_structure(minor, |disk| disk.resize(size_bytes))?;
        self.tell_guests_of_size(key);
        Ok(done)
    }

    pub(super) fn reload_sole(&mut self, minor: Minor) -> Handled {
        self.change_structure(minor, Structure::reload_sole)
    }

    fn change_structure(
        &mut self,
        minor: Minor,
        change: impl FnOnce(&mut Structure) -> store::Result<()>,
    ) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        let structure = self.vbds[key].image_mut().and_then(Image::structure);
        let Some(structure) = structure else {
            return Err(Self::no_drive(&self.vbds[key]));
        };
        change(structure).map_err(|error| failure(&error))?;
        Ok(Some(Reply::Done))
    }
}
