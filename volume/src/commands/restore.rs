//! `restore`: makes the memory of an SR from one of its saves, for the SR.attach that follows; or only checks
//! them.

use std::path::Path;

use save::{Found, Generation, Saves};
use smapiv3::{Error, Failure};
use smapiv3_plugin::{Arg, Args};
use store::{Name, human};

use crate::{Context, methods, progress, saving};

pub(crate) const ARGS: &[Arg] = &[
    super::SR,
    Arg::required("from", "The directory that it was saved in: its device-config:save-dir"),
    Arg::option("generation", "Number of the generation (default: the newest)"),
    Arg::flag("check", "Only read everything and compare it with what was saved"),
];

pub(crate) fn run(ctx: &Context<'_>, args: &Args) -> Result<String, Error> {
    let (host, uuid) = (methods::host(ctx), Name::parse(super::sr(args))?);
    let save_dir = args.get("from").unwrap_or_default();
    let saves = Saves::new(Path::new(save_dir), &uuid);
    if args.given("check") {
        return check(ctx, &saves);
    }
    let generation = chosen(&saves, args.get("generation"))?;
    if host.has_memory(&uuid)? {
        return Err(Error::new(
            Failure::SrInUse,
            format!(
                "SR {uuid} is in this host's memory, and what is there is newer than its saves; if that is not \
                 needed any more, detach it and destroy it (volume-plugin reclaim --sr {uuid}) first"
            ),
        ));
    }
    let mut wanted = generation.contents().attachment(&uuid, &host)?;
    if wanted.save_dir.is_empty() {
        save_dir.clone_into(&mut wanted.save_dir);
    }
    let older = saves.in_use_since()?.map(|since| {
        format!("restored by hand from the save of {}; in use since {since}", generation.saved())
    });
    let newest = saves.numbers()?.first() == Some(&generation.number());
    let older = older.or_else(|| {
        (!newest).then(|| format!("restored by hand from the save of {}", generation.saved()))
    });
    let sr = saving::restore_from(ctx, &host, &wanted, &generation, older)?;
    sr.lock()?.detach()?;
    Ok(format!(
        "SR {uuid} is in memory as it was saved at {}: {} of data; attach it (xe pbd-plug)\n",
        generation.saved(),
        human(generation.contents().data_bytes())
    ))
}

/// The generation with that number, or the newest.
fn chosen(saves: &Saves, number: Option<&str>) -> Result<Generation, Error> {
    let numbers = saves.numbers()?;
    let all = || numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let number = match number {
        None => numbers.first().copied(),
        Some(text) => text.parse().ok().filter(|number| numbers.contains(number)),
    };
    let Some(number) = number else {
        return Err(Error::new(
            Failure::InvalidArg,
            format!("there is no such save in {} (generations: {})", saves.path().display(), all()),
        ));
    };
    match saves.generation(number)? {
        Found::Good(generation) => Ok(*generation),
        Found::Damaged(why) => Err(Error::new(
            Failure::MetadataError,
            format!("generation {number} cannot be used: {why} (generations: {})", all()),
        )),
    }
}

/// Reads all generations; a line for each.
fn check(ctx: &Context<'_>, saves: &Saves) -> Result<String, Error> {
    let (mut lines, mut any_damaged) = (String::new(), false);
    for number in saves.numbers()? {
        let found = match saves.generation(number)? {
            Found::Damaged(why) => Err(why),
            Found::Good(generation) => {
                let progress = progress::new(ctx, format!("reading generation {number}"));
                match generation.verify(&*progress) {
                    Ok(()) => Ok(generation),
                    Err(error) => Err(error.chain()),
                }
            }
        };
        let line = match found {
            Ok(generation) => format!(
                "generation {number} of {}: {} of data in {} volumes, sound",
                generation.saved(),
                human(generation.contents().data_bytes()),
                generation.contents().volumes.len()
            ),
            Err(why) => {
                any_damaged = true;
                format!("generation {number}: {why}")
            }
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    if lines.is_empty() {
        lines = format!("there is no save in {}\n", saves.path().display());
    }
    if any_damaged {
        return Err(Error::new(Failure::MetadataError, lines.trim_end().replace('\n', "; ")));
    }
    Ok(lines)
}
