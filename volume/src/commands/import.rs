//! `import`: makes a volume of a file. It is not listed before it is complete.

use std::path::Path;

use smapiv3::Error;
use smapiv3_plugin::{Arg, Args};
use store::{ErrorKind, NewVolume, Sr, human};

use crate::{
    Context,
    images::{self, Source},
    live::Tapdisks,
    methods, progress,
};

pub(crate) const ARGS: &[Arg] = &[
    super::SR,
    Arg::required("file", "The file or block device to read"),
    Arg::option(
        "format",
        "raw or qcow2, the second by qemu-img (default: qcow2 where the name ends in .qcow2, else raw)",
    ),
    Arg::option("name", "Name of the volume (default: that of the file)"),
];

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let sr = methods::open(ctx, super::sr(args))?;
    let path = Path::new(args.get("file").unwrap_or_default());
    let source = Source::open(path, args.get("format"))?;
    methods::check_size(&sr, source.size())?;
    let own_name =
        path.file_name().map_or_else(String::new, |it| it.to_string_lossy().into_owned());
    let new = NewVolume {
        name: args.get("name").unwrap_or(&own_name),
        description: "",
        size: source.size().try_into().unwrap_or(i64::MAX),
        sharable: false,
    };
    let shown = format!("importing {}", path.display());
    let free = sr.stat()?.free;
    images::require_room(&source, free, &*progress::new(ctx, format!("{shown}: data in it")))?;
    let mut tapdisks = Tapdisks::new(&sr, ctx.log);
    let mut incoming = sr.incoming(&new, &mut tapdisks)?;
    let progress = progress::new(ctx, shown);
    let filled = images::import(&source, incoming.disk(), &*progress);
    drop(progress);
    if let Err(error) = filled {
        incoming.abandon(&mut tapdisks);
        return Err(match error.kind() {
            ErrorKind::NoSpace => explained(&sr, &source, &error),
            _ => error.into(),
        });
    }
    let volume = incoming.finish(&mut tapdisks)?;
    Ok(format!(
        "volume {} is made of {}: {} with {} of data; to have xapi list it, run xe sr-scan uuid={}\n",
        volume.key,
        path.display(),
        human(volume.size),
        human(volume.utilisation),
        sr.uuid()
    ))
}

/// The error of an import that found no room.
fn explained(sr: &Sr, source: &Source, error: &store::Error) -> Error {
    let free = sr.stat().map_or(0, |stat| stat.free);
    let sentence = format!("{}; {}", source.no_room(None, free), error.chain());
    store::Error::new(ErrorKind::NoSpace, sentence).into()
}
