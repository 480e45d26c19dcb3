//! The record of an SR, and the configuration that SR.attach needs to find or make it.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::Unknown;
use crate::{
    block::{LAYER_END, LAYER_FIRST},
    error::{Context, Error, ErrorKind, Result},
    files::{self, Dirs, Entry},
    host::Name,
};

/// The format of everything below the directory of an SR that is made now.
pub(crate) const FORMAT: u32 = 2;
/// The earliest format of SRs that can be used.
const FORMAT_MIN: u32 = 1;
/// From this format on indexes have slots: a program that does not know them would read old blocks.
const FORMAT_WITH_SLOTS: u32 = 2;

/// `meta/sr.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) name: String,
    pub(crate) description: String,
    /// Bytes of data and metadata.
    pub(crate) size: u64,
    /// Whether xapi has it attached; a detached SR keeps its memory.
    pub(crate) attached: bool,
    /// Eight hexadecimal digits, new for every memory: keys begin with them, so that a key tells
    /// whether its volume was lost with an earlier memory.
    pub(crate) generation: String,
    /// The size that its device-config names, where a command has given the SR another one since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) configured: Option<u64>,
    /// A text that the plugins keep with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) provider: String,
    /// Where the plugins save it; empty: nowhere.
    #[serde(default, rename = "save-dir", skip_serializing_if = "String::is_empty")]
    pub(crate) save_dir: String,
    /// Whether the kernel may swap its memory when that is made anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) swap: bool,
    /// What they save of it when it is detached.
    #[serde(default, rename = "at-detach", skip_serializing_if = "AtDetach::is_everything")]
    pub(crate) at_detach: AtDetach,
    /// Whether it is still being made from a save: until then it is no SR yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) restoring: bool,
    /// The save that it was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restored: Option<Restored>,
    #[serde(flatten)]
    pub(crate) unknown: Unknown,
}

impl Record {
    /// Reads the record; `None` where there is no SR.
    pub(crate) fn read(dirs: &Dirs) -> Result<Option<Self>> {
        let layout = dirs.layout();
        let record: Option<Self> = files::read_json(dirs, Entry::Sr).map_err(|error| {
            if error.kind() != ErrorKind::Corrupt {
                return error;
            }
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{}: without it the SR cannot be attached, and its contents are lost; \
                     give its memory back (volume-plugin reclaim --sr {uuid} --force) and let \
                     xapi forget it (xe sr-forget uuid={uuid})",
                    error.chain(),
                    uuid = layout.uuid()
                ),
            )
        })?;
        if let Some(Self { format, .. }) = record
            && !(FORMAT_MIN..=FORMAT).contains(&format)
        {
            return Err(Error::new(
                ErrorKind::OtherFormat,
                format!(
                    "SR {uuid} has format {format}, and this version of the program knows {FORMAT_MIN} to {FORMAT}: \
                     install the version that made it again; or give its memory back, and lose its \
                     disks (volume-plugin reclaim --sr {uuid} --force)",
                    uuid = layout.uuid()
                ),
            ));
        }
        Ok(record)
    }

    /// Whether the indexes of its new volumes have slots.
    pub(crate) fn has_slots(&self) -> bool {
        self.format >= FORMAT_WITH_SLOTS
    }

    pub(crate) fn write(&self, dirs: &Dirs) -> Result<()> {
        files::replace_json(dirs, Entry::Sr, self)
    }
}

/// What is saved of an SR when it is detached. Each attach begins with everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtDetach {
    /// All of it, or the detach fails.
    #[default]
    Everything,
    /// What is not damaged.
    Incomplete,
    /// Nothing.
    Nothing,
}

impl AtDetach {
    fn is_everything(&self) -> bool {
        *self == Self::Everything
    }
}

/// How an SR came to the contents that it has: kept in its record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The save that it was made of, and when that was made, in words.
    pub from: String,
    /// Why it may have held more when the host stopped, in words; `None` where the save was its last state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older: Option<String>,
}

/// The configuration that attaches an SR, also after a reboot that emptied the memory. SR.create
/// returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The SR.
    pub uuid: Name,
    /// Its name, should its memory have to be made anew.
    pub name: String,
    /// Its description, likewise.
    pub description: String,
    /// Bytes that it may take. An SR whose memory is still there gets this size, unless it is the one that
    /// was named before.
    pub size: u64,
    /// The host whose memory it is.
    pub host: String,
    /// A text that the plugins keep with the SR and the store does not interpret: which program
    /// serves its disks. It replaces the one of an SR whose memory is still there.
    pub provider: String,
    /// Where the plugins save the SR, as an absolute path, which the store does not use; empty: nowhere. It
    /// replaces the one of an SR whose memory is still there.
    pub save_dir: String,
    /// Whether the kernel may swap its memory. It holds when that is made anew.
    pub swap: bool,
}

/// Takes `count` numbers for layers or indexes; the first of them. Held: the SR's lock.
pub(crate) fn take_numbers(dirs: &Dirs, count: u32) -> Result<u32> {
    let first = next_number(dirs)?;
    let next = first.checked_add(count).filter(|&next| next <= LAYER_END).ok_or_else(|| {
        Error::new(
            ErrorKind::NoSpace,
            "this SR has used up its layer numbers, which are never used twice: copy its disks \
             into a new SR",
        )
    })?;
    files::replace(dirs, Entry::Numbers, next.to_string().as_bytes())?;
    Ok(first)
}

/// Makes the counter of a new SR.
pub(crate) fn start_numbers(dirs: &Dirs) -> Result<()> {
    files::replace(dirs, Entry::Numbers, LAYER_FIRST.to_string().as_bytes())
}

/// The number that is given out next.
pub(crate) fn next_number(dirs: &Dirs) -> Result<u32> {
    let path = || dirs.path(Entry::Numbers);
    // A number, and room to see that there is more than one in it.
    let mut text = [0; 16];
    let length = dirs.read(Entry::Numbers)?.read(&mut text).doing("reading", path)?;
    let text = String::from_utf8_lossy(&text[..length]);
    text.trim().parse().map_err(|_| {
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} says {text:?}, not the next number of a layer: nothing new can be made in this \
                 SR; copy its disks block by block into another one (xe vdi-copy)",
                path().display()
            ),
        )
    })
}
