//! Maintenance commands: for a person, and never called by the toolstack.

mod at_detach;
mod check;
mod export;
mod gc;
mod import;
mod reclaim;
mod resize;
mod restore;
mod save;
mod srs;
mod swap_out;

use host::Config;
use smapiv3_plugin::{Arg, Args, Registry};

const SR: Arg = Arg::required("sr", "UUID of the SR");
const KEY: Arg = Arg::required(KEY_NAME, "Key of the volume");

/// Adds all commands.
pub(crate) fn register(registry: Registry<Config>) -> Registry<Config> {
    registry
        .command("srs", "List the ram SRs in this host's memory", &[], srs::run)
        .command(
            "check",
            "Prove that an attached SR is sound, or say what is wrong",
            &[SR],
            check::run,
        )
        .command(
            "resize",
            "Give an attached SR another size, while its disks are used",
            resize::ARGS,
            resize::run,
        )
        .command("gc", "Free what no volume of an attached SR needs", &[SR], gc::run)
        .command(
            "reclaim",
            "Destroy an SR that the toolstack has forgotten, with all of its volumes",
            reclaim::ARGS,
            reclaim::run,
        )
        .command("save", "Save an SR that is in use, as it is at one moment", save::ARGS, save::run)
        .command(
            "at-detach",
            "Let an SR be detached that cannot be saved",
            at_detach::ARGS,
            at_detach::run,
        )
        .command(
            "restore",
            "Make the memory of an SR from one of its saves, or check them",
            restore::ARGS,
            restore::run,
        )
        .command(
            "export",
            "Write a volume or snapshot into a file, as it is at one moment",
            export::ARGS,
            export::run,
        )
        .command("import", "Make a volume of a file", import::ARGS, import::run)
        .command(
            "swap-out",
            "Have the kernel put cold memory of SRs into swap before disks need the room",
            swap_out::ARGS,
            swap_out::run,
        )
}

/// The SR that a command is about.
fn sr(args: &Args) -> &str {
    args.get(SR_NAME).unwrap_or_default()
}

/// The volume that a command is about.
fn key(args: &Args) -> &str {
    args.get(KEY_NAME).unwrap_or_default()
}

const SR_NAME: &str = "sr";
const KEY_NAME: &str = "key";
