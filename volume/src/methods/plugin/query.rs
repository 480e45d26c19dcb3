//! `Plugin.query`: name, version and features.

use smapiv3::{
    Error, NoParams,
    plugin::{API_VERSION, QueryResult},
};

use crate::{Context, device_config};

/// The features that work and that the installed methods do not tell; none of
/// [`host::features::NEVER`].
const FEATURES: &[&str] = &[
    "VDI_ACTIVATE_READONLY",
    "VDI_COMPOSE",
    "VDI_CONFIG_CBT",
    "VDI_MIRROR",
    "VDI_MIRROR_IN",
    "VDI_RESIZE_ONLINE",
    "VDI_REVERT",
    "LARGE_VDI",
    "THIN_PROVISIONING",
];

pub(crate) fn run(_: &Context<'_>, _: NoParams) -> Result<QueryResult, Error> {
    Ok(QueryResult {
        plugin: "ram".into(),
        name: "RAM".into(),
        description: "Virtual disks in the memory of this host: fast, thin, and lost with its \
                      power"
            .into(),
        vendor: "xapi-storage-ram".into(),
        copyright: "(c) the authors of xapi-storage-ram, MIT licence".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        required_api_version: API_VERSION.into(),
        features: FEATURES.iter().map(|&feature| feature.to_owned()).collect(),
        configuration: device_config::keys(),
        required_cluster_stack: Vec::new(),
    })
}
