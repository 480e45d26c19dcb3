//! Data.destroy: a mirror or a copy that has ended is forgotten.

use smapiv3::{Error, data::OperationParams};

use super::key::Key;
use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: OperationParams) -> Result<(), Error> {
    let key = Key::parse(&p.operation)?;
    Vdi::lock(ctx, &key.uri.to_string())?.forget_mirror(&key.operation)
}
