//! Data.copy: given blocks of the volume are copied to another server. It returns when that has begun.

use smapiv3::{
    Error,
    data::{CopyParams, Operation},
};

use super::key::Key;
use crate::{Context, copying::held, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: CopyParams) -> Result<Operation, Error> {
    let mut vdi = Vdi::lock(ctx, &p.uri)?;
    let size = vdi.sr()?.volume(vdi.uri.key.as_str())?.size;
    let ranges = held(&p.blocklist, size)?;
    let operation = vdi.copy(p.domain, &p.remote, &ranges)?;
    Ok(Key::copy(&vdi.uri, &operation))
}
