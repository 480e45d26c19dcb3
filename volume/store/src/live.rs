//! The disk that is being served while its volume changes.

use std::{path::PathBuf, time::Duration};

use crate::{
    block::Layer,
    error::{Error, ErrorKind, Result},
    host::Name,
    record::Serving,
};

/// A request to the process that serves a volume, carried out between two requests of clients:
/// write the index to `index`, and write data to `top` from then on. All other layers are shared at
/// that moment, and no block of them is freed until a sole set is told again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The number of the layer that the volume owns from then on.
    pub top: Layer,
    /// The file that takes the index as it is at that moment.
    pub index: PathBuf,
}

/// How a store reaches the processes that serve its volumes. Each call has a deadline, and has
/// either taken effect when it returns `Ok`, or may take effect later.
pub trait Live {
    /// Whether processes can be reached at all. Else a volume is only switched if it is idle.
    fn reaches(&self) -> bool {
        true
    }

    /// Has the volume switched. An error of [`ErrorKind::Unresponsive`] leaves open whether it will be
    /// obeyed yet; any other says that it was refused.
    ///
    /// # Errors
    /// As said.
    fn switch(&mut self, key: &Name, serving: &Serving, switch: &Switch) -> Result<()>;

    /// Whether the process that was asked to switch last has died since and another one serves in its place,
    /// with the lock of the one before. Then the switch will not be obeyed any more, and the new process
    /// has read the volume's record after that named the new top.
    fn has_successor(&self) -> bool {
        false
    }

    /// Has the process take no request of the volume's clients from now on, until it is
    /// [released](Self::release), and for `time` at most.
    ///
    /// # Errors
    /// Where the process cannot be reached, or did not do it. So for callers that do not hold disks.
    fn hold(&mut self, key: &Name, serving: &Serving, time: Duration) -> Result<()> {
        let _time = time;
        Err(active(key, serving))
    }

    /// Has the process take requests again.
    ///
    /// # Errors
    /// Also where it has taken requests since it was to be held.
    fn release(&mut self, key: &Name, serving: &Serving) -> Result<()> {
        Err(active(key, serving))
    }

    /// Has the process take over the sole set that the volume's record says by now
    /// ([`Disk::reload_sole`](crate::Disk::reload_sole)), which is larger than it was.
    ///
    /// # Errors
    /// Where the process cannot be reached; it then frees less than it could.
    fn sole(&mut self, key: &Name, serving: &Serving) -> Result<()>;
}

/// For callers that change nothing that is served: an active volume is refused.
#[derive(Debug)]
pub struct Inactive;

impl Live for Inactive {
    fn reaches(&self) -> bool {
        false
    }

    fn switch(&mut self, key: &Name, serving: &Serving, _: &Switch) -> Result<()> {
        Err(active(key, serving))
    }

    fn sole(&mut self, _: &Name, _: &Serving) -> Result<()> {
        Ok(())
    }
}

fn active(key: &Name, serving: &Serving) -> Error {
    let message = format!("volume {key} is active (served by process {})", serving.pid);
    Error::new(ErrorKind::VolumeInUse, message)
}
