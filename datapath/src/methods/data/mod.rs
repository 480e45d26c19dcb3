//! The interface `Data`: mirrors and copies of a volume. What xapi calls is mirror and stat; a mirror's end it tells
//! by deactivating. The others are for people and for later versions of xapi.

pub(crate) mod cancel;
pub(crate) mod copy;
pub(crate) mod destroy;
mod key;
pub(crate) mod ls;
pub(crate) mod mirror;
pub(crate) mod stat;
