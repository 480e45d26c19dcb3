//! The datapath plugin: how domains get at the bytes of a volume. One short-lived process for each
//! call of Datapath.* and Plugin.*, called by xapi-storage-script or by a person.
//!
//! This file is wiring. A method is one file below `methods/`. The methods share [`vdi`] (one volume,
//! locked for one call), [`state`] (the record of it), [`session`] (the clone of a non-persistent
//! disk), [`activation`] (which program serves it), [`unused`] (activations that end because they are in
//! the way), [`import`] (connections of incoming migrations),
//! [`mirroring`] (outgoing ones, and [`mirror_record`] of them), [`copying`] (which blocks), [`link`] (the path by which clients reach
//! that process).
//! The process is handled by [`tapdisk`], [`starting`], [`serving`] and [`ending`]. Where the SR wants the
//! host's own tapdisk, [`blktap`] has a volume laid out ([`image`]) and taken back ([`write_back`]).
//!
//! Invariant: calls for one volume come one after the other, and each may be killed at any point
//! and repeated. So a record never names less than what exists: a number is written down
//! before it is used, and removed after it is given back.

mod activation;
mod blktap;
mod commands;
mod copying;
mod ending;
mod errors;
mod image;
mod import;
mod link;
mod methods;
mod mirror_record;
mod mirroring;
mod serving;
mod session;
mod starting;
mod state;
mod tapdisk;
#[cfg(test)]
mod tests;
mod unused;
mod vdi;
mod write_back;

use std::process::ExitCode;

use host::{Config, Environment, Misconfigured};
use smapiv3::{data, datapath as d, plugin as p};
use smapiv3_plugin::{Edges, Registry};

use crate::methods::{data as operation, datapath, plugin as query};

/// The name by which the plugin introduces itself.
const NAME: &str = "datapath-plugin";

/// The context of a call, which a method gets beside its parameters.
type Context<'a> = smapiv3_plugin::Context<'a, Config>;

fn main() -> ExitCode {
    let environment = Environment::process();
    let edges = Edges::process(host::syslog(&environment, NAME));
    ExitCode::from(smapiv3_plugin::run(edges, &registry(Config::read(&environment))))
}

/// The methods of this plugin. Each becomes an installed link.
fn registry(config: Result<Config, Misconfigured>) -> Registry<Config> {
    let registry = Registry::new(
        NAME,
        env!("CARGO_PKG_VERSION"),
        "Datapath of disks in the host's memory",
        config,
    )
    .method::<p::Query>(query::query::run)
    .method::<p::Diagnostics>(query::diagnostics::run)
    .method::<d::Open>(datapath::open::run)
    .method::<d::Attach>(datapath::attach::run)
    .method::<d::Activate>(datapath::activate::run)
    .method::<d::ActivateReadonly>(datapath::activate_readonly::run)
    .method::<d::ImportActivate>(datapath::import_activate::run)
    .method::<d::Deactivate>(datapath::deactivate::run)
    .method::<d::Detach>(datapath::detach::run)
    .method::<d::Close>(datapath::close::run)
    .method::<data::Copy>(operation::copy::run)
    .method::<data::Mirror>(operation::mirror::run)
    .method::<data::Stat>(operation::stat::run)
    .method::<data::Cancel>(operation::cancel::run)
    .method::<data::Destroy>(operation::destroy::run)
    .method::<data::Ls>(operation::ls::run);
    commands::register(registry)
}
