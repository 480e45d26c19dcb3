//! Plugin.query: name, version and features of this plugin. Only working features are named: the caller relies on them.

use smapiv3::{
    Error, NoParams, StringMap,
    plugin::{API_VERSION, QueryResult},
};

/// open and close are called only with this: writes that end with the VM's session.
const NONPERSISTENT: &str = "NONPERSISTENT";
/// import_activate is called only with this: disks can be migrated to here. The volume plugin declares it as
/// well, which is where xapi looks before it begins.
const MIRROR_IN: &str = "VDI_MIRROR_IN";
/// Data.mirror and Data.stat work: disks can be migrated from here.
const MIRROR: &str = "VDI_MIRROR";

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
        features: [NONPERSISTENT, MIRROR, MIRROR_IN].map(str::to_owned).to_vec(),
        configuration: StringMap::new(),
        required_cluster_stack: Vec::new(),
    })
}
