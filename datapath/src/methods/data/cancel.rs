//! Data.cancel: a mirror or a copy is given up. One that has ended, or is not known, is none.

use smapiv3::{Error, data::OperationParams};

use super::key::Key;
use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: OperationParams) -> Result<(), Error> {
    let key = Key::parse(&p.operation)?;
    Vdi::lock(ctx, &key.uri.to_string())?.cancel_mirror(&key.operation)
}
