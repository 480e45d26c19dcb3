//! The interface `Plugin`: what a plugin says about itself. Every plugin has it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::interface;
use crate::wire::{NoParams, StringMap};

interface! {
    "Plugin";
    /// Describe this plugin: its version and what it can do
    Query = "query" (NoParams) -> QueryResult;
    /// List the storage repositories that are attached
    Ls = "ls" (NoParams) -> Vec<String>;
    /// Print what helps to find the cause of a problem
    Diagnostics = "diagnostics" (NoParams) -> String;
}

/// The API version that this interface definition is: `required_api_version` of a query.
pub const API_VERSION: &str = "5.0";

/// What a plugin says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueryResult {
    /// Name of the plugin: the type of its SRs
    pub plugin: String,
    /// Short name
    pub name: String,
    /// What the plugin is for
    pub description: String,
    /// Who made it
    pub vendor: String,
    /// Whose it is
    pub copyright: String,
    /// Version of the plugin
    pub version: String,
    /// The least API version that it needs
    pub required_api_version: String,
    /// What it can do; only what works is named
    pub features: Vec<String>,
    /// The device-config keys and what each is for
    pub configuration: StringMap,
    /// Cluster stacks one of which must run; none are needed if empty
    pub required_cluster_stack: Vec<String>,
}
