//! Calls at the same time: the daemon has no locks, and xapi none for different disks of an SR.

use std::{collections::BTreeSet, thread};

use serde_json::json;

use super::{Check::Once, Need, Rule};
use crate::{
    host::{Host, Volume},
    outcome::{Outcome, Stop},
};

const REFERENCE: &str =
    "xen-api ocaml/xapi-storage-script/main.ml: a thread for each request, no lock";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "parallel.create",
        title: "volumes that are created at the same time are all there",
        reference: REFERENCE,
        consequence: "starting several VMs at once loses disks",
        needs: &[],
        check: Once(create),
    },
    Rule {
        id: "parallel.set",
        title: "keys that are set at the same time are all set",
        reference: REFERENCE,
        consequence: "tags and sm_config are lost where two clients set them",
        needs: &[Need::Method("Volume.set")],
        check: Once(set),
    },
    Rule {
        id: "parallel.snapshot",
        title: "snapshots of one volume at the same time, beside other calls, are all there",
        reference: REFERENCE,
        consequence: "a snapshot beside a backup fails or is lost",
        needs: &[Need::Method("Volume.snapshot")],
        check: Once(snapshot),
    },
    Rule {
        id: "parallel.activate",
        title: "volumes that are attached and activated at the same time all work",
        reference: REFERENCE,
        consequence: "of VMs that start together after a reboot some do not",
        needs: &[Need::Datapath("Datapath.activate")],
        check: Once(activate),
    },
];

/// How many calls at once.
const WIDTH: usize = 6;

/// Runs a function that often at once; the first error, if any. A call that only prepares others and fails is
/// judged too, as it is made beside them.
fn at_once<T: Send>(
    host: &Host,
    run: impl Fn(usize) -> Result<T, Stop> + Sync,
) -> Result<Vec<T>, Stop> {
    let run = &run;
    let done: Result<Vec<T>, Stop> = thread::scope(|scope| {
        let threads: Vec<_> = (0..WIDTH).map(|at| scope.spawn(move || run(at))).collect();
        threads.into_iter().map(|it| it.join().expect("no panic")).collect()
    });
    done.map_err(|stop| match stop {
        Stop::Blocked(finding) if !finding.shown.is_empty() && !host.caller.is_interrupted() => {
            Stop::Fail(finding)
        }
        other => other,
    })
}

fn create(host: &Host) -> Outcome {
    let before: BTreeSet<String> = host.listed()?.into_iter().collect();
    let made = at_once(host, |_| {
        let reply = host.create("at once", host.options.volume_bytes())?;
        Volume::of(reply.expected("beside others of its kind")?)
    })?;
    let keys: BTreeSet<String> = made.into_iter().map(|it| it.key).collect();
    let listed: BTreeSet<String> = host.listed()?.into_iter().collect();
    let new: BTreeSet<String> = listed.difference(&before).cloned().collect();
    match keys.len() == WIDTH && new == keys {
        true => Ok(()),
        false => Err(Stop::fail(format!("created at once {keys:?}, SR.ls has of these {new:?}"))),
    }
}

fn set(host: &Host) -> Outcome {
    let volume = host.volume()?;
    at_once(host, |at| {
        let params = json!({ "k": format!("_sm_config_{at}"), "v": "x" });
        host.on(&volume, "Volume.set", params)?.expected("beside others of its kind")
    })?;
    let reply = host.on(&volume, "Volume.stat", json!({}))?;
    let keys = reply.clone().prepared()?["keys"].clone();
    let lost: Vec<usize> =
        (0..WIDTH).filter(|at| keys[format!("_sm_config_{at}")] != "x").collect();
    match lost.is_empty() {
        true => Ok(()),
        false => Err(reply.wrong(format!("of {WIDTH} keys set at once these are lost: {lost:?}"))),
    }
}

fn snapshot(host: &Host) -> Outcome {
    let volume = host.volume()?;
    let made = at_once(host, |at| {
        if at % 3 == 2 {
            let other = host.volume()?;
            host.on(&other, "Volume.destroy", json!({}))?.expected("beside snapshots")?;
            return Ok(None);
        }
        let reply = host.on(&volume, "Volume.snapshot", json!({}))?;
        host.note(&reply);
        Volume::of(reply.expected("beside others of its kind")?).map(Some)
    })?;
    let keys: BTreeSet<String> = made.into_iter().flatten().map(|it| it.key).collect();
    let listed: BTreeSet<String> = host.listed()?.into_iter().collect();
    match keys.len() == WIDTH - WIDTH / 3 && keys.is_subset(&listed) {
        true => Ok(()),
        false => Err(Stop::fail(format!("snapshots made at once {keys:?}, SR.ls has {listed:?}"))),
    }
}

fn activate(host: &Host) -> Outcome {
    let volumes = (0..WIDTH).map(|_| host.volume()).collect::<Result<Vec<_>, _>>()?;
    let domains: Vec<String> = volumes.iter().map(|_| host.domain()).collect();
    at_once(host, |at| {
        for step in ["attach", "activate"] {
            host.data(&volumes[at], step, &domains[at])?.expected("beside others of its kind")?;
        }
        Ok(())
    })?;
    at_once(host, |at| {
        for step in ["deactivate", "detach"] {
            host.data(&volumes[at], step, &domains[at])?.expected("beside others of its kind")?;
        }
        Ok(())
    })
    .map(drop)
}
