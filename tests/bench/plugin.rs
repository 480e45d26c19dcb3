//! Plugin calls: the wall time of a process from its start to the end of its output, called as
//! xapi-storage-script calls it, beside an empty C program, a small Python plugin, and one that the
//! caller names (`--python-plugin`): made with xapi-storage's bindings, which no package has.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use end_to_end::{Side, Xapi, tools};
use serde_json::{Value, json};

use crate::{
    Bench,
    samples::Samples,
    table::{Goal, Row},
};

const EMPTY: &str = "empty C program";
const PYTHON: &str = "minimal Python plugin";
const BINDINGS: &str = "Python plugin with bindings";
/// Volumes of a large SR.
const VOLUMES: usize = 2000;
/// The least that a plugin in Python does: the standard library only, no bindings, no checks.
const SCRIPT: &str = r#"import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("-j", "--json", action="store_true")
parser.parse_args()
request = json.load(sys.stdin)
print(json.dumps({"plugin": "ram", "name": "ram", "description": request["dbg"],
    "vendor": "", "copyright": "", "version": "1", "required_api_version": "5.0",
    "features": [], "configuration": {}, "required_cluster_stack": []}))
"#;

/// Something to call.
struct Call<'a> {
    name: &'a str,
    command: Box<dyn Fn() -> Command + 'a>,
    stdin: String,
}

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let (empty, python) = (empty_program(bench)?, python_plugin(bench)?);
    let sr = bench.xapi.create_sr(&(1_u64 << 30).to_string());
    let key = bench.xapi.create_vdi(&sr, 8 << 30);
    let volume = json!({ "sr": sr, "key": key });
    let xapi = &bench.xapi;
    let mut calls = vec![
        call(xapi, Side::Volume, "Plugin.query", json!({})),
        call(xapi, Side::Volume, "Volume.stat", volume.clone()),
        Call { name: EMPTY, command: Box::new(|| Command::new(&empty)), stdin: "{}".into() },
    ];
    let given = bench.python_plugin.clone();
    for (name, script) in [(PYTHON, python), (BINDINGS, given)] {
        let Some(script) = script else { continue };
        let command = Box::new(move || {
            let mut command = Command::new("/usr/bin/python3");
            command.arg(&script).arg("--json");
            command
        });
        calls.push(Call { name, command, stdin: r#"{"dbg": "x"}"#.into() });
    }
    let mut times = vec![Samples::default(); calls.len()];
    for round in 0..bench.scale.calls {
        for number in 0..calls.len() {
            let at = (number + round) % calls.len();
            // Python is slow and steady: fewer rounds tell as much.
            if ![PYTHON, BINDINGS].contains(&calls[at].name) || round % 5 == 0 {
                times[at].push(calls[at].time()?);
            }
        }
    }
    let empty_times = times[2].clone();
    let mut rows = Vec::new();
    for (call, samples) in calls.iter().zip(&times).take(2) {
        let others = || calls.iter().zip(&times).skip(2).map(|(other, times)| (other.name, times));
        let row = Row::new(call.name, "ms").figure("ours", samples.clone());
        rows.push(
            others()
                .fold(row, |row, (name, times)| row.figure(name, times.clone()))
                .goal(Goal::AtMost(2.0))
                .against(EMPTY, Goal::AtMost(3.0)),
        );
        for (name, times) in others().skip(1) {
            let faster = times.median() / samples.median();
            let row = Row::new(format!("{}: faster than the {name}", call.name), "times")
                .figure("ours", faster);
            rows.push(if name == BINDINGS { row.goal(Goal::AtLeast(60.0)) } else { row });
        }
    }
    drop(calls);
    rows.extend(life(bench, &sr, &empty_times)?);
    rows.extend(plug(bench, &sr)?);
    xapi_destroy(&bench.xapi, &sr)?;
    bench.progress("plugin calls")?;
    rows.extend(many(bench)?);
    bench.progress("an SR with many volumes")?;
    Ok(rows)
}

fn xapi_destroy(xapi: &Xapi, sr: &str) -> Result<()> {
    xapi.volume("SR.destroy", json!({ "sr": sr })).context("SR.destroy")?;
    Ok(())
}

impl Call<'_> {
    /// Calls it once; milliseconds.
    fn time(&self) -> Result<f64> {
        let mut command = (self.command)();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn().context(self.name.to_owned())?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        // The empty program does not read.
        let _unread = stdin.write_all(self.stdin.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        let time = start.elapsed();
        ensure!(
            output.status.success(),
            "{}: {}",
            self.name,
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(time.as_secs_f64() * 1e3)
    }
}

fn call<'a>(xapi: &'a Xapi, side: Side, name: &'a str, mut params: Value) -> Call<'a> {
    params["dbg"] = json!("bench");
    Call { name, command: Box::new(move || xapi.method(side, name)), stdin: params.to_string() }
}

/// Calls a method once and answers with its time and what it said.
pub(crate) fn timed(xapi: &Xapi, side: Side, method: &str, params: Value) -> Result<(f64, Value)> {
    let mut params = params;
    params["dbg"] = json!("bench");
    let start = Instant::now();
    let output = xapi.raw(side, method, params.to_string().as_bytes());
    let time = start.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{method}: {said}");
    Ok((time, serde_json::from_str(&said).with_context(|| method.to_owned())?))
}

/// Create, snapshot and destroy.
fn life(bench: &Bench, sr: &str, empty: &Samples) -> Result<Vec<Row>> {
    let methods = ["Volume.create", "Volume.snapshot", "Volume.destroy"];
    let mut times = vec![Samples::default(); methods.len()];
    for _ in 0..bench.scale.calls {
        let params = json!({
            "sr": sr, "name": "disk", "description": "", "size": 8_u64 << 30, "sharable": false,
        });
        let (time, made) = timed(&bench.xapi, Side::Volume, methods[0], params)?;
        times[0].push(time);
        let volume = json!({ "sr": sr, "key": made["key"] });
        let (time, copy) = timed(&bench.xapi, Side::Volume, methods[1], volume.clone())?;
        times[1].push(time);
        bench.xapi.volume(methods[2], json!({ "sr": sr, "key": copy["key"] }))?;
        times[2].push(timed(&bench.xapi, Side::Volume, methods[2], volume)?.0);
    }
    let row = |(method, samples): (&str, Samples)| {
        Row::new(method, "ms").figure("ours", samples).figure(EMPTY, empty.clone())
    };
    Ok(methods.into_iter().zip(times).map(row).collect())
}

/// Plugging disks of two sizes.
fn plug(bench: &Bench, sr: &str) -> Result<Vec<Row>> {
    let sizes = [8_u64 << 30, 64 << 20];
    let steps = ["open", "attach", "activate", "deactivate", "detach", "close"];
    let keys = sizes.map(|size| bench.xapi.create_vdi(sr, size));
    let mut times = vec![vec![Samples::default(); steps.len()]; sizes.len()];
    let mut both = vec![Samples::default(); sizes.len()];
    for _ in 0..bench.scale.calls / 5 {
        for (at, key) in keys.iter().enumerate() {
            let uri = bench.xapi.stat(sr, key)?["uri"][0].clone();
            let mut sum = 0.0;
            for (step, samples) in steps.iter().zip(&mut times[at]) {
                let method = format!("Datapath.{step}");
                let mut params = json!({ "uri": uri });
                match *step {
                    "open" => params["persistent"] = json!(true),
                    "close" => {}
                    _ => params["domain"] = json!("bench"),
                }
                let (time, _) = timed(&bench.xapi, Side::Datapath, &method, params)?;
                samples.push(time);
                if ["attach", "activate"].contains(step) {
                    sum += time;
                }
            }
            both[at].push(sum);
        }
    }
    let plugged = Row::new("attach and activate of a volume of 8 GiB", "ms")
        .figure("ours", both[0].clone())
        .figure("of 64 MiB", both[1].clone())
        .goal(Goal::AtMost(15.0))
        .against("of 64 MiB", Goal::AtMost(1.1));
    let mut rows = vec![plugged];
    for (step, samples) in steps.iter().zip(&times[0]) {
        rows.push(Row::new(format!("Datapath.{step}"), "ms").figure("ours", samples.clone()));
    }
    Ok(rows)
}

/// An SR with many volumes.
fn many(bench: &Bench) -> Result<Vec<Row>> {
    let sr = bench.xapi.create_sr(&(1_u64 << 30).to_string());
    for number in 0..VOLUMES {
        let params = json!({
            "sr": sr, "name": format!("disk {number}"), "description": "", "size": 1_u64 << 30,
            "sharable": false,
        });
        timed(&bench.xapi, Side::Volume, "Volume.create", params)?;
    }
    let mut rows = Vec::new();
    for method in ["SR.ls", "SR.stat"] {
        let mut samples = Samples::default();
        for _ in 0..bench.scale.calls / 5 {
            let (time, said) = timed(&bench.xapi, Side::Volume, method, json!({ "sr": sr }))?;
            ensure!(
                method == "SR.stat" || said.as_array().is_some_and(|it| it.len() == VOLUMES),
                "SR.ls does not list all"
            );
            samples.push(time);
        }
        rows.push(
            Row::new(format!("{method} with {VOLUMES} volumes"), "ms")
                .figure("ours", samples)
                .goal(Goal::AtMost(25.0)),
        );
    }
    xapi_destroy(&bench.xapi, &sr)?;
    Ok(rows)
}

/// `int main(void) { return 0; }`, linked as the compiler likes.
pub(crate) fn empty_program(bench: &Bench) -> Result<PathBuf> {
    let source = bench.directory.path().join("empty.c");
    fs::write(&source, "int main(void) { return 0; }\n")?;
    let program = bench.directory.path().join("empty");
    tools::run("cc", &["-O2", "-o", &program.display().to_string(), &source.display().to_string()]);
    Ok(program)
}

fn python_plugin(bench: &Bench) -> Result<Option<PathBuf>> {
    if !tools::present(&["python3"]) || !PathBuf::from("/usr/bin/python3").exists() {
        bench.skipped(PYTHON, &anyhow::anyhow!("no /usr/bin/python3"));
        return Ok(None);
    }
    let script = bench.directory.path().join("plugin.py");
    fs::write(&script, SCRIPT)?;
    Ok(Some(script))
}
