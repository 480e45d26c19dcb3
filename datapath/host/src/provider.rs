//! Which tapdisk serves the disks of an SR, and what it can serve.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The largest image of blktap's `ram:` driver, in sectors (`MAX_RAMDISK_SIZE` in
/// `drivers/tapdisk.h`).
const BLKTAP_SECTORS_MAX: u64 = 1_024_000;
/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;

/// The sort of tapdisk that serves the disks of an SR: `device-config:tapdisk`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// tapdisk-ram, on the SR's own memory.
    #[default]
    Ram,
    /// The host's own tapdisk with its `ram:` driver, on a copy of the volume.
    Blktap,
}

/// A text that names no provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownProvider(String);

/// A size that a provider cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    provider: Provider,
    /// The largest that it can serve, in bytes.
    pub bytes_max: u64,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ram, Self::Blktap];

    /// As it is named in a device-config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ram => "ram",
            Self::Blktap => "blktap",
        }
    }

    /// The one that an SR keeps as `text`. SRs from before there was a choice keep nothing.
    ///
    /// # Errors
    /// [`UnknownProvider`] for the text of a later version.
    pub fn of_sr(text: &str) -> Result<Self, UnknownProvider> {
        if text.is_empty() { Ok(Self::default()) } else { text.parse() }
    }

    /// What an SR keeps of it.
    #[must_use]
    pub fn to_sr(self) -> String {
        if self.is_default() { String::new() } else { self.as_str().to_owned() }
    }

    /// Whether it is the one of SRs that say nothing of it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that it can serve a volume of `size` bytes. What the store itself cannot hold, the store
    /// refuses.
    ///
    /// # Errors
    /// [`TooLarge`], with the limit.
    pub fn check_size(self, size: u64) -> Result<(), TooLarge> {
        match self {
            Self::Blktap if size > BLKTAP_SECTORS_MAX * SECTOR_BYTES => {
                Err(TooLarge { provider: self, bytes_max: BLKTAP_SECTORS_MAX * SECTOR_BYTES })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(text: &str) -> Result<Self, UnknownProvider> {
        let mut known = Self::ALL.into_iter();
        known.find(|it| it.as_str() == text).ok_or_else(|| UnknownProvider(text.into()))
    }
}

impl fmt::Display for UnknownProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Provider::ALL.map(Provider::as_str).join(" or ");
        write!(f, "{:?} is no tapdisk; it is {known}", self.0)
    }
}

impl std::error::Error for UnknownProvider {}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "with device-config:tapdisk={} a disk has at most {} bytes ({} MiB); make a smaller one, or \
             use an SR with device-config:tapdisk={}",
            self.provider,
            self.bytes_max,
            self.bytes_max >> 20,
            Provider::Ram
        )
    }
}

impl std::error::Error for TooLarge {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_name_and_no_other() {
        for provider in Provider::ALL {
            assert_eq!(provider.as_str().parse(), Ok(provider));
            assert_eq!(Provider::of_sr(&provider.to_sr()), Ok(provider));
        }
        assert_eq!(Provider::of_sr(""), Ok(Provider::Ram));
        let error = "qemu".parse::<Provider>().unwrap_err().to_string();
        for part in ["\"qemu\"", "ram", "blktap"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn the_stock_driver_takes_500_mib_and_not_a_sector_more() {
        Provider::Blktap.check_size(500 << 20).unwrap();
        let error = Provider::Blktap.check_size((500 << 20) + 512).unwrap_err();
        assert_eq!(error.bytes_max, 500 << 20);
        assert!(error.to_string().contains("524288000 bytes (500 MiB)"), "{error}");
        Provider::Ram.check_size(u64::MAX).unwrap();
    }
}
