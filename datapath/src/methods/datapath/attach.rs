//! Datapath.attach: a tapdisk with a minor, idle, and how to reach what it will serve.

use schemas::{
    Error, StringMap,
    datapath::{Backend, DomainParams, Implementation, Nbd, XenDisk},
};

use crate::{Context, disk::Disk, state::Hold};

/// tapback's directory in xenstore: it connects guests to tapdisks.
const BACKEND_TYPE: &str = "vbd3";

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<Backend, Error> {
    let mut disk = Disk::lock(ctx, &p.uri)?;
    let uri = disk.link.uri()?;
    disk.require_volume()?;
    disk.prepare()?;
    disk.state.domains.entry(p.domain).or_insert(Hold::Attached);
    disk.save()?;
    Ok(backend(uri))
}

/// No block device beside it: a caller would prefer that.
fn backend(uri: String) -> Backend {
    Backend {
        implementations: vec![
            Implementation::XenDisk(XenDisk {
                params: uri.clone(),
                // xenopsd adds backend-kind itself (`params_of_backend`, xenops_server_xen.ml).
                extra: StringMap::new(),
                backend_type: BACKEND_TYPE.into(),
            }),
            Implementation::Nbd(Nbd { uri }),
        ],
    }
}
