//! The counters of an SR's tapdisks, as they are in shared memory now.

use std::{collections::BTreeMap, fs, path::Path};

use tapctl::{MetricsDir, metrics::Counters};

use crate::{GuestDisk, totals::Totals};

/// What is counted for an SR.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Each VBD, by process and minor.
    pub(crate) vbds: BTreeMap<String, Totals>,
    /// Each disk of a guest, by its ring.
    pub(crate) disks: BTreeMap<GuestDisk, (String, Totals)>,
}

impl Sample {
    /// Reads the files of all tapdisks. A process that ends meanwhile is left out. `guest` tells whose
    /// a ring is, by domain and device.
    pub(crate) fn take(
        dir: &MetricsDir,
        sr: &str,
        guest: &mut dyn FnMut(u32, u32) -> Option<GuestDisk>,
    ) -> Self {
        let mut sample = Self::default();
        for pid in processes(dir) {
            let mut is_of_sr = false;
            for (minor, _) in dir.served_by(pid).into_iter().filter(|(_, of)| of == sr) {
                is_of_sr = true;
                if let Some(totals) = read(&dir.vdi(pid, minor)) {
                    sample.vbds.insert(format!("{pid}-{minor}"), totals);
                }
            }
            // The plugin starts a process for each disk: all rings of it are of one SR.
            let rings = if is_of_sr { rings(dir, pid) } else { Vec::new() };
            for (domid, devid) in rings {
                let Some(totals) = read(&dir.ring(pid, domid, devid)) else { continue };
                if let Some(disk) = guest(domid, devid) {
                    sample.disks.insert(disk, (format!("{pid}-{domid}-{devid}"), totals));
                }
            }
        }
        sample
    }
}

/// The tapdisks that have files.
fn processes(dir: &MetricsDir) -> Vec<u32> {
    names(dir.path()).iter().filter_map(|name| name.strip_prefix("td3-")?.parse().ok()).collect()
}

/// Domains and devices of a process's rings.
fn rings(dir: &MetricsDir, pid: u32) -> Vec<(u32, u32)> {
    let ring = |name: &String| {
        let (domid, devid) = name.strip_prefix("vbd-")?.split_once('-')?;
        Some((domid.parse().ok()?, devid.parse().ok()?))
    };
    names(&dir.process(pid)).iter().filter_map(ring).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn read(path: &Path) -> Option<Totals> {
    Some(Totals::of(&Counters::parse(&fs::read(path).ok()?)?))
}
