//! `save`: saves an SR that is in use, as it is at one moment.

use std::path::Path;

use save::Saves;
use smapiv3::{Error, Failure};
use smapiv3_plugin::{Arg, Args};

use crate::{Context, live::Tapdisks, methods, progress, saving};

pub(crate) const ARGS: &[Arg] = &[
    super::SR,
    Arg::option("to", "Directory on a disk (default: the SR's device-config:save-dir)"),
    Arg::flag("incomplete", "Leave out damaged volumes"),
];

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let sr = methods::open(ctx, super::sr(args))?;
    let own = sr.saving()?.0;
    let directory = args.get("to").unwrap_or(&own);
    if directory.is_empty() {
        return Err(Error::new(
            Failure::InvalidArg,
            format!(
                "SR {} has no device-config:save-dir: say with --to where it is to be saved",
                sr.uuid()
            ),
        ));
    }
    saving::check_directory(Path::new(directory))?;
    let saves = Saves::new(Path::new(directory), sr.uuid());
    saving::raise_descriptors(&sr)?;
    // What is written from now on is not in the save.
    saves.begin_use()?;
    let mut tapdisks = Tapdisks::new(&sr, ctx.log);
    let still = sr.lock()?.still_running(&mut tapdisks, args.given("incomplete"))?;
    let progress = progress::new(ctx, format!("saving SR {}", sr.uuid()));
    let written = saves.write(&still, env!("CARGO_PKG_VERSION"), &*progress);
    drop(progress);
    let mut lines: Vec<String> =
        still.left_out().iter().map(|why| format!("left out: {why}")).collect();
    if let Err(error) = still.end(&sr, &mut tapdisks) {
        ctx.log
            .warning(format_args!("blocks that only the save has needed stay: {}", error.chain()));
    }
    let written = written?;
    lines.extend(written.damaged.iter().map(|why| format!("not used any more: {why}")));
    lines.push(saving::summary(sr.uuid(), &saves, &written));
    Ok(lines.join("\n") + "\n")
}
