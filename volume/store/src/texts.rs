//! How long the texts may be that callers keep with SRs and volumes. Each operation writes the records of
//! the volumes that it changes, also in a full SR, where the ballast is all the room that there is: so a
//! record has to be small.

use std::collections::BTreeMap;

use crate::{
    error::{Error, ErrorKind, Result},
    memory::human,
};

/// Upper bound on a name, in bytes.
const NAME_BYTES_MAX: usize = 4 << 10;
/// Upper bound on a description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 16 << 10;
/// Upper bound on the name of a key, in bytes.
const KEY_BYTES_MAX: usize = 256;
/// Upper bound on the value of a key, in bytes.
const VALUE_BYTES_MAX: usize = 32 << 10;
/// Upper bound on all texts of one volume, in bytes. In JSON a byte may take six.
const TEXTS_BYTES_MAX: usize = 64 << 10;
/// How many characters of a text an error shows.
const SHOWN_MAX: usize = 40;

/// Checks the name and the description of an SR or a volume.
pub(crate) fn check(name: &str, description: &str) -> Result<()> {
    check_one("name", name, NAME_BYTES_MAX)?;
    check_one("description", description, DESCRIPTION_BYTES_MAX)
}

/// Checks all texts of a volume.
pub(crate) fn check_all(
    name: &str,
    description: &str,
    keys: &BTreeMap<String, String>,
) -> Result<()> {
    check(name, description)?;
    let mut bytes = name.len() + description.len();
    for (key, value) in keys {
        check_one("key", key, KEY_BYTES_MAX)?;
        check_one(&format!("value of key {key:?}"), value, VALUE_BYTES_MAX)?;
        bytes += key.len() + value.len();
    }
    if bytes <= TEXTS_BYTES_MAX {
        return Ok(());
    }
    let (all, most) = (human(bytes as u64), human(TEXTS_BYTES_MAX as u64));
    let sentence = format!(
        "name, description, keys and values of a volume take {all} together ({} keys), and may take {most} \
         at most: remove keys (xe vdi-param-remove), or shorten values",
        keys.len()
    );
    Err(Error::new(ErrorKind::BadArgument, sentence))
}

fn check_one(what: &str, text: &str, most: usize) -> Result<()> {
    if text.len() <= most {
        return Ok(());
    }
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    let sentence = format!(
        "the {what} has {} bytes, and may have {most} at most: shorten it; it begins with {shown:?}",
        text.len()
    );
    Err(Error::new(ErrorKind::BadArgument, sentence))
}
