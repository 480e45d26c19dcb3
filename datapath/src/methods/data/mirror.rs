//! Data.mirror: the volume is copied to another server and kept up to date there. It returns when that has
//! begun.

use smapiv3::{
    Error,
    data::{MirrorParams, Operation},
};

use super::key::Key;
use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: MirrorParams) -> Result<Operation, Error> {
    let mut vdi = Vdi::lock(ctx, &p.uri)?;
    let operation = vdi.mirror(p.domain, &p.remote)?;
    Ok(Key::mirror(&vdi.uri, &operation))
}
