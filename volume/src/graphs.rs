//! The SR's graphs in xapi's metrics daemon: its file is made, removed, and written while no disk is plugged. An
//! SR without graphs is used all the same, so what fails is logged and no error.

use std::io;

use graphs::{GraphFile, Space};
use store::{Sr, SrStat};

use crate::Context;

/// Makes the file of an SR that is attached.
pub(crate) fn made(ctx: &Context<'_>, sr: &Sr) {
    let space = sr.space().map(|(used, free)| Space { used, free });
    let made = space.map_err(io::Error::from);
    logged(ctx, made.and_then(|space| file(ctx, sr.uuid().as_str()).create(space)));
}

/// Writes the file, unless a tapdisk does.
pub(crate) fn written(ctx: &Context<'_>, stat: &SrStat) {
    let space = Space { used: stat.used + stat.metadata, free: stat.free };
    logged(ctx, file(ctx, stat.uuid.as_str()).write(space));
}

/// Removes the file of an SR that is not attached any more.
pub(crate) fn removed(ctx: &Context<'_>, sr: &str) {
    logged(ctx, file(ctx, sr).remove());
}

fn file(ctx: &Context<'_>, sr: &str) -> GraphFile {
    GraphFile::new(ctx.config.control.metrics(), sr)
}

fn logged(ctx: &Context<'_>, done: io::Result<()>) {
    if let Err(error) = done {
        ctx.log.warning(format_args!("the SR's graphs: {error}"));
    }
}
