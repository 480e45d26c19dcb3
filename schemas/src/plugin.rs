//! The interface `Plugin`: the description of a plugin. Every plugin implements it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::interface;
use crate::wire::{NoParams, StringMap};

interface! {
    "Plugin";
    /// Describe this plugin: its version and its features
    Query = "query" (NoParams) -> QueryResult;
    /// List the storage repositories that are attached
    Ls = "ls" (NoParams) -> Vec<String>;
    /// Print details that help to find the cause of a problem
    Diagnostics = "diagnostics" (NoParams) -> String;
}

/// The version of this interface definition: `required_api_version` of a query.
pub const API_VERSION: &str = "5.0";

/// The description of a plugin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Query result")]
pub struct QueryResult {
    /// Name of the plugin: the type of its SRs
    pub plugin: String,
    /// Short name
    pub name: String,
    /// Purpose of the plugin
    pub description: String,
    /// Vendor
    pub vendor: String,
    /// Copyright notice
    pub copyright: String,
    /// Version of the plugin
    pub version: String,
    /// The least API version that it needs
    pub required_api_version: String,
    /// Its features; only working ones are named
    pub features: Vec<String>,
    /// The device-config keys and the purpose of each
    pub configuration: StringMap,
    /// Cluster stacks one of which must run; none are needed if empty
    pub required_cluster_stack: Vec<String>,
}
