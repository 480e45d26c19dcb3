//! What smapiv3-check says: of this product, and of the examples that other authors start from.

use std::{fs, path::Path, process::Command};

use end_to_end::{Side, Xapi, programs, tools};
use serde_json::Value;

use crate::examples;

/// Checks plugins; the report.
fn check(host: &Xapi, config: &str, more: &[&str]) -> Value {
    let report = host.root().join("report.json");
    let mut command = Command::new(programs::path("smapiv3-check"));
    for side in [Side::Volume, Side::Datapath] {
        let method = host.method(side, "Plugin.query");
        command.arg(Path::new(method.get_program()).parent().unwrap());
        if side == Side::Datapath {
            for (name, value) in method.get_envs() {
                let value = value.unwrap().to_string_lossy();
                command.args(["--env", &format!("{}={value}", name.to_string_lossy())]);
            }
        }
    }
    command.args(["--config", config, "--kills", "4", "--json"]).arg(&report).args(more);
    let output = command.env("TMPDIR", host.root()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let told: Vec<&str> = text.lines().filter(|it| !it.starts_with("pass")).collect();
    assert!(output.status.success(), "{}: {}", output.status, told.join("\n"));
    serde_json::from_slice(&fs::read(report).unwrap()).unwrap()
}

/// The rules that were not judged.
fn skipped(report: &Value) -> Vec<&str> {
    let rules = report["rules"].as_array().unwrap().iter();
    let skipped = rules.filter(|it| it["verdict"] == "skipped");
    skipped.map(|it| it["id"].as_str().unwrap()).collect()
}

/// The directories of SRs.
fn srs(xapi: &Xapi) -> Vec<String> {
    let names = fs::read_dir(xapi.root().join("sr")).unwrap().map(|it| it.unwrap().file_name());
    // Beside them lie locks, which the next SR uses.
    names.map(|it| it.into_string().unwrap()).filter(|it| !it.starts_with('.')).collect()
}

/// The product keeps each rule, as `make install` installs it: no rule is skipped.
#[test]
fn this_product_keeps_every_rule() {
    if !tools::present(&["python3", "strip"]) {
        return;
    }
    let xapi = Xapi::install(&programs::directory());
    let report = check(&xapi, "size=1GiB", &[]);
    assert_eq!(skipped(&report), [""; 0]);
    assert_eq!(srs(&xapi), [""; 0], "SRs are left");
}

/// The examples that authors start from keep all rules of what they have: one in Rust, and one in Python that was
/// written from SMAPIv3.md alone.
#[test]
fn the_directory_sr_in_rust_keeps_every_rule_that_applies() {
    example_keeps_its_rules(examples::rust, &[]);
}

#[test]
fn the_directory_sr_in_python_keeps_every_rule_that_applies() {
    // Its calls are slow, and the dozens that are killed would take minutes.
    example_keeps_its_rules(examples::python, &["--skip", "kill."]);
}

fn example_keeps_its_rules(host: fn() -> Xapi, more: &[&str]) {
    if !tools::present(&["qemu-nbd", "python3", "bash"]) {
        return;
    }
    let host = host();
    let disks = format!("path={}", host.root().join("disks").display());
    let report = check(&host, &disks, more);
    let skipped = skipped(&report);
    for group in ["query.", "form.", "call.", "key.", "volume.", "parallel.", "kill."] {
        assert!(!skipped.iter().any(|it| it.starts_with(group)), "skipped: {skipped:?}");
    }
}

/// A run that is interrupted destroys what it has made, and says that it did not judge all.
#[test]
fn an_interrupted_check_leaves_nothing() {
    let xapi = Xapi::new();
    let method = |side| xapi.method(side, "Plugin.query").get_program().to_owned();
    let mut command = Command::new(programs::path("smapiv3-check"));
    for side in [Side::Volume, Side::Datapath] {
        command.arg(Path::new(&method(side)).parent().unwrap());
    }
    for (name, value) in xapi.method(Side::Volume, "SR.ls").get_envs() {
        let value = value.unwrap().to_string_lossy();
        command.args(["--env", &format!("{}={value}", name.to_string_lossy())]);
    }
    let mut child = command.args(["--config", "size=1GiB", "--only", "data."]).spawn().unwrap();
    while srs(&xapi).is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it made an SR");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert_eq!(srs(&xapi), [""; 0], "an SR is left");
}
