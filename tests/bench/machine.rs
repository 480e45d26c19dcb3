//! The machine and the programs of a measurement.

use std::{fs, time::SystemTime};

use anyhow::Result;
use end_to_end::tools;
use serde_json::{Value, json};

/// The machine and the programs on it.
pub(crate) fn describe() -> Result<Value> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or_default().trim().to_owned()
    };
    let memory = read("/proc/meminfo");
    let kilo = memory.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let version = |program: &str| {
        if !tools::present(&[program]) {
            return "missing".to_owned();
        }
        let output = tools::attempt(program, &["--version"]);
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().next().unwrap_or_default().to_owned()
    };
    let programs = ["nbdkit", "qemu-nbd", "qemu-storage-daemon", "fio", "nbdcopy"];
    let programs: Vec<String> = programs.into_iter().map(version).collect();
    let load = read("/proc/loadavg");
    Ok(json!({
        "time": SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
        "cpu": field("model name"),
        "cores": std::thread::available_parallelism()?.get(),
        "hypervisor": cpuinfo.contains(" hypervisor"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "memory_mib": kilo.unwrap_or_default() >> 10,
        "load_before": load.split_whitespace().next(),
        "programs": programs,
    }))
}

/// The same as a line or two.
pub(crate) fn text(machine: &Value) -> String {
    let of = |name: &str| machine[name].as_str().unwrap_or_default();
    let is_virtual = if machine["hypervisor"] == true { "virtual" } else { "physical" };
    format!(
        "{}, {} cores ({is_virtual}), {} MiB, Linux {}, load before {}\n{}",
        of("cpu"),
        machine["cores"],
        machine["memory_mib"],
        of("kernel"),
        of("load_before"),
        machine["programs"]
    )
}
