//! Syslog: one datagram per message to a local socket, in the format of RFC 3164 without the time
//! and the host, which syslogd and journald add.
//!
//! Used by the plugins' dispatcher for the log of each call, and by daemons. A failure to log is
//! not reported: a log must never fail a call, nor hang it.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod faults;

use std::fmt::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

pub use faults::Faults;

/// The socket that a host's syslogd reads.
pub const SOCKET_DEFAULT: &str = "/dev/log";

/// RFC 3164, section 4.1.1: which part of a system a message comes from. Of the facilities, these
/// are the ones without a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Facility {
    /// local0
    Local0 = 16,
    /// local1
    Local1 = 17,
    /// local2, which XenServer and XCP-ng collect as SMlog
    Local2 = 18,
    /// local3
    Local3 = 19,
    /// local4
    Local4 = 20,
    /// local5
    Local5 = 21,
    /// local6
    Local6 = 22,
    /// local7
    Local7 = 23,
}

/// Longer messages are cut: rsyslog's own default limit.
const MESSAGE_BYTES_MAX: usize = 8192;

/// How long a syslogd that does not read may hold up a call, per message.
const SEND_TIMEOUT: Duration = Duration::from_millis(50);

/// RFC 3164, section 4.1.1: how bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something failed
    Error = 3,
    /// Something is odd
    Warning = 4,
    /// Something was done
    Info = 6,
    /// Of use to a developer
    Debug = 7,
}

/// A connection to syslog, or the lack of one. Copies share the connection.
#[derive(Clone, Debug)]
pub struct Syslog {
    socket: Option<Arc<UnixDatagram>>,
    facility: Facility,
    tag: String,
    /// Messages that were not sent since the last one that was.
    lost: Arc<AtomicU64>,
    /// Where warnings and errors are kept beside.
    faults: Option<Faults>,
}

impl Syslog {
    /// Connects to a socket; where nothing listens there, messages are dropped. `program` is the tag
    /// of each message, with the number of this process.
    #[must_use]
    pub fn connect(socket: &Path, facility: Facility, program: &str) -> Self {
        let connected = || {
            let connected = UnixDatagram::unbound()?;
            connected.connect(socket)?;
            connected.set_write_timeout(Some(SEND_TIMEOUT))?;
            Ok::<_, std::io::Error>(connected)
        };
        let tag = format!("{program}[{}]", std::process::id());
        let socket = connected().ok().map(Arc::new);
        Self { socket, facility, tag, lost: Arc::default(), faults: None }
    }

    /// A log that goes nowhere.
    #[must_use]
    pub fn none() -> Self {
        let (facility, tag) = (Facility::Local0, String::new());
        Self { socket: None, facility, tag, lost: Arc::default(), faults: None }
    }

    /// Keeps warnings and errors in a file, too.
    #[must_use]
    pub fn keeping(self, faults: Faults) -> Self {
        Self { faults: Some(faults), ..self }
    }

    /// Never waits for a syslogd that does not read: its messages are lost, and the next one that can be
    /// sent says how many. For an event loop.
    #[must_use]
    pub fn nonblocking(self) -> Self {
        if let Some(socket) = &self.socket {
            // Where it cannot be set, a message waits for a moment.
            let _waits = socket.set_nonblocking(true);
        }
        self
    }

    /// Sends one message, as one line.
    pub fn send(&self, severity: Severity, message: impl fmt::Display) {
        self.keep(severity, &message);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = format_args!("{lost} messages were lost: syslog did not take them");
            if !self.send_line(Severity::Warning, text) {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                return;
            }
        }
        if !self.send_line(severity, message) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn keep(&self, severity: Severity, message: &impl fmt::Display) {
        let Some(faults) = &self.faults else { return };
        let kind = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info | Severity::Debug => return,
        };
        let mut line = OneLine(String::new());
        // The only error says that the message was cut short.
        let _ = write!(line, "{message}");
        faults.add(&self.tag, kind, &line.0);
    }

    /// Whether the message was sent, or there is no log.
    fn send_line(&self, severity: Severity, message: impl fmt::Display) -> bool {
        let Some(socket) = &self.socket else { return true };
        let priority = (self.facility as u8) << 3 | severity as u8;
        let mut line = OneLine(format!("<{priority}>{}: ", self.tag));
        // The only error says that the message was cut short.
        let _ = write!(line, "{message}");
        socket.send(line.0.as_bytes()).is_ok()
    }
}

/// Collects text up to a limit. Control characters, which could break a line or colour a terminal,
/// become spaces.
struct OneLine(String);

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.len() + c.len_utf8() > MESSAGE_BYTES_MAX {
                return Err(fmt::Error);
            }
            self.0.push(if c.is_control() { ' ' } else { c });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(path: &Path) -> Syslog {
        Syslog::connect(path, Facility::Local2, "p")
    }

    fn received(message: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        connect(&path).send(Severity::Error, message);
        let mut buffer = vec![0; MESSAGE_BYTES_MAX + 1];
        let length = server.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_one_line_with_facility_severity_and_process() {
        let expected = format!("<147>p[{}]: two lines", std::process::id());
        assert_eq!(received("two\nlines"), expected);
    }

    #[test]
    fn warnings_and_errors_are_kept_as_one_line_without_a_syslogd_too() {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faults::of(directory.path());
        let syslog = connect(&directory.path().join("none")).keeping(faults.clone());
        syslog.send(Severity::Info, "done");
        syslog.send(Severity::Warning, "odd\nlines");
        syslog.clone().send(Severity::Error, "failed");
        let kept = faults.last(10);
        let process = std::process::id();
        assert!(kept[0].ends_with(&format!("Z p[{process}] warning: odd lines")), "{kept:?}");
        assert!(kept[1].ends_with(" error: failed") && kept.len() == 2, "{kept:?}");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let line = received(&"ä".repeat(MESSAGE_BYTES_MAX));
        assert!((MESSAGE_BYTES_MAX - 1..=MESSAGE_BYTES_MAX).contains(&line.len()));
    }

    #[test]
    fn no_socket_and_a_socket_that_nobody_reads_are_survived() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        connect(&path).send(Severity::Info, "nobody");
        let _server = UnixDatagram::bind(&path).unwrap();
        let syslog = connect(&path);
        let socket = syslog.socket.as_ref().unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.send(b"full").is_ok() {}
        socket.set_nonblocking(false).unwrap();
        syslog.send(Severity::Info, "lost");
    }

    /// An event loop must not wait for a syslogd that hangs; what it lost is told when that is back.
    #[test]
    fn a_log_that_does_not_wait_counts_what_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        let syslog = connect(&path).nonblocking();
        let start = std::time::Instant::now();
        (0..10_000).for_each(|_| syslog.send(Severity::Info, "much"));
        let lost = syslog.lost.load(Ordering::Relaxed);
        assert!(lost > 0 && start.elapsed() < SEND_TIMEOUT * 100, "{lost} lost");
        server.set_nonblocking(true).unwrap();
        let mut buffer = [0; 200];
        while server.recv(&mut buffer).is_ok() {}
        syslog.send(Severity::Info, "again");
        let mut texts = Vec::new();
        while let Ok(length) = server.recv(&mut buffer) {
            texts.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        assert!(
            texts[0].ends_with(&format!("{lost} messages were lost: syslog did not take them"))
        );
        assert!(texts[1].ends_with("again") && texts.len() == 2, "{texts:?}");
    }
}
