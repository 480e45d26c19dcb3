//! One call: what was sent, what came back, and what the caller would make of it.
//!
//! Reading is lenient here: a rule about the contents of a volume is not to fail because a size was
//! written as `1.0`. How an answer is written is judged by rules of its own ([`crate::rules`]).

use std::{collections::BTreeSet, fmt, sync::LazyLock};

use serde_json::Value;

use super::{
    Side,
    process::{End, Ended},
};

/// How much of an output is shown.
const SHOWN_BYTES: usize = 600;

/// A call and what came of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Which plugin.
    pub side: Side,
    /// The method, as the interface spells it.
    pub method: String,
    /// What was on its stdin.
    pub request: String,
    /// What came of it.
    pub ended: Ended,
    /// Whether it has to fail: what is asked for cannot be done.
    pub must_fail: bool,
}

/// An error, as the caller passes it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `SR_BACKEND_FAILURE_<n>`, an error of the interface, or `SCRIPT_FAILED`.
    pub code: String,
    /// What the user sees beside it.
    pub params: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.code, self.params)
    }
}

impl Exchange {
    /// The first JSON value on stdout, if there is one.
    #[must_use]
    pub fn value(&self) -> Option<Value> {
        serde_json::Deserializer::from_slice(&self.ended.stdout).into_iter().next()?.ok()
    }

    /// Whether stdout has an error where a result is expected, or the other way round.
    #[must_use]
    pub fn has_error_form(value: &Value) -> bool {
        value.get("code").is_some() && value.get("params").is_some()
    }

    /// The result or the error, read leniently.
    ///
    /// # Errors
    /// What the caller would make of the failure.
    pub fn result(&self) -> Result<Value, Failure> {
        let script_failed = |text: String| Failure {
            code: "SCRIPT_FAILED".into(),
            params: vec![self.method.clone(), text],
        };
        let value = self.value();
        match (&self.ended.end, value) {
            (End::Exit(0), Some(value)) if !Self::has_error_form(&value) => Ok(value),
            // A method without a result that prints nothing: a rule of its own.
            (End::Exit(0), None) if self.ended.stdout.is_empty() && self.returns_unit() => {
                Ok(Value::Null)
            }
            (End::Exit(_), Some(value)) if Self::has_error_form(&value) => {
                let text = |it: &Value| it.as_str().map_or_else(|| it.to_string(), str::to_owned);
                let params = value["params"].as_array().map(|all| all.iter().map(text).collect());
                Err(Failure { code: text(&value["code"]), params: params.unwrap_or_default() })
            }
            (End::Exit(0), _) => Err(script_failed("bad json on stdout".into())),
            (end, _) => Err(script_failed(end.to_string())),
        }
    }

    /// Whether the method has no result.
    #[must_use]
    pub fn returns_unit(&self) -> bool {
        static UNITS: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
            let units = smapiv3::methods().filter(|it| (it.response_schema)()["type"] == "null");
            units.map(|it| it.name).collect()
        });
        UNITS.contains(self.method.as_str())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::Killed => write!(f, "killed by this check"),
            Self::TimedOut => write!(f, "no answer in time, killed"),
            Self::NotStarted(error) => write!(f, "not started: {error}"),
        }
    }
}

/// As it is shown to a plugin's author.
impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} --json <<< '{}'", self.method, shorten(&self.request))?;
        write!(f, "{}, stdout: {}", self.ended.end, quoted(&self.ended.stdout))?;
        if !self.ended.stderr.is_empty() {
            write!(f, "\nstderr: {}", quoted(&self.ended.stderr))?;
        }
        Ok(())
    }
}

fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.is_empty() { "nothing".into() } else { shorten(text.trim_end()) }
}

fn shorten(text: &str) -> String {
    if text.len() <= SHOWN_BYTES {
        return text.to_owned();
    }
    let end = (0..=SHOWN_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{} ... ({} bytes in all)", &text[..end], text.len())
}
