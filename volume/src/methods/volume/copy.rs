//! `Volume.copy`: within an SR a clone; into another ram SR of this host the blocks that hold data.
//! Everything else is refused, so that the caller copies through datapaths.

use smapiv3::{
    Error, Failure, Interface,
    volume::{CopyParams, Volume},
};
use store::{ErrorKind, Sr};

use crate::{Context, convert, live::Tapdisks, methods};

pub(crate) fn run(ctx: &Context<'_>, p: CopyParams) -> Result<Volume, Error> {
    let sr = methods::open(ctx, &p.sr)?;
    let dest = match Sr::open(&methods::host(ctx), &p.dest_sr) {
        Err(error) if matches!(error.kind(), ErrorKind::SrNotAttached | ErrorKind::BadArgument) => {
            return Err(Error::named(
                Failure::Unimplemented,
                Interface::Unimplemented,
                format_args!(
                    "volume {} can be copied by this plugin into a ram SR that is attached on this \
                     host, and {:?} is none; copy it block by block (xe vdi-copy)",
                    p.key, p.dest_sr
                ),
            ));
        }
        opened => opened?,
    };
    methods::check_size(&dest, sr.volume(&p.key)?.size)?;
    let (mut live, mut dest_live) = (Tapdisks::new(&sr, ctx.log), Tapdisks::new(&dest, ctx.log));
    let copy = sr.copy_volume(&p.key, &dest, &mut live, &mut dest_live)?;
    Ok(convert::volume(dest.uuid(), copy))
}
