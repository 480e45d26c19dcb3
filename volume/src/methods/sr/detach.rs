//! `SR.detach`: the SR is saved, if it has a directory for that; the memory stays. One that is detached already is left as it is.

use smapiv3::{Error, sr::SrParams};
use store::Sr;

use crate::{Context, graphs, methods, saving, unused::end_and_retry};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<(), Error> {
    let host = methods::host(ctx);
    let detach = || Sr::open(&host, &p.sr).and_then(|sr| saving::detach(ctx, &sr));
    let error = match end_and_retry(ctx, &p.sr, None, detach) {
        Ok(()) => {
            graphs::removed(ctx, &p.sr);
            return Ok(());
        }
        Err(error) => error,
    };
    let found = host.srs()?;
    let is_detached = |sr: &store::Summary| sr.stat.uuid.as_str() == p.sr && !sr.stat.attached;
    if found.iter().any(is_detached) { Ok(()) } else { Err(error) }
}
