//! One update of the keys of a disk's backend.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    task::Poll,
};

use blkif::{Features, Update, Updating};
use block::Interest;
use rustix::io::Errno;

use super::{connection::Connection, wire::Kind};

/// Where the backend's keys of the disks of a domain are, below the directory of this domain. `vbd3` is
/// what xenopsd and tapback call the disks that a tapdisk serves.
pub(crate) const BACKEND: &str = "backend/vbd3";
/// `XenbusStateConnected` (`xen/io/xenbus.h`).
const CONNECTED: &[u8] = b"4";
/// How often a transaction is begun again that another writer has made void.
const ATTEMPTS_MAX: u32 = 16;
/// The key by which Windows' PV driver (win-xenvbd: `FrontendConnect` of `src/xenvbd/frontend.c`) shows in its
/// directory. No other known frontend writes it.
const XENVBD_KEY: &str = "feature-surprise-remove";

/// An update that is under way.
#[derive(Debug)]
pub(crate) struct Write {
    connection: Connection,
    directory: String,
    domid: u32,
    devid: u32,
    step: Step,
    /// Transactions that were begun.
    attempts: u32,
}

/// What is waited for.
#[derive(Debug)]
enum Step {
    /// The number of this domain, whose the keys are to be.
    Owner(Features),
    /// Whether the frontend is Windows', as a key says that it has written.
    Frontend { owner: u32, features: Features },
    /// So many answers to writes and permissions.
    Keys(u32),
    /// The number of a transaction in which the size is written.
    Transaction { sectors: u64 },
    /// The backend's state.
    State { transaction: u32, sectors: u64 },
    /// The end of the transaction, after so many answers to what is in it.
    Commit { sectors: u64, before: u32 },
    /// The end of a transaction in which nothing was changed.
    Abort,
}

impl Write {
    /// Begins an update through the device at `path`.
    pub(crate) fn begin(path: &Path, domid: u32, devid: u32, update: &Update) -> io::Result<Self> {
        Ok(Self::over(Connection::open(path)?, domid, devid, update))
    }

    fn over(mut connection: Connection, domid: u32, devid: u32, update: &Update) -> Self {
        let step = match update {
            Update::Features(features) => {
                connection.request(Kind::Read, 0, &[b"domid\0"]);
                Step::Owner(*features)
            }
            Update::Sectors(sectors) => {
                connection.request(Kind::TransactionStart, 0, &[b"\0"]);
                Step::Transaction { sectors: *sectors }
            }
        };
        let directory = format!("{BACKEND}/{domid}/{devid}");
        Self { connection, directory, domid, devid, step, attempts: 1 }
    }

    /// The path of a key, with its end.
    fn path(&self, key: &str) -> Vec<u8> {
        format!("{}/{key}\0", self.directory).into_bytes()
    }

    /// Takes an answer; whether the update is done.
    fn take(&mut self, answer: Result<Vec<u8>, Errno>) -> io::Result<bool> {
        match std::mem::replace(&mut self.step, Step::Abort) {
            Step::Owner(features) => {
                let owner = number(&answer?)?;
                let path = format!(
                    "/local/domain/{}/device/vbd/{}/{XENVBD_KEY}\0",
                    self.domid, self.devid
                );
                self.connection.request(Kind::Read, 0, &[path.as_bytes()]);
                self.step = Step::Frontend { owner, features };
            }
            Step::Frontend { owner, features } => {
                // Where that cannot be told, what is safe with any is offered.
                let keys = keys(&features, !matches!(answer, Err(Errno::NOENT)));
                self.step = Step::Keys(self.write_keys(owner, &keys));
            }
            Step::Keys(left) => {
                answer?;
                self.step = Step::Keys(left - 1);
                return Ok(left == 1);
            }
            Step::Transaction { sectors } => {
                let transaction = number(&answer?)?;
                let path = self.path("state");
                self.connection.request(Kind::Read, transaction, &[&path]);
                self.step = Step::State { transaction, sectors };
            }
            Step::State { transaction, sectors } => match answer {
                Ok(state) if state == CONNECTED => {
                    self.write_size(transaction, sectors);
                    self.step = Step::Commit { sectors, before: 2 };
                }
                // The disk is being unplugged, or not plugged yet: its size is read then.
                Ok(_) | Err(Errno::NOENT) => {
                    self.connection.request(Kind::TransactionEnd, transaction, &[b"F\0"]);
                }
                Err(error) => return Err(error.into()),
            },
            Step::Commit { sectors, before: 0 } => match answer {
                Ok(_) => return Ok(true),
                Err(Errno::AGAIN) if self.attempts < ATTEMPTS_MAX => {
                    self.attempts += 1;
                    self.connection.request(Kind::TransactionStart, 0, &[b"\0"]);
                    self.step = Step::Transaction { sectors };
                }
                Err(error) => return Err(error.into()),
            },
            Step::Commit { sectors, before } => {
                answer?;
                self.step = Step::Commit { sectors, before: before - 1 };
            }
            Step::Abort => return Ok(true),
        }
        Ok(false)
    }

    /// Writes keys, and lets the guest read them; how many answers will come.
    fn write_keys(&mut self, owner: u32, keys: &[(&'static str, String)]) -> u32 {
        let permissions = format!("n{owner}\0r{}\0", self.domid);
        for (key, value) in keys {
            let path = self.path(key);
            self.connection.request(Kind::Write, 0, &[&path, value.as_bytes()]);
            self.connection.request(Kind::SetPermissions, 0, &[&path, permissions.as_bytes()]);
        }
        2 * keys.len() as u32
    }

    /// Writes the size and the state, which makes the frontend read the size; ends the transaction.
    fn write_size(&mut self, transaction: u32, sectors: u64) {
        let (path, value) = (self.path("sectors"), sectors.to_string());
        self.connection.request(Kind::Write, transaction, &[&path, value.as_bytes()]);
        let path = self.path("state");
        self.connection.request(Kind::Write, transaction, &[&path, CONNECTED]);
        self.connection.request(Kind::TransactionEnd, transaction, &[b"T\0"]);
    }

    fn advance(&mut self) -> io::Result<bool> {
        loop {
            self.connection.send()?;
            let Some(answer) = self.connection.answer()? else { return Ok(false) };
            if self.take(answer)? {
                return Ok(true);
            }
        }
    }
}

/// The keys of features. One that a ring does not have is not written: so it is offered by no backend
/// that knows nothing of it either.
///
/// Windows' driver is offered no indirect requests. It keeps what it has read of them while it moves with its
/// machine to a backend that writes no such key (`FrontendReadValue32`; `FrontendDisconnect` forgets other
/// features), and sends indirect requests there. blktap's tapdisk answers those with "not supported", which the
/// driver takes for success (`__BlkifRingCompleteResponse` of `src/xenvbd/ring.c`): writes would be lost. It is
/// told 0, since a firmware may have been offered more before it on the same device.
fn keys(features: &Features, to_xenvbd: bool) -> Vec<(&'static str, String)> {
    let Features { flush, discard, indirect_segments_max } = *features;
    let indirect_segments_max = if to_xenvbd { 0 } else { indirect_segments_max };
    let mut keys = vec![("feature-flush-cache", u8::from(flush).to_string())];
    if let Some((granularity, alignment)) = discard {
        keys.push(("feature-discard", "1".to_owned()));
        keys.push(("discard-granularity", granularity.to_string()));
        keys.push(("discard-alignment", alignment.to_string()));
    }
    if indirect_segments_max > 0 || to_xenvbd {
        keys.push(("feature-max-indirect-segments", indirect_segments_max.to_string()));
    }
    keys
}

/// A number in an answer, which may have a NUL behind it.
fn number(payload: &[u8]) -> io::Result<u32> {
    let text = payload.strip_suffix(b"\0").unwrap_or(payload);
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let text = format!("xenstored answers {:?}", String::from_utf8_lossy(payload));
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

impl AsFd for Write {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Updating for Write {
    fn interest(&self) -> Interest {
        self.connection.interest()
    }

    fn turn(&mut self) -> Poll<io::Result<()>> {
        match self.advance() {
            Ok(false) => Poll::Pending,
            Ok(true) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        collections::BTreeMap,
        fs::File,
        io::{Read, Write as _},
        os::fd::OwnedFd,
        thread,
        time::Duration,
    };

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        net::{AddressFamily, SocketFlags, SocketType, socketpair},
    };

    use super::*;

    /// The keys of a xenstored, and their permissions.
    pub(in super::super) type Keys = BTreeMap<String, (String, String)>;

    /// Answers the requests of one connection as xenstored does, of transactions as many with EAGAIN as
    /// `conflicts` says. Packets, since the kernel's device takes one message of each write, and none before
    /// it has answered the one before.
    pub(in super::super) fn serve(stream: OwnedFd, mut keys: Keys, mut conflicts: u32) -> Keys {
        let mut stream = File::from(stream);
        let mut pending = Keys::new();
        let mut packet = [0; 4096];
        while let Ok(count @ 16..) = stream.read(&mut packet) {
            let [kind, id, transaction, length] =
                [0, 4, 8, 12].map(|at| u32::from_ne_bytes([0, 1, 2, 3].map(|i| packet[at + i])));
            assert_eq!(count, 16 + length as usize, "the rest of the write would be lost");
            let payload = packet[16..count].to_vec();
            thread::sleep(Duration::from_micros(200));
            let mut more = [PollFd::new(&stream, PollFlags::IN)];
            let early = poll(&mut more, Some(&Timespec::default())).unwrap();
            assert!(early == 0 || more[0].revents().contains(PollFlags::HUP), "an early request");
            let text = String::from_utf8(payload).unwrap();
            let (path, value) = text.split_once('\0').unwrap();
            let seen = if transaction == 0 { &mut keys } else { &mut pending };
            let answer = match kind {
                2 => seen.get(path).map(|(value, _)| value.clone()).ok_or("ENOENT"),
                6 => {
                    pending = keys.clone();
                    Ok("5\0".to_owned())
                }
                7 if path == "F" => Ok("OK\0".to_owned()),
                7 if conflicts > 0 => {
                    conflicts -= 1;
                    Err("EAGAIN")
                }
                7 => {
                    keys = pending.clone();
                    Ok("OK\0".to_owned())
                }
                11 => {
                    seen.entry(path.to_owned()).or_default().0 = value.to_owned();
                    Ok("OK\0".to_owned())
                }
                14 => {
                    seen.entry(path.to_owned()).or_default().1 = value.to_owned();
                    Ok("OK\0".to_owned())
                }
                _ => Err("EINVAL"),
            };
            let (kind, payload) = match answer {
                Ok(payload) => (kind, payload),
                Err(name) => (16, format!("{name}\0")),
            };
            let mut bytes = Vec::new();
            for number in [kind, id, transaction, payload.len() as u32] {
                bytes.extend(number.to_ne_bytes());
            }
            bytes.extend(payload.as_bytes());
            // In two pieces, so that the other side sees half an answer.
            let (front, back) = bytes.split_at(7);
            stream.write_all(front).unwrap();
            thread::sleep(Duration::from_micros(200));
            if stream.write_all(back).is_err() {
                break;
            }
        }
        keys
    }

    /// Two ends of a connection; reading from the first does not wait.
    pub(in super::super) fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::io::ioctl_fionbio(&pair.0, true).unwrap();
        pair
    }

    fn update(update: &Update, keys: &[(&str, &str)], conflicts: u32) -> (io::Result<()>, Keys) {
        let (ours, theirs) = pair();
        let keys = keys
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ((*value).to_owned(), String::new())));
        let keys = keys.collect();
        let server = thread::spawn(move || serve(theirs, keys, conflicts));
        let connection = Connection::over(File::from(ours));
        let mut write = Write::over(connection, 3, 51712, update);
        let done = loop {
            match write.turn() {
                Poll::Ready(done) => break done,
                Poll::Pending => thread::sleep(Duration::from_micros(50)),
            }
        };
        drop(write);
        (done, server.join().unwrap())
    }

    #[test]
    fn features_are_written_where_the_guest_can_read_them() {
        let features =
            Features { flush: true, discard: Some((4096, 0)), indirect_segments_max: 32 };
        let (done, keys) = update(&Update::Features(features), &[("domid", "2")], 0);
        done.unwrap();
        for (key, value) in [
            ("feature-flush-cache", "1"),
            ("feature-discard", "1"),
            ("discard-granularity", "4096"),
            ("discard-alignment", "0"),
            ("feature-max-indirect-segments", "32"),
        ] {
            let found = &keys[&format!("backend/vbd3/3/51712/{key}")];
            assert_eq!(found, &(value.to_owned(), "n2\0r3\0".to_owned()), "{key}");
        }
        assert_eq!(keys.len(), 6);
    }

    /// On a device of which another frontend, such as a firmware, has left the key with another value.
    #[test]
    fn the_driver_of_windows_is_offered_no_indirect_requests() {
        let features =
            Features { flush: true, discard: Some((4096, 0)), indirect_segments_max: 256 };
        let before = [
            ("domid", "0"),
            ("/local/domain/3/device/vbd/51712/feature-surprise-remove", "1"),
            ("backend/vbd3/3/51712/feature-max-indirect-segments", "256"),
        ];
        let (done, keys) = update(&Update::Features(features), &before, 0);
        done.unwrap();
        let value = |key: &str| &*keys[&format!("backend/vbd3/3/51712/{key}")].0;
        assert_eq!(value("feature-max-indirect-segments"), "0");
        assert_eq!([value("feature-flush-cache"), value("feature-discard")], ["1", "1"]);
    }

    #[test]
    fn a_new_size_is_announced_to_a_connected_frontend_though_others_write_meanwhile() {
        let state = ("backend/vbd3/3/51712/state", "4");
        let (done, keys) = update(&Update::Sectors(32768), &[state], 3);
        done.unwrap();
        assert_eq!(keys["backend/vbd3/3/51712/sectors"].0, "32768");
        let (done, _) = update(&Update::Sectors(32768), &[state], 100);
        assert_eq!(done.unwrap_err().raw_os_error(), Some(Errno::AGAIN.raw_os_error()));
    }

    #[test]
    fn a_new_size_of_a_disk_that_is_not_connected_changes_nothing() {
        for keys in [&[("backend/vbd3/3/51712/state", "5")][..], &[]] {
            let (done, after) = update(&Update::Sectors(32768), keys, 0);
            done.unwrap();
            assert!(!after.contains_key("backend/vbd3/3/51712/sectors"), "{keys:?}");
        }
    }

    #[test]
    fn a_xenstored_that_goes_away_ends_the_update() {
        let (ours, theirs) = pair();
        let connection = Connection::over(File::from(ours));
        let mut write = Write::over(connection, 3, 51712, &Update::Sectors(1));
        assert!(write.turn().is_pending());
        assert_eq!(write.interest(), Interest { readable: true, writable: false });
        drop(theirs);
        assert!(matches!(write.turn(), Poll::Ready(Err(_))));
    }
}
