//! `SR.set_description`.

use schemas::{Error, sr::SetDescriptionParams};

use crate::{Context, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SetDescriptionParams) -> Result<(), Error> {
    methods::open(ctx, &p.sr)?.set_description(&p.new_description).map_err(errors::from_store)
}
