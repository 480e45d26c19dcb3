//! The series under the names that Xen Orchestra and XenCenter read (`xapi-stats.mjs` of xen-orchestra,
//! `rrdp_iostat.ml` of xen-api): those of an SR belong to the host and end in the first eight characters of
//! the SR's UUID, those of a disk belong to the machine and begin with the device.

use std::time::Duration;

use crate::{
    GuestDisk, Space,
    protocol::{Series, Value},
    totals::{Running, Totals, Way},
};

const MIB: f64 = 1_048_576.0;
const SECOND_US: f64 = 1e6;

/// All series of an SR: its own, and those of guests' disks. `interval`: from the sample before to this one;
/// `None` where there was none, so that nothing can be said of the time between.
pub(crate) fn all<'a>(
    sr: &str,
    running: &Running,
    space: Space,
    disks: impl Iterator<Item = (&'a GuestDisk, &'a Running)>,
    interval: Option<Duration>,
) -> Vec<Series> {
    let short: String = sr.chars().take(8).collect();
    let name = |key: &str| format!("{key}_{short}");
    let mut series = common("host", &name, running, interval);
    let memory = [
        ("sr_memory_used", "Memory that the SR takes", space.used),
        ("sr_memory_free", "Memory that can still be written", space.free),
    ];
    for (key, description, bytes) in memory {
        series.push(made("host", name(key), description, "B", Value::Number(bytes)));
    }
    for (GuestDisk { machine, device }, running) in disks {
        let owner = format!("vm {machine}");
        let name = |key: &str| format!("vbd_{device}_{key}");
        series.extend(common(&owner, &name, running, interval));
        series.extend(of_disk(&owner, &name, running.total));
    }
    series
}

/// The ten series that SRs and disks have.
fn common(
    owner: &str,
    name: &dyn Fn(&str) -> String,
    running: &Running,
    interval: Option<Duration>,
) -> Vec<Series> {
    let Totals { read, write } = running.total;
    let grown = running.growth;
    let both = sum(grown.read, grown.write);
    // How many requests were under way at a time: the sum of their times by the time that has passed.
    let queue = interval.map_or(0.0, |it| real(both.microseconds) / SECOND_US / it.as_secs_f64());
    let waited = real(sum(read, write).microseconds) / SECOND_US;
    let under_way = Value::Number(queue.round() as u64);
    let latency = |way: Way| {
        let requests = interval.map_or(0, |_| way.requests);
        Value::Gauge(if requests == 0 { 0.0 } else { real(way.microseconds) / real(requests) })
    };
    [
        ("iops_read", "Read requests", "requests/s", Value::Count(read.requests)),
        ("iops_write", "Write requests", "requests/s", Value::Count(write.requests)),
        ("io_throughput_read", "Data read", "MiB/s", Value::Sum(real(read.bytes) / MIB)),
        ("io_throughput_write", "Data written", "MiB/s", Value::Sum(real(write.bytes) / MIB)),
        ("read_latency", "Average time of a read", "μs", latency(grown.read)),
        ("write_latency", "Average time of a write", "μs", latency(grown.write)),
        ("latency", "Average time of a request", "μs", latency(both)),
        ("iowait", "Time of all requests", "s/s", Value::Sum(waited)),
        ("inflight", "Requests under way", "requests", under_way),
        ("avgqu_sz", "Average number of requests under way", "requests", Value::Gauge(queue)),
    ]
    .map(|(key, description, units, value)| made(owner, name(key), description, units, value))
    .into()
}

/// The four that disks have beside those.
fn of_disk(owner: &str, name: &dyn Fn(&str) -> String, total: Totals) -> Vec<Series> {
    let Totals { read, write } = total;
    let both = sum(read, write);
    [
        ("read", "Data read", "B/s", Value::Count(read.bytes)),
        ("write", "Data written", "B/s", Value::Count(write.bytes)),
        ("iops_total", "Requests", "requests/s", Value::Count(both.requests)),
        ("io_throughput_total", "All data", "MiB/s", Value::Sum(real(both.bytes) / MIB)),
    ]
    .map(|(key, description, units, value)| made(owner, name(key), description, units, value))
    .into()
}

fn made(
    owner: &str,
    name: String,
    description: &'static str,
    units: &'static str,
    value: Value,
) -> Series {
    Series { name, description, owner: owner.to_owned(), units, value }
}

fn sum(read: Way, write: Way) -> Way {
    Way {
        requests: read.requests + write.requests,
        bytes: read.bytes + write.bytes,
        microseconds: read.microseconds + write.microseconds,
    }
}

#[allow(clippy::cast_precision_loss, reason = "totals are far below 2^53 for years")]
fn real(number: u64) -> f64 {
    number as f64
}

/// The totals that the series with these names say, for a writer that takes over.
pub(crate) fn totals(value: &dyn Fn(&str) -> Option<f64>) -> Totals {
    let number = |key: &str, unit: f64| value(key).map_or(0, |it| (it * unit).round() as u64);
    // The time is known in sum alone; of that the daemon is told, too.
    let way = |iops: &str, data: &str, time: u64| Way {
        requests: number(iops, 1.0),
        bytes: number(data, MIB),
        microseconds: time,
    };
    Totals {
        read: way("iops_read", "io_throughput_read", number("iowait", SECOND_US)),
        write: way("iops_write", "io_throughput_write", 0),
    }
}
