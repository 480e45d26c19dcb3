//! What a run found, for people and for programs.

mod files;
mod text;

pub use self::{
    files::{json, junit},
    text::{line, list, summary},
};
use crate::{outcome::Verdict, rules::Rule};

/// The verdict on a rule.
#[derive(Clone, Debug)]
pub struct Line {
    /// The rule.
    pub rule: Rule,
    /// What it came to.
    pub verdict: Verdict,
}

impl Line {
    /// One of them.
    #[must_use]
    pub fn new(rule: &Rule, verdict: Verdict) -> Self {
        Self { rule: *rule, verdict }
    }
}

/// How many lines are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rules that hold.
    pub passed: usize,
    /// Rules that are broken.
    pub failed: usize,
    /// Rules that do not apply.
    pub skipped: usize,
    /// Rules that could not be judged.
    pub blocked: usize,
}

impl Counts {
    /// Counts.
    #[must_use]
    pub fn of(lines: &[Line]) -> Self {
        let mut counts = Self::default();
        for line in lines {
            match line.verdict {
                Verdict::Pass => counts.passed += 1,
                Verdict::Fail(_) => counts.failed += 1,
                Verdict::Skipped(_) => counts.skipped += 1,
                Verdict::Blocked(_) => counts.blocked += 1,
            }
        }
        counts
    }

    /// The exit status of the program.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self { failed: 1.., .. } => 1,
            Self { blocked: 1.., .. } | Self { passed: 0, .. } => 2,
            _ => 0,
        }
    }
}
