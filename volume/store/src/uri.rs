//! The URI of a volume, `ram://<sr uuid>/<key>`: Volume.stat returns it, and the datapath is called
//! with it. Its scheme is the name of the datapath plugin's directory, by which xapi-storage-script
//! finds it.

use std::{fmt, str::FromStr};

use crate::{
    error::{Error, ErrorKind, Result},
    host::Name,
};

const SCHEME: &str = "ram";

/// Which volume of which SR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUri {
    /// The UUID of the SR, its handle.
    pub sr: Name,
    /// The key of the volume.
    pub key: Name,
}

impl fmt::Display for VolumeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}://{}/{}", self.sr, self.key)
    }
}

impl FromStr for VolumeUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.strip_prefix("://"))
            .and_then(|rest| rest.split_once('/'));
        let wrong = |why: String| {
            Error::new(
                ErrorKind::BadArgument,
                format!("{text:?} is not the URI of a volume, {SCHEME}://<sr uuid>/<key>{why}"),
            )
        };
        let (sr, key) = parts.ok_or_else(|| wrong(String::new()))?;
        // Callers may add a query, which means nothing here.
        let key = key.split_once('?').map_or(key, |(key, _)| key);
        let name = |text| Name::parse(text).map_err(|error| wrong(format!(": {error}")));
        Ok(Self { sr: name(sr)?, key: name(key)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_survives_its_way_through_xapi() {
        let uri: VolumeUri = "ram://0f0e-0d0c/key-1?a=b".parse().unwrap();
        assert_eq!((uri.sr.as_str(), uri.key.as_str()), ("0f0e-0d0c", "key-1"));
        assert_eq!(uri.to_string(), "ram://0f0e-0d0c/key-1");
    }

    #[test]
    fn what_is_no_uri_of_a_volume_is_told_with_its_value() {
        for bad in ["", "ram://", "ram://sr", "nbd://sr/key", "ram://../key", "ram://sr/a/b"] {
            let error = bad.parse::<VolumeUri>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}
