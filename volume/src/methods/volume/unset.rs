//! `Volume.unset`: forgets a value; one that is not there is no error.

use schemas::{Error, volume::UnsetParams};

use crate::{Context, errors, methods};

pub(crate) fn run(ctx: &Context<'_>, p: UnsetParams) -> Result<(), Error> {
    methods::open(ctx, &p.sr)?.unset_key(&p.key, &p.k).map_err(errors::from_store)
}
