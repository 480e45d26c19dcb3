//! `at-detach`: lets an SR be detached that cannot be saved, whole or at all.

use smapiv3::{Error, Failure};
use smapiv3_plugin::{Arg, Args};
use store::AtDetach;

use crate::{Context, methods};

pub(crate) const ARGS: &[Arg] = &[
    super::SR,
    Arg::flag("incomplete", "Save it without its damaged volumes, which are lost"),
    Arg::flag(
        "without-save",
        "Do not save it: its last save stays, and what was written since is lost",
    ),
    Arg::flag("whole", "Save all of it, as after each attach"),
];

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let sr = methods::open(ctx, super::sr(args))?;
    let modes = [
        ("incomplete", AtDetach::Incomplete, "is saved without its damaged volumes"),
        ("without-save", AtDetach::Nothing, "is not saved"),
        ("whole", AtDetach::Everything, "is saved"),
    ];
    let mut given = modes.into_iter().filter(|(name, ..)| args.given(name));
    let (Some((_, mode, word)), None) = (given.next(), given.next()) else {
        return Err(Error::new(
            Failure::InvalidArg,
            "say one of --incomplete, --without-save and --whole",
        ));
    };
    if sr.saving()?.0.is_empty() {
        return Err(Error::new(
            Failure::InvalidArg,
            format!("SR {} has no device-config:save-dir, and is never saved", sr.uuid()),
        ));
    }
    sr.lock()?.set_at_detach(mode)?;
    Ok(format!("SR {} {word} when it is detached next\n", sr.uuid()))
}
