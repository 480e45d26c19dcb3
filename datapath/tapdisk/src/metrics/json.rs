//! Statistics of a VBD, as the JSON that dom0's tools parse: fields, their order and the spaces
//! between them are those of `tapdisk_vbd_stats` (`drivers/tapdisk-vbd.c` of blktap),
//! `tapdisk_image_stats` (`drivers/tapdisk-image.c`) and `drivers/tapdisk-stats.c`.

use std::{fmt, time::Duration};

use serde_json::Value;

/// The pool of buffers that a ring without another one is said to have.
const POOL: &str = "td-xenio-default";

/// blktap's number of the `ram` driver (`DISK_TYPE_RAM` of `drivers/tapdisk-disktype.h`).
const DISK_TYPE_RAM: u32 = 5;

/// One VBD. Pairs are of reads and of writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct VbdStats<'a> {
    /// Sectors, since it was attached.
    pub(crate) sectors: [u64; 2],
    /// The open image.
    pub(crate) image: Option<ImageStats<'a>>,
    /// The rings of guests.
    pub(crate) rings: Vec<RingStats>,
    /// Requests that are not answered yet.
    pub(crate) outstanding: usize,
    /// The longest time for which the loop of the process did not look for events. Ours, behind
    /// blktap's fields.
    pub(crate) longest_pass: Duration,
}

/// The open image of a VBD.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ImageStats<'a> {
    /// `<type>:<path>`.
    pub(crate) params: &'a str,
    /// Sectors, since it was opened.
    pub(crate) hits: [u64; 2],
    /// Sectors of requests that failed.
    pub(crate) fails: [u64; 2],
}

/// A guest's ring (`tapdisk_xenblkif_stats` of `drivers/td-stats.c`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RingStats {
    pub(crate) domid: u32,
    pub(crate) devid: u32,
    pub(crate) counters: blkif::Counters,
}

impl fmt::Display for RingStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domid, devid, counters } = self;
        let blkif::Counters { taken, answered, events, notified, refused, failed, .. } = counters;
        write!(
            f,
            "\"pool\": \"{POOL}\", \"domid\": {domid}, \"devid\": {devid}, \"reqs\": [ {taken}, \
             {answered} ], \"kicks\": [ {events}, {notified} ], \"errors\": {{ \"msg\": 0, \"map\": \
             {refused}, \"vbd\": 0, \"img\": {failed} }}"
        )
    }
}

impl fmt::Display for VbdStats<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |[read, write]: [u64; 2]| format!("[ {read}, {write} ]");
        // blktap prints a missing name as C does; and no name as it is, quotes and all.
        let name = Value::from(self.image.map_or("(null)", |image| image.params));
        let images = self.image.map(|image| {
            let path = Value::from(image.params.split_once(':').map_or("", |(_, path)| path));
            format!(
                "{{ \"name\": {path}, \"hits\": {}, \"fail\": {}, \"driver\": {{ \"type\": \
                 {DISK_TYPE_RAM}, \"name\": \"ram\", \"status\": null }} }}",
                pair(image.hits),
                pair(image.fails)
            )
        });
        // Several rings are several times the same fields of one object.
        let rings: Vec<String> = self.rings.iter().map(RingStats::to_string).collect();
        let rings = if rings.is_empty() {
            String::new()
        } else {
            format!("\"xenbus\": {{ {} }}, ", rings.join(", "))
        };
        let copies: u64 = self.rings.iter().map(|ring| ring.counters.copies).sum();
        write!(
            f,
            "{{ \"name\": {name}, \"secs\": {}, \"images\": [ {} ], {rings}\
             \"FIXME_enospc_redirect_count\": 0, \"nbd_mirror_failed\": 0, \
             \"reqs_outstanding\": {}, \"read_caching\": \"false\", \"longest_pass_us\": {}, \"ring_copies\": {copies} }}",
            pair(self.sectors),
            images.unwrap_or_default(),
            self.outstanding,
            self.longest_pass.as_micros()
        )
    }
}

/// The statistics of all VBDs of the process, as STATS without a minor answers.
pub(crate) fn all<'a>(vbds: impl Iterator<Item = VbdStats<'a>>) -> String {
    let texts: Vec<String> = vbds.map(|vbd| vbd.to_string()).collect();
    format!("[ {} ]", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As blktap's tapdisk printed it for a 64 KiB file that was not used yet.
    const RECORDED: &str = "{ \"name\": \"ram:/run/t/f64\", \"secs\": [ 0, 0 ], \"images\": [ { \
        \"name\": \"/run/t/f64\", \"hits\": [ 0, 0 ], \"fail\": [ 0, 0 ], \"driver\": { \"type\": \
        5, \"name\": \"ram\", \"status\": null } } ], \"FIXME_enospc_redirect_count\": 0, \
        \"nbd_mirror_failed\": 0, \"reqs_outstanding\": 0, \"read_caching\": \"false\" }";

    #[test]
    fn every_byte_of_blktaps_fields_is_as_recorded() {
        let image = ImageStats { params: "ram:/run/t/f64", ..ImageStats::default() };
        let longest_pass = Duration::from_micros(1234);
        let vbd = VbdStats { image: Some(image), longest_pass, ..VbdStats::default() };
        let (blktaps, _) = RECORDED.rsplit_once(" }").unwrap();
        assert_eq!(
            vbd.to_string(),
            format!("{blktaps}, \"longest_pass_us\": 1234, \"ring_copies\": 0 }}")
        );
        let twice = [vbd.clone(), vbd.clone()];
        assert_eq!(all(twice.into_iter()), format!("[ {vbd}, {vbd} ]"));
    }

    /// As blktap's tapdisk has it between the images and the field behind them.
    #[test]
    fn a_ring_is_told_of_where_blktap_does() {
        let counters = blkif::Counters {
            taken: 3,
            answered: 2,
            events: 5,
            notified: 4,
            refused: 6,
            failed: 7,
            ..blkif::Counters::default()
        };
        let ring = RingStats { domid: 1, devid: 51712, counters };
        let mut vbd = VbdStats { rings: vec![ring], ..VbdStats::default() };
        let expected = "\"images\": [  ], \"xenbus\": { \"pool\": \"td-xenio-default\", \"domid\": 1, \
            \"devid\": 51712, \"reqs\": [ 3, 2 ], \"kicks\": [ 5, 4 ], \"errors\": { \"msg\": 0, \
            \"map\": 6, \"vbd\": 0, \"img\": 7 } }, \"FIXME_enospc_redirect_count\"";
        let text = vbd.to_string();
        assert!(text.contains(expected), "{text}");
        vbd.rings.push(RingStats { domid: 2, ..ring });
        let value: Value = serde_json::from_str(&vbd.to_string()).unwrap();
        assert_eq!(value["xenbus"]["domid"], 2, "the last one, as any parser has it");
    }

    #[test]
    fn any_name_makes_valid_json() {
        let image = ImageStats { params: "ram:/a\"b\\\n", hits: [1, 2], fails: [3, 4] };
        let vbd =
            VbdStats { sectors: [5, 6], image: Some(image), outstanding: 7, ..VbdStats::default() };
        let value: Value = serde_json::from_str(&vbd.to_string()).unwrap();
        assert_eq!(value["name"], "ram:/a\"b\\\n");
        assert_eq!(value["images"][0]["name"], "/a\"b\\\n");
        assert_eq!(value["images"][0]["hits"][1], 2);
        assert_eq!(value["secs"][0], 5);
        let idle: Value = serde_json::from_str(&VbdStats::default().to_string()).unwrap();
        assert_eq!(idle["images"].as_array().unwrap().len(), 0);
        assert!(serde_json::from_str::<Value>(&all(std::iter::empty())).is_ok());
    }
}
