//! `reclaim`: destroys an SR that `xe sr-forget` left in memory. One that is attached is not
//! forgotten, and destroyed only with `--force`.

use smapiv3::{Error, Failure};
use smapiv3_plugin::{Arg, Args};

use store::Name;

use crate::{Context, graphs, methods, unused::end_and_retry};

pub(crate) const ARGS: &[Arg] = &[
    super::SR,
    Arg::flag("force", "Destroy it though it is attached, damaged, or of another format"),
];

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let (host, handle) = (methods::host(ctx), super::sr(args));
    let found = host.srs()?;
    let attached = found.iter().any(|it| it.stat.uuid.as_str() == handle && it.stat.attached);
    // An SR whose record is damaged may be attached.
    let damaged = host.damaged_srs()?;
    let is_damaged = damaged.iter().any(|(uuid, _)| uuid.as_str() == handle);
    if is_damaged && !args.given("force") {
        return Err(Error::new(
            Failure::SrInUse,
            format!(
                "SR {handle} is damaged, and may be attached: if its disks are not needed any more, \
                 repeat this with --force"
            ),
        ));
    }
    if attached && !args.given("force") {
        return Err(Error::new(
            Failure::SrInUse,
            format!(
                "SR {handle} is attached: if the toolstack knows it, use xe sr-destroy \
                 uuid={handle}; if it does not, repeat this with --force"
            ),
        ));
    }
    let uuid = Name::parse(handle)?;
    end_and_retry(ctx, handle, None, || match args.given("force") {
        true => host.destroy_of_any_format(&uuid),
        false => host.destroy(&uuid),
    })?;
    graphs::removed(ctx, handle);
    Ok(format!("SR {handle} is destroyed\n"))
}
