//! The subject of an event, and the keys that name VBDs and clients.

use tapctl::Key as ConversationKey;

/// A slot of the process's VBDs.
pub(crate) type VbdKey = usize;
/// A slot of a VBD's clients.
pub(crate) type ClientKey = usize;

/// The subject of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A signal has come.
    Signal,
    /// The keeper is dead.
    Keeper,
    /// A caller connects to the control socket.
    Control,
    /// A caller's connection.
    Conversation(ConversationKey),
    /// A client, or a process that passes on a connection, connects to a VBD.
    Listener(VbdKey, Endpoint),
    /// A client of a VBD.
    Client(VbdKey, ClientKey),
    /// A client whose disk was closed and that has still to take answers: its slot.
    Draining(usize),
    /// A process that passes on a connection: its slot.
    Receiver(usize),
    /// An update of keys in xenstore: its slot.
    Update(usize),
    /// A thread has finished loading a file for a VBD.
    Opening(VbdKey),
    /// The destination to which the disk of a VBD is mirrored.
    Mirror(VbdKey),
}

/// One of the sockets of a VBD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `nbd<pid>.<minor>`: fixed newstyle.
    Nbd,
    /// `nbd-old<pid>.<minor>`: fixed newstyle as well, in spite of its name.
    NbdOld,
    /// `nbdserver<pid>.<minor>`: descriptors of connections, greeted in the old style.
    Receiver,
    /// `nbdserver-new<pid>.<minor>`: descriptors of connections, greeted in the new style.
    ReceiverNew,
}

impl Endpoint {
    /// Whether connections are passed on here, and not made.
    pub(crate) fn receives(self) -> bool {
        matches!(self, Self::Receiver | Self::ReceiverNew)
    }

    /// Whether its clients are counted in the statistics `nbd-old-<minor>`, and not in `nbd-<minor>`.
    pub(crate) fn is_old(self) -> bool {
        matches!(self, Self::NbdOld | Self::Receiver)
    }
}
