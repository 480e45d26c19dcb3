//! What the programs of this product share of the host that they run on: their configuration, the
//! log, the control groups, and what they may say of themselves.
//!
//! Called by `main` of each program, and by nothing below it: what is read here is handed on as
//! values. Every environment variable of the product is in [`mod@variables`], once, and read in
//! [`Config::read`] alone.

pub mod cgroup;
mod config;
mod environment;
pub mod features;
pub mod variables;

pub use config::{Config, Misconfigured, syslog};
pub use environment::Environment;
pub use variables::Variable;
