//! `Volume.resize`: makes a volume larger, also while it is active. Where its tapdisk cannot be
//! told, the volume has grown all the same, and the call may be repeated.

use smapiv3::{Error, volume::ResizeParams};
use store::Name;

use crate::{Context, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, p: ResizeParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    methods::check_size(&sr, p.new_size.try_into().unwrap_or_default())?;
    let key = Name::parse(&p.key)?;
    let size = sr.lock()?.resize_volume(key.as_str(), p.new_size)?;
    Ok(Tapdisks::new(&sr, ctx.log).resize(&key, size)?)
}
