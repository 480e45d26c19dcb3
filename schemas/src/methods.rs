//! The one list of the methods of all interfaces.

use crate::method::MethodInfo;
use crate::{data, datapath, plugin, sr, task, volume};

/// Every method of every interface, grouped by interface.
pub fn methods() -> impl Iterator<Item = &'static MethodInfo> {
    [plugin::METHODS, sr::METHODS, volume::METHODS, datapath::METHODS, data::METHODS, task::METHODS]
        .into_iter()
        .flatten()
}

/// The method of that name, without regard to case (as the caller looks its files up).
pub fn find(name: &str) -> Option<&'static MethodInfo> {
    methods().find(|method| method.name.eq_ignore_ascii_case(name))
}
