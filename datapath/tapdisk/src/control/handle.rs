//! From a request to what handles it.

use rustix::io::Errno;
use tapctl::{Call, Failure, Identification, Key as ConversationKey, Reply, Request};

use crate::{clients::Shutdown, frontend::Device, tapdisk::Tapdisk};

/// The outcome of a request: done with a reply, or answered later.
pub(super) type Handled = Result<Option<Reply>, Failure>;

impl Tapdisk {
    /// Handles a request. `None`: it is answered later.
    pub(super) fn handle(&mut self, caller: ConversationKey, request: &Request) -> Option<Reply> {
        let minor = request.minor;
        let handled = match &request.call {
            Call::Pid => {
                return Some(Reply::Pid(i32::try_from(self.pid).unwrap_or(i32::MAX)));
            }
            Call::Identify => {
                return Some(Reply::Identity(Identification::ours(env!("CARGO_PKG_VERSION"))));
            }
            Call::List => return Some(Reply::List(self.entries())),
            Call::Stats => self.stats(minor),
            Call::Attach => self.attach(caller, minor),
            Call::Detach => self.detach(minor),
            Call::Open(open) => self.open(caller, minor, open),
            Call::Close => self.close(caller, minor, Shutdown::Graceful),
            Call::ForceShutdown => self.close(caller, minor, Shutdown::Forced),
            Call::Pause => self.pause(minor),
            Call::Resume(resume) => self.resume(caller, minor, resume),
            Call::DiskInfo => self.disk_info(minor),
            Call::Serving => self.serving(minor),
            Call::Switch(switch) => self.switch(minor, switch),
            Call::Resize { size_bytes } => self.resize(minor, *size_bytes),
            Call::Sole => self.reload_sole(minor),
            Call::Hold { time } => self.hold(minor, *time),
            Call::Release => self.release(minor),
            Call::Clients => self.clients(minor),
            Call::Upgrade => self.upgrade(),
            Call::Mirror(mirror) => self.mirror(minor, mirror),
            Call::Copy(copy) => self.copy(minor, copy),
            Call::MirrorStatus { operation, wait } => {
                self.mirror_status(caller, minor, *operation, *wait)
            }
            Call::MirrorFinish { operation } => self.mirror_finish(caller, minor, *operation),
            Call::MirrorCancel { operation } => self.mirror_cancel(minor, *operation),
            // As blktap's tapdisk, which has no handler for the first two.
            Call::ListMinors | Call::Exit => Err(Errno::INVAL.into()),
            Call::Connect(ring) => self.connect_ring(caller, minor, ring),
            Call::Disconnect { domid, devid } => {
                self.disconnect_ring(Device { domid: *domid, devid: *devid })
            }
        };
        handled.unwrap_or_else(|failure| {
            self.warn(format_args!("minor {minor}: {} refused: {failure}", request.call.name()));
            Some(Reply::Error(failure))
        })
    }
}
