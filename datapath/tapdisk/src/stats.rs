//! Statistics of a VBD, as the JSON that dom0's tools parse (`tapdisk_vbd_stats` of blktap's
//! `drivers/tapdisk-vbd.c`, `tapdisk_image_stats` of `drivers/tapdisk-image.c`).

use nbd::Stats;
use serde_json::{Value, json};

/// blktap's number of the `ram` driver (`DISK_TYPE_RAM` of `drivers/tapdisk-disktype.h`).
const DISK_TYPE_RAM: u32 = 5;

/// One VBD: what it has open, what was served, and how many requests are not answered yet.
pub(crate) fn vbd(params: Option<&str>, stats: &Stats, outstanding: usize) -> Value {
    let sectors = [stats.read_sectors, stats.write_sectors];
    let images: Vec<Value> = params
        .iter()
        .map(|params| {
            json!({
                "name": params.strip_prefix("ram:").unwrap_or(params),
                "hits": sectors,
                "fail": [stats.read_fails, stats.write_fails],
                "driver": { "type": DISK_TYPE_RAM, "name": "ram", "status": null },
            })
        })
        .collect();
    json!({
        "name": params,
        "secs": sectors,
        "images": images,
        "FIXME_enospc_redirect_count": 0,
        "nbd_mirror_failed": 0,
        "reqs_outstanding": outstanding,
        "read_caching": "false",
    })
}
