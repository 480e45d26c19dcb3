//! Layout of a control message: its size, its type numbers, the offsets of its fields.
//!
//! Used by [`crate::request`] and [`crate::reply`], which give the fields their meaning. The
//! structures below mirror those of the header (`include/tapdisk-message.h`) for their layout
//! only: offsets are taken from them, no message is ever cast to one.
//!
//! A [`Raw`] message is bytes that another process sent: nothing in it has been checked.

use std::{fmt, mem::offset_of};

/// The size of every message (`struct tapdisk_message`).
pub const MESSAGE_BYTES: usize = 544;

/// The size of a path field, the closing NUL included (`TAPDISK_MESSAGE_MAX_PATH_LENGTH`).
pub const PATH_BYTES: usize = 256;

/// The size of a text field, the closing NUL included (`TAPDISK_MESSAGE_STRING_LENGTH`).
pub const TEXT_BYTES: usize = 256;

/// How many minors a LIST_MINORS response holds (`TAPDISK_MESSAGE_MAX_MINORS`).
pub const LIST_MINORS_MAX: usize = 63;

/// The message types: `enum tapdisk_message_id` of the header, and our own.
pub mod kind {
    /// Any request that failed: `response` holds why (`TAPDISK_MESSAGE_ERROR`).
    pub const ERROR: u16 = 1;
    /// `TAPDISK_MESSAGE_RUNTIME_ERROR`, never sent.
    pub const RUNTIME_ERROR: u16 = 2;
    /// `TAPDISK_MESSAGE_PID`.
    pub const PID: u16 = 3;
    /// `TAPDISK_MESSAGE_PID_RSP`: `tapdisk_pid`.
    pub const PID_RSP: u16 = 4;
    /// `TAPDISK_MESSAGE_ATTACH`: the cookie is the minor, as in all that follow.
    pub const ATTACH: u16 = 5;
    /// `TAPDISK_MESSAGE_ATTACH_RSP`.
    pub const ATTACH_RSP: u16 = 6;
    /// `TAPDISK_MESSAGE_OPEN`: `params`.
    pub const OPEN: u16 = 7;
    /// `TAPDISK_MESSAGE_OPEN_RSP`: `image`.
    pub const OPEN_RSP: u16 = 8;
    /// `TAPDISK_MESSAGE_PAUSE`.
    pub const PAUSE: u16 = 9;
    /// `TAPDISK_MESSAGE_PAUSE_RSP`.
    pub const PAUSE_RSP: u16 = 10;
    /// `TAPDISK_MESSAGE_RESUME`: `params`. The header has a structure `resume` for it, which
    /// neither blktap's client nor its server uses (`control/tap-ctl-unpause.c`,
    /// `drivers/tapdisk-control.c`).
    pub const RESUME: u16 = 11;
    /// `TAPDISK_MESSAGE_RESUME_RSP`.
    pub const RESUME_RSP: u16 = 12;
    /// `TAPDISK_MESSAGE_CLOSE`.
    pub const CLOSE: u16 = 13;
    /// `TAPDISK_MESSAGE_CLOSE_RSP`, the answer to FORCE_SHUTDOWN too.
    pub const CLOSE_RSP: u16 = 14;
    /// `TAPDISK_MESSAGE_DETACH`.
    pub const DETACH: u16 = 15;
    /// `TAPDISK_MESSAGE_DETACH_RSP`.
    pub const DETACH_RSP: u16 = 16;
    /// `TAPDISK_MESSAGE_LIST_MINORS`; blktap's tapdisk answers EINVAL.
    pub const LIST_MINORS: u16 = 17;
    /// `TAPDISK_MESSAGE_LIST_MINORS_RSP`: `minors`.
    pub const LIST_MINORS_RSP: u16 = 18;
    /// `TAPDISK_MESSAGE_LIST`.
    pub const LIST: u16 = 19;
    /// `TAPDISK_MESSAGE_LIST_RSP`: `list`, one message for each VBD and one with a count of 0.
    pub const LIST_RSP: u16 = 20;
    /// `TAPDISK_MESSAGE_STATS`; a cookie of 0xffff asks for all VBDs.
    pub const STATS: u16 = 21;
    /// `TAPDISK_MESSAGE_STATS_RSP`: `info`, then as many bytes of JSON as it says.
    pub const STATS_RSP: u16 = 22;
    /// `TAPDISK_MESSAGE_FORCE_SHUTDOWN`: a close that waits for nothing.
    pub const FORCE_SHUTDOWN: u16 = 23;
    /// `TAPDISK_MESSAGE_XENBLKIF_CONNECT`: `blkif`.
    pub const XENBLKIF_CONNECT: u16 = 24;
    /// `TAPDISK_MESSAGE_XENBLKIF_CONNECT_RSP`.
    pub const XENBLKIF_CONNECT_RSP: u16 = 25;
    /// `TAPDISK_MESSAGE_XENBLKIF_DISCONNECT`: domain and device of `blkif`, and no minor.
    pub const XENBLKIF_DISCONNECT: u16 = 26;
    /// `TAPDISK_MESSAGE_XENBLKIF_DISCONNECT_RSP`.
    pub const XENBLKIF_DISCONNECT_RSP: u16 = 27;
    /// `TAPDISK_MESSAGE_DISK_INFO`.
    pub const DISK_INFO: u16 = 28;
    /// `TAPDISK_MESSAGE_DISK_INFO_RSP`: `image`.
    pub const DISK_INFO_RSP: u16 = 29;
    /// `TAPDISK_MESSAGE_EXIT`, the highest number of the header; blktap's tapdisk answers EINVAL.
    pub const EXIT: u16 = 30;

    /// Where our own numbers start ('R' in the high byte). blktap counts up from 1 and answers
    /// EINVAL to everything above EXIT, so a client can find out from any tapdisk which of the two programs it is.
    pub const OWN: u16 = 0x5200;
    /// Ours: name, version and revision of the tapdisk are requested. The minor has no meaning.
    pub const IDENTIFY: u16 = OWN + 1;
    /// Ours: name and version as text, revision of these messages in `first`.
    pub const IDENTIFY_RSP: u16 = OWN + 2;
    /// Ours: which volume does this minor serve?
    pub const SERVING: u16 = OWN + 3;
    /// Ours: path as text, size in `first`, bit 0 of `second`: read-only.
    pub const SERVING_RSP: u16 = OWN + 4;
    /// Ours: from now on write to layer `first`; `path` names the file that takes the index as it is.
    pub const SWITCH: u16 = OWN + 5;
    /// Ours: done.
    pub const SWITCH_RSP: u16 = OWN + 6;
    /// Ours: the volume is `first` bytes long now.
    pub const RESIZE: u16 = OWN + 7;
    /// Ours: done.
    pub const RESIZE_RSP: u16 = OWN + 8;
    /// Ours: the record of the volume says a new sole set.
    pub const SOLE: u16 = OWN + 9;
    /// Ours: done; the old set is no longer in use.
    pub const SOLE_RSP: u16 = OWN + 10;
    /// Ours: the answer to EXIT, for which the header has none.
    pub const EXIT_RSP: u16 = OWN + 12;
    /// Ours: how many clients does the disk of this minor have?
    pub const CLIENTS: u16 = OWN + 13;
    /// Ours: the number of clients in `first`; in `second`, for how many milliseconds there has been
    /// none.
    pub const CLIENTS_RSP: u16 = OWN + 14;
    /// Ours: let the program that is installed now go on serving.
    pub const UPGRADE: u16 = OWN + 0x21;
    /// Ours: the process ends, and another one goes on.
    pub const UPGRADE_RSP: u16 = OWN + 0x22;
    /// Ours: mirror the disk of this minor to the NBD server that `path` names, as operation `first`.
    pub const MIRROR: u16 = OWN + 15;
    /// Ours: begun.
    pub const MIRROR_RSP: u16 = OWN + 16;
    /// Ours: how far is operation `first`? Answered when it ends or is in sync, after `second`
    /// milliseconds at the latest.
    pub const MIRROR_STATUS: u16 = OWN + 17;
    /// Ours: the stage in `first`, the progress in millionths in `second`. Where it has failed: why as text,
    /// and in `second` for how many seconds that has been known.
    pub const MIRROR_STATUS_RSP: u16 = OWN + 18;
    /// Ours: nothing changes the disk any more; send what is left of operation `first`, and end it.
    pub const MIRROR_FINISH: u16 = OWN + 19;
    /// Ours: as `MIRROR_STATUS_RSP`, when it is over.
    pub const MIRROR_FINISH_RSP: u16 = OWN + 20;
    /// Ours: give operation `first` up.
    pub const MIRROR_CANCEL: u16 = OWN + 21;
    /// Ours: done.
    pub const MIRROR_CANCEL_RSP: u16 = OWN + 22;
    /// Ours: copy ranges of the disk of this minor to the NBD server that `path` names, as operation
    /// `first`. `second` names a descriptor of the caller that has the ranges: its process in the upper
    /// half, its number in the lower one. MIRROR_STATUS, FINISH and CANCEL are for this one, too.
    pub const COPY: u16 = OWN + 23;
    /// Ours: begun.
    pub const COPY_RSP: u16 = OWN + 24;
    /// Ours: take no request of the clients of this minor's disk for `first` milliseconds, or until RELEASE.
    pub const HOLD: u16 = OWN + 25;
    /// Ours: done.
    pub const HOLD_RSP: u16 = OWN + 26;
    /// Ours: take requests again. An error where the time was over before.
    pub const RELEASE: u16 = OWN + 27;
    /// Ours: done; no request was taken since HOLD.
    pub const RELEASE_RSP: u16 = OWN + 28;
}

/// The header's structures, for their layout.
#[allow(dead_code, reason = "the offsets of the fields are all that is used")]
mod layout {
    use super::{LIST_MINORS_MAX, MESSAGE_BYTES, PATH_BYTES, TEXT_BYTES};

    /// `struct tapdisk_message`; its union is aligned to 8.
    #[repr(C)]
    pub(super) struct Message {
        pub(super) kind: u16,
        pub(super) cookie: u16,
        pub(super) body: Body,
    }

    #[repr(C, align(8))]
    pub(super) struct Body([u8; MESSAGE_BYTES - 8]);

    /// `struct tapdisk_message_params`.
    #[repr(C)]
    pub(super) struct Params {
        pub(super) flags: u32,
        pub(super) devnum: u32,
        pub(super) domid: u32,
        pub(super) path: [u8; PATH_BYTES],
        pub(super) prt_devnum: u32,
        pub(super) req_timeout: u16,
        pub(super) secondary: [u8; PATH_BYTES],
    }

    /// `struct tapdisk_message_image`.
    #[repr(C)]
    pub(super) struct Image {
        pub(super) sectors: u64,
        pub(super) sector_size: u32,
        pub(super) info: u32,
    }

    /// `struct tapdisk_message_response`.
    #[repr(C)]
    pub(super) struct Response {
        pub(super) error: i32,
        pub(super) message: [u8; TEXT_BYTES],
    }

    /// `struct tapdisk_message_minors`.
    #[repr(C)]
    pub(super) struct Minors {
        pub(super) count: i32,
        pub(super) list: [i32; LIST_MINORS_MAX],
    }

    /// `struct tapdisk_message_list`.
    #[repr(C)]
    pub(super) struct List {
        pub(super) count: i32,
        pub(super) minor: i32,
        pub(super) state: i32,
        pub(super) path: [u8; PATH_BYTES],
    }

    /// `struct tapdisk_message_stat`.
    #[repr(C)]
    pub(super) struct Stat {
        pub(super) kind: u16,
        pub(super) cookie: u16,
        pub(super) length: u64,
    }

    /// `struct tapdisk_message_blkif`.
    #[repr(C)]
    pub(super) struct Blkif {
        pub(super) domid: u32,
        pub(super) devid: u32,
        pub(super) gref: [u32; 8],
        pub(super) order: u32,
        pub(super) proto: u32,
        pub(super) pool: [u8; TEXT_BYTES],
        pub(super) port: u32,
        pub(super) poll_duration: u32,
        pub(super) poll_idle_threshold: u32,
    }

    /// Our own requests: the path lies where that of `params` does, since every tapdisk checks
    /// the NUL of that field first (`tapdisk_control_validate_request`).
    #[repr(C)]
    pub(super) struct Own {
        pub(super) reserved: [u32; 3],
        pub(super) path: [u8; PATH_BYTES],
        pub(super) reserved_too: u32,
        pub(super) first: u64,
        pub(super) second: u64,
    }

    /// Our own responses: `response` of the header, and two numbers behind it.
    #[repr(C)]
    pub(super) struct OwnResponse {
        pub(super) error: i32,
        pub(super) text: [u8; TEXT_BYTES],
        pub(super) first: u64,
        pub(super) second: u64,
    }

    const BODY_BYTES: usize = MESSAGE_BYTES - 8;
    const _: () = assert!(size_of::<Message>() == MESSAGE_BYTES);
    const _: () = assert!(size_of::<Params>() == 532 && size_of::<Params>() <= BODY_BYTES);
    const _: () = assert!(size_of::<Image>() == 16 && size_of::<Stat>() == 16);
    const _: () = assert!(size_of::<Minors>() == 256 && size_of::<List>() == 268);
    const _: () = assert!(size_of::<Response>() == 260 && size_of::<Blkif>() == 316);
    const _: () = assert!(size_of::<Own>() == 288 && size_of::<OwnResponse>() == 280);
}

/// Where each field lies in the message.
pub(crate) mod at {
    use super::{layout::*, offset_of};

    pub(crate) const KIND: usize = offset_of!(Message, kind);
    pub(crate) const COOKIE: usize = offset_of!(Message, cookie);
    pub(crate) const BODY: usize = offset_of!(Message, body);

    pub(crate) const PID: usize = BODY;
    pub(crate) const PARAMS_FLAGS: usize = BODY + offset_of!(Params, flags);
    pub(crate) const PARAMS_DEVNUM: usize = BODY + offset_of!(Params, devnum);
    pub(crate) const PARAMS_DOMID: usize = BODY + offset_of!(Params, domid);
    pub(crate) const PARAMS_PATH: usize = BODY + offset_of!(Params, path);
    pub(crate) const PARAMS_PARENT: usize = BODY + offset_of!(Params, prt_devnum);
    pub(crate) const PARAMS_TIMEOUT: usize = BODY + offset_of!(Params, req_timeout);
    pub(crate) const PARAMS_SECONDARY: usize = BODY + offset_of!(Params, secondary);
    pub(crate) const IMAGE_SECTORS: usize = BODY + offset_of!(Image, sectors);
    pub(crate) const IMAGE_SECTOR_SIZE: usize = BODY + offset_of!(Image, sector_size);
    pub(crate) const IMAGE_INFO: usize = BODY + offset_of!(Image, info);
    pub(crate) const RESPONSE_ERROR: usize = BODY + offset_of!(Response, error);
    pub(crate) const RESPONSE_MESSAGE: usize = BODY + offset_of!(Response, message);
    pub(crate) const MINORS_COUNT: usize = BODY + offset_of!(Minors, count);
    pub(crate) const MINORS_LIST: usize = BODY + offset_of!(Minors, list);
    pub(crate) const LIST_COUNT: usize = BODY + offset_of!(List, count);
    pub(crate) const LIST_MINOR: usize = BODY + offset_of!(List, minor);
    pub(crate) const LIST_STATE: usize = BODY + offset_of!(List, state);
    pub(crate) const LIST_PATH: usize = BODY + offset_of!(List, path);
    pub(crate) const STAT_LENGTH: usize = BODY + offset_of!(Stat, length);
    pub(crate) const BLKIF_DOMID: usize = BODY + offset_of!(Blkif, domid);
    pub(crate) const BLKIF_DEVID: usize = BODY + offset_of!(Blkif, devid);
    pub(crate) const BLKIF_GREF: usize = BODY + offset_of!(Blkif, gref);
    pub(crate) const BLKIF_ORDER: usize = BODY + offset_of!(Blkif, order);
    pub(crate) const BLKIF_PROTO: usize = BODY + offset_of!(Blkif, proto);
    pub(crate) const BLKIF_POOL: usize = BODY + offset_of!(Blkif, pool);
    pub(crate) const BLKIF_PORT: usize = BODY + offset_of!(Blkif, port);
    pub(crate) const BLKIF_POLL_DURATION: usize = BODY + offset_of!(Blkif, poll_duration);
    pub(crate) const BLKIF_POLL_IDLE: usize = BODY + offset_of!(Blkif, poll_idle_threshold);
    pub(crate) const OWN_PATH: usize = BODY + offset_of!(Own, path);
    pub(crate) const OWN_FIRST: usize = BODY + offset_of!(Own, first);
    pub(crate) const OWN_SECOND: usize = BODY + offset_of!(Own, second);
    pub(crate) const OWN_RSP_TEXT: usize = BODY + offset_of!(OwnResponse, text);
    pub(crate) const OWN_RSP_FIRST: usize = BODY + offset_of!(OwnResponse, first);
    pub(crate) const OWN_RSP_SECOND: usize = BODY + offset_of!(OwnResponse, second);

    const _: () = assert!(PARAMS_PATH == OWN_PATH && BODY == 8);
}

/// One message as it is on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Raw([u8; MESSAGE_BYTES]);

impl Raw {
    /// A message of that type, zeroes everywhere else.
    #[must_use]
    pub fn new(kind: u16, cookie: u16) -> Self {
        let mut raw = Self([0; MESSAGE_BYTES]);
        raw.put(at::KIND, kind.to_ne_bytes());
        raw.put(at::COOKIE, cookie.to_ne_bytes());
        raw
    }

    /// Bytes that were received.
    #[must_use]
    pub fn from_bytes(bytes: [u8; MESSAGE_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; MESSAGE_BYTES] {
        &self.0
    }

    /// The type.
    #[must_use]
    pub fn kind(&self) -> u16 {
        u16::from_ne_bytes(self.get(at::KIND))
    }

    /// The cookie: the minor, in most messages.
    #[must_use]
    pub fn cookie(&self) -> u16 {
        u16::from_ne_bytes(self.get(at::COOKIE))
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|index| self.0[at + index])
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.get(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.get(at))
    }

    pub(crate) fn i32(&self, at: usize) -> i32 {
        i32::from_ne_bytes(self.get(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.get(at))
    }

    pub(crate) fn put_u16(&mut self, at: usize, value: u16) {
        self.put(at, value.to_ne_bytes());
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, value.to_ne_bytes());
    }

    pub(crate) fn put_i32(&mut self, at: usize, value: i32) {
        self.put(at, value.to_ne_bytes());
    }

    pub(crate) fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, value.to_ne_bytes());
    }

    /// A text field up to its NUL; `None` where it has none.
    pub(crate) fn text(&self, at: usize) -> Option<&[u8]> {
        let field = &self.0[at..at + TEXT_BYTES];
        field.iter().position(|&byte| byte == 0).map(|end| &field[..end])
    }

    /// Writes a text field; false where the text holds a NUL or leaves no room for one.
    #[must_use]
    pub(crate) fn put_text(&mut self, at: usize, text: &[u8]) -> bool {
        let fits = text.len() < TEXT_BYTES && !text.contains(&0);
        if fits {
            self.0[at..at + text.len()].copy_from_slice(text);
        }
        fits
    }

    /// Writes as much of a text as there is room for, as the real tapdisk does with names.
    pub(crate) fn put_text_cut(&mut self, at: usize, text: &[u8]) {
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        let text = &text[..end.min(TEXT_BYTES - 1)];
        self.0[at..at + text.len()].copy_from_slice(text);
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw {{ kind: {}, cookie: {} }}", self.kind(), self.cookie())
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
