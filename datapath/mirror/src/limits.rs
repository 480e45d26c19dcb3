//! How long a transfer has patience.

use std::time::Duration;

/// Times after which a transfer gives up, or goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a socket is tried that is not there yet, or on which no process listens: the process
    /// that makes it may just be starting.
    pub connect: Duration,
    /// How long a server that has accepted may take to be reached and to negotiate. xapi's proxy
    /// accepts first and connects to the other host then.
    pub handshake: Duration,
    /// How long a server may take and answer nothing while something waits for it.
    pub stall: Duration,
    /// How long changes of a disk that is in sync are gathered before they are sent: a granule that is
    /// written sixteen times meanwhile is sent once.
    pub gather: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            gather: Duration::from_millis(20),
        }
    }
}
