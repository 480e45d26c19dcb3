//! Xen without Xen: guests whose memory is a file that any process can map, and whose event channels are
//! pipes with names.
//!
//! A guest is a directory `<dir>/<domid>`: `memory` has its pages, and the number of a page is its grant
//! reference; `port-<n>` and `port-<n>-guest` carry the events of a port to the backend and to the guest;
//! `vbd-<devid>` has the keys that a backend writes to xenstore. All of it outlives the backend's process,
//! so that a successor can take over, and the guest's.
//!
//! [`MockXen`] and its domains are the backend's half, and a process is told of them at its edge
//! ([`Xen`](crate::Xen)). [`Guest`] and [`Frontend`] are the guest's half, which checks the backend as
//! Linux' blkfront does; [`Xenvbd`] behaves as Windows' driver. A copy is done by this process and no hypercall; all else is as with Xen.

mod disk;
mod domain;
mod events;
mod frontend;
mod guest;
mod machine;
mod xenvbd;

pub use disk::GuestDisk;
pub use domain::MockXen;
pub use frontend::{Completion, Frontend, FrontendRequest, Violation};
pub use guest::{Guest, Span};
pub use machine::{Buffer, Channel, Machine};
pub use xenvbd::{Command, Driver, SrbStatus, Xenvbd};

use std::path::{Path, PathBuf};

fn domain_dir(dir: &Path, domid: u32) -> PathBuf {
    dir.join(domid.to_string())
}

fn memory_path(dir: &Path, domid: u32) -> PathBuf {
    domain_dir(dir, domid).join("memory")
}

fn keys_path(dir: &Path, domid: u32, devid: u32) -> PathBuf {
    domain_dir(dir, domid).join(format!("vbd-{devid}"))
}

/// Where the events of a port go: to the backend, and to the guest.
fn port_paths(dir: &Path, domid: u32, port: u32) -> [PathBuf; 2] {
    let dir = domain_dir(dir, domid);
    [dir.join(format!("port-{port}")), dir.join(format!("port-{port}-guest"))]
}
