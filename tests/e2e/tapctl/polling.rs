//! A tapdisk that polls does so for a busy client only: what it costs to wait for one that is idle,
//! or slow, is nothing.

use std::{fs, thread, time::Duration};

use super::{Host, Tapdisk};

/// Bytes of a request.
const LENGTH: u32 = 4096;

/// Processor time of all that a process has done so far (proc(5): utime and stime, in ticks of
/// which a second has a hundred).
fn processor_time(tapdisk: &Tapdisk) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", tapdisk.server().pid)).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

#[test]
fn an_idle_or_slow_client_costs_no_processor_time() {
    let host = Host::new();
    let tapdisk = host.serve("image", 1 << 20);
    let mut client = host.connect(&tapdisk);
    for _ in 0..2000 {
        client.read(0, LENGTH).unwrap();
    }
    let before = processor_time(&tapdisk);
    thread::sleep(Duration::from_millis(400));
    for _ in 0..200 {
        client.read(0, LENGTH).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    let spent = processor_time(&tapdisk) - before;
    // It was watched for 800 ms: one that went on polling would have spent them.
    assert!(spent <= Duration::from_millis(100), "{spent:?}");
}

/// A value that cannot be understood counts as not set, and the disk is served all the same.
#[test]
fn polling_can_be_switched_off_and_nonsense_does_no_harm() {
    for value in ["0", "50", "all the time"] {
        let host = Host::with(&[("XAPI_RAM_POLL_US", value)]);
        let tapdisk = host.serve("image", 1 << 20);
        let mut client = host.connect(&tapdisk);
        for _ in 0..100 {
            assert_eq!(&client.read(0, LENGTH).unwrap()[..5], b"image");
        }
    }
}
