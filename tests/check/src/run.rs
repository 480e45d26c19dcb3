//! A whole run: which rules are judged, in which order, and the end of the SR.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    caller::{Caller, Directory, PATH, Side},
    host::Host,
    options::Options,
    outcome::{Finding, Stop, Verdict},
    report::Line,
    rules::{self, Check, Need, Rule},
};

/// Set by a signal: calls end early, rules are no longer judged, and the SR is destroyed.
pub type Interrupt = Arc<AtomicBool>;

/// How many calls that break a rule are shown.
const SHOWN_MAX: usize = 2;

/// Judges all selected rules; each line is told as soon as it is known.
///
/// # Errors
/// Where the directories cannot be read.
pub fn run(
    options: Options,
    interrupt: &Interrupt,
    told: &mut dyn FnMut(&Line),
) -> io::Result<Vec<Line>> {
    let read = |path: &std::path::PathBuf| {
        let named = |it: io::Error| io::Error::new(it.kind(), format!("{}: {it}", path.display()));
        Directory::read(path).map_err(named)
    };
    let volume = options.volume.as_ref().map(read).transpose()?;
    let volume = volume.ok_or_else(|| io::Error::other("no directory of a volume plugin"))?;
    let datapaths = options.datapath.iter().map(read).collect::<io::Result<_>>()?;
    let caller = Caller::new(
        volume,
        datapaths,
        options.env.clone(),
        options.call_timeout(),
        Arc::clone(interrupt),
    );
    let host = Host::new(caller, options);
    let lines = judge(&host, interrupt, told);
    // Signals ended the rules; the calls that clean up are to be made.
    interrupt.store(false, Ordering::Relaxed);
    host.end();
    Ok(lines)
}

fn judge(host: &Host, interrupt: &Interrupt, told: &mut dyn FnMut(&Line)) -> Vec<Line> {
    let selected: Vec<&Rule> = rules::all().filter(|it| host.options.selects(it.id)).collect();
    let mut verdicts: BTreeMap<&str, Verdict> = BTreeMap::new();
    for rule in &selected {
        let Check::Once(check) = rule.check else { continue };
        if interrupt.load(Ordering::Relaxed) {
            break;
        }
        let verdict = match unmet(host, rule) {
            Some(why) => Verdict::Skipped(why),
            None => check(host).into(),
        };
        host.tidy();
        if interrupt.load(Ordering::Relaxed) {
            break;
        }
        told(&Line::new(rule, verdict.clone()));
        verdicts.insert(rule.id, verdict);
    }
    let is_selected = |id: &str| selected.iter().any(|it| it.id == id);
    let has_each = selected.iter().any(|it| matches!(it.check, Check::Each(_)));
    let works = rules::all().find(|it| it.id == "call.works").map(|it| it.check);
    if let Some(Check::Once(works)) = works
        && has_each
        && !is_selected("call.works")
        && !interrupt.load(Ordering::Relaxed)
    {
        // Something of each method for those rules to judge.
        let _not_selected = works(host);
        host.tidy();
    }
    for rule in &selected {
        if let Check::Each(check) = rule.check
            && !interrupt.load(Ordering::Relaxed)
        {
            let verdict = each(host, check);
            told(&Line::new(rule, verdict.clone()));
            verdicts.insert(rule.id, verdict);
        }
    }
    let verdict = |rule: &Rule| {
        let interrupted =
            || Verdict::Blocked(Finding { what: "interrupted".into(), shown: Vec::new() });
        verdicts.get(rule.id).cloned().unwrap_or_else(interrupted)
    };
    selected.iter().map(|rule| Line::new(rule, verdict(rule))).collect()
}

/// Judges all calls of the run, a method's first two that are wrong.
fn each(host: &Host, check: fn(&crate::caller::Exchange) -> Option<String>) -> Verdict {
    let mut found: BTreeMap<String, (String, Arc<crate::caller::Exchange>)> = BTreeMap::new();
    for exchange in host.exchanges() {
        if let Some(what) = check(&exchange) {
            found.entry(exchange.method.clone()).or_insert((what, exchange));
        }
    }
    if found.is_empty() {
        return Verdict::Pass;
    }
    let what = found.iter().map(|(method, (what, _))| format!("{method}: {what}"));
    let shown = found.values().take(SHOWN_MAX).map(|(_, it)| it.to_string());
    Verdict::Fail(Finding { what: what.collect::<Vec<_>>().join("; "), shown: shown.collect() })
}

/// Why a rule does not apply here.
fn unmet(host: &Host, rule: &Rule) -> Option<String> {
    rule.needs.iter().find_map(|need| match need {
        Need::Method(method) => {
            let is_there = host.caller.volume.script(method).is_some();
            (!is_there).then(|| format!("{method} is not there"))
        }
        Need::Datapath(_) if host.caller.datapaths.is_empty() => {
            Some("no directory of a datapath plugin was given".into())
        }
        Need::Datapath(method) => {
            let is_there = host.caller.datapaths.iter().any(|it| it.script(method).is_some());
            (!is_there).then(|| format!("{method} is not there"))
        }
        Need::Feature(feature) => {
            let is_declared = match host.query(&Side::Volume) {
                Err(Stop::Blocked(_)) => return Some("Plugin.query failed".into()),
                _ => host.declares_anywhere(feature),
            };
            (!is_declared).then(|| format!("{feature} is not declared"))
        }
        Need::Program(program) => {
            let is_there = PATH.split(':').any(|it| Path::new(it).join(program).exists());
            (!is_there).then(|| format!("{program} is not installed"))
        }
    })
}
