//! For people: a line for each rule, and the call that shows what is wrong below it.

use super::{Counts, Line};
use crate::{outcome::Verdict, rules::Rule};

/// A rule's line or, where it is broken, its lines.
#[must_use]
pub fn line(line: &Line) -> String {
    let Rule { id, title, reference, consequence, .. } = line.rule;
    match &line.verdict {
        Verdict::Pass => format!("pass     {id}: {title}\n"),
        Verdict::Skipped(why) => format!("skipped  {id}: {why}\n"),
        Verdict::Blocked(finding) => {
            format!("BLOCKED  {id}: {title}\n{}", indented(&finding.to_string()))
        }
        Verdict::Fail(finding) => {
            let mut text = format!("FAILED   {id}: {title}\n{}", indented(&finding.to_string()));
            text.push_str(&indented(&format!(
                "A user would see: {consequence}.\nSee: {reference}"
            )));
            text
        }
    }
}

/// What it all came to.
#[must_use]
pub fn summary(lines: &[Line]) -> String {
    let Counts { passed, failed, skipped, blocked } = Counts::of(lines);
    let blocked = match blocked {
        0 => String::new(),
        _ => format!(", {blocked} could not be judged"),
    };
    format!("{passed} passed, {failed} failed, {skipped} skipped{blocked}\n")
}

/// A rule as `--list` shows it.
#[must_use]
pub fn list(rule: &Rule) -> String {
    let Rule { id, title, reference, consequence, .. } = rule;
    format!("{id}\n    {title}.\n    Otherwise: {consequence}.\n    See: {reference}\n")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("         {line}\n")).collect()
}
