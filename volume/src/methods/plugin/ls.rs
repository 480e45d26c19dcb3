//! `Plugin.ls`: the handles of the SRs that are attached.

use smapiv3::{Error, NoParams};

use crate::{Context, methods};

pub(crate) fn run(ctx: &Context<'_>, _: NoParams) -> Result<Vec<String>, Error> {
    let found = methods::host(ctx).srs()?;
    Ok(found.iter().filter(|sr| sr.stat.attached).map(|sr| sr.stat.uuid.to_string()).collect())
}
