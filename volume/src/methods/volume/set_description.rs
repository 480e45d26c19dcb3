//! `Volume.set_description`.

use schemas::{Error, volume::SetDescriptionParams};

use crate::{Context, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: SetDescriptionParams) -> Result<(), Error> {
    methods::open(ctx, &p.sr)?
        .set_volume_description(&p.key, &p.new_description)
        .map_err(errors::from_store)
}
