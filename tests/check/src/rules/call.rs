//! How a call is made: what is on stdin, what is inherited, what the daemon does beside it.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{FdFlags, fcntl_setfd},
};
use serde_json::{Value, json};

use super::{Check::Once, Need, Rule, source};
use crate::{
    caller::{Side, Way},
    host::{Host, Volume},
    outcome::{Outcome, Stop},
};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "call.works",
        title: "each method that is there does what it is for, once",
        reference: "xen-api ocaml/xapi-storage-script/main.ml, bind",
        consequence: "the operation fails",
        needs: &[],
        check: Once(works),
    },
    Rule {
        id: "call.stdin",
        title: "all of stdin is read, also by methods that need none of it",
        reference: source::RUN,
        consequence: "the operation fails with EPIPE where a name or a description is long",
        needs: &[],
        check: Once(stdin),
    },
    Rule {
        id: "call.unknown-field",
        title: "a parameter that the method does not know is ignored, or refused by its name",
        reference: "the interface's generated Python server, which ignores it",
        consequence: "with a later xapi the operation fails, and the message does not say why",
        needs: &[],
        check: Once(unknown_field),
    },
    Rule {
        id: "call.long-answer",
        title: "an answer that is longer than a pipe holds comes whole",
        reference: source::RUN,
        consequence: "xe sr-scan fails or hangs once there are enough disks",
        needs: &[Need::Method("SR.ls")],
        check: Once(long_answer),
    },
    Rule {
        id: "call.descriptors",
        title: "what runs on in the background has not kept what the daemon leaves open",
        reference: "xen-api ocaml/xapi-storage-script/main.ml: sockets and inotify without close-on-exec",
        consequence: "connections of the daemon stay open after its restart, and xapi waits on them",
        needs: &[Need::Datapath("Datapath.activate")],
        check: Once(descriptors),
    },
    Rule {
        id: "call.observer",
        title: "the method's file can be run by Python's runpy, as with tracing on",
        reference: "xen-api python3/packages/observer.py, main",
        consequence: "with tracing on (an observer with component smapi) each call fails",
        needs: &[Need::Program("python3")],
        check: Once(observer),
    },
];

/// More than a pipe holds (64 KiB).
const LONG: usize = 200 << 10;
/// Descriptions that plugins take, which together are more than a pipe holds.
const LONG_TEXT: usize = 12_000;
const LONG_TEXTS: usize = 7;

fn works(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let mut broken: Vec<String> = Vec::new();
    let mut shown = Vec::new();
    let mut called = BTreeSet::new();
    let mut judge = |reply: Result<crate::outcome::Reply, Stop>| -> Option<Value> {
        let reply = reply.ok()?;
        host.note(&reply);
        called.insert(reply.exchange.method.clone());
        match &reply.result {
            Ok(value) => Some(value.clone()),
            Err(failure) => {
                broken.push(format!("{}: {failure}", reply.exchange.method));
                shown.push(reply.exchange);
                None
            }
        }
    };
    for side in host.sides() {
        judge(host.call_so(&side, "Plugin.query", json!({}), Way::default()));
        for method in ["Plugin.diagnostics", "Plugin.ls"] {
            judge(host.call_so(&side, method, json!({}), Way::default()));
        }
    }
    let simple = [
        ("Volume.set", json!({ "k": "a", "v": "b" })),
        ("Volume.unset", json!({ "k": "a" })),
        ("Volume.set_name", json!({ "new_name": "x" })),
        ("Volume.set_description", json!({ "new_description": "y" })),
        ("Volume.stat", json!({})),
        ("Volume.resize", json!({ "new_size": host.options.volume_bytes() + (4 << 20) })),
        ("Volume.similar_content", json!({})),
        ("Volume.enable_cbt", json!({})),
        ("Volume.disable_cbt", json!({})),
    ];
    for (method, params) in simple {
        judge(host.on(&volume, method, params));
    }
    let snapshot = judge(host.on(&volume, "Volume.snapshot", json!({})));
    judge(host.on(&volume, "Volume.clone", json!({})));
    if let Some(snapshot) = snapshot.map(Volume::of).transpose()? {
        judge(host.on(&volume, "Volume.compare", json!({ "key2": snapshot.key })));
        judge(host.on(&volume, "Volume.revert", json!({ "snapshot": snapshot.key })));
        judge(host.on(&snapshot, "Volume.destroy", json!({})));
    }
    for method in ["SR.stat", "SR.ls"] {
        judge(host.on_sr(method, json!({})));
    }
    judge(host.call("SR.probe", json!({ "configuration": host.configuration() })));
    if !host.caller.datapaths.is_empty() {
        for activate in ["activate", "activate_readonly"] {
            let (volume, domain) = (host.volume()?, host.domain());
            for step in ["attach", activate, "deactivate", "detach"] {
                judge(host.data(&volume, step, &domain));
            }
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(Stop::by(broken.join("; "), &shown.iter().collect::<Vec<_>>()))
}

fn stdin(host: &Host) -> Outcome {
    let sr = host.sr()?;
    let long = "x".repeat(LONG);
    for side in host.sides() {
        let params = json!({ "dbg": long });
        let reply = host.call_so(&side, "Plugin.query", params, Way::default())?;
        if !reply.exchange.ended.stdin_taken {
            return Err(reply.wrong(format!("it did not read all {LONG} bytes of its stdin")));
        }
        reply.expected("with a long stdin")?;
    }
    for method in ["SR.stat", "SR.ls"] {
        let reply = host.call(method, json!({ "sr": sr.handle, "dbg": long }))?;
        if !reply.exchange.ended.stdin_taken {
            return Err(reply.wrong(format!("it did not read all {LONG} bytes of its stdin")));
        }
        reply.expected("with a long stdin")?;
    }
    Ok(())
}

fn unknown_field(host: &Host) -> Outcome {
    let reply = host.on_sr("SR.stat", json!({ "smapiv3_check_field": "x" }))?;
    match &reply.result {
        Err(failure) if !failure.to_string().contains("smapiv3_check_field") => {
            Err(reply.wrong("an unknown parameter is refused, and the error does not name it"))
        }
        _ => Ok(()),
    }
}

fn long_answer(host: &Host) -> Outcome {
    let text = "long ".repeat(LONG_TEXT / 5);
    for _ in 0..LONG_TEXTS {
        let size = host.options.volume_bytes();
        let params =
            json!({ "name": "long", "description": text, "size": size, "sharable": false });
        let reply = host.on_sr("Volume.create", params)?;
        host.note(&reply);
        if reply.result.is_err() {
            return Err(Stop::skip("descriptions of this length are refused"));
        }
    }
    let reply = host.on_sr("SR.ls", json!({}))?;
    let length = reply.exchange.ended.stdout.len();
    let value = reply.clone().expected("with an answer that is longer than a pipe holds")?;
    let whole = value.as_array().into_iter().flatten().filter(|it| it["description"] == text);
    match whole.count() {
        LONG_TEXTS => Ok(()),
        found => Err(reply.wrong(format!(
            "{found} of {LONG_TEXTS} long descriptions are whole in {length} bytes"
        ))),
    }
}

fn descriptors(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let domain = host.domain();
    let (reader, writer) = io::pipe().map_err(|it| Stop::blocked(format!("a pipe: {it}")))?;
    fcntl_setfd(&writer, FdFlags::empty()).map_err(|it| Stop::blocked(format!("a pipe: {it}")))?;
    let begun = ["attach", "activate"].map(|step| host.data(&volume, step, &domain));
    let inode =
        fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer)));
    drop(writer);
    for reply in begun {
        reply?.prepared()?;
    }
    let ended = is_at_end(reader.as_fd());
    let holders = inode.map(|it| holders(&it.to_string_lossy())).unwrap_or_default();
    host.unplug(&volume, &domain)?;
    match ended {
        true => Ok(()),
        false => Err(Stop::fail(format!(
            "after Datapath.activate a descriptor that the method inherited is still open in {}",
            if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") },
        ))),
    }
}

/// Whether all writers of a pipe have closed it, which processes may take a moment for.
fn is_at_end(reader: std::os::fd::BorrowedFd<'_>) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let mut fds = [PollFd::from_borrowed_fd(reader, PollFlags::IN)];
        let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        if poll(&mut fds, Some(&wait)).is_ok_and(|it| it > 0)
            && fds[0].revents().contains(PollFlags::HUP)
        {
            return true;
        }
    }
    false
}

/// Which processes have a pipe open, by `/proc/<pid>/fd`.
fn holders(pipe: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let mut open = open.filter_map(|it| fs::read_link(it.path()).ok());
        // `self` and `thread-self` are this process, too.
        let is_other = pid != own && pid.bytes().all(|it| it.is_ascii_digit());
        if is_other && open.any(|it| it.to_string_lossy() == pipe) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("process {pid} ({})", name.trim()));
        }
    }
    found
}

/// What the observer does with a script, without what it adds to it.
const OBSERVER: &str = "import runpy, sys\nsys.argv = sys.argv[1:]\n\
                        runpy.run_path(sys.argv[0], run_name='__main__')";

fn observer(host: &Host) -> Outcome {
    for side in host.sides() {
        let way = Way { python: Some(OBSERVER), ..Way::default() };
        let reply = host.call_so(&side, "Plugin.query", json!({}), way)?;
        reply.expected("when Python runs it, as with tracing on")?;
    }
    let way = Way { python: Some(OBSERVER), ..Way::default() };
    let params = host.with_sr(json!({}))?;
    let reply = host.call_so(&Side::Volume, "SR.stat", params, way)?;
    reply.expected("when Python runs it, as with tracing on").map(drop)
}
