//! `smapiv3-check`: plays xapi-storage-script, xapi's migrations and a backup client against any
//! SMAPIv3 plugin, and judges each answer by what those do with it. See the README.

pub mod caller;
mod disk;
pub mod host;
pub mod nbd;
pub mod options;
pub mod outcome;
pub mod report;
pub mod rules;
mod run;

pub use host::Host;
pub use run::{Interrupt, run};
