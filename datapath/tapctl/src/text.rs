//! Texts in the fields of a message, and why a message cannot be parsed or made.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use crate::message::Raw;

/// Why bytes are not a request. The answer to each of them is EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No request has this type.
    Kind(u16),
    /// A text field without an end.
    Text,
    /// A number that means nothing.
    Number,
}

/// Why a request cannot be encoded: the named field is too long or holds a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsendable(pub &'static str);

/// The text in a field.
pub(crate) fn get(raw: &Raw, at: usize) -> Result<OsString, Malformed> {
    raw.text(at).map(|text| OsString::from_vec(text.to_vec())).ok_or(Malformed::Text)
}

/// Writes a text into a field.
pub(crate) fn put(
    raw: &mut Raw,
    at: usize,
    text: &OsStr,
    field: &'static str,
) -> Result<(), Unsendable> {
    if raw.put_text(at, text.as_bytes()) { Ok(()) } else { Err(Unsendable(field)) }
}
