//! The answers of a tapdisk: [`Reply`], encoded by the server half; its parts, parsed by the client.
//!
//! LIST is answered by several messages and STATS by a message and a payload; a [`Reply`] is all
//! of it. Fields that the header leaves undefined are zero, as in blktap's answers
//! (`tapdisk_control_process_request` in `drivers/tapdisk-control.c`).

use std::{
    ffi::OsString,
    fmt, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

use rustix::io::Errno;

use crate::{
    message::{LIST_MINORS_MAX, Raw, at, kind},
    request::Request,
};

/// The name that [`Identification`] has where the tapdisk is ours.
pub const NAME: &str = "xapi-storage-ram";

/// The revision of our own messages. It changes with the meaning of a message, and with one that callers
/// cannot do without; [`Call::Clients`](crate::Call::Clients), which some tapdisks of revision 1 do not
/// know, is none of these.
pub const REVISION: u64 = 1;

/// Bit 0 of the second number in a SERVING response.
const SERVING_READ_ONLY: u64 = 1;

/// States of a VBD in a LIST response, as tools print them.
pub mod state {
    /// Requests are served.
    pub const RUNNING: u32 = 0;
    /// Nothing is open.
    pub const CLOSED: u32 = 0x2;
    /// Paused.
    pub const PAUSED: u32 = 0x2a;
    /// Paused, and a resume has failed.
    pub const RESUME_FAILED: u32 = 0x22a;
}

/// Size of an image (`struct tapdisk_message_image`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its length in sectors.
    pub sectors: u64,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Flags of the image's driver.
    pub info: u32,
}

/// One VBD of a LIST response (`struct tapdisk_message_list`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its minor.
    pub minor: i32,
    /// Its [`state`].
    pub state: u32,
    /// `<type>:<path>`; empty where nothing is open.
    pub params: OsString,
}

/// Why a request failed (`struct tapdisk_message_response`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error number, positive.
    pub errno: i32,
    /// For a reader; blktap leaves it empty.
    pub text: String,
}

impl Failure {
    /// A failure of that number.
    #[must_use]
    pub fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self { errno: errno.raw_os_error(), text: text.into() }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = io::Error::from_raw_os_error(self.errno);
        match self.text.as_str() {
            "" => write!(f, "{reason}"),
            text => write!(f, "{text}: {reason}"),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::new(errno, "")
    }
}

/// Ours: which program a tapdisk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identification {
    /// [`NAME`], if it is ours.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Revision of our own messages that it knows.
    pub revision: u64,
}

impl Identification {
    /// The identification of our tapdisk.
    #[must_use]
    pub fn ours(version: &str) -> Self {
        Self { name: NAME.into(), version: version.into(), revision: REVISION }
    }
}

/// Ours: the volume or file that a minor serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// The volume or the file; `None` where nothing is open.
    pub path: Option<PathBuf>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The disk's length in bytes.
    pub size_bytes: u64,
}

/// Ours: the clients of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    /// How many are connected.
    pub count: u64,
    /// For how long there has been none; zero while there is one.
    pub unused_for: Duration,
}

/// Ours: how far a mirror is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorStage {
    /// The destination misses a part.
    Copying,
    /// The destination is up to date, and goes on being brought up to date.
    InSync,
    /// The destination has everything, and the mirror is over.
    Finished,
    /// The destination is of no use.
    Failed {
        /// Why.
        reason: String,
        /// For how long that has been known.
        since: Duration,
    },
}

/// Ours: how far a mirror is, and how much of its first pass is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorStatus {
    /// How far it is.
    pub stage: MirrorStage,
    /// The part that is done, in millionths; 0 where it has failed.
    pub progress_millionths: u64,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It failed.
    Error(Failure),
    /// The request is done, and the answer carries no data: attach, pause, resume, close, detach, rings,
    /// exit, switch, resize, sole, hold, release.
    Done,
    /// PID.
    Pid(i32),
    /// OPEN and DISK_INFO.
    Image(Image),
    /// LIST_MINORS; more than [`LIST_MINORS_MAX`] do not fit and are left out.
    Minors(Vec<i32>),
    /// LIST, oldest first.
    List(Vec<Entry>),
    /// STATS: JSON.
    Stats(Vec<u8>),
    /// IDENTIFY.
    Identity(Identification),
    /// SERVING.
    Serving(Serving),
    /// CLIENTS.
    Clients(Clients),
    /// MIRROR_STATUS and MIRROR_FINISH.
    Mirror(MirrorStatus),
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::Error(failure)
    }
}

impl From<Errno> for Reply {
    fn from(errno: Errno) -> Self {
        Self::Error(errno.into())
    }
}

impl Reply {
    /// Everything that goes over the wire in answer to `request`.
    #[must_use]
    pub fn encode(&self, request: &Request) -> Vec<u8> {
        let mut raw = Raw::new(request.call.answer_kind(), request.minor);
        match self {
            Self::Error(failure) => return encode_error(failure, request.minor),
            Self::Done => {}
            Self::Pid(pid) => raw.put_i32(at::PID, *pid),
            Self::Image(image) => {
                raw.put_u64(at::IMAGE_SECTORS, image.sectors);
                raw.put_u32(at::IMAGE_SECTOR_SIZE, image.sector_size);
                raw.put_u32(at::IMAGE_INFO, image.info);
            }
            Self::Minors(minors) => {
                let minors = &minors[..minors.len().min(LIST_MINORS_MAX)];
                raw.put_i32(at::MINORS_COUNT, i32::try_from(minors.len()).unwrap_or_default());
                for (index, minor) in minors.iter().enumerate() {
                    raw.put_i32(at::MINORS_LIST + 4 * index, *minor);
                }
            }
            Self::List(entries) => return encode_list(entries, &raw),
            Self::Stats(json) => {
                raw.put_u64(at::STAT_LENGTH, json.len() as u64);
                return [raw.as_bytes().as_slice(), json].concat();
            }
            Self::Identity(identity) => {
                let text = format!("{} {}", identity.name, identity.version);
                raw.put_text_cut(at::OWN_RSP_TEXT, text.as_bytes());
                raw.put_u64(at::OWN_RSP_FIRST, identity.revision);
            }
            Self::Serving(serving) => {
                let path = serving.path.as_deref().map(|path| path.as_os_str().as_bytes());
                raw.put_text_cut(at::OWN_RSP_TEXT, path.unwrap_or_default());
                raw.put_u64(at::OWN_RSP_FIRST, serving.size_bytes);
                let flags = if serving.read_only { SERVING_READ_ONLY } else { 0 };
                raw.put_u64(at::OWN_RSP_SECOND, flags);
            }
            Self::Clients(clients) => {
                let milliseconds = clients.unused_for.as_millis();
                raw.put_u64(at::OWN_RSP_FIRST, clients.count);
                raw.put_u64(at::OWN_RSP_SECOND, milliseconds.try_into().unwrap_or(u64::MAX));
            }
            Self::Mirror(status) => {
                raw.put_u64(at::OWN_RSP_FIRST, status.stage.code());
                raw.put_u64(at::OWN_RSP_SECOND, status.progress_millionths);
                if let MirrorStage::Failed { reason, since } = &status.stage {
                    raw.put_u64(at::OWN_RSP_SECOND, since.as_secs());
                    raw.put_text_cut(at::OWN_RSP_TEXT, reason.as_bytes());
                }
            }
        }
        raw.as_bytes().to_vec()
    }
}

/// An error message: to a request, or to bytes that are none.
pub(crate) fn encode_error(failure: &Failure, cookie: u16) -> Vec<u8> {
    let mut raw = Raw::new(kind::ERROR, cookie);
    raw.put_i32(at::RESPONSE_ERROR, failure.errno);
    raw.put_text_cut(at::RESPONSE_MESSAGE, failure.text.as_bytes());
    raw.as_bytes().to_vec()
}

/// One message for each VBD, `count` running down, and one with a count of 0 and minor -1. As
/// blktap does, all are one buffer written again and again: the last one repeats a state.
fn encode_list(entries: &[Entry], raw: &Raw) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut last = raw.clone();
    for (entry, left) in entries.iter().zip((1..=entries.len()).rev()) {
        let mut raw = raw.clone();
        raw.put_i32(at::LIST_COUNT, i32::try_from(left).unwrap_or(i32::MAX));
        raw.put_i32(at::LIST_MINOR, entry.minor);
        raw.put_u32(at::LIST_STATE, entry.state);
        last.put_u32(at::LIST_STATE, entry.state);
        raw.put_text_cut(at::LIST_PATH, entry.params.as_bytes());
        bytes.extend_from_slice(raw.as_bytes());
    }
    last.put_i32(at::LIST_MINOR, -1);
    bytes.extend_from_slice(last.as_bytes());
    bytes
}

/// The error number in a message: ERROR always has one. The answers without other contents have
/// one in the same place, which blktap's clients read (`control/tap-ctl-pause.c`).
pub(crate) fn failure(raw: &Raw) -> Failure {
    let text = raw.text(at::RESPONSE_MESSAGE).unwrap_or_default();
    // Some of blktap's handlers fail with a positive number, which is negated on the wire.
    let errno = raw.i32(at::RESPONSE_ERROR).saturating_abs();
    Failure { errno, text: String::from_utf8_lossy(text).into_owned() }
}

impl Image {
    pub(crate) fn parse(raw: &Raw) -> Self {
        Self {
            sectors: raw.u64(at::IMAGE_SECTORS),
            sector_size: raw.u32(at::IMAGE_SECTOR_SIZE),
            info: raw.u32(at::IMAGE_INFO),
        }
    }
}

impl Entry {
    /// `Some(None)` is the end of the list, `None` a message that is not valid.
    pub(crate) fn parse(raw: &Raw) -> Option<Option<Self>> {
        if raw.i32(at::LIST_COUNT) == 0 {
            return Some(None);
        }
        let params = OsString::from_vec(raw.text(at::LIST_PATH)?.to_vec());
        let (minor, state) = (raw.i32(at::LIST_MINOR), raw.u32(at::LIST_STATE));
        Some(Some(Self { minor, state, params }))
    }
}

impl Identification {
    pub(crate) fn parse(raw: &Raw) -> Option<Self> {
        let text = std::str::from_utf8(raw.text(at::OWN_RSP_TEXT)?).ok()?;
        let (name, version) = text.split_once(' ')?;
        let revision = raw.u64(at::OWN_RSP_FIRST);
        Some(Self { name: name.into(), version: version.into(), revision })
    }
}

impl Serving {
    pub(crate) fn parse(raw: &Raw) -> Option<Self> {
        let path = raw.text(at::OWN_RSP_TEXT)?;
        let path = (!path.is_empty()).then(|| OsString::from_vec(path.to_vec()).into());
        let read_only = raw.u64(at::OWN_RSP_SECOND) & SERVING_READ_ONLY != 0;
        Some(Self { path, read_only, size_bytes: raw.u64(at::OWN_RSP_FIRST) })
    }
}

impl Clients {
    pub(crate) fn parse(raw: &Raw) -> Self {
        let unused_for = Duration::from_millis(raw.u64(at::OWN_RSP_SECOND));
        Self { count: raw.u64(at::OWN_RSP_FIRST), unused_for }
    }
}

impl MirrorStage {
    fn code(&self) -> u64 {
        match self {
            Self::Copying => 0,
            Self::InSync => 1,
            Self::Finished => 2,
            Self::Failed { .. } => 3,
        }
    }
}

impl MirrorStatus {
    /// `None`: a stage that is not known.
    pub(crate) fn parse(raw: &Raw) -> Option<Self> {
        let stage = match raw.u64(at::OWN_RSP_FIRST) {
            0 => MirrorStage::Copying,
            1 => MirrorStage::InSync,
            2 => MirrorStage::Finished,
            3 => {
                let reason = String::from_utf8_lossy(raw.text(at::OWN_RSP_TEXT)?).into_owned();
                let since = Duration::from_secs(raw.u64(at::OWN_RSP_SECOND));
                let stage = MirrorStage::Failed { reason, since };
                return Some(Self { stage, progress_millionths: 0 });
            }
            _ => return None,
        };
        Some(Self { stage, progress_millionths: raw.u64(at::OWN_RSP_SECOND) })
    }
}

/// The minors of a LIST_MINORS response; `None` where the count is out of range.
pub(crate) fn minors(raw: &Raw) -> Option<Vec<i32>> {
    let count = usize::try_from(raw.i32(at::MINORS_COUNT)).ok()?;
    (count <= LIST_MINORS_MAX)
        .then(|| (0..count).map(|index| raw.i32(at::MINORS_LIST + 4 * index)).collect())
}

/// The pid of a PID response.
pub(crate) fn pid(raw: &Raw) -> i32 {
    raw.i32(at::PID)
}

/// How many bytes follow a STATS response.
pub(crate) fn stats_bytes(raw: &Raw) -> u64 {
    raw.u64(at::STAT_LENGTH)
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
