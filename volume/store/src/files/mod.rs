//! The files of one SR: where they lie, and how they are reached, changed and locked. Their
//! contents are defined in [`crate::record`].

mod atomic;
mod counted;
pub(crate) mod counter;
mod dirs;
#[cfg(feature = "testing")]
pub(crate) mod hooks;
mod layout;
pub(crate) mod lock;
mod mark;
pub(crate) mod steps;

pub use self::layout::Layout;
pub(crate) use self::{
    atomic::{read_json, replace, replace_json, restore_ballast, with_ballast},
    dirs::{Dirs, allocated, missing, names_in, open_directory},
    layout::{Directory, Entry, OWN, STATE_LOCK_SUFFIX, number_name, parse_number},
    mark::{Mark, remove_temporary_of_dead},
};
