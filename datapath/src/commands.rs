//! Maintenance commands: for a person and the volume plugin, and never called by the toolstack.

use host::Config;
use smapiv3::Error;
use smapiv3_plugin::{Arg, Args, Registry};
use store::{Host, Name, Sr, VolumeUri};

use crate::{Context, unused::Claim, vdi::Vdi};

const SR: &str = "sr";
const KEY: &str = "key";
const ARGS: &[Arg] = &[
    Arg::required(SR, "UUID of the SR"),
    Arg::option(KEY, "Key of one volume; of every volume of the SR where it is not given"),
];

/// Adds all commands.
pub(crate) fn register(registry: Registry<Config>) -> Registry<Config> {
    registry.command(
        "end-unused",
        "End what is left of migrations, copies and read-only plugs without a client, and list the \
         other active disks",
        ARGS,
        end_unused,
    )
}

/// Ends the activations of an SR's volumes that no client uses, where they make way for a change of the
/// volume. The text has a sentence for each that is left: nothing where no volume is active.
fn end_unused(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let sr = Name::parse(args.get(SR).unwrap_or_default())?;
    let keys = match args.get(KEY) {
        Some(key) => vec![Name::parse(key)?],
        None => keys(ctx, &sr)?,
    };
    let mut left = String::new();
    for key in keys {
        let uri = VolumeUri { sr: sr.clone(), key };
        let mut vdi = Vdi::lock(ctx, &uri.to_string())?;
        vdi.end_unused(Claim::Change)?;
        left.extend(vdi.active().map(|(domain, mode)| describe(&vdi, domain, &mode.to_string())));
        left.extend(vdi.describe_held());
    }
    Ok(left)
}

fn keys(ctx: &Context<'_>, sr: &Name) -> Result<Vec<Name>, Error> {
    let Config { sr_root, lock_dir, may_mount, .. } = ctx.config.clone();
    let sr = Sr::open(&Host::new(sr_root, lock_dir, may_mount), sr.as_str())?;
    Ok(sr.volumes()?.into_iter().map(|volume| volume.key).collect())
}

/// Tells an administrator about an activation.
fn describe(vdi: &Vdi<'_>, domain: &str, mode: &str) -> String {
    let clients = match vdi.unused_for() {
        None => String::new(),
        Some(time) => format!(", without a client for {} s", time.as_secs()),
    };
    format!(
        "volume {} is active {mode} for domain {domain:?}{clients}; where xapi has no VBD to unplug \
         (xe vbd-unplug), this ends it: {}\n",
        vdi.uri.key,
        vdi.ending_command(domain)
    )
}
