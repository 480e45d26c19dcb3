//! Datapath.import_activate: the socket to which xapi passes the connection of an incoming migration.

use smapiv3::{Error, datapath::DomainParams};

use crate::{Context, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<String, Error> {
    Vdi::lock(ctx, &p.uri)?.import_socket(p.domain)
}
