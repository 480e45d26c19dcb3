//! The graphs of an SR: an independent reader accepts its file, and what the file says is what fio says.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Disk, Xapi, tools};
use serde_json::{Value, json};

use crate::MIB;

const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/graphs_reader.py");
/// How long a writer may take to notice that something has changed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The file that SR.stat names, as the daemon finds it.
fn file(xapi: &Xapi, sr: &str) -> PathBuf {
    let stat = xapi.volume("SR.stat", json!({ "sr": sr })).unwrap();
    let uri = stat["datasources"][0].as_str().unwrap().to_owned();
    let uid = uri.strip_prefix("xeno+shm:///").unwrap();
    xapi.root().join("ctl/shm/metrics").join(uid)
}

fn read(file: &Path) -> Value {
    // A reader that comes between two writes sees wrong checksums, and the daemon reads again, too.
    for _ in 0..10 {
        let output = tools::attempt("python3", &[READER, file.to_str().unwrap()]);
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).unwrap();
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{}", tools::run("python3", &[READER, file.to_str().unwrap()]));
}

/// The value of a series of the SR.
fn value(read: &Value, sr: &str, key: &str) -> f64 {
    let value = &read["values"][format!("{key}_{}", &sr[..8])]["value"];
    value.as_f64().unwrap_or_else(|| panic!("{key} in {read}"))
}

/// Reads the file until it says so.
fn eventually(file: &Path, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = read(file);
        if wanted(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{now}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// What fio tells of a job on the disk.
fn fio(disk: &Disk<'_>, arguments: &[&str]) -> Value {
    let uri = format!("--uri={}", disk.nbd());
    let common = ["--name=j", "--ioengine=nbd", &uri, "--size=8M", "--output-format=json"];
    let told = tools::run("fio", &[&common[..], arguments].concat());
    serde_json::from_str::<Value>(&told[told.find('{').unwrap()..]).unwrap()["jobs"][0].clone()
}

/// Whether a value is within 5 % of the wanted one.
fn close(value: f64, wanted: f64) -> bool {
    (value - wanted).abs() <= wanted * 0.05
}

/// As the daemon makes them of two readings, while fio runs: rates within 5 % of fio's own.
///
/// A latency of the series is the tapdisk's part of what fio waits: that of receiving, executing and sending, not
/// that of the socket, of the client's own copies and of waiting for a processor. So it is below fio's, and not
/// near nothing.
#[test]
fn rates_and_latencies_while_fio_runs_are_those_of_fio() {
    if !tools::present(&["python3", "fio"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let file = file(&xapi, &sr);
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 8 * MIB), "1");
    for (way, rw) in [("write", "randwrite"), ("read", "randread")] {
        let key = |name: &str| format!("{name}_{way}");
        let at = |it: &Value| it["timestamp"].as_f64().unwrap();
        let requests = |it: &Value| value(it, &sr, &key("iops"));
        let quiet = read(&file);
        // A fixed rate, which any machine keeps up with: the readings are of other seconds than fio's.
        let arguments = ["--bs=64k", "--rate_iops=200", "--time_based", "--runtime=17"];
        let rw = format!("--rw={rw}");
        let (told, [first, last]) = thread::scope(|scope| {
            let job = scope.spawn(|| fio(&disk, &[&arguments[..], &[&rw]].concat()));
            let first = eventually(&file, |it| requests(it) > requests(&quiet));
            let first = eventually(&file, |it| at(it) > at(&first));
            let last = eventually(&file, |it| at(it) > at(&first));
            assert!(!job.is_finished(), "the readings are of while it runs");
            (job.join().unwrap(), [first, last])
        });
        let told = &told[way];
        let of_fio = |name: &str| told[name].as_f64().unwrap();
        let seconds = at(&last) - at(&first);
        let rate = |name: &str| (value(&last, &sr, name) - value(&first, &sr, name)) / seconds;
        let compared = format!("{way}: {told}\n{first}\n{last}");
        assert!(close(rate(&key("iops")), of_fio("iops")), "{compared}");
        assert!(close(rate(&key("io_throughput")) * MIB as f64, of_fio("bw_bytes")), "{compared}");
        assert!(close(rate(&key("io_throughput")) * MIB as f64, rate(&key("iops")) * 65_536.0));
        let latency = value(&last, &sr, &format!("{way}_latency"));
        let client = told["lat_ns"]["mean"].as_f64().unwrap() / 1000.0;
        assert!(latency <= client * 1.05 && latency >= client * 0.02, "{latency} us, {compared}");
        // What the requests took in all is their number by their latency.
        assert!(close(rate("iowait") * 1e6, rate(&key("iops")) * latency), "{compared}");
        let queue = value(&last, &sr, "avgqu_sz");
        assert!(close(queue, rate("iowait")), "{queue}, {compared}");
    }
    disk.unplug();
}

#[test]
fn the_series_of_an_sr_say_what_fio_says_whichever_process_writes_them() {
    if !tools::present(&["python3", "fio"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let file = file(&xapi, &sr);
    let idle = read(&file);
    let keys = [
        "iops_read",
        "iops_write",
        "io_throughput_read",
        "io_throughput_write",
        "read_latency",
        "write_latency",
        "latency",
        "iowait",
        "inflight",
        "avgqu_sz",
        "sr_memory_used",
    ];
    keys.iter().for_each(|key| assert!(value(&idle, &sr, key).abs() < f64::EPSILON, "{key}"));
    assert!(value(&idle, &sr, "sr_memory_free") > 60.0 * MIB as f64);
    assert!(idle["values"].as_object().unwrap().values().all(|it| it["owner"] == "host"));

    let disks = [1, 2]
        .map(|domain: u32| xapi.plug(&sr, &xapi.create_vdi(&sr, 8 * MIB), &domain.to_string()));
    // 2000 writes of 4 KiB to each, then 1000 reads of 8 KiB of one.
    for disk in &disks {
        fio(
            disk,
            &["--rw=randwrite", "--bs=4k", "--number_ios=2000", "--io_size=1G", "--iodepth=4"],
        );
    }
    let reads = ["--rw=randread", "--bs=8k", "--number_ios=1000", "--io_size=1G"];
    let told = fio(&disks[0], &reads);
    let after = eventually(&file, |it| value(it, &sr, "iops_read") >= 1000.0);
    assert_eq!(value(&after, &sr, "iops_read") as u64, told["read"]["total_ios"].as_u64().unwrap());
    assert!(close(value(&after, &sr, "io_throughput_write"), 4000.0 * 4.0 / 1024.0), "{after}");
    assert!(close(value(&after, &sr, "io_throughput_read"), 1000.0 * 8.0 / 1024.0), "{after}");
    assert!(value(&after, &sr, "sr_memory_used") > 0.0 && value(&after, &sr, "iowait") > 0.0);
    assert_eq!(after["values"][format!("iops_read_{}", &sr[..8])]["type"], "derive");

    let counts = |it: &Value| value(it, &sr, "iops_write") as u64;
    assert_eq!(counts(&after), 4000);
    // One of them writes. Whichever ends, the other goes on with the same totals; what is counted between
    // the two may be lost.
    let [first, second] = disks;
    first.kill_tapdisk();
    let time = |it: &Value| it["timestamp"].as_f64().unwrap();
    let taken_over = eventually(&file, |it| time(it) > time(&after) + 5.5);
    assert_eq!(counts(&taken_over), 4000);
    second.connect().write(0, &[1; 4096]).unwrap();
    let later = eventually(&file, |it| counts(it) >= 4001);
    assert_eq!(counts(&later), 4001);
    assert!(value(&later, &sr, "iops_read") as u64 >= 1000);
    second.unplug();
    first.unplug();
    let stat = xapi.volume("SR.stat", json!({ "sr": sr })).unwrap();
    let quiet = read(&file);
    assert!(counts(&quiet) >= 4001 && value(&quiet, &sr, "avgqu_sz").abs() < f64::EPSILON);
    let free = stat["free_space"].as_f64().unwrap();
    assert!(close(value(&quiet, &sr, "sr_memory_free"), free), "{quiet}");
    xapi.volume("SR.detach", json!({ "sr": sr })).unwrap();
    assert!(!file.exists());
}
