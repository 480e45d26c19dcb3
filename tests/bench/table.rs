//! Measured values beside their goals: as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::samples::Samples;

/// A bound for a measured ratio. A miss is shown and is no failure: people judge the numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(goal) => value >= goal,
            Self::AtMost(goal) => value <= goal,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(goal) => format!("≥ {goal}"),
            Self::AtMost(goal) => format!("≤ {goal}"),
        }
    }
}

/// One comparison of a row.
#[derive(Clone, Debug)]
struct Check {
    /// With whom; empty: with the goal itself, in the row's unit.
    against: String,
    value: Samples,
    goal: Goal,
}

/// One measure with the figure of every server.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    measure: String,
    unit: &'static str,
    figures: Vec<(String, Samples)>,
    checks: Vec<Check>,
    note: String,
}

impl Row {
    pub(crate) fn new(measure: impl Into<String>, unit: &'static str) -> Self {
        Self {
            measure: measure.into(),
            unit,
            figures: Vec::new(),
            checks: Vec::new(),
            note: String::new(),
        }
    }

    /// Adds the figure of one server; ours is the first.
    pub(crate) fn figure(mut self, who: impl Into<String>, samples: impl Into<Samples>) -> Self {
        let samples = samples.into();
        if !samples.is_empty() {
            self.figures.push((who.into(), samples));
        }
        self
    }

    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.note = text.into();
        self
    }

    /// Holds ours against a goal in the row's unit.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        if let Some((_, value)) = self.figures.first() {
            self.checks.push(Check { against: String::new(), value: value.clone(), goal });
        }
        self
    }

    /// Compares ours with the figure of `who`, where both were measured.
    pub(crate) fn against(self, who: &str, goal: Goal) -> Self {
        match self.figures.first() {
            Some((ours, _)) => {
                let ours = ours.clone();
                self.compare(&ours, who, who.to_owned(), goal)
            }
            None => self,
        }
    }

    /// The same for another variant of ours, which is named.
    pub(crate) fn also(self, variant: &str, who: &str, goal: Goal) -> Self {
        self.compare(variant, who, format!("{who} ({variant})"), goal)
    }

    fn compare(mut self, one: &str, other: &str, against: String, goal: Goal) -> Self {
        let of = |who: &str| self.figures.iter().find(|(name, _)| name == who);
        if let Some(((_, one), (_, other))) = of(one).zip(of(other)) {
            let value = one.ratio(other);
            self.checks.push(Check { against, value, goal });
        }
        self
    }

    /// Holds ours against the best of some: the largest, or where `goal` is an upper limit the
    /// smallest.
    pub(crate) fn against_best(self, of: &[&str], goal: Goal) -> Self {
        let better = |one: f64, other: f64| match goal {
            Goal::AtLeast(_) => one.total_cmp(&other),
            Goal::AtMost(_) => other.total_cmp(&one),
        };
        let peers = self.figures.iter().skip(1).filter(|(who, _)| of.contains(&who.as_str()));
        let best = peers.max_by(|(_, one), (_, other)| better(one.median(), other.median()));
        match best.map(|(who, _)| who.clone()) {
            Some(who) => self.against(&who, goal),
            None => self,
        }
    }

    fn json(&self) -> Value {
        let figures: serde_json::Map<String, Value> =
            self.figures.iter().map(|(who, samples)| (who.clone(), samples.json())).collect();
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                json!({
                    "against": check.against,
                    "goal": check.goal.text(),
                    "value": check.value.json(),
                    "met": check.goal.is_met(check.value.median()),
                })
            })
            .collect();
        json!({
            "measure": self.measure,
            "unit": self.unit,
            "figures": figures,
            "checks": checks,
            "note": self.note,
        })
    }

    fn text(&self, out: &mut String) {
        let figures: Vec<String> = self
            .figures
            .iter()
            .map(|(who, samples)| {
                let spread = samples.spread() * 100.0;
                let spread = if spread >= 0.5 { format!(" ±{spread:.0}%") } else { String::new() };
                format!("{who} {}{spread}", number(samples.median()))
            })
            .collect();
        // A String takes everything.
        let _always = writeln!(out, "{} [{}]", self.measure, self.unit);
        let _always = writeln!(out, "      {}", figures.join(" | "));
        for check in &self.checks {
            let value = check.value.median();
            let met = if check.goal.is_met(value) { "ok  " } else { "MISS" };
            let what = if check.against.is_empty() {
                format!("{} {}", number(value), self.unit)
            } else {
                format!("{value:.2} x {}", check.against)
            };
            let _always = writeln!(out, "  {met} {what:<34} goal {}", check.goal.text());
        }
        if !self.note.is_empty() {
            let _always = writeln!(out, "      {}", self.note);
        }
    }
}

/// All rows, as a table.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    rows.iter().for_each(|row| row.text(&mut out));
    let checks = || rows.iter().flat_map(|row| &row.checks);
    let met = checks().filter(|check| check.goal.is_met(check.value.median())).count();
    let _always = writeln!(out, "{met} of {} goals reached", checks().count());
    out
}

/// All rows, as JSON.
pub(crate) fn json(rows: &[Row]) -> Value {
    rows.iter().map(Row::json).collect()
}

/// A number with about three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100_000.0 => format!("{:.0}k", value / 1000.0),
        size if size >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_held_against_the_best_peer_and_not_against_the_ceiling() {
        let row = Row::new("speed", "MB/s")
            .figure("ours", 30.0)
            .figure("slow", 10.0)
            .figure("fast", 20.0)
            .figure("ceiling", 90.0)
            .against_best(&["slow", "fast"], Goal::AtLeast(1.5))
            .against("absent", Goal::AtLeast(9.0))
            .goal(Goal::AtMost(20.0));
        let text = text(&[row]);
        assert!(text.contains("ok   1.50 x fast"), "{text}");
        assert!(text.contains("MISS 30.0 MB/s"), "{text}");
        assert!(text.ends_with("1 of 2 goals reached\n"), "{text}");
    }
}
