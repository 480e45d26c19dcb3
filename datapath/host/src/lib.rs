//! The host as all programs of this product see it: their configuration, the log, control groups,
//! the features that no plugin may declare, and which tapdisk serves an SR.
//!
//! Called by `main` of each program, and by nothing below it: the result is handed on as
//! values. Every environment variable of the product is in [`mod@variables`], once, and read in
//! [`Config::read`] alone.

pub mod cgroup;
mod config;
mod environment;
pub mod features;
mod provider;
pub mod variables;

pub use config::{Config, Misconfigured, syslog};
pub use environment::Environment;
pub use provider::{Provider, TooLarge, UnknownProvider};
pub use variables::Variable;
