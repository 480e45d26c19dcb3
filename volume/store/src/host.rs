//! Where the SRs of this host lie, and who this host is.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

/// XenServer's and XCP-ng's record of the host; `INSTALLATION_UUID` is the host's UUID in xapi.
const INVENTORY: &str = "/etc/xensource-inventory";

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The UUID of an SR or the key of a volume: safe as a file name and inside a URI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Checks a name that came from outside: 1 to 64 letters, digits, `-`, `_` or `.`, not
    /// starting with a dot.
    ///
    /// # Errors
    /// [`ErrorKind::BadArgument`], with the name.
    pub fn parse(text: &str) -> Result<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(good)
            && !text.starts_with('.')
        {
            return Ok(Self(text.to_owned()));
        }
        // What is no name may be of any length.
        let shown: String = text.chars().take(NAME_BYTES_MAX).collect();
        let more = if shown.len() < text.len() { "..." } else { "" };
        Err(Error::new(
            ErrorKind::BadArgument,
            format!(
                "{shown:?}{more} cannot name an SR or a volume: 1 to 64 letters, digits, '-', '_' or '.' \
                 are allowed, and no dot at the start"
            ),
        ))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl From<Uuid> for Name {
    fn from(uuid: Uuid) -> Self {
        Self(uuid.to_string())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directories and the identity of this host.
#[derive(Clone, Debug)]
pub struct Host {
    /// One directory per SR lies here.
    pub sr_root: PathBuf,
    /// One lock per SR lies here, outside the SR's own memory: attach and destroy need it too.
    pub lock_dir: PathBuf,
    /// Whether an SR is a tmpfs of its own (root), or a directory on an existing one.
    pub may_mount: bool,
    /// Identifies this host among others.
    pub uuid: String,
}

impl Host {
    /// This host, with its SRs and their locks in those directories.
    #[must_use]
    pub fn new(sr_root: PathBuf, lock_dir: PathBuf, may_mount: bool) -> Self {
        Self { sr_root, lock_dir, may_mount, uuid: identity(Path::new(INVENTORY)) }
    }
}

/// The host's UUID: xapi's, else the machine's.
fn identity(inventory: &Path) -> String {
    let inventory = fs::read_to_string(inventory).unwrap_or_default();
    let installation = inventory
        .lines()
        .find_map(|line| line.strip_prefix("INSTALLATION_UUID="))
        .map(|value| value.trim_matches(['\'', '"']).to_owned());
    installation
        .or_else(|| fs::read_to_string("/etc/machine-id").ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map_or_else(|| "unknown-host".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        for good in ["sr-uuid", "0f0e", "a.b_c"] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "a:b", "ä", &"x".repeat(65)] {
            let error = Name::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadArgument, "{bad:?}");
        }
    }

    #[test]
    fn the_inventory_names_the_host() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "PRODUCT_BRAND='XCP-ng'\nINSTALLATION_UUID='0a-1b'\n").unwrap();
        assert_eq!(identity(file.path()), "0a-1b");
        assert_ne!(identity(Path::new("/nonexistent")), "");
    }
}
