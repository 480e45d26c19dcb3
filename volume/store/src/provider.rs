//! Who serves the disks of an SR.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    block::VOLUME_BYTES_MAX,
    error::{Error, Kind, Result},
    memory::human,
};

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

    /// Whether it is what SRs have that say nothing of it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The largest volume that it serves. Bytes.
    #[must_use]
    pub fn volume_bytes_max(self) -> u64 {
        match self {
            Self::Ram => VOLUME_BYTES_MAX,
            Self::Blktap => BLKTAP_SECTORS_MAX * SECTOR_BYTES,
        }
    }

    /// Checks that it can serve a volume of `size` bytes.
    ///
    /// # Errors
    /// [`Kind::BadSize`], with the size, the limit and what to do.
    pub fn check_size(self, size: u64) -> Result<()> {
        let most = self.volume_bytes_max();
        if size <= most {
            return Ok(());
        }
        Err(Error::new(
            Kind::BadSize,
            format!(
                "a disk of {size} bytes ({}) is too large for an SR with \
                 device-config:tapdisk={self}: at most {most} bytes ({}) are possible; make a \
                 smaller one, or use an SR with device-config:tapdisk={}",
                human(size),
                human(most),
                Self::Ram
            ),
        ))
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Provider {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(" or ");
            Error::new(Kind::BadArgument, format!("{text:?} is no tapdisk; it is {known}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_name_and_no_other() {
        for provider in Provider::ALL {
            assert_eq!(provider.as_str().parse::<Provider>().unwrap(), provider);
        }
        let error = "qemu".parse::<Provider>().unwrap_err().to_string();
        for part in ["\"qemu\"", "ram", "blktap"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn the_stock_driver_takes_500_mib_and_not_a_sector_more() {
        Provider::Blktap.check_size(500 << 20).unwrap();
        let error = Provider::Blktap.check_size((500 << 20) + 512).unwrap_err();
        assert_eq!(error.kind(), Kind::BadSize);
        assert!(error.to_string().contains("524288512 bytes"), "{error}");
        assert!(error.to_string().contains("524288000 bytes (500 MiB)"), "{error}");
        Provider::Ram.check_size(VOLUME_BYTES_MAX).unwrap();
    }
}
