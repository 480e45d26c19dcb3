//! The SMAPIv3 interfaces as Rust types: parameters, results, errors, and the one list of methods.
//!
//! Dispatch, command line help, the installed links and the JSON Schemas under `schemas/json/` all
//! come from here, so none of them can disagree with the types that are on the wire.
//!
//! Encoding (the caller's unmarshaller is strict): a variant with a payload is `["Tag", payload]`,
//! one without is `"Tag"`; an optional field is left out and never `null`; a string map is an
//! object of strings; unit is `null`. Sizes that come in are `i64`, because the caller passes on
//! whatever it was given: zero and negative ones get an answer from the method, not a parse error.
//!
//! ```
//! use smapiv3::{find, sr};
//!
//! let stat: sr::SrStat = serde_json::from_str(
//!     r#"{"sr":"s","name":"n","description":"","free_space":1,"total_space":2,
//!         "datasources":[],"clustered":false,"health":["Healthy",""]}"#,
//! ).unwrap();
//! assert_eq!(stat.health, sr::Health::Healthy(String::new()));
//! assert_eq!(find("sr.stat").unwrap().about, "Show an SR's name, health and space");
//! ```
//!
//! `SMAPIv3.md` beside this crate describes the interface for authors of plugins in any language.
//!
//! Follows `ocaml/xapi-storage/generator/lib/{control,data,plugin,task,common}.ml` of
//! xapi-project/xen-api, interface version 5.0.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod data;
pub mod datapath;
pub mod error;
mod examples;
pub mod method;
mod methods;
pub mod plugin;
pub mod sr;
pub mod task;
pub mod volume;
mod wire;

pub use error::{Backtrace, Error, ErrorReply, Failure, Interface};
pub use method::{Call, MethodInfo, error_schema};
pub use methods::{find, methods};
pub use wire::{Blocklist, NoParams, StringMap};
