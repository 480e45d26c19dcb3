//! The tapdisks of this host, for `Plugin.diagnostics`: what each says of itself.

use std::time::Duration;

use tapctl::{Client, ControlDir};

/// How long a tapdisk may take for an answer: one that hangs is what diagnostics are wanted for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A line for each tapdisk, and one for each disk of it.
pub(super) fn describe(control: &ControlDir) -> Vec<String> {
    match control.tapdisks() {
        Err(error) => vec![format!("tapdisks: {error}")],
        Ok(pids) if pids.is_empty() => vec!["tapdisks: none".into()],
        Ok(pids) => pids.into_iter().flat_map(|pid| one(control, pid)).collect(),
    }
}

fn one(control: &ControlDir, pid: u32) -> Vec<String> {
    let client = Client::new(control, pid).timeout(ANSWER_TIMEOUT);
    let program = match client.identify() {
        Err(error) => return vec![format!("tapdisk {pid}: {error}")],
        Ok(Some(it)) => format!("{} {}, revision {}", it.name, it.version, it.revision),
        Ok(None) => "another program".into(),
    };
    let mut lines = vec![format!("tapdisk {pid}: {program}")];
    match client.list() {
        Err(error) => lines.push(format!("  {error}")),
        Ok(vbds) => lines.extend(vbds.into_iter().map(|vbd| {
            let minor = u16::try_from(vbd.minor).ok();
            let clients = minor.and_then(|minor| client.clients(minor).ok());
            let clients = clients.map_or("an unknown number of".into(), |it| it.count.to_string());
            let (minor, state, params) = (vbd.minor, vbd.state, vbd.params.to_string_lossy());
            format!("  minor {minor}: {params:?}, state {state:#x}, {clients} clients")
        })),
    }
    lines
}
