//! `SR.destroy`: gives the memory back, and removes the saves. It comes for an attached SR, and no SR.detach follows; the
//! leftovers of an interrupted one are destroyed too.

use smapiv3::{Error, sr::SrParams};
use store::Name;

use crate::{Context, graphs, methods, saving, unused::end_and_retry};

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<(), Error> {
    let (host, uuid) = (methods::host(ctx), Name::parse(&p.sr)?);
    let save_dir = saving::directory_of(&host, &p.sr);
    end_and_retry(ctx, &p.sr, None, || host.destroy(&uuid))?;
    saving::remove(ctx, &save_dir, &uuid);
    graphs::removed(ctx, &p.sr);
    Ok(())
}
