//! `Volume.compose`: the child's updates over the parent, which is gone afterwards.

use smapiv3::{Error, volume::ComposeParams};

use crate::{Context, live::Tapdisks, methods, unused::end_and_retry};

pub(crate) fn run(ctx: &Context<'_>, p: ComposeParams) -> Result<(), Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let (child, parent) = (&p.key, &p.key2);
    end_and_retry(ctx, &p.sr, Some(parent), || {
        sr.lock()?.compose_volumes(child, parent, &mut Tapdisks::new(&sr, ctx.log))
    })
}
