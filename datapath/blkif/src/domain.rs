//! What a ring needs of Xen: the guest's pages, copies between them and our memory, and events.
//!
//! The crate `xen` implements these traits over `/dev/xen`, the mock of this crate over memory that two
//! processes share.

use std::{fmt::Debug, io, os::fd::AsFd, task::Poll};

use block::Interest;
use memory::WriteMap;

use crate::copies::Copies;

/// The way to the guests of this host.
pub trait Xen: Debug {
    /// Opens the devices through which a guest is reached: the first call on a host without Xen that
    /// fails, with `ENOENT`.
    ///
    /// # Errors
    /// Those of opening the devices.
    fn domain(&self, domid: u32) -> io::Result<Box<dyn Domain>>;

    /// Begins to write keys of a device's backend directory in xenstore.
    ///
    /// # Errors
    /// Where xenstore cannot be reached.
    fn update(&self, domid: u32, devid: u32, update: &Update) -> io::Result<Box<dyn Updating>>;

    /// The UUID of the machine that a domain is, and what it calls a device, such as `xvda`. Waits for
    /// xenstore, seconds at most: not for a thread that serves disks.
    ///
    /// # Errors
    /// Where xenstore cannot be reached, or has no such device.
    fn guest_disk(&self, domid: u32, devid: u32) -> io::Result<[String; 2]>;
}

/// One guest, as one ring of it is reached. Dropping it closes the event channel and unmaps the ring,
/// unless the mapping that [`map`](Self::map) gave still exists: then its end does.
///
/// The descriptor is readable when an event has come.
pub trait Domain: AsFd + Debug {
    /// Maps the pages of the ring, in the order of their grant references, for reading and writing.
    /// Called once.
    ///
    /// # Errors
    /// Where the guest has not granted a page.
    fn map(&mut self, grefs: &[u32]) -> io::Result<WriteMap>;

    /// Binds the guest's event channel. Called once.
    ///
    /// # Errors
    /// Where the guest has no such port, or it is bound already.
    fn bind(&mut self, port: u32) -> io::Result<()>;

    /// Carries out all copies and sets the status of each. What they refer to inside this process is in
    /// bounds, and no range of the guest's page is beyond the page: [`Copies`] has checked that.
    ///
    /// # Errors
    /// Where none may have been done, or any of them; the statuses say nothing then.
    fn copy(&mut self, copies: &mut Copies) -> io::Result<()>;

    /// Sends the guest an event.
    ///
    /// # Errors
    /// Where the channel is closed: the guest is about to end.
    fn notify(&mut self) -> io::Result<()>;

    /// Takes the events that have come and lets further ones come; whether there were any. It never
    /// waits.
    ///
    /// # Errors
    /// Where the channel is closed.
    fn take_event(&mut self) -> io::Result<bool>;
}

/// Keys of a backend's directory that the program which serves the ring knows best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// What frontends may use beyond reads and writes. They read it when the backend's state becomes
    /// Connected. One that would use it wrongly later may be offered less.
    Features(Features),
    /// The disk has another size: `sectors`, and in the same transaction the state Connected once more,
    /// which lets a frontend read the size again. Only where the state is Connected.
    Sectors(u64),
}

/// What a ring can do beyond reads and writes (`xen/io/blkif.h`, feature-*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `feature-flush-cache`.
    pub flush: bool,
    /// `feature-discard`, with granularity and alignment in bytes.
    pub discard: Option<(u32, u32)>,
    /// `feature-max-indirect-segments`; 0: no indirect requests.
    pub indirect_segments_max: u16,
}

/// An update that is under way. The loop gives it turns; none of them waits.
pub trait Updating: AsFd + Debug {
    /// The readiness of the descriptor that the next turn needs.
    fn interest(&self) -> Interest;

    /// Goes on; whether it is done.
    fn turn(&mut self) -> Poll<io::Result<()>>;
}
