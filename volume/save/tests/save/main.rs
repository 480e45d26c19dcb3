//! Saves through their public surface: SRs of the store, saved, lost and restored.

mod changes;
mod damage;
mod kill;
mod restore;
mod rig;
mod versions;
