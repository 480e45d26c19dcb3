//! `Plugin.diagnostics`: what the records of volumes say: the domains that use each, the process that serves it,
//! its mirrors and copies and how they have ended. None of it is data of guests. Nothing is changed, and a record that
//! another call has locked is left out after a moment.

use std::time::Duration;

use host::Config;
use smapiv3::{Error, NoParams};
use store::{Host, Sr, VolumeUri};
use tapctl::{Client, ControlDir, MirrorStage};

use crate::{
    Context,
    mirror_record::{End, MirrorRecord, Purpose},
    mirroring,
    state::{Hold, Record, State},
};

/// How long a tapdisk may take for an answer: one that hangs is what diagnostics are wanted for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) fn run(ctx: &Context<'_>, _: NoParams) -> Result<String, Error> {
    let Config { sr_root, lock_dir, may_mount, control, .. } = ctx.config.clone();
    let host = Host::new(sr_root, lock_dir, may_mount);
    let mut lines = vec![format!("datapath-plugin {}", env!("CARGO_PKG_VERSION"))];
    match host.srs() {
        Err(error) => lines.push(format!("SRs: {error}")),
        Ok(found) => {
            for sr in found.into_iter().filter(|sr| sr.stat.attached) {
                match Sr::open(&host, sr.stat.uuid.as_str()).and_then(|sr| sr.volumes()) {
                    Err(error) => lines.push(format!("SR {}: {error}", sr.stat.uuid)),
                    Ok(volumes) => lines.extend(volumes.into_iter().flat_map(|volume| {
                        let uri = VolumeUri { sr: sr.stat.uuid.clone(), key: volume.key };
                        describe(&host, &control, &uri)
                    })),
                }
            }
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// A line for a volume that is used, and one for each domain and mirror; none for others.
fn describe(host: &Host, control: &ControlDir, uri: &VolumeUri) -> Vec<String> {
    let state = match Record::lock_soon(host, uri).and_then(|record| record.read()) {
        Ok(state) if state == State::default() => return Vec::new(),
        Ok(state) => state,
        Err(error) => return vec![format!("volume {}: {}", uri.key, error.chain())],
    };
    let persistence = match &state.clone {
        _ if state.persistent => "persistent".to_owned(),
        Some(clone) => format!("not persistent, clone {clone}"),
        None => "not persistent".to_owned(),
    };
    let tapdisk = match &state.tapdisk {
        None => "no tapdisk".to_owned(),
        Some(it) => {
            let process = it.identity.as_ref().map_or("none yet".into(), |it| it.pid.to_string());
            let (provider, minor) = (it.provider.as_str(), it.minor);
            format!("tapdisk={provider}, process {process}, minor {minor}")
        }
    };
    let head = format!("volume {} in SR {}: {persistence}, {tapdisk}", uri.key, uri.sr);
    let domains = state.domains.iter().map(|(domain, hold)| {
        let hold = match hold {
            Hold::Attached => "attached",
            Hold::ReadOnly => "active read-only",
            Hold::ReadWrite => "active read-write",
        };
        format!("  domain {domain:?}: {hold}")
    });
    let mirrors = state.mirrors.iter().map(|(operation, record)| {
        let what = match record.purpose {
            Purpose::Mirror => "mirror",
            Purpose::Copy => "copy",
        };
        let (domain, stage) = (&record.domain, stage(control, operation, record));
        format!("  {what} {operation} for domain {domain:?}: {stage}")
    });
    [head].into_iter().chain(domains).chain(mirrors).collect()
}

/// How far a mirror is, or how it has ended.
fn stage(control: &ControlDir, operation: &str, record: &MirrorRecord) -> String {
    match &record.end {
        Some(End::Finished) => return "finished".into(),
        Some(End::Failed(reason)) if record.is_owed => {
            return format!("failed: {reason}; xapi hears of it at the next deactivation");
        }
        Some(End::Failed(reason)) => return format!("failed: {reason}"),
        None => {}
    }
    let client = Client::new(control, record.tapdisk.pid).timeout(ANSWER_TIMEOUT);
    let number = mirroring::number(operation);
    match client.mirror_status(record.minor, number, Duration::ZERO) {
        Err(error) => format!("in progress, its tapdisk does not tell: {error}"),
        Ok(status) => match status.stage {
            MirrorStage::Copying => {
                format!("copying, {} % done", status.progress_millionths / 10_000)
            }
            MirrorStage::InSync => "in sync, until it is cut over".into(),
            MirrorStage::Finished => "complete".into(),
            MirrorStage::Failed { reason, since } => {
                format!("failed {} s ago: {reason}", since.as_secs())
            }
        },
    }
}
