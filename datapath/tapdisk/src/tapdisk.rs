//! The state of the process: its VBDs, their clients, and the callers of its control socket.
//!
//! `control` and `clients` have the methods that change it, `event_loop` calls them.

use std::{
    fmt,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use blkif::Xen;
use nbd::ReceiveLimit;
use slab::Slab;
use smapiv3_syslog::{Severity, Syslog};
use store::Closed;
use tapctl::{ControlDir, Conversation, Conversations, Key as ConversationKey, Listener, Minor};

use crate::{
    frontend::{DRAIN_TIMEOUT, Device, Draining, Receivers},
    kept::{Group, Keeper, StateFile},
    poll::{ClientKey, GuestPolling, Sources, VbdKey, Watched},
    signals::Signals,
    task::KeyUpdate,
    vbd::Vbd,
};

/// How many connections are accepted at a time before others have their turn.
pub(crate) const ACCEPTS_MAX: usize = 16;

/// The state of the process.
pub(crate) struct Tapdisk {
    /// The number by which other programs know the tapdisk: that of the keeper.
    pub(crate) pid: u32,
    pub(crate) dir: ControlDir,
    pub(crate) keeper: Keeper,
    /// Readable once the keeper is dead.
    pub(crate) keeper_end: Option<Watched<UnixStream>>,
    /// What a successor finds, and what was written there last.
    pub(crate) state_file: StateFile,
    pub(crate) saved_state: Vec<u8>,
    /// The control socket, as the keeper holds it.
    pub(crate) control_group: Group,
    /// Whether another process of the program that is installed now is to go on.
    pub(crate) is_replaced: bool,
    pub(crate) sources: Sources,
    pub(crate) vbds: Slab<Vbd>,
    /// Clients whose disk was closed, and that have still to take answers.
    pub(crate) draining: Slab<Draining>,
    /// The way to the guests of this host.
    pub(crate) xen: Box<dyn Xen>,
    /// Clients whose requests are looked for while the loop polls. Those that have left are still in it.
    pub(crate) polled: Vec<(VbdKey, ClientKey)>,
    pub(crate) guest_polling: GuestPolling,
    /// When this pass of the loop began.
    pub(crate) woken: Instant,
    /// Rings whose guests have broken the protocol, until they are disconnected.
    pub(crate) given_up_rings: Vec<Device>,
    /// Keys that are being written to xenstore.
    pub(crate) updates: Slab<KeyUpdate>,
    pub(crate) receivers: Receivers,
    /// Clients whose next turn need not wait for their sockets.
    pub(crate) runnable: Vec<(VbdKey, ClientKey)>,
    /// How many turns clients have had in which they had something to do.
    pub(crate) client_turns: u64,
    /// Disks that are closed and whose memory is let go of in steps.
    pub(crate) closed: Vec<Closed>,
    pub(crate) receive_limit: ReceiveLimit,
    pub(crate) listener: Watched<Listener>,
    pub(crate) conversations: Conversations<Watched<Conversation>>,
    /// Minors that another process holds for a moment.
    pub(crate) attaching: Vec<Attaching>,
    pub(crate) signals: Watched<Signals>,
    /// Whether clients have left whose memory the heap may keep.
    pub(crate) has_lost_clients: bool,
    /// When the process looks whether its names are still in the control directory.
    pub(crate) names_due: Instant,
    /// When the process ends if no minor was attached to it by then. One that a person started waits
    /// for as long as it takes; the plugin that started this one may have been killed meanwhile.
    pub(crate) unused_until: Option<Instant>,
    /// When the process ends at the latest, if it does.
    pub(crate) end: Option<Instant>,
    /// When callers are accepted again, if they are not.
    pub(crate) callers_resume: Option<Instant>,
    /// When clients are accepted again, if they are not.
    pub(crate) accept_resumes: Option<Instant>,
    /// The longest pass of the loop so far.
    pub(crate) longest_pass: Duration,
    pub(crate) log: Syslog,
}

/// An attach that is tried again.
#[derive(Debug)]
pub(crate) struct Attaching {
    pub(crate) minor: Minor,
    pub(crate) caller: ConversationKey,
    pub(crate) until: Instant,
}

impl Tapdisk {
    /// The VBD of a minor.
    pub(crate) fn find(&self, minor: Minor) -> Option<VbdKey> {
        self.vbds.iter().find(|(_, vbd)| vbd.minor() == minor).map(|(key, _)| key)
    }

    /// Whether the process is about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.end.is_some()
    }

    /// Whether the process is to end now.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let is_answered = || {
            self.conversations.is_empty()
                && self.draining.is_empty()
                && self.vbds.iter().all(|(_, vbd)| vbd.image().is_none())
        };
        self.end.is_some_and(|end| end <= now || is_answered())
    }

    /// Ends the process once everything is answered; no caller is accepted any more.
    pub(crate) fn stop(&mut self) {
        if self.end.is_none() {
            // Disks may take one timeout to be closed, and their clients another to drain.
            self.end = Some(Instant::now() + 2 * DRAIN_TIMEOUT);
            self.set_accepting_callers(false);
        }
    }

    /// Logs which disks have begun to find no room for writes, and which find some again.
    pub(crate) fn log_room(&mut self, now: Instant) {
        for (_, vbd) in &mut self.vbds {
            let minor = vbd.minor();
            if let Some((severity, text)) = vbd.image_mut().and_then(|it| it.look_at_room(now)) {
                self.log.send(severity, format_args!("minor {minor}: {text}"));
            }
        }
    }

    pub(crate) fn info(&self, text: fmt::Arguments<'_>) {
        self.log.send(Severity::Info, text);
    }

    pub(crate) fn warn(&self, text: fmt::Arguments<'_>) {
        self.log.send(Severity::Warning, text);
    }
}
