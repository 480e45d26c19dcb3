//! `SR.destroy`: gives the memory back. It comes for an attached SR, and no SR.detach follows; the
//! leftovers of an interrupted one are destroyed too.

use schemas::{Error, sr::SrParams};
use store::Name;

use crate::{Context, methods, unused::end_and_retry};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<(), Error> {
    destroy(ctx, &p.sr)
}

/// Destroys an SR, attached or not.
pub(crate) fn destroy(ctx: &Context<'_>, handle: &str) -> Result<(), Error> {
    let (host, uuid) = (methods::host(ctx), Name::parse(handle)?);
    end_and_retry(ctx, handle, None, || host.destroy(&uuid))
}
