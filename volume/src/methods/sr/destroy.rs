//! `SR.destroy`: gives the memory back. It comes for an attached SR, and no SR.detach follows; the
//! leftovers of an interrupted one are destroyed too.

use schemas::{Error, sr::SrParams};
use store::{Host, Name};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<(), Error> {
    destroy(&methods::host(ctx), &p.sr)
}

/// Destroys an SR, attached or not.
pub(crate) fn destroy(host: &Host, handle: &str) -> Result<(), Error> {
    let uuid = Name::parse(handle)?;
    Ok(host.destroy(&uuid)?)
}
