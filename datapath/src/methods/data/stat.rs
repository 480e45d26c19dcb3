//! Data.stat: how far a mirror or a copy is. xapi asks again without a pause, so that one that is not complete is waited
//! for, for a second at most, while other calls work on the volume.

use smapiv3::{
    Error,
    data::{OperationParams, Status},
};

use super::key::Key;
use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: OperationParams) -> Result<Status, Error> {
    let key = Key::parse(&p.operation)?;
    let uri = key.uri.to_string();
    let asking = match Vdi::lock(ctx, &uri)?.asking(&key.operation) {
        Ok(asking) => asking,
        Err(status) => return Ok(status),
    };
    let status = asking.stat();
    Ok(Vdi::lock(ctx, &uri)?.tell(&key.operation, status))
}
