//! Datapath.attach: an idle tapdisk with a minor, and the URI of the disk that it will serve.

use smapiv3::{
    Error, StringMap,
    datapath::{Backend, DomainParams, Implementation, Nbd, XenDisk},
};

use crate::{Context, state::Hold, vdi::Vdi};

/// tapback's directory in xenstore: it connects guests to tapdisks.
const BACKEND_TYPE: &str = "vbd3";

/// The key under `sm-data` in xenstore that says which disk a guest's device is. xcp-rrdd reads it for the
/// metrics of the device (`ocaml/xcp-rrdd/lib/blktap`). A volume's key is the UUID of its VDI.
const VDI_UUID: &str = "vdi-uuid";

pub(crate) fn run(ctx: &Context<'_>, p: DomainParams) -> Result<Backend, Error> {
    let mut vdi = Vdi::lock(ctx, &p.uri)?;
    let uri = vdi.link.uri()?;
    vdi.require_volume()?;
    vdi.prepare()?;
    vdi.state.domains.entry(p.domain).or_insert(Hold::Attached);
    vdi.save()?;
    Ok(backend(uri, vdi.uri.key.as_str()))
}

/// No block device beside it: a caller would prefer that.
fn backend(uri: String, key: &str) -> Backend {
    Backend {
        implementations: vec![
            Implementation::XenDisk(XenDisk {
                params: uri.clone(),
                // xenopsd adds backend-kind itself (`params_of_backend`, xenops_server_xen.ml).
                extra: StringMap::from([(VDI_UUID.to_owned(), key.to_owned())]),
                backend_type: BACKEND_TYPE.into(),
            }),
            Implementation::Nbd(Nbd { uri }),
        ],
    }
}
