//! Datapath.deactivate: a domain uses the volume no more; after the last one it is not served. Where the
//! volume is mirrored for that domain, this is the cut-over of a migration.

use smapiv3::{Error, datapath::DomainParams};

use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<(), Error> {
    let owed = Vdi::lock(ctx, &p.uri)?.deactivate(&p.domain)?;
    owed.map_or(Ok(()), Err)
}
