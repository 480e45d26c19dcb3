//! A host without Xen.

use blkif::{Features, Update, Xen};
use xen::{Devices, Host};

/// blktap answers ENOENT there, and so does everything that connects a ring.
#[test]
fn nothing_is_opened_before_it_is_needed_and_then_the_device_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let devices =
        Devices { gntdev: path("gntdev"), evtchn: path("evtchn"), xenbus: path("xenbus") };
    let host = Host::new(devices);
    assert_eq!(host.domain(1).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    let features = Features { flush: true, discard: None, indirect_segments_max: 0 };
    for update in [Update::Features(features), Update::Sectors(1)] {
        let error = host.update(1, 51712, &update).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
    assert_eq!(host.domain(1 << 16).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
