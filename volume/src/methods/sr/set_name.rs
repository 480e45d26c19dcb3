//! `SR.set_name`.

use schemas::{Error, sr::SetNameParams};

use crate::{Context, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SetNameParams) -> Result<(), Error> {
    methods::open(ctx, &p.sr)?.set_name(&p.new_name).map_err(errors::from_store)
}
