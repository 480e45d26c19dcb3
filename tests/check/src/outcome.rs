//! What a rule came to.

use std::{fmt, sync::Arc};

use crate::caller::{Exchange, Failure};

/// Why a rule ended before its end.
#[derive(Clone, Debug)]
pub enum Stop {
    /// The plugin breaks it.
    Fail(Finding),
    /// It does not apply to this plugin, or cannot be judged on this host.
    Skip(String),
    /// A call that only prepares it failed: another rule tells of that.
    Blocked(Finding),
}

/// What is wrong, and the calls that show it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// One sentence.
    pub what: String,
    /// The exchanges, as text.
    pub shown: Vec<String>,
}

/// A rule's function.
pub type Outcome = Result<(), Stop>;

impl Stop {
    /// The rule is broken, which no single call shows.
    pub fn fail(what: impl Into<String>) -> Self {
        Self::Fail(Finding { what: what.into(), shown: Vec::new() })
    }

    /// The rule does not apply.
    pub fn skip(why: impl Into<String>) -> Self {
        Self::Skip(why.into())
    }

    /// The rule is broken, as these calls show.
    pub fn by(what: impl Into<String>, exchanges: &[&Arc<Exchange>]) -> Self {
        let shown = exchanges.iter().map(|it| it.to_string()).collect();
        Self::Fail(Finding { what: what.into(), shown })
    }

    /// What a preparation could not do.
    pub fn blocked(what: impl Into<String>) -> Self {
        Self::Blocked(Finding { what: what.into(), shown: Vec::new() })
    }
}

/// A call that was made, with its result.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The call.
    pub exchange: Arc<Exchange>,
    /// What the caller makes of it.
    pub result: Result<serde_json::Value, Failure>,
}

impl Reply {
    /// Fails the rule with this call.
    pub fn wrong(&self, what: impl Into<String>) -> Stop {
        Stop::by(what, &[&self.exchange])
    }

    /// The result of a call that only prepares.
    ///
    /// # Errors
    /// The rule cannot be judged.
    pub fn prepared(self) -> Result<serde_json::Value, Stop> {
        self.result.map_err(|failure| {
            let what =
                format!("{}, which this rule needs, failed: {failure}", self.exchange.method);
            Stop::Blocked(Finding { what, shown: vec![self.exchange.to_string()] })
        })
    }

    /// The result of a call that has to succeed.
    ///
    /// # Errors
    /// The rule is broken.
    pub fn expected(self, why: &str) -> Result<serde_json::Value, Stop> {
        match self.result {
            Ok(value) => Ok(value),
            Err(failure) => {
                let what = format!("{} failed {why}: {failure}", self.exchange.method);
                Err(Stop::by(what, &[&self.exchange]))
            }
        }
    }

    /// A call that has to fail.
    ///
    /// # Errors
    /// The rule is broken: it succeeded.
    pub fn refused(self, why: &str) -> Result<Failure, Stop> {
        match &self.result {
            Err(failure) => Ok(failure.clone()),
            Ok(_) => Err(self.wrong(format!("{} succeeded {why}", self.exchange.method))),
        }
    }
}

/// The verdict on one rule.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It is broken.
    Fail(Finding),
    /// It was not judged, for this reason.
    Skipped(String),
    /// It could not be judged.
    Blocked(Finding),
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(()) => Self::Pass,
            Err(Stop::Fail(finding)) => Self::Fail(finding),
            Err(Stop::Skip(why)) => Self::Skipped(why),
            Err(Stop::Blocked(finding)) => Self::Blocked(finding),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.shown.iter().try_for_each(|it| write!(f, "\n{it}"))
    }
}
