//! Why a connection is over.

use std::{fmt, io};

/// Why a connection is over.
#[derive(Debug)]
pub enum End {
    /// The client has disconnected as the protocol demands, and has every reply.
    Disconnected,
    /// The client gave up during the handshake.
    Aborted,
    /// The client closed the socket between two requests, without a disconnect request.
    SocketClosed,
    /// The client closed the socket in the middle of a message, which had no effect.
    Truncated,
    /// [`Connection::stop`](super::Connection::stop), and the client has every reply.
    Stopped,
    /// The client broke the protocol where it has no error reply.
    Violation(&'static str),
    /// The socket failed.
    Failed(io::Error),
}

impl End {
    /// The meaning of an error of the socket.
    pub(super) fn of(error: io::Error) -> Self {
        match error.kind() {
            // The error of a socket whose other end was closed with something unread.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::SocketClosed,
            _ => Self::Failed(error),
        }
    }

    /// Whether the client cannot receive anything any more.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::SocketClosed | Self::Truncated | Self::Failed(_))
    }

    /// Whether the client or the socket was at fault: worth a line in a log.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Violation(_) | Self::Failed(_) | Self::Truncated)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the client has disconnected"),
            Self::Aborted => f.write_str("the client has aborted the handshake"),
            Self::SocketClosed => f.write_str("the client has closed the socket"),
            Self::Truncated => f.write_str("the client has closed the socket within a message"),
            Self::Stopped => f.write_str("stopped"),
            Self::Violation(what) => write!(f, "protocol violation: {what}"),
            Self::Failed(error) => write!(f, "socket: {error}"),
        }
    }
}
