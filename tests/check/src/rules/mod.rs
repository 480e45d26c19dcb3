//! The rules, a file for each group. A rule says what it asks for, what follows from it in xapi (where
//! that can be read), and what a user would see of a plugin that breaks it.

mod call;
mod cbt;
mod data;
mod datapath;
mod forms;
mod kill;
mod migrate;
mod names;
mod parallel;
mod query;
mod snapshot;
mod sr;
mod volume;

use crate::{caller::Exchange, host::Host, outcome::Outcome};

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name: `<group>.<what>`.
    pub id: &'static str,
    /// What it asks for, as a sentence.
    pub title: &'static str,
    /// Where that is to be read: file and function of xen-api, or another public place.
    pub reference: &'static str,
    /// What a user sees where it is broken.
    pub consequence: &'static str,
    /// What has to be there for it to be judged.
    pub needs: &'static [Need],
    /// How it is judged.
    pub check: Check,
}

/// How a rule is judged.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// By each call of the whole run: what is wrong with it.
    Each(fn(&Exchange) -> Option<String>),
    /// By calls of its own.
    Once(fn(&Host) -> Outcome),
}

/// What a rule needs.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A method's file in the volume plugin's directory.
    Method(&'static str),
    /// A method's file in a datapath plugin's directory.
    Datapath(&'static str),
    /// A feature in the Plugin.query of the volume plugin, or of a datapath plugin.
    Feature(&'static str),
    /// A program on this host.
    Program(&'static str),
}

/// All rules, in the order in which they are judged and shown.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let before = [query::RULES, forms::RULES, call::RULES, sr::RULES, names::RULES];
    let volumes = [volume::RULES, snapshot::RULES, cbt::RULES, parallel::RULES];
    let data = [datapath::RULES, data::RULES, migrate::RULES, kill::RULES, sr::LAST];
    before.into_iter().chain(volumes).chain(data).flatten()
}

/// Sources that many rules follow from.
mod source {
    pub(super) const RUN: &str = "xen-api ocaml/xapi-storage-script/lib.ml, Process.run";
    pub(super) const RPC: &str = "xen-api ocaml/xapi-storage-script/main.ml, fork_exec_rpc";
    pub(super) const QUERY: &str = "xen-api ocaml/xapi-storage-script/main.ml, query_impl";
    pub(super) const CONTROL: &str = "xen-api ocaml/xapi-storage/generator/lib/control.ml";
    pub(super) const DATA: &str = "xen-api ocaml/xapi-storage/generator/lib/data.ml";
    pub(super) const SNAPSHOT: &str =
        "xen-api ocaml/xapi-storage-script/main.ml, vdi_snapshot_impl";
    pub(super) const MIRROR: &str = "xen-api ocaml/xapi/storage_smapiv3_migrate.ml";
    pub(super) const DP_DESTROY: &str = "xen-api ocaml/xapi-storage-script/main.ml, dp_destroy2";
    pub(super) const ATTACH: &str = "xen-api ocaml/xapi-storage-script/main.ml, vdi_attach_common";
}
