//! `export`: writes one volume or snapshot into a file, as it is at one moment, also while it is in use.

use std::{
    io::{IsTerminal, stdout},
    path::Path,
};

use smapiv3::{Error, Failure};
use smapiv3_plugin::{Arg, Args};
use store::{Outgoing, Result, human};

use crate::{
    Context,
    images::{self, Format, Target},
    live::Tapdisks,
    methods, progress,
};

pub(crate) const ARGS: &[Arg] = &[
    super::SR,
    super::KEY,
    Arg::required("file", "The file to write; -: standard output"),
    Arg::option(
        "format",
        "raw or qcow2, the second by qemu-img (default: qcow2 where the name ends in .qcow2, else raw)",
    ),
    Arg::flag("force", "Replace a file that is there"),
];

/// Stands for the standard output.
const STDOUT: &str = "-";

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let (sr, key) = (methods::open(ctx, super::sr(args))?, super::key(args));
    let file = args.get("file").unwrap_or_default();
    let path = Path::new(file);
    let format = Format::chosen(args.get("format"), path)?;
    let target = if file == STDOUT {
        check_stdout(format)?;
        None
    } else {
        Some(Target::new(path, args.given("force"))?)
    };
    let mut tapdisks = Tapdisks::new(&sr, ctx.log);
    let mut outgoing = sr.outgoing(key, &mut tapdisks)?;
    let size = outgoing.disk().size();
    let written = write(ctx, &mut outgoing, target, format, key);
    outgoing.end(&mut tapdisks);
    let said = format!(
        "volume {key} is written to {file} ({}): {} with {} of data\n",
        format.name(),
        human(size),
        human(written?)
    );
    if file == STDOUT {
        // That has the disk.
        ctx.log.info(said.trim_end());
        return Ok(String::new());
    }
    Ok(said)
}

/// Writes all of it. Bytes of data that it has.
fn write(
    ctx: &Context<'_>,
    outgoing: &mut Outgoing<'_>,
    target: Option<Target>,
    format: Format,
    key: &str,
) -> Result<u64> {
    let progress = progress::new(ctx, format!("exporting volume {key}"));
    let Some(target) = target else {
        return images::to_stdout(outgoing.disk(), &*progress);
    };
    let bytes = images::export(outgoing.disk(), &target, format, &*progress)?;
    drop(progress);
    target.commit()?;
    Ok(bytes)
}

/// Refuses what the standard output cannot take.
fn check_stdout(format: Format) -> Result<(), Error> {
    let wrong = match format {
        Format::Qcow2 => "standard output takes --format raw only: name a file",
        Format::Raw if stdout().is_terminal() => {
            "standard output is a terminal: name a file, or a program that takes it (| zstd > disk.zst)"
        }
        Format::Raw => return Ok(()),
    };
    Err(Error::new(Failure::InvalidArg, format!("--file: {wrong}")))
}
