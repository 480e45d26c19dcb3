//! Each rule catches what it is for, and nothing else: a plugin that breaks exactly that rule fails it and
//! no other, and a plugin that breaks none passes all.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::Value;

/// Rules that cannot be judged where another one is broken, since it prepares them.
const PREPARED_BY: [(&str, &[&str]); 4] = [
    (
        "datapath.uri",
        &["datapath.", "data.", "call.", "cbt.blocks", "parallel.activate", "migrate.", "kill."],
    ),
    ("datapath.again", &["data.kept"]),
    ("datapath.snapshot-active", &["data.snapshot"]),
    ("kill.volume", &["kill.datapath"]),
];
/// How many checks run at once.
const WIDTH: usize = 3;

struct Run {
    status: Option<i32>,
    lines: Vec<(String, String)>,
    text: String,
}

impl Run {
    fn with(&self, verdict: &str) -> BTreeSet<&str> {
        let these = self.lines.iter().filter(|(_, it)| it == verdict);
        these.map(|(id, _)| id.as_str()).collect()
    }
}

fn double() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    let target = own.parent().and_then(Path::parent).expect("target/debug/deps");
    target.join("examples/double")
}

/// Checks the double with a fault.
fn check(fault: &str, more: &[&str]) -> Run {
    let root = tempfile::Builder::new().prefix("double-").tempdir_in("/dev/shm").expect("a tmpfs");
    let plugins = root.path().join("plugins");
    let installed =
        Command::new(double()).arg("install").arg(&plugins).env("DOUBLE_FAULT", fault).status();
    assert!(installed.expect("cargo has built the example").success());
    let report = root.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_smapiv3-check"))
        .arg(plugins.join("volume/org.test.double"))
        .arg(plugins.join("datapath/double"))
        .args(["--config", "dir={dir}/sr"])
        // How often a kill finds the moment is a matter of chance.
        .args(["--kills", if fault.starts_with("kill.") { "16" } else { "4" }])
        // A call that hangs is to cost seconds.
        .args(["--timeout", if fault == "form.time" { "6" } else { "60" }])
        .arg("--env")
        .arg(format!("DOUBLE_FAULT={fault}"))
        .arg("--json")
        .arg(&report)
        .args(more)
        .env("TMPDIR", root.path())
        .output()
        .expect("cargo has built the program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let json = std::fs::read(&report).unwrap_or_else(|error| panic!("{fault}: {error}\n{text}"));
    let json: Value = serde_json::from_slice(&json).expect("a report");
    let field = |it: &Value, name: &str| it[name].as_str().expect("a text").to_owned();
    let lines = json["rules"].as_array().expect("rules").iter();
    let lines = lines.map(|it| (field(it, "id"), field(it, "verdict"))).collect();
    Run { status: output.status.code(), lines, text }
}

/// The names after `what` of a program that lists them, one a line.
fn names(program: &Path, what: &str) -> BTreeSet<String> {
    let output = Command::new(program).arg(what).output().expect("a program of this package");
    let text = String::from_utf8(output.stdout).expect("names");
    text.lines().filter(|it| !it.starts_with(' ')).map(str::to_owned).collect()
}

#[test]
fn a_plugin_that_keeps_all_rules_passes() {
    let run = check("", &[]);
    assert_eq!(run.status, Some(0), "{}", run.text);
    assert_eq!(run.with("pass").len(), run.lines.len(), "{}", run.text);
}

#[test]
fn each_rule_has_its_double() {
    let rules = names(Path::new(env!("CARGO_BIN_EXE_smapiv3-check")), "--list");
    assert_eq!(rules, names(&double(), "faults"));
    assert!(rules.len() > 80, "{} rules", rules.len());
}

/// What is wrong with the check of a plugin that breaks one rule.
fn wrong_with(rule: &str) -> Option<String> {
    let group = rule.split_inclusive('.').next().expect("a group");
    let mut more = Vec::new();
    // All rules judge each double in `make test-long`; here those do that lie close. How answers are written
    // is judged by the calls of all rules.
    if std::env::var_os("DOUBLES_WHOLE").is_none() && group != "form." {
        more.extend(["--only", "query.", "--only", "form.", "--only", group]);
    }
    let run = check(rule, &more);
    let prepared = PREPARED_BY.iter().filter(|(by, _)| *by == rule).flat_map(|(_, these)| *these);
    let prepared: Vec<&&str> = prepared.collect();
    let blocked = run.with("blocked");
    let unexpected: Vec<&&str> =
        blocked.iter().filter(|it| !prepared.iter().any(|begin| it.starts_with(**begin))).collect();
    let is_right =
        run.status == Some(1) && run.with("fail") == [rule].into() && unexpected.is_empty();
    let (failed, text) = (run.with("fail"), run.text.lines().filter(|it| !it.starts_with("pass")));
    let text = text.collect::<Vec<_>>().join("\n");
    (!is_right).then(|| format!("{rule}: failed {failed:?}, blocked {unexpected:?}\n{text}\n"))
}

/// What is wrong is told at once: with all rules the test takes many minutes.
fn tell(text: &str) {
    let _unread = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}

#[test]
fn each_rule_catches_its_double_and_no_other_does() {
    let only = std::env::var("DOUBLE").unwrap_or_default();
    let rules: Vec<String> =
        names(&double(), "faults").into_iter().filter(|it| it.starts_with(&only)).collect();
    let next = AtomicUsize::new(0);
    let wrong: Vec<String> = thread::scope(|scope| {
        let run = || {
            let rules = std::iter::from_fn(|| rules.get(next.fetch_add(1, Ordering::Relaxed)));
            rules.filter_map(|rule| wrong_with(rule)).inspect(|it| tell(it)).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..WIDTH).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|it| it.join().expect("no panic")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
