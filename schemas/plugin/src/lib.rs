//! The dispatcher of a plugin: from argv and stdin to one method call, one answer, one log line.
//!
//! A plugin binary is a [`Registry`] of the methods it implements and a call of [`run`]. The same
//! methods answer xapi-storage-script (`<path>/Volume.create --json`, parameters on stdin, exactly
//! one JSON value on stdout) and a person (`my-plugin Volume.create --sr ... --size 8GiB`).
//!
//! stdout is protocol: only `run` writes it, once. Nothing here touches the process itself: argv,
//! the three streams and the log come in as [`Edges`], and what a plugin read from its environment
//! as the configuration of its [`Registry`].

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod cli;
mod diagnose;
mod edges;
pub mod files;
mod log;
mod near;
mod panic;
mod registry;
mod run;
mod runpy;
pub mod size;
pub mod testing;
#[cfg(test)]
mod tests;

pub use edges::Edges;
pub use log::Log;
pub use registry::{Arg, Args, Context, Registry};
pub use run::{EXIT_FAILED, EXIT_OK, EXIT_USAGE, run};
