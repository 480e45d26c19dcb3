//! Calls that are killed: by a restart of the toolstack, by the kernel when memory is short, by a reset.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Check::Once, Need, Rule, data};
use crate::{
    caller::{Side, Way},
    host::{Host, Volume},
    outcome::{Outcome, Stop},
};

const REFERENCE: &str =
    "systemd kills the children of xapi-storage-script with it: KillMode=control-group";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "kill.volume",
        title: "after calls on volumes were killed, all that is listed works and can be destroyed",
        reference: REFERENCE,
        consequence: "after a restart of the toolstack a scan fails, or disks are left that cannot be deleted",
        needs: &[],
        check: Once(volume),
    },
    Rule {
        id: "kill.datapath",
        title: "after calls of the datapath were killed, a volume can be ended and used again, with its bytes",
        reference: REFERENCE,
        consequence: "after a restart of the toolstack a disk can be neither plugged nor unplugged",
        needs: &[Need::Datapath("Datapath.activate"), Need::Datapath("Datapath.detach")],
        check: Once(datapath),
    },
];

/// Moments from a seed.
struct Moments(u64);

impl Moments {
    /// A time up to the given one.
    fn next(&mut self, below: Duration) -> Duration {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        below.mul_f64((self.0 >> 40) as f64 / f64::from(1 << 24))
    }
}

/// What only prepares other rules is what these ask for: that the SR goes on.
fn after_kills(stop: Stop) -> Stop {
    match stop {
        Stop::Blocked(mut finding) => {
            finding.what = format!("after other calls were killed: {}", finding.what);
            Stop::Fail(finding)
        }
        other => other,
    }
}

fn volume(host: &Host) -> Outcome {
    let mut moments = Moments(host.options.seed);
    let began = Instant::now();
    let kept = host.volume()?;
    let usual = began.elapsed();
    let calls = [
        ("Volume.create", json!({})),
        ("Volume.snapshot", json!({})),
        ("Volume.clone", json!({})),
        ("Volume.set", json!({ "k": "_sm_config_k", "v": "v" })),
        ("Volume.resize", json!({ "new_size": host.options.volume_bytes() * 2 })),
        ("Volume.destroy", json!({})),
    ];
    let calls: Vec<_> =
        calls.into_iter().filter(|(it, _)| host.caller.volume.script(it).is_some()).collect();
    let mut kill = |round: u32| -> Outcome {
        let (method, more) = &calls[round as usize % calls.len()];
        // Each in its turn of a volume that is there for it.
        let target = host.volume()?;
        let mut params = host.with_sr(more.clone())?;
        params["key"] = json!(target.key);
        if *method == "Volume.create" {
            let size = host.options.volume_bytes();
            params =
                json!({ "name": "killed", "description": "", "size": size, "sharable": false });
            params = host.with_sr(params)?;
        }
        let way = Way { kill_after: Some(moments.next(usual)), ..Way::default() };
        let killed = host.call_so(&Side::Volume, method, params, way)?;
        host.note(&killed);
        host.on_sr("SR.stat", json!({}))?.expected("after a call was killed").map(drop)
    };
    (0..host.options.kills).try_for_each(&mut kill).map_err(after_kills)?;
    let listed = host.listed().map_err(after_kills)?;
    if !listed.contains(&kept.key) {
        return Err(Stop::fail(format!(
            "the volume {}, on which nothing was killed, is lost",
            kept.key
        )));
    }
    for key in listed {
        let volume = Volume { key, value: json!(null) };
        host.on(&volume, "Volume.stat", json!({}))?.expected("for what SR.ls lists after kills")?;
        host.on(&volume, "Volume.destroy", json!({}))?
            .expected("for what SR.ls lists after kills")?;
    }
    let left = host.listed()?;
    match left.is_empty() {
        true => host.volume().map(drop).map_err(after_kills),
        false => Err(Stop::fail(format!("after all were destroyed SR.ls lists {left:?}"))),
    }
}

fn datapath(host: &Host) -> Outcome {
    let mut moments = Moments(host.options.seed);
    let volume = host.volume()?;
    let began = Instant::now();
    data::fill(host, &volume, 0xb1)?;
    let usual = began.elapsed() / 6;
    let (side, uri) = host.datapath_of(&volume)?;
    let steps = ["attach", "activate", "deactivate", "detach"];
    for round in 0..host.options.kills {
        let domain = host.domain();
        let last = round as usize % steps.len();
        for step in &steps[..last] {
            host.data(&volume, step, &domain)?.expected("after other calls were killed")?;
        }
        let way = Way { kill_after: Some(moments.next(usual)), ..Way::default() };
        let params = json!({ "uri": uri, "domain": domain });
        host.call_so(&side, &format!("Datapath.{}", steps[last]), params, way)?;
        for step in ["deactivate", "detach"] {
            let ended = host.data(&volume, step, &domain)?;
            // What was killed may not have begun. Another rule tells of a plugin that refuses to end such a thing.
            let refused = ended.result.is_err();
            if refused && host.data(&volume, step, &host.domain())?.result.is_err() {
                continue;
            }
            ended.expected(&format!("after Datapath.{} was killed", steps[last]))?;
        }
    }
    data::holds(host, &volume, 0xb1, "after calls were killed").map_err(after_kills)
}
