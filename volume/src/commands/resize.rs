//! `resize`: gives an attached SR another size, while its disks are used.

use smapiv3::{Error, Failure};
use smapiv3_plugin::{Arg, Args, size};
use store::{Name, Resized, human};

use crate::{Context, device_config, methods};

pub(crate) const ARGS: &[Arg] = &[
    super::SR,
    Arg::required(
        "size",
        "Bytes that the SR may take from now on of the host's memory, e.g. 16GiB",
    ),
];

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let uuid = Name::parse(super::sr(args))?;
    let text = args.get("size").unwrap_or_default();
    let size = size::parse(text)
        .map_err(|problem| Error::new(Failure::InvalidArg, format!("--size: {problem}")))?;
    let Resized { before, size, configured } = methods::host(ctx).resize_sr(&uuid, size)?;
    let mut said = format!("SR {uuid} may take {} now, it was {}\n", human(size), human(before));
    if configured != size {
        said += &format!("{}\n", device_config::other_size(size, configured));
    }
    Ok(said)
}
