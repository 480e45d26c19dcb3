//! `SR.destroy`: gives the memory back. It comes for an attached SR, and no SR.detach follows; what
//! an interrupted one left is destroyed too.

use std::{fs, io::ErrorKind};

use plugin::Context;
use schemas::{Error, Failure, Interface, sr::SrParams};
use store::{Host, Layout, Name};

use crate::{errors, methods};

/// All that lies in the directory of a ram SR. (What it is, the store knows.)
const ENTRIES: [&str; 2] = ["data", "meta"];

pub(crate) fn run(ctx: &Context<'_>, p: SrParams) -> Result<(), Error> {
    destroy(&methods::host(ctx), &p.sr)
}

/// Destroys an SR, attached or not.
pub(crate) fn destroy(host: &Host, handle: &str) -> Result<(), Error> {
    let uuid = Name::parse(handle).map_err(errors::from_store)?;
    check_ours(host, &uuid)?;
    host.destroy(&uuid).map_err(errors::from_store)
}

/// Refuses an SR of another type: all of them are mounted below the same directory, and what
/// makes or destroys one of ours removes everything in it.
pub(crate) fn check_ours(host: &Host, uuid: &Name) -> Result<(), Error> {
    let layout = Layout::new(&host.sr_root, uuid);
    let root = layout.root().display();
    let entries = match fs::read_dir(layout.root()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let message = format!("SR {uuid}: reading {root}");
            return Err(Error::new(Failure::Eio, message).caused_by(error));
        }
        Ok(entries) => entries,
    };
    let strange = entries.flatten().find(|entry| ENTRIES.iter().all(|it| entry.file_name() != *it));
    match strange {
        None => Ok(()),
        Some(entry) => Err(Error::named(
            Failure::SrUnavailable,
            Interface::SrDoesNotExist,
            format_args!(
                "{root} is not a ram SR (it holds {:?}) and is left alone",
                entry.file_name()
            ),
        )),
    }
}
