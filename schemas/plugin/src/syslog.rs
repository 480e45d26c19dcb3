//! Syslog: one datagram per message to `/dev/log`, facility local2 (what a host collects as SMlog).
//!
//! Whatever goes wrong here is not told to anybody: a log must never fail a call, nor hang it. The
//! format is that of RFC 3164 without the time and the host, which syslogd and journald add.

use std::fmt::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// Environment variable that names another socket than `/dev/log`.
pub const SOCKET_VARIABLE: &str = "XAPI_RAM_SYSLOG";

const SOCKET_DEFAULT: &str = "/dev/log";

/// RFC 3164, section 4.1.1: facility local2.
const FACILITY: u8 = 18;

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

/// A connection to syslog, or the lack of one.
#[derive(Debug)]
pub struct Syslog {
    socket: Option<UnixDatagram>,
    tag: String,
}

impl Syslog {
    /// Connects to the socket that the environment names, or to `/dev/log`.
    pub fn open(env: &crate::Env, program: &str) -> Self {
        match env.get(SOCKET_VARIABLE) {
            Some(path) => Self::connect(Path::new(&path), program),
            None => Self::connect(Path::new(SOCKET_DEFAULT), program),
        }
    }

    fn connect(path: &Path, program: &str) -> Self {
        let connected = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
            Ok::<_, std::io::Error>(socket)
        };
        Self { socket: connected().ok(), tag: format!("{program}[{}]", std::process::id()) }
    }

    /// Sends one message, as one line.
    pub fn send(&self, severity: Severity, message: impl fmt::Display) {
        let Some(socket) = &self.socket else { return };
        let priority = FACILITY << 3 | severity as u8;
        let mut line = OneLine(format!("<{priority}>{}: ", self.tag));
        // Cut short is what the only error means.
        let _ = write!(line, "{message}");
        let _ = socket.send(line.0.as_bytes());
    }
}

/// Takes text up to a limit, with what would break a line or colour a terminal replaced.
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

    fn received(message: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        Syslog::connect(&path, "p").send(Severity::Error, message);
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
    fn a_long_message_is_cut_between_characters() {
        let line = received(&"ä".repeat(MESSAGE_BYTES_MAX));
        assert!((MESSAGE_BYTES_MAX - 1..=MESSAGE_BYTES_MAX).contains(&line.len()));
    }

    #[test]
    fn no_socket_and_a_socket_that_nobody_reads_are_survived() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        Syslog::connect(&path, "p").send(Severity::Info, "nobody");
        let _server = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog::connect(&path, "p");
        let socket = syslog.socket.as_ref().unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.send(b"full").is_ok() {}
        socket.set_nonblocking(false).unwrap();
        syslog.send(Severity::Info, "lost");
    }
}
