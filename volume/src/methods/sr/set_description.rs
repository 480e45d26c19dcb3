//! `SR.set_description`.

use smapiv3::{Error, sr::SetDescriptionParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SetDescriptionParams) -> Result<(), Error> {
    Ok(methods::open(ctx, &p.sr)?.lock()?.set_description(&p.new_description)?)
}
