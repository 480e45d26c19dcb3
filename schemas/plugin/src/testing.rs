//! A harness for tests of a plugin: its real registry is called as the toolstack or the command line
//! calls it, inside of the test's own process, and the output is checked and parsed.

use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::Value;
use smapiv3::ErrorReply;
use smapiv3_syslog::Syslog;

use crate::{EXIT_FAILED, EXIT_OK, Edges, Log, Registry, log::Subject, run};

/// Exit status and output of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status of the process
    pub status: u8,
    /// Everything written to stdout
    pub stdout: String,
    /// Everything written to stderr
    pub stderr: String,
    /// How many bytes of stdin were not read
    pub unread: usize,
}

/// Why a call of the toolstack failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code, such as `SR_BACKEND_FAILURE_24`
    pub code: String,
    /// The sentence that a user of the toolstack sees
    pub message: String,
}

/// The command line of a plugin, for its page.
pub fn command_line<C>(registry: &Registry<C>) -> clap::Command {
    crate::cli::command(registry)
}

/// Runs a plugin with that command line and that stdin. Messages go to `log`.
///
/// # Panics
/// Where the output is not UTF-8.
#[must_use]
pub fn run_with_log<C>(registry: &Registry<C>, log: Syslog, argv: &[&str], stdin: &str) -> Outcome {
    let (mut input, mut stdout, mut stderr) = (stdin.as_bytes(), Vec::new(), Vec::new());
    let edges = Edges {
        argv: argv.iter().map(Into::into).collect(),
        stdin: Box::new(&mut input),
        stdout: Box::new(&mut stdout),
        stderr: Box::new(&mut stderr),
        log,
    };
    let status = run(edges, registry);
    let text = |bytes| String::from_utf8(bytes).expect("a plugin prints text");
    Outcome { status, stdout: text(stdout), stderr: text(stderr), unread: input.len() }
}

/// The same, with a log that goes nowhere.
///
/// # Panics
/// See [`run_with_log`].
#[must_use]
pub fn run_plugin<C>(registry: &Registry<C>, argv: &[&str], stdin: &str) -> Outcome {
    run_with_log(registry, Syslog::none(), argv, stdin)
}

/// A call as the toolstack makes it; `params` need no debug context.
///
/// # Errors
/// The error that the plugin answered.
///
/// # Panics
/// Where the answer is not one that the interface allows: its type says no, or an exit status that
/// does not fit.
pub fn call<C>(registry: &Registry<C>, method: &str, mut params: Value) -> Result<Value, Refusal> {
    params["dbg"] = "test".into();
    let path = format!("/plugins/{}/{method}", registry.name);
    let outcome = run_plugin(registry, &[&path, "--json"], &params.to_string());
    assert_eq!((outcome.unread, outcome.stderr.as_str()), (0, ""), "{method}");
    if outcome.status == EXIT_OK {
        return Ok(parsed(method, &outcome.stdout));
    }
    assert_eq!(outcome.status, EXIT_FAILED, "{method}");
    let ErrorReply { code, params, .. } = parsed(method, &outcome.stdout);
    Err(Refusal { code, message: params.into_iter().nth(1).unwrap_or_default() })
}

/// Checks that a call was refused with `SR_BACKEND_FAILURE_<number>`, and that its message has all
/// of these parts.
///
/// # Panics
/// Where it was not, or it has not.
#[track_caller]
pub fn assert_refused(result: Result<Value, Refusal>, number: u16, parts: &[&str]) {
    let refusal = result.expect_err("the call is refused");
    assert_eq!(refusal.code, format!("SR_BACKEND_FAILURE_{number}"), "{refusal:?}");
    for part in parts {
        assert!(refusal.message.contains(part), "{part:?} is not in {refusal:?}");
    }
}

/// The log of a call that goes nowhere.
#[must_use]
pub fn log() -> Log<'static> {
    static NOWHERE: LazyLock<Syslog> = LazyLock::new(Syslog::none);
    Log::new(&NOWHERE, "test", &Subject::default())
}

fn parsed<T: DeserializeOwned>(method: &str, answer: &str) -> T {
    serde_json::from_str(answer)
        .unwrap_or_else(|error| panic!("{method} answers {answer:?}: {error}"))
}
