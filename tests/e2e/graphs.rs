//! The graphs of an SR: an independent reader accepts its file, and what the file says is what fio says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use end_to_end::{Disk, Xapi, tools};
use scratch::Scratch;
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

/// A request of fio: when it was answered, in seconds since 1970, and what it took, in microseconds.
struct Answered {
    at: f64,
    latency: f64,
}

/// Runs fio on a disk for so long that two readings lie within: what it tells of its requests, one by one, and those
/// readings. (Of the whole run it tells another rate where a busy machine has it fall behind and catch up.)
fn while_fio_runs(
    (file, sr): (&Path, &str),
    disk: &Disk<'_>,
    (way, rw): (&str, &str),
    arguments: &[&str],
) -> (Vec<Answered>, [Value; 2]) {
    let logs = Scratch::on_disk();
    let log = format!("--write_lat_log={}/fio", logs.path().display());
    let at = |it: &Value| it["timestamp"].as_f64().unwrap();
    let requests = |it: &Value| value(it, sr, &format!("iops_{way}"));
    let quiet = read(file);
    let rw = format!("--rw={rw}");
    let each =
        ["--time_based", "--runtime=17", &rw, &log, "--log_unix_epoch=1", "--per_job_logs=0"];
    let arguments = [arguments, &each].concat();
    thread::scope(|scope| {
        let job = scope.spawn(|| fio(disk, &arguments));
        let first = eventually(file, |it| requests(it) > requests(&quiet));
        let first = eventually(file, |it| at(it) > at(&first));
        let last = eventually(file, |it| at(it) > at(&first));
        assert!(!job.is_finished(), "the readings are of while it runs");
        job.join().unwrap();
        let lines = fs::read_to_string(logs.path().join("fio_lat.log")).unwrap();
        // Milliseconds, nanoseconds, and what it was.
        let answered = lines.lines().map(|line| {
            let mut numbers = line.split(", ").map(|it| it.parse::<f64>().unwrap() / 1000.0);
            Answered { at: numbers.next().unwrap(), latency: numbers.next().unwrap() }
        });
        (answered.collect(), [first, last])
    })
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
        let arguments = ["--bs=64k", "--rate_iops=200"];
        let (answered, [first, last]) = while_fio_runs((&file, &sr), &disk, (way, rw), &arguments);
        let seconds = at(&last) - at(&first);
        let between = |it: &&Answered| (at(&first)..at(&last)).contains(&it.at);
        let latencies: Vec<f64> = answered.iter().filter(between).map(|it| it.latency).collect();
        let number = latencies.len() as f64;
        assert!(number > 100.0, "fio has made {number} requests between the readings");
        let of_fio = number / seconds;
        let rate = |name: &str| (value(&last, &sr, name) - value(&first, &sr, name)) / seconds;
        let client = latencies.iter().sum::<f64>() / number;
        let compared = format!("{way}: {of_fio}/s of {client} us\n{first}\n{last}");
        assert!(close(rate(&key("iops")), of_fio), "{compared}");
        assert!(close(rate(&key("io_throughput")) * MIB as f64, of_fio * 65_536.0), "{compared}");
        assert!(close(rate(&key("io_throughput")) * MIB as f64, rate(&key("iops")) * 65_536.0));
        let latency = value(&last, &sr, &format!("{way}_latency"));
        assert!(latency <= client * 1.05 && latency >= client * 0.02, "{latency} us, {compared}");
        // What the requests took in all is their number by their latency.
        assert!(close(rate("iowait") * 1e6, rate(&key("iops")) * latency), "{compared}");
        let queue = value(&last, &sr, "avgqu_sz");
        assert!(close(queue, rate("iowait")), "{queue}, {compared}");
    }
    disk.unplug();
}

/// What receiving and sending are made to take, each: so much that waiting for a processor beside other tests is
/// little. Microseconds.
const SLOW_US: u32 = 250_000;
/// Requests that fio makes of such a tapdisk.
const SLOW_REQUESTS: u32 = 20;

/// Makes the tapdisk's system calls that receive and send slow, so that it is the tapdisk that a client waits for.
struct Slow(Child);

impl Slow {
    fn new(disk: &Disk<'_>) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-e", "trace=recvfrom,sendmsg", "-p"]);
        strace.arg(disk.server().pid.to_string());
        for call in ["recvfrom", "sendmsg"] {
            strace.args(["-e", &format!("inject={call}:delay_enter={SLOW_US}")]);
        }
        Self(strace.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Receiving, executing and sending are in the latency, each once: where they are all that takes time, it is the
/// one that fio tells, to 5 %.
#[test]
fn a_latency_is_that_of_fio_where_fio_waits_for_the_tapdisk_alone() {
    if !tools::present(&["python3", "fio", "strace"]) {
        return;
    }
    let xapi = Xapi::new();
    let sr = xapi.create_sr("64MiB");
    let file = file(&xapi, &sr);
    let disk = xapi.plug(&sr, &xapi.create_vdi(&sr, 8 * MIB), "1");
    let slow = Slow::new(&disk);
    for (way, rw) in [("write", "randwrite"), ("read", "randread")] {
        let requests = |it: &Value| value(it, &sr, &format!("iops_{way}"));
        let times = |it: &Value| value(it, &sr, "iowait") * 1e6;
        let before = read(&file);
        let number = format!("--number_ios={SLOW_REQUESTS}");
        let told = fio(&disk, &["--bs=4k", "--io_size=1G", &number, &format!("--rw={rw}")]);
        let all = requests(&before) + f64::from(SLOW_REQUESTS);
        let after = eventually(&file, |it| requests(it) >= all);
        // Of the very requests that fio tells of. The series of latencies tells of the last seconds of them alone.
        let latency = (times(&after) - times(&before)) / f64::from(SLOW_REQUESTS);
        let client = told[way]["lat_ns"]["mean"].as_f64().unwrap() / 1000.0;
        assert!(client >= f64::from(2 * SLOW_US), "both calls are slow: {told}");
        assert!(close(latency, client), "{way}: {latency} us, fio: {client} us");
        let told = value(&after, &sr, &format!("{way}_latency"));
        assert!((0.5..1.5).contains(&(told / client)), "{way}: {told} us, fio: {client} us");
    }
    drop(slow);
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
    // To the byte: a MB is within 5 % of a MiB.
    let data = |way: &str| value(&after, &sr, &format!("io_throughput_{way}")) * MIB as f64;
    assert_eq!([data("write"), data("read")].map(|it| it as u64), [4000 * 4096, 1000 * 8192]);
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
