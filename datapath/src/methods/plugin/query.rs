//! Plugin.query: name, version and features of this plugin. Only working features are named: the caller relies on them.

use schemas::{
    Error, NoParams, StringMap,
    plugin::{API_VERSION, QueryResult},
};

/// open and close are called only with this: writes that end with the VM's session.
const NONPERSISTENT: &str = "NONPERSISTENT";

use crate::Context;

pub(crate) fn run(_: &Context<'_>, _: NoParams) -> Result<QueryResult, Error> {
    Ok(QueryResult {
        plugin: "ram".into(),
        name: "RAM datapath".into(),
        description: "Serves disks in the host's memory by NBD and to Xen guests".into(),
        vendor: "xapi-storage-ram".into(),
        copyright: "(C) the xapi-storage-ram authors; MIT licence".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        required_api_version: API_VERSION.into(),
        features: vec![NONPERSISTENT.into()],
        configuration: StringMap::new(),
        required_cluster_stack: Vec::new(),
    })
}
