//! Data.ls: the mirrors and copies of all volumes, also those that have ended and are not destroyed.

use host::Config;
use smapiv3::{Error, NoParams, data::Operation};
use store::{Host, Sr, VolumeUri};

use super::key::Key;
use crate::{Context, mirror_record::Purpose, vdi::Vdi};

pub(crate) fn run(ctx: &Context<'_>, _: NoParams) -> Result<Vec<Operation>, Error> {
    let Config { sr_root, lock_dir, may_mount, .. } = ctx.config.clone();
    let host = Host::new(sr_root, lock_dir, may_mount);
    let mut operations = Vec::new();
    for found in host.srs()?.into_iter().filter(|sr| sr.stat.attached) {
        let sr = Sr::open(&host, found.stat.uuid.as_str())?;
        for volume in sr.volumes()? {
            let uri = VolumeUri { sr: found.stat.uuid.clone(), key: volume.key };
            let vdi = Vdi::lock(ctx, &uri.to_string())?;
            operations.extend(vdi.state.mirrors.iter().map(|(it, record)| match record.purpose {
                Purpose::Mirror => Key::mirror(&uri, it),
                Purpose::Copy => Key::copy(&uri, it),
            }));
        }
    }
    Ok(operations)
}
