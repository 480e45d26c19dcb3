//! `SR.create`: checks that the SR can be made, and returns the configuration that attaches it.
//! Memory is taken only by SR.attach, which follows.

use host::Provider;
use smapiv3::{Error, StringMap, sr::CreateParams};

use crate::{Context, device_config, methods, saving};

pub(crate) fn run(ctx: &Context<'_>, p: CreateParams) -> Result<StringMap, Error> {
    let host = methods::host(ctx);
    let new = device_config::for_create(&p, &host)?;
    host.check_new(&new)?;
    if !new.save_dir.is_empty() {
        saving::check_new_directory(new.save_dir.as_ref())?;
    }
    if new.provider == Provider::Blktap.to_sr() {
        ctx.log.warning(
            "device-config:tapdisk=blktap: the disks of this SR are served by the host's own tapdisk \
             from copies, for comparison and demonstration; what was written to a disk since it was \
             activated is LOST if that tapdisk dies or its image is closed; disks have 500 MiB at most and \
             cannot be snapshotted, cloned, resized or activated twice while they are active",
        );
    }
    Ok(device_config::of(new))
}
