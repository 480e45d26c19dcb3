//! The state of a server, as JSON. Its version grows where an older program could not go on with it: then
//! it refuses, and the keeper tries no further. Fields that it does not know are ignored.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The version that this program writes, and the last that it reads.
const VERSION: u32 = 1;

/// All that a successor needs to know. Groups are numbers of descriptors that the keeper holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) version: u32,
    /// Whether the process was about to end.
    pub(crate) is_ending: bool,
    /// The control socket.
    pub(crate) control: u32,
    /// Rings that are not served until they are disconnected: domains and devices.
    pub(crate) given_up_rings: Vec<(u32, u32)>,
    pub(crate) vbds: Vec<SavedVbd>,
}

/// A minor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedVbd {
    pub(crate) minor: u16,
    pub(crate) lock: u32,
    /// Whether something was open before.
    pub(crate) was_open: bool,
    pub(crate) image: Option<SavedImage>,
    pub(crate) rings: Vec<SavedRing>,
}

/// An open disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedImage {
    pub(crate) params: String,
    pub(crate) read_only: bool,
    /// In bytes.
    pub(crate) size: u64,
    /// The four sockets; without them it is being closed.
    pub(crate) sockets: Option<u32>,
    /// The lock of the volume; a paused one has none.
    pub(crate) lock: Option<u32>,
    pub(crate) pause: Option<SavedPause>,
}

/// A pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SavedPause {
    /// As a caller has asked for it.
    Asked,
    /// The disk could not be opened again.
    ResumeFailed,
}

/// A guest's ring, as it was connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedRing {
    pub(crate) asked: tapctl::Ring,
    pub(crate) journal: u32,
    /// Whether its guest was told what the disk can do.
    pub(crate) is_told: bool,
}

impl State {
    pub(crate) fn new(control: u32) -> Self {
        let (given_up_rings, vbds) = (Vec::new(), Vec::new());
        Self { version: VERSION, is_ending: false, control, given_up_rings, vbds }
    }

    /// The group of the control socket.
    pub(crate) fn control(&self) -> u32 {
        self.control
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a plain structure")
    }

    /// Reads what a server has written, of this version or an earlier one.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let reading = "reading the state of the server before";
        let Versioned { version } = serde_json::from_slice(bytes).context(reading)?;
        if version > VERSION {
            bail!(
                "the server before has left a state of version {version}, and this program knows \
                 {VERSION}: it is older"
            );
        }
        serde_json::from_slice(bytes).context(reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was_and_a_later_version_is_refused() {
        let ring = tapctl::Ring {
            domid: 1,
            devid: 51712,
            grefs: [8, 0, 0, 0, 0, 0, 0, 9],
            order: 3,
            protocol: 1,
            pool: None,
            port: 7,
            poll_duration: 1000,
            poll_idle_threshold: 50,
        };
        let image = SavedImage {
            params: "ram:/a \"b\"".into(),
            read_only: true,
            size: 1 << 40,
            sockets: Some(2),
            lock: None,
            pause: Some(SavedPause::ResumeFailed),
        };
        let rings = vec![SavedRing { asked: ring, journal: 4, is_told: true }];
        let image = Some(image);
        let vbd = SavedVbd { minor: 3, lock: 5, was_open: false, image, rings };
        let state = State { given_up_rings: vec![(1, 2)], vbds: vec![vbd], ..State::new(1) };
        assert_eq!(State::parse(&state.encode()).unwrap(), state);
        let later = State { version: VERSION + 1, ..state };
        let error = State::parse(&later.encode()).unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
    }
}
