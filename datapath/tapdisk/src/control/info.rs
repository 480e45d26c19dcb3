//! Requests for information: list, statistics, sizes.

use std::time::Duration;

use rustix::io::Errno;
use tapctl::{
    Clients, Entry, Failure, Minor, Reply,
    reply::{Image as ImageReply, Serving},
    request::ALL,
};

use super::handle::Handled;
use crate::{
    metrics::json::{self, ImageStats, RingStats, VbdStats},
    poll::VbdKey,
    tapdisk::Tapdisk,
    vbd::{Image, Vbd},
    volume::path_of,
};

/// The unit of sizes in answers. Bytes.
const SECTOR_BYTES: u32 = 512;

impl Tapdisk {
    pub(super) fn entries(&self) -> Vec<Entry> {
        let entry = |vbd: &Vbd| Entry {
            minor: vbd.minor().into(),
            state: vbd.state.code(),
            params: vbd.image().map(|image| image.params.clone().into()).unwrap_or_default(),
        };
        self.vbds.iter().map(|(_, vbd)| entry(vbd)).collect()
    }

    pub(super) fn stats(&self, minor: Minor) -> Handled {
        let text = if minor == ALL {
            json::all(self.vbds.iter().map(|(_, vbd)| self.vbd_stats(vbd)))
        } else {
            let key = self.find(minor).ok_or(Errno::NODEV)?;
            self.vbd_stats(&self.vbds[key]).to_string()
        };
        Ok(Some(Reply::Stats(text.into_bytes())))
    }

    fn vbd_stats<'a>(&self, vbd: &'a Vbd) -> VbdStats<'a> {
        let image = vbd.image().map(|image| {
            let failures = image.disk.attachments().failures();
            ImageStats {
                params: &image.params,
                hits: image.sectors(),
                fails: [failures.read_sectors, failures.write_sectors],
            }
        });
        let outstanding = vbd.image().map_or(0, |image| image.outstanding());
        let longest_pass = self.longest_pass;
        let rings = vbd.rings().map(|it| RingStats {
            domid: it.device.domid,
            devid: it.device.devid,
            counters: it.counters.get(),
        });
        let rings = rings.collect();
        VbdStats { sectors: vbd.sectors(), image, rings, outstanding, longest_pass }
    }

    pub(super) fn disk_info(&self, minor: Minor) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        Ok(Some(self.image_reply(key)))
    }

    /// The size of the open image; without one zeroes, as blktap answers, and no error.
    pub(super) fn image_reply(&self, key: VbdKey) -> Reply {
        let image = self.vbds[key].image().map(|image| ImageReply {
            sectors: image.disk.size() / u64::from(SECTOR_BYTES),
            sector_size: SECTOR_BYTES,
            info: 0,
        });
        Reply::Image(image.unwrap_or_default())
    }

    pub(super) fn serving(&self, minor: Minor) -> Handled {
        let key = self.find(minor).ok_or(Errno::NODEV)?;
        let serving = match self.vbds[key].image() {
            None => Serving { path: None, read_only: false, size_bytes: 0 },
            Some(image) => Serving {
                path: Some(path_of(&image.params)?.to_owned()),
                read_only: image.disk.read_only(),
                size_bytes: image.disk.size(),
            },
        };
        Ok(Some(Reply::Serving(serving)))
    }

    pub(super) fn clients(&self, minor: Minor) -> Handled {
        let vbd = &self.vbds[self.find(minor).ok_or(Errno::NODEV)?];
        // A mirror uses the disk as a client does.
        let count = vbd.image().map_or(0, Image::clients_count) + usize::from(vbd.is_mirrored());
        let unused_for = if count == 0 { vbd.unused_since().elapsed() } else { Duration::ZERO };
        Ok(Some(Reply::Clients(Clients { count: count as u64, unused_for })))
    }

    /// Why a structural change cannot be made: nothing is open, or the disk is paused.
    pub(super) fn no_drive(vbd: &Vbd) -> Failure {
        match vbd.image() {
            None => Failure::new(Errno::BADF, "nothing is open under this minor"),
            Some(_) => Failure::new(Errno::AGAIN, "the disk is paused"),
        }
    }
}
