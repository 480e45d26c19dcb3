//! The loads that are put on a server, and fio as one generator of them.

use std::time::Duration;

use anyhow::{Context, Result};
use end_to_end::tools;
use serde_json::Value;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) write: bool,
    pub(crate) random: bool,
    pub(crate) bytes: u32,
    pub(crate) depth: usize,
}

/// The result of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    /// The mean.
    pub(crate) latency: Duration,
}

impl Load {
    pub(crate) const fn sequential(write: bool, bytes: u32, depth: usize) -> Self {
        Self { write, random: false, bytes, depth }
    }

    pub(crate) const fn random(write: bool, bytes: u32, depth: usize) -> Self {
        Self { write, random: true, bytes, depth }
    }

    /// Where the next request goes on a disk of `size` bytes.
    pub(crate) fn place(&self, size: u64, state: &mut u64, position: &mut u64) -> u64 {
        let places = size / u64::from(self.bytes);
        let number = if self.random {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *state % places
        } else {
            *position += 1;
            (*position - 1) % places
        };
        number * u64::from(self.bytes)
    }

    pub(crate) fn label(&self) -> String {
        let size = match self.bytes >> 10 {
            kilo if kilo < 1024 => format!("{kilo} KiB"),
            kilo => format!("{} MiB", kilo >> 10),
        };
        let order = if self.random { "random" } else { "sequential" };
        let what = if self.write { "write" } else { "read" };
        format!("{size} {order} {what}, depth {}", self.depth)
    }
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn megabytes(&self, load: &Load) -> f64 {
        self.per_second() * f64::from(load.bytes) / 1e6
    }
}

/// fio's nbd engine, a job for each server.
pub(crate) fn fio(uris: &[String], load: &Load, time: Duration) -> Result<Outcome> {
    let mode = match (load.random, load.write) {
        (true, true) => "randwrite",
        (true, false) => "randread",
        (false, true) => "write",
        (false, false) => "read",
    };
    let mut arguments = vec![
        "--output-format=json".to_owned(),
        "--thread=1".to_owned(),
        "--ioengine=nbd".to_owned(),
        format!("--rw={mode}"),
        format!("--bs={}", load.bytes),
        format!("--iodepth={}", load.depth),
        format!("--runtime={}ms", time.as_millis()),
        "--time_based=1".to_owned(),
        "--randrepeat=1".to_owned(),
        "--norandommap=1".to_owned(),
        "--group_reporting=1".to_owned(),
    ];
    for (number, uri) in uris.iter().enumerate() {
        arguments.push(format!("--name=job{number}"));
        arguments.push(format!("--uri={uri}"));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let printed = tools::run("fio", &arguments);
    // Warnings go before the report.
    let report = printed.find("\n{").map_or(printed.as_str(), |at| &printed[at..]);
    let report: Value = serde_json::from_str(report).context("fio's report")?;
    let side = &report["jobs"][0][if load.write { "write" } else { "read" }];
    let number = |value: &Value| value.as_f64().context("a number in fio's report");
    let requests = side["total_ios"].as_u64().context("total_ios in fio's report")?;
    let rate = number(&side["iops"])?;
    let nanoseconds = number(&side["lat_ns"]["mean"])?;
    Ok(Outcome {
        requests,
        elapsed: Duration::from_secs_f64(requests as f64 / rate.max(1.0)),
        latency: Duration::from_secs_f64(nanoseconds / 1e9),
    })
}
