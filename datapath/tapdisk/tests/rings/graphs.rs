//! What the host's metrics daemon is told of a guest's disk.

use std::{collections::BTreeMap, process::Command};

use graphs::{GraphFile, Space};
use serde_json::Value;
use store::{Name, testing::Fixture};

use crate::host::{Host, frontend, until};

/// The reader that was written from the protocol's description.
const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/e2e/graphs_reader.py");
const MACHINE: &str = "6a5f1f2e-0000-4000-8000-000000000004";
const KEYS: [&str; 14] = [
    "read",
    "write",
    "iops_read",
    "iops_write",
    "iops_total",
    "io_throughput_read",
    "io_throughput_write",
    "io_throughput_total",
    "read_latency",
    "write_latency",
    "latency",
    "iowait",
    "inflight",
    "avgqu_sz",
];

#[test]
fn a_guests_disk_has_fourteen_series_that_belong_to_its_machine() {
    let fixture = Fixture::new(64 << 20);
    let (layout, sr) = (fixture.sr.layout().clone(), fixture.sr.uuid().clone());
    let host = Host::start_with(&[("XAPI_RAM_SR_ROOT", layout.root().parent().unwrap())]);
    GraphFile::new(host.dir.metrics(), sr.as_str()).create(Space::default()).unwrap();
    let key = fixture.create(8 << 20);
    let path = layout.volume(&Name::parse(&key).unwrap());
    host.open(0, &format!("ram:{}", path.display()));
    let guest = host.guest(4);
    host.name_disk(4, MACHINE, "xvda");
    let (mut disk, ring) = frontend(&guest, 0);
    host.client().connect(0, ring).unwrap();
    for block in 0..10 {
        disk.write(block * 65536, &[1; 65536]).unwrap();
    }
    disk.read(0, &mut [0; 4096]).unwrap();

    let uid = graphs::uri(sr.as_str());
    let uid = uid.strip_prefix("xeno+shm:///").unwrap();
    let file = host.dir.metrics().path().join("metrics").join(uid);
    let mut values = BTreeMap::new();
    until("its series", || {
        let output = Command::new("python3").arg(READER).arg(&file).output().unwrap();
        // It may have come between two writes.
        let read: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let series = read["values"].as_object().cloned().unwrap_or_default();
        values = series.into_iter().filter(|(name, _)| name.starts_with("vbd_xvda_")).collect();
        values.get("vbd_xvda_iops_read").is_some_and(|it| it["value"] == 1)
    });
    assert_eq!(values.len(), KEYS.len());
    let owner = format!("vm {MACHINE}");
    let number = |key: &str| {
        let series = &values[&format!("vbd_xvda_{key}")];
        assert_eq!(series["owner"], owner.as_str(), "{key}");
        series["value"].as_f64().unwrap()
    };
    let all: Vec<f64> = KEYS.iter().map(|key| number(key)).collect();
    let mib = 65536.0 * 10.0 / 1_048_576.0;
    assert_eq!(
        all[..8],
        [4096.0, 655_360.0, 1.0, 10.0, 11.0, 0.003_906_25, mib, mib + 0.003_906_25]
    );
    // Little has passed, and it takes its time.
    assert!(number("iowait") > 0.0 && all.iter().all(|it| *it >= 0.0), "{values:?}");
}
