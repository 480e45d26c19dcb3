//! `SR.set_name`.

use smapiv3::{Error, sr::SetNameParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SetNameParams) -> Result<(), Error> {
    Ok(methods::open(ctx, &p.sr)?.lock()?.set_name(&p.new_name)?)
}
