//! `Volume.set`: keeps a value with a volume.

use smapiv3::{Error, Failure, volume::SetParams};

use crate::{Context, methods};

/// The one key whose value the caller parses, by `bool_of_string`: with any other value it can
/// list none of the SR's volumes any more.
const IS_A_SNAPSHOT: &str = "is_a_snapshot";

pub(crate) fn run(ctx: &Context<'_>, p: SetParams) -> Result<(), Error> {
    if p.k == IS_A_SNAPSHOT && !["true", "false"].contains(&p.v.as_str()) {
        return Err(Error::new(
            Failure::InvalidArg,
            format!("key {} of volume {} has to be true or false, not {:?}", p.k, p.key, p.v),
        ));
    }
    Ok(methods::open(ctx, &p.sr)?.lock()?.set_volume_key(&p.key, &p.k, &p.v)?)
}
