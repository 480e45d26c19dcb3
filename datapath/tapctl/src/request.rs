//! The requests of a client: [`Request`], parsed from a [`Raw`] message and encoded into one.
//!
//! The server half parses, the client half encodes. A parsed request has been checked: its texts
//! end, its numbers are in range. Whether the minor exists is the tapdisk's business.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use crate::{
    message::{Raw, at, kind},
    ranges::RangeList,
    ring::Ring,
    text::{self, Malformed, Unsendable, put},
};

/// No parent minor, no minor at all: -1 in blktap's fields.
pub const NONE: u32 = u32::MAX;

/// The cookie with which STATS means every VBD of the process.
pub const ALL: u16 = u16::MAX;

/// Flags of OPEN and RESUME, `TAPDISK_MESSAGE_FLAG_*` of the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// `TAPDISK_MESSAGE_FLAG_SHARED`.
    pub const SHARED: Self = Self(0x001);
    /// `TAPDISK_MESSAGE_FLAG_RDONLY`.
    pub const READ_ONLY: Self = Self(0x002);
    /// `TAPDISK_MESSAGE_FLAG_ADD_CACHE`.
    pub const ADD_CACHE: Self = Self(0x004);
    /// `TAPDISK_MESSAGE_FLAG_VHD_INDEX`.
    pub const VHD_INDEX: Self = Self(0x008);
    /// `TAPDISK_MESSAGE_FLAG_ADD_LOG`: 256 bytes of path follow the message.
    pub const ADD_LOG: Self = Self(0x010);
    /// `TAPDISK_MESSAGE_FLAG_ADD_LCACHE`.
    pub const ADD_LOCAL_CACHE: Self = Self(0x020);
    /// `TAPDISK_MESSAGE_FLAG_REUSE_PRT`.
    pub const REUSE_PARENT: Self = Self(0x040);
    /// `TAPDISK_MESSAGE_FLAG_SECONDARY`: the field `secondary` is meant.
    pub const SECONDARY: Self = Self(0x080);
    /// `TAPDISK_MESSAGE_FLAG_STANDBY`.
    pub const STANDBY: Self = Self(0x100);
    /// `TAPDISK_MESSAGE_FLAG_NO_O_DIRECT`.
    pub const NO_O_DIRECT: Self = Self(0x200);
    /// `TAPDISK_MESSAGE_FLAG_OPEN_ENCRYPTED`: a key follows the message.
    pub const ENCRYPTED: Self = Self(0x400);

    /// Whether any of these flags is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The fields of OPEN (`struct tapdisk_message_params`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// `<type>:<path>`, such as `ram:/run/sr-mount/...`.
    pub params: OsString,
    /// How to open it.
    pub flags: Flags,
    /// The minor whose chain is to be shared, or [`NONE`].
    pub parent: u32,
    /// Seconds after which a request fails; 0: the tapdisk's own choice.
    pub timeout_seconds: u16,
    /// A second image, where [`Flags::SECONDARY`] is set.
    pub secondary: OsString,
}

impl Open {
    /// Opens `params`, such as `ram:/tmp/image`, for reading and writing.
    #[must_use]
    pub fn new(params: impl Into<OsString>) -> Self {
        Self {
            params: params.into(),
            flags: Flags::default(),
            parent: NONE,
            timeout_seconds: 0,
            secondary: OsString::new(),
        }
    }

    /// With these flags.
    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }
}

/// The fields of RESUME: the same as those of OPEN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// New `<type>:<path>`; `None`: the image that was open before the pause.
    pub params: Option<OsString>,
    /// How to open it.
    pub flags: Flags,
    /// A second image, where [`Flags::SECONDARY`] is set.
    pub secondary: OsString,
}

/// Ours: the volume gets a new top between two requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The layer that is written to from now on.
    pub new_top: u32,
    /// The empty file that takes the volume's index as it is between the two requests. The tapdisk
    /// has written it when it answers.
    pub index: PathBuf,
}

/// Ours: a mirror that is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The number by which it is named from then on; the caller chooses one that was never used.
    pub operation: u64,
    /// The destination: `nbd+unix:///<export>?socket=<path>`.
    pub remote: OsString,
}

/// Ours: a copy that is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// As that of a [`Mirror`].
    pub operation: u64,
    /// As that of a [`Mirror`].
    pub remote: OsString,
    /// The parts of the disk.
    pub ranges: RangeList,
}

/// The operation of a request, with its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The process's number.
    Pid,
    /// Take the minor.
    Attach,
    /// Open an image on it.
    Open(Open),
    /// Finish the requests in flight and close the image.
    Pause,
    /// Open it again.
    Resume(Resume),
    /// Close the image.
    Close,
    /// Close it without waiting for rings of dead guests.
    ForceShutdown,
    /// Give up the minor; the last one ends the process.
    Detach,
    /// Minors of the process; blktap's tapdisk answers EINVAL.
    ListMinors,
    /// VBDs of the process.
    List,
    /// Statistics of one VBD or of [`ALL`].
    Stats,
    /// Size of the image.
    DiskInfo,
    /// Serve a guest's ring.
    Connect(Ring),
    /// Let go of a guest's ring.
    Disconnect {
        /// The guest.
        domid: u32,
        /// Its virtual block device.
        devid: u32,
    },
    /// End; blktap's tapdisk answers EINVAL.
    Exit,
    /// Ours: name, version and revision of the program.
    Identify,
    /// Ours: the volume or file that the minor serves.
    Serving,
    /// Ours: a new top.
    Switch(Switch),
    /// Ours: a new size.
    Resize {
        /// In bytes.
        size_bytes: u64,
    },
    /// Ours: the record of the volume says a new sole set, read before the answer.
    Sole,
    /// Ours: no request of the disk's clients is taken, until it is released or the time is over.
    Hold {
        /// How long at most.
        time: Duration,
    },
    /// Ours: requests are taken again. Fails where they were before.
    Release,
    /// Ours: the number of clients of the disk, and for how long there has been none.
    Clients,
    /// Ours: another process of the program that is installed now is to go on serving.
    Upgrade,
    /// Ours: mirror the disk to another server.
    Mirror(Mirror),
    /// Ours: copy parts of the disk to another server.
    Copy(Copy),
    /// Ours: how far a mirror or a copy is.
    MirrorStatus {
        /// Its number.
        operation: u64,
        /// How long to wait for it to be in sync or to end.
        wait: Duration,
    },
    /// Ours: send what is left of a mirror, and end it.
    MirrorFinish {
        /// Its number.
        operation: u64,
    },
    /// Ours: give a mirror or a copy up.
    MirrorCancel {
        /// Its number.
        operation: u64,
    },
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The minor that is meant; [`ALL`] or anything where none is.
    pub minor: u16,
    /// The operation.
    pub call: Call,
}

impl Request {
    /// Checks a message that was received.
    ///
    /// # Errors
    /// The first fault of the message; the answer is EINVAL.
    pub fn parse(raw: &Raw) -> Result<Self, Malformed> {
        // Every tapdisk checks this field first, whatever the type
        // (`tapdisk_control_validate_request` in `drivers/tapdisk-control.c`).
        let path = text::get(raw, at::PARAMS_PATH)?;
        let call = match raw.kind() {
            kind::PID => Call::Pid,
            kind::ATTACH => Call::Attach,
            kind::OPEN => Call::Open(Open {
                params: path,
                flags: Flags(raw.u32(at::PARAMS_FLAGS)),
                parent: raw.u32(at::PARAMS_PARENT),
                timeout_seconds: raw.u16(at::PARAMS_TIMEOUT),
                secondary: text::get(raw, at::PARAMS_SECONDARY)?,
            }),
            kind::PAUSE => Call::Pause,
            kind::RESUME => Call::Resume(Resume {
                params: Some(path).filter(|path| !path.is_empty()),
                flags: Flags(raw.u32(at::PARAMS_FLAGS)),
                secondary: text::get(raw, at::PARAMS_SECONDARY)?,
            }),
            kind::CLOSE => Call::Close,
            kind::FORCE_SHUTDOWN => Call::ForceShutdown,
            kind::DETACH => Call::Detach,
            kind::LIST_MINORS => Call::ListMinors,
            kind::LIST => Call::List,
            kind::STATS => Call::Stats,
            kind::DISK_INFO => Call::DiskInfo,
            kind::XENBLKIF_CONNECT => Call::Connect(Ring::parse(raw)),
            kind::XENBLKIF_DISCONNECT => {
                let (domid, devid) = (raw.u32(at::BLKIF_DOMID), raw.u32(at::BLKIF_DEVID));
                Call::Disconnect { domid, devid }
            }
            kind::EXIT => Call::Exit,
            kind::IDENTIFY => Call::Identify,
            kind::SERVING => Call::Serving,
            kind::SWITCH => Call::Switch(Switch {
                new_top: u32::try_from(raw.u64(at::OWN_FIRST)).map_err(|_| Malformed::Number)?,
                index: path.into(),
            }),
            kind::RESIZE => Call::Resize { size_bytes: raw.u64(at::OWN_FIRST) },
            kind::SOLE => Call::Sole,
            kind::HOLD => Call::Hold { time: Duration::from_millis(raw.u64(at::OWN_FIRST)) },
            kind::RELEASE => Call::Release,
            kind::CLIENTS => Call::Clients,
            kind::UPGRADE => Call::Upgrade,
            kind::MIRROR => {
                Call::Mirror(Mirror { operation: raw.u64(at::OWN_FIRST), remote: path })
            }
            kind::COPY => Call::Copy(Copy {
                operation: raw.u64(at::OWN_FIRST),
                remote: path,
                ranges: RangeList::from_number(raw.u64(at::OWN_SECOND)),
            }),
            kind::MIRROR_STATUS => Call::MirrorStatus {
                operation: raw.u64(at::OWN_FIRST),
                wait: Duration::from_millis(raw.u64(at::OWN_SECOND)),
            },
            kind::MIRROR_FINISH => Call::MirrorFinish { operation: raw.u64(at::OWN_FIRST) },
            kind::MIRROR_CANCEL => Call::MirrorCancel { operation: raw.u64(at::OWN_FIRST) },
            other => return Err(Malformed::Kind(other)),
        };
        Ok(Self { minor: raw.cookie(), call })
    }

    /// The message to send.
    ///
    /// # Errors
    /// A text that does not fit its field.
    pub fn encode(&self) -> Result<Raw, Unsendable> {
        let mut raw = Raw::new(self.call.kind(), self.minor);
        match &self.call {
            Call::Open(open) => {
                raw.put_u32(at::PARAMS_FLAGS, open.flags.0);
                raw.put_u32(at::PARAMS_DEVNUM, self.minor.into());
                raw.put_u32(at::PARAMS_DOMID, 0);
                put(&mut raw, at::PARAMS_PATH, &open.params, "params")?;
                raw.put_u32(at::PARAMS_PARENT, open.parent);
                raw.put_u16(at::PARAMS_TIMEOUT, open.timeout_seconds);
                put(&mut raw, at::PARAMS_SECONDARY, &open.secondary, "secondary")?;
            }
            Call::Resume(resume) => {
                raw.put_u32(at::PARAMS_FLAGS, resume.flags.0);
                let params = resume.params.as_deref().unwrap_or_default();
                put(&mut raw, at::PARAMS_PATH, params, "params")?;
                put(&mut raw, at::PARAMS_SECONDARY, &resume.secondary, "secondary")?;
            }
            Call::Connect(ring) => ring.put(&mut raw)?,
            Call::Disconnect { domid, devid } => {
                raw.put_u32(at::BLKIF_DOMID, *domid);
                raw.put_u32(at::BLKIF_DEVID, *devid);
            }
            Call::Switch(switch) => {
                raw.put_u64(at::OWN_FIRST, switch.new_top.into());
                put(&mut raw, at::OWN_PATH, switch.index.as_os_str(), "index")?;
            }
            Call::Resize { size_bytes } => raw.put_u64(at::OWN_FIRST, *size_bytes),
            Call::Hold { time } => {
                let milliseconds = time.as_millis().try_into().unwrap_or(u64::MAX);
                raw.put_u64(at::OWN_FIRST, milliseconds);
            }
            Call::Mirror(mirror) => {
                raw.put_u64(at::OWN_FIRST, mirror.operation);
                put(&mut raw, at::OWN_PATH, &mirror.remote, "remote")?;
            }
            Call::Copy(copy) => {
                raw.put_u64(at::OWN_FIRST, copy.operation);
                raw.put_u64(at::OWN_SECOND, copy.ranges.number());
                put(&mut raw, at::OWN_PATH, &copy.remote, "remote")?;
            }
            Call::MirrorStatus { operation, wait } => {
                raw.put_u64(at::OWN_FIRST, *operation);
                raw.put_u64(at::OWN_SECOND, wait.as_millis().try_into().unwrap_or(u64::MAX));
            }
            Call::MirrorFinish { operation } | Call::MirrorCancel { operation } => {
                raw.put_u64(at::OWN_FIRST, *operation);
            }
            _ => {}
        }
        Ok(raw)
    }
}

impl Call {
    /// The type number of the request.
    #[must_use]
    pub fn kind(&self) -> u16 {
        match self {
            Self::Pid => kind::PID,
            Self::Attach => kind::ATTACH,
            Self::Open(_) => kind::OPEN,
            Self::Pause => kind::PAUSE,
            Self::Resume(_) => kind::RESUME,
            Self::Close => kind::CLOSE,
            Self::ForceShutdown => kind::FORCE_SHUTDOWN,
            Self::Detach => kind::DETACH,
            Self::ListMinors => kind::LIST_MINORS,
            Self::List => kind::LIST,
            Self::Stats => kind::STATS,
            Self::DiskInfo => kind::DISK_INFO,
            Self::Connect(_) => kind::XENBLKIF_CONNECT,
            Self::Disconnect { .. } => kind::XENBLKIF_DISCONNECT,
            Self::Exit => kind::EXIT,
            Self::Identify => kind::IDENTIFY,
            Self::Serving => kind::SERVING,
            Self::Switch(_) => kind::SWITCH,
            Self::Resize { .. } => kind::RESIZE,
            Self::Sole => kind::SOLE,
            Self::Hold { .. } => kind::HOLD,
            Self::Release => kind::RELEASE,
            Self::Clients => kind::CLIENTS,
            Self::Upgrade => kind::UPGRADE,
            Self::Mirror(_) => kind::MIRROR,
            Self::Copy(_) => kind::COPY,
            Self::MirrorStatus { .. } => kind::MIRROR_STATUS,
            Self::MirrorFinish { .. } => kind::MIRROR_FINISH,
            Self::MirrorCancel { .. } => kind::MIRROR_CANCEL,
        }
    }

    /// The type number of the answer where all goes well.
    #[must_use]
    pub fn answer_kind(&self) -> u16 {
        match self {
            Self::ForceShutdown => kind::CLOSE_RSP,
            Self::Exit => kind::EXIT_RSP,
            call => call.kind() + 1,
        }
    }

    /// The verb for it in error messages and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pid => "ask the pid of",
            Self::Attach => "attach",
            Self::Open(_) => "open",
            Self::Pause => "pause",
            Self::Resume(_) => "resume",
            Self::Close => "close",
            Self::ForceShutdown => "force the shutdown of",
            Self::Detach => "detach",
            Self::ListMinors => "list the minors of",
            Self::List => "list",
            Self::Stats => "get the statistics of",
            Self::DiskInfo => "get the disk info of",
            Self::Connect(_) => "connect a ring to",
            Self::Disconnect { .. } => "disconnect a ring from",
            Self::Exit => "end",
            Self::Identify => "identify",
            Self::Serving => "ask what is served by",
            Self::Switch(_) => "switch the top of",
            Self::Resize { .. } => "resize",
            Self::Sole => "change the sole set of",
            Self::Hold { .. } => "hold",
            Self::Release => "release",
            Self::Clients => "count the clients of",
            Self::Upgrade => "upgrade",
            Self::Mirror(_) => "mirror",
            Self::Copy(_) => "copy",
            Self::MirrorStatus { .. } => "ask for the mirror of",
            Self::MirrorFinish { .. } => "finish the mirror of",
            Self::MirrorCancel { .. } => "cancel the mirror of",
        }
    }

    /// Whether it has the same effect and the same answer if it is sent once more, after the process that
    /// was to answer has died.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Pid
            | Self::Pause
            | Self::Close
            | Self::ForceShutdown
            | Self::ListMinors
            | Self::List
            | Self::Stats
            | Self::DiskInfo
            | Self::Identify
            | Self::Serving
            | Self::Resize { .. }
            | Self::Sole
            | Self::Hold { .. }
            | Self::Clients
            | Self::MirrorStatus { .. }
            | Self::MirrorFinish { .. }
            | Self::MirrorCancel { .. } => true,
            Self::Attach
            | Self::Open(_)
            | Self::Resume(_)
            | Self::Detach
            | Self::Connect(_)
            | Self::Disconnect { .. }
            | Self::Exit
            | Self::Switch(_)
            | Self::Release
            | Self::Mirror(_)
            | Self::Copy(_)
            | Self::Upgrade => false,
        }
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
