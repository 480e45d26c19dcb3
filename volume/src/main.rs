//! The volume plugin: `SR.*`, `Volume.*` and `Plugin.*` of storage repositories in memory.
//!
//! Wiring only. Each method is a file below `methods/`, named for it, each maintenance command one
//! below `commands/`. The store does the work; the plugin adds the interface: the device-config,
//! the shape of the answers, the codes of the errors, and the word to the tapdisk of a volume that changes
//! while it is active.

mod commands;
mod convert;
mod device_config;
mod graphs;
mod images;
mod live;
mod methods;
mod progress;
mod saving;
#[cfg(test)]
mod tests;
mod unused;

use std::process::ExitCode;

use host::{Config, Environment, Misconfigured};
use smapiv3::{plugin as plugin_interface, sr, volume};
use smapiv3_plugin::{Edges, Registry};

/// The name by which the plugin introduces itself.
const NAME: &str = "volume-plugin";

/// The context of a method call.
type Context<'a> = smapiv3_plugin::Context<'a, Config>;

fn main() -> ExitCode {
    let environment = Environment::process();
    let edges = Edges::process(host::syslog(&environment, NAME));
    ExitCode::from(smapiv3_plugin::run(edges, &registry(Config::read(&environment))))
}

/// Every method and command that works.
fn registry(config: Result<Config, Misconfigured>) -> Registry<Config> {
    let registry = Registry::new(
        NAME,
        env!("CARGO_PKG_VERSION"),
        "Storage repositories and virtual disks in the memory of this host (SMAPIv3)",
        config,
    );
    let registry = registry
        .method::<plugin_interface::Query>(methods::plugin::query::run)
        .method::<plugin_interface::Ls>(methods::plugin::ls::run)
        .method::<plugin_interface::Diagnostics>(methods::plugin::diagnostics::run)
        .method::<sr::Probe>(methods::sr::probe::run)
        .method::<sr::Create>(methods::sr::create::run)
        .method::<sr::Attach>(methods::sr::attach::run)
        .method::<sr::Detach>(methods::sr::detach::run)
        .method::<sr::Destroy>(methods::sr::destroy::run)
        .method::<sr::Stat>(methods::sr::stat::run)
        .method::<sr::SetName>(methods::sr::set_name::run)
        .method::<sr::SetDescription>(methods::sr::set_description::run)
        .method::<sr::Ls>(methods::sr::ls::run)
        .method::<volume::Create>(methods::volume::create::run)
        .method::<volume::Snapshot>(methods::volume::snapshot::run)
        .method::<volume::Clone>(methods::volume::clone::run)
        .method::<volume::Copy>(methods::volume::copy::run)
        .method::<volume::Destroy>(methods::volume::destroy::run)
        .method::<volume::Revert>(methods::volume::revert::run)
        .method::<volume::SetName>(methods::volume::set_name::run)
        .method::<volume::SetDescription>(methods::volume::set_description::run)
        .method::<volume::Set>(methods::volume::set::run)
        .method::<volume::Unset>(methods::volume::unset::run)
        .method::<volume::Resize>(methods::volume::resize::run)
        .method::<volume::Stat>(methods::volume::stat::run)
        .method::<volume::Compare>(methods::volume::compare::run)
        .method::<volume::SimilarContent>(methods::volume::similar_content::run)
        .method::<volume::EnableCbt>(methods::volume::enable_cbt::run)
        .method::<volume::DisableCbt>(methods::volume::disable_cbt::run)
        .method::<volume::DataDestroy>(methods::volume::data_destroy::run)
        .method::<volume::ListChangedBlocks>(methods::volume::list_changed_blocks::run)
        .method::<volume::Compose>(methods::volume::compose::run);
    commands::register(registry)
}
