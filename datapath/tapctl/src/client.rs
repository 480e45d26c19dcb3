//! The client half: one connection, one request, one answer, all before a deadline.
//!
//! Used by the plugins and a `tap-ctl`. It drives our tapdisk and blktap's alike. A tapdisk that
//! hangs, stopped or not reading, makes [`ErrorKind::Timeout`]; one that is dead
//! [`ErrorKind::Gone`]; a refusal is [`ErrorKind::Remote`] with the error number.
//!
//! The request leaves in one piece: blktap's tapdisk reads the rest of a divided one to a wrong
//! place in its memory (`tapdisk_control_read_message` adds bytes to a pointer to messages).

use std::{path::PathBuf, time::Duration};

use rustix::io::Errno;

use crate::{
    connection::Connection,
    deadline::{Deadline, TIMEOUT},
    dir::ControlDir,
    error::{Error, ErrorKind, Result},
    message::{Raw, kind},
    minor::{MINORS_MAX, Minor},
    reply::{self, Clients, Entry, Identification, Image, MirrorStatus, Serving},
    request::{ALL, Call, Copy, Flags, Mirror, Open, Request, Resume, Switch},
    ring::Ring,
};

/// The longest statistics that are taken from a tapdisk.
const STATS_BYTES_MAX: u64 = 16 << 20;

/// The most VBDs that are taken from a tapdisk: all that a host can have.
const LIST_ENTRIES_MAX: usize = MINORS_MAX as usize;

/// How often a request is sent at most, where each process that was to answer it dies meanwhile.
const ASKED_MAX: u32 = 5;

/// A tapdisk to talk to. Holds no connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    pid: u32,
    timeout: Duration,
}

impl Client {
    /// The tapdisk of that number. Nothing is sent: the first call fails where no such tapdisk lives.
    #[must_use]
    pub fn new(dir: &ControlDir, pid: u32) -> Self {
        Self { socket: dir.ctl(pid), pid, timeout: TIMEOUT }
    }

    /// With another limit for each whole exchange. blktap's RESUME takes ten seconds to fail.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The number in the socket's name.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.pid
    }

    /// The number that the tapdisk itself gives.
    ///
    /// # Errors
    /// As the module says; so too all that follow.
    pub fn pid(&self) -> Result<u32> {
        let (_, raw) = self.exchange(0, Call::Pid)?;
        u32::try_from(reply::pid(&raw)).map_err(|_| self.invalid(&Call::Pid))
    }

    /// Takes a minor that was reserved for it. The errors on the wire: EEXIST where it has it
    /// already, EPERM where it is not reserved (`tap-ctl` turns both into EINVAL).
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn attach(&self, minor: Minor) -> Result<()> {
        self.done(minor, Call::Attach)
    }

    /// Gives up a minor; the last one ends the process. EBUSY where an image is open.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn detach(&self, minor: Minor) -> Result<()> {
        self.done(minor, Call::Detach)
    }

    /// Opens an image.
    ///
    /// # Errors
    /// See [`Self::pid`]; [`ErrorKind::Invalid`] for flags that need more than a message.
    pub fn open(&self, minor: Minor, open: Open) -> Result<Image> {
        self.plain_flags(open.flags, "open")?;
        Ok(Image::parse(&self.exchange(minor, Call::Open(open))?.1))
    }

    /// Closes the image.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn close(&self, minor: Minor) -> Result<()> {
        self.done(minor, Call::Close)
    }

    /// Closes the image without waiting for rings of dead guests.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn force_shutdown(&self, minor: Minor) -> Result<()> {
        self.done(minor, Call::ForceShutdown)
    }

    /// Finishes the requests in flight and closes the image.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn pause(&self, minor: Minor) -> Result<()> {
        self.done(minor, Call::Pause)
    }

    /// Opens the image again, or another one.
    ///
    /// # Errors
    /// See [`Self::pid`]; [`ErrorKind::Invalid`] for flags that need more than a message.
    pub fn resume(&self, minor: Minor, resume: Resume) -> Result<()> {
        self.plain_flags(resume.flags, "resume")?;
        self.done(minor, Call::Resume(resume))
    }

    /// Its VBDs, oldest first.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn list(&self) -> Result<Vec<Entry>> {
        let (mut connection, mut raw) = self.exchange(ALL, Call::List)?;
        let mut entries = Vec::new();
        while let Some(entry) = Entry::parse(&raw).ok_or_else(|| self.invalid(&Call::List))? {
            entries.push(entry);
            if entries.len() > LIST_ENTRIES_MAX {
                return Err(self.invalid(&Call::List));
            }
            raw = connection.receive_message()?;
            if raw.kind() != kind::LIST_RSP {
                return Err(self.invalid(&Call::List));
            }
        }
        Ok(entries)
    }

    /// Its minors; blktap's tapdisk answers EINVAL.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn list_minors(&self) -> Result<Vec<i32>> {
        let (_, raw) = self.exchange(0, Call::ListMinors)?;
        reply::minors(&raw).ok_or_else(|| self.invalid(&Call::ListMinors))
    }

    /// Statistics of one VBD: JSON, as the tapdisk wrote it. [`ALL`] asks for an array of all.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn stats(&self, minor: Minor) -> Result<String> {
        let (mut connection, raw) = self.exchange(minor, Call::Stats)?;
        let bytes = reply::stats_bytes(&raw);
        if bytes > STATS_BYTES_MAX {
            return Err(self.invalid(&Call::Stats));
        }
        let mut json = vec![0; usize::try_from(bytes).map_err(|_| self.invalid(&Call::Stats))?];
        connection.receive(&mut json)?;
        String::from_utf8(json).map_err(|_| self.invalid(&Call::Stats))
    }

    /// Size of the image.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn disk_info(&self, minor: Minor) -> Result<Image> {
        Ok(Image::parse(&self.exchange(minor, Call::DiskInfo)?.1))
    }

    /// Connects a guest's ring.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn connect(&self, minor: Minor, ring: Ring) -> Result<()> {
        self.done(minor, Call::Connect(ring))
    }

    /// Disconnects a guest's ring.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn disconnect(&self, domid: u32, devid: u32) -> Result<()> {
        self.done(0, Call::Disconnect { domid, devid })
    }

    /// Requests its end; blktap's tapdisk answers EINVAL.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn exit(&self) -> Result<()> {
        self.done(0, Call::Exit)
    }

    /// Which program it is; `None` where it knows nothing of our own messages.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn identify(&self) -> Result<Option<Identification>> {
        match self.exchange(0, Call::Identify) {
            Ok((_, raw)) => {
                Identification::parse(&raw).map(Some).ok_or_else(|| self.invalid(&Call::Identify))
            }
            Err(error) if error.kind() == ErrorKind::Remote(Errno::INVAL.raw_os_error()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ours: the volume or file that a minor serves.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn serving(&self, minor: Minor) -> Result<Serving> {
        let (_, raw) = self.exchange(minor, Call::Serving)?;
        Serving::parse(&raw).ok_or_else(|| self.invalid(&Call::Serving))
    }

    /// Ours: a new top, from between two requests on.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn switch(&self, minor: Minor, switch: Switch) -> Result<()> {
        self.done(minor, Call::Switch(switch))
    }

    /// Ours: a new size.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn resize(&self, minor: Minor, size_bytes: u64) -> Result<()> {
        self.done(minor, Call::Resize { size_bytes })
    }

    /// Ours: a new sole set, in the record of the volume. After the answer the old one is no longer in use.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn sole(&self, minor: Minor) -> Result<()> {
        self.done(minor, Call::Sole)
    }

    /// Ours: has no request of the disk's clients taken from the answer on, for that time at most. A tapdisk
    /// that knows no holding answers EINVAL.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn hold(&self, minor: Minor, time: Duration) -> Result<()> {
        self.done(minor, Call::Hold { time })
    }

    /// Ours: ends that.
    ///
    /// # Errors
    /// See [`Self::pid`]; also where the time was over before, and requests were taken.
    pub fn release(&self, minor: Minor) -> Result<()> {
        self.done(minor, Call::Release)
    }

    /// Ours: the clients of the disk of a minor. A tapdisk that does not know the question answers EINVAL.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn clients(&self, minor: Minor) -> Result<Clients> {
        Ok(Clients::parse(&self.exchange(minor, Call::Clients)?.1))
    }

    /// Ours: mirrors the disk of a minor from now on. A tapdisk that knows no mirrors answers EINVAL.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn mirror(&self, minor: Minor, mirror: Mirror) -> Result<()> {
        self.done(minor, Call::Mirror(mirror))
    }

    /// Ours: copies parts of the disk of a minor. A tapdisk that knows no copies answers EINVAL.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn copy(&self, minor: Minor, copy: Copy) -> Result<()> {
        self.done(minor, Call::Copy(copy))
    }

    /// Ours: how far a mirror or a copy is, once it is in sync or over, or after `wait`. ENOENT where it is not
    /// known.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn mirror_status(
        &self,
        minor: Minor,
        operation: u64,
        wait: Duration,
    ) -> Result<MirrorStatus> {
        self.mirror_answer(minor, Call::MirrorStatus { operation, wait })
    }

    /// Ours: how a mirror has ended, after everything that was left of it was sent.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn mirror_finish(&self, minor: Minor, operation: u64) -> Result<MirrorStatus> {
        self.mirror_answer(minor, Call::MirrorFinish { operation })
    }

    /// Ours: gives a mirror or a copy up.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn mirror_cancel(&self, minor: Minor, operation: u64) -> Result<()> {
        self.done(minor, Call::MirrorCancel { operation })
    }

    fn mirror_answer(&self, minor: Minor, call: Call) -> Result<MirrorStatus> {
        let (_, raw) = self.exchange(minor, call.clone())?;
        MirrorStatus::parse(&raw).ok_or_else(|| self.invalid(&call))
    }

    /// A request whose answer carries no data.
    fn done(&self, minor: Minor, call: Call) -> Result<()> {
        let action = call.name();
        let (_, raw) = self.exchange(minor, call)?;
        match reply::failure(&raw) {
            failure if failure.errno == 0 => Ok(()),
            failure => Err(Error::new(ErrorKind::Remote(failure.errno), action, self.on(minor))
                .detailed(failure.text)),
        }
    }

    /// Ours: has another process of the program that is installed now go on serving.
    ///
    /// # Errors
    /// See [`Self::pid`].
    pub fn upgrade(&self) -> Result<()> {
        self.done(0, Call::Upgrade)
    }

    /// Sends a request and receives the first message of its answer. Where the process dies meanwhile,
    /// its successor is asked, if the request may be repeated.
    fn exchange(&self, minor: Minor, call: Call) -> Result<(Connection, Raw)> {
        let deadline = Deadline::after(self.timeout);
        let request = Request { minor, call };
        let mut answer = self.exchange_once(&request, deadline);
        for _ in 1..ASKED_MAX {
            match &answer {
                Err(lost) if lost.kind() == ErrorKind::Lost && request.call.is_repeatable() => {}
                _ => break,
            }
            match self.exchange_once(&request, deadline) {
                // It had no keeper that would start another one.
                Err(gone) if gone.kind() == ErrorKind::Gone => break,
                next => answer = next,
            }
        }
        answer
    }

    fn exchange_once(&self, request: &Request, deadline: Deadline) -> Result<(Connection, Raw)> {
        let (minor, call) = (request.minor, &request.call);
        let (action, expected) = (call.name(), call.answer_kind());
        let raw = request.encode().map_err(|field| {
            Error::new(ErrorKind::Invalid, action, self.on(minor)).detailed(field.0)
        })?;
        let mut connection = Connection::open(&self.socket, deadline, action, self.on(minor))?;
        connection.send(raw.as_bytes())?;
        let answer = connection.receive_message()?;
        match answer.kind() {
            kind::ERROR => {
                let failure = reply::failure(&answer);
                Err(Error::new(ErrorKind::Remote(failure.errno), action, self.on(minor))
                    .detailed(failure.text))
            }
            answered if answered == expected => Ok((connection, answer)),
            answered => Err(Error::new(ErrorKind::Protocol, action, self.on(minor))
                .detailed(format!("message {answered} instead of {expected}"))),
        }
    }

    fn plain_flags(&self, flags: Flags, action: &'static str) -> Result<()> {
        if flags.has(Flags::ADD_LOG.with(Flags::ENCRYPTED)) {
            return Err(Error::new(ErrorKind::Invalid, action, self.on(ALL))
                .detailed("flags that need bytes after the message"));
        }
        Ok(())
    }

    fn invalid(&self, call: &Call) -> Error {
        Error::new(ErrorKind::Protocol, call.name(), self.on(ALL))
    }

    fn on(&self, minor: Minor) -> String {
        match minor {
            ALL => format!("tapdisk {}", self.pid),
            minor => format!("minor {minor} of tapdisk {}", self.pid),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
