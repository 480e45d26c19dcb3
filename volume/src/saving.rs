//! Saves of SRs with `device-config:save-dir`: written by SR.detach, read by SR.attach where a restart of the host
//! has emptied the memory.
//!
//! As long as an SR is attached its saves have a mark that says since when: a host that lost its power starts
//! with it, and what is restored then is known to be older than the disks were.

use std::{fs::File, os::unix::fs::MetadataExt, path::Path};

use rustix::{
    fs::fstatfs,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use save::{Found, Generation, Saves, Written};
use store::{
    AtDetach, Attachment, Error, ErrorKind, Exclusive, Host, Name, Restore, Restored, Result, Sr,
    human,
};

use crate::{Context, progress};

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of `include/uapi/linux/magic.h`.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Descriptors that a save takes beside one for each volume: files, directories, those of threads.
const DESCRIPTORS_BESIDE: u64 = 100;

/// Checks that saves below a directory outlive a restart.
pub(crate) fn check_directory(path: &Path) -> Result<()> {
    let wrong = |why: &str| {
        let path = path.display();
        let kind = ErrorKind::BadArgument;
        Err(Error::new(kind, format!("device-config:save-dir={path} {why}")))
    };
    let found = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return wrong(
                "does not exist: make the directory (mkdir), or mount the disk that it is on",
            );
        }
        opened => opened.and_then(|directory| {
            let is_directory = directory.metadata()?.is_dir();
            Ok((is_directory, fstatfs(&directory)?))
        }),
    };
    let (is_directory, found) = found.map_err(|error| Error::os("opening", path, error))?;
    if !is_directory {
        return wrong("is no directory");
    }
    if u64::try_from(found.f_type).is_ok_and(|it| IN_MEMORY.contains(&it)) {
        return wrong(
            "lies in memory, which a restart of the host empties: name a directory on a disk",
        );
    }
    Ok(())
}

/// Checks a directory for a new SR. The mount point of a disk is refused: where that is not mounted after a restart,
/// it would pass for a directory without saves, and the SR would begin empty.
pub(crate) fn check_new_directory(path: &Path) -> Result<()> {
    check_directory(path)?;
    let looked_up =
        |path: &Path| path.metadata().map_err(|error| Error::os("looking up", path, error));
    let (own, above) = (looked_up(path)?, looked_up(&path.join(".."))?);
    if own.dev() == above.dev() && own.ino() != above.ino() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadArgument,
        format!(
            "device-config:save-dir={0} is the mount point of a disk, and would be there without saves where the \
             disk is not mounted: name a directory in it (mkdir {1})",
            path.display(),
            path.join("ram-saves").display()
        ),
    ))
}

/// Lets this process hold every volume of an SR: each takes a descriptor, and a process has 1024 at first.
pub(crate) fn raise_descriptors(sr: &Sr) -> Result<()> {
    let volumes = sr.volumes()?.len();
    let needed = volumes as u64 + DESCRIPTORS_BESIDE;
    let limit = getrlimit(Resource::Nofile);
    let suffices = |descriptors: Option<u64>| descriptors.is_none_or(|it| it >= needed);
    if suffices(limit.current) {
        return Ok(());
    }
    // Only a privileged process may raise the second one.
    let maximum = if suffices(limit.maximum) { limit.maximum } else { Some(needed) };
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map_err(|_| {
        Error::new(
            ErrorKind::BadArgument,
            format!(
                "SR {} has {volumes} volumes, which takes {needed} descriptors, and a process may open {} here: \
                 raise that limit (ulimit -n {needed}) and repeat this",
                sr.uuid(),
                limit.maximum.unwrap_or_default()
            ),
        )
    })
}

/// Where an SR is saved; `None`: nowhere.
fn saves(save_dir: &str, sr: &Name) -> Option<Saves> {
    (!save_dir.is_empty()).then(|| Saves::new(Path::new(save_dir), sr))
}

/// Attaches an SR. Memory that is there is used as it is; one that has to be made anew is filled from the newest
/// save that can be used.
pub(crate) fn attach(ctx: &Context<'_>, host: &Host, wanted: &Attachment) -> Result<Sr> {
    let Some(saves) = saves(&wanted.save_dir, &wanted.uuid) else { return host.attach(wanted) };
    check_directory(Path::new(&wanted.save_dir))?;
    let sr = if host.has_memory(&wanted.uuid)? {
        host.attach(wanted)?
    } else {
        restore(ctx, host, wanted, &saves)?
    };
    if let Err(error) = saves.begin_use() {
        // Without the mark the disks would pass for saved ones. Its memory stays, and the first error is the one
        // to tell.
        let _attached = sr.lock().and_then(Exclusive::detach);
        return Err(error);
    }
    Ok(sr)
}

/// Makes the memory of an SR anew.
fn restore(ctx: &Context<'_>, host: &Host, wanted: &Attachment, saves: &Saves) -> Result<Sr> {
    let in_use = saves.in_use_since()?;
    let mut damaged = Vec::new();
    for number in saves.numbers()? {
        let generation = match saves.generation(number)? {
            Found::Good(generation) => generation,
            Found::Damaged(why) => {
                damaged.push(why);
                continue;
            }
        };
        let older = older(in_use.as_deref(), &damaged, &generation);
        match restore_from(ctx, host, wanted, &generation, older) {
            Err(error) if error.kind() == ErrorKind::Corrupt => damaged.push(error.chain()),
            done => return done,
        }
    }
    if damaged.is_empty() {
        if let Some(since) = in_use {
            ctx.log.warning(format_args!(
                "SR {} is empty: it had been in use since {since} and was never saved",
                wanted.uuid
            ));
        }
        return host.attach(wanted);
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!(
            "SR {} cannot be restored from any of its saves: {}; to begin with an empty SR, move {} away",
            wanted.uuid,
            damaged.join("; "),
            saves.path().display()
        ),
    ))
}

/// Makes the memory of an SR anew from one generation.
pub(crate) fn restore_from(
    ctx: &Context<'_>,
    host: &Host,
    wanted: &Attachment,
    generation: &Generation,
    older: Option<String>,
) -> Result<Sr> {
    let word = older.clone();
    let progress = progress::new(ctx, format!("restoring SR {}", wanted.uuid));
    let restored = Restored { from: generation.name(), older };
    let restore = Restore {
        contents: generation.contents(),
        restored,
        fill: &mut |filler| generation.fill(filler, &*progress),
    };
    let sr = host.attach_saved(wanted, restore)?;
    ctx.log.info(format_args!(
        "SR {} is restored from {}: {} of data",
        wanted.uuid,
        generation.name(),
        human(generation.contents().data_bytes())
    ));
    let left_out = generation.left_out().iter().map(|why| format!("it was left out: {why}"));
    for word in word.into_iter().chain(left_out) {
        ctx.log.warning(format_args!("SR {}: {word}", wanted.uuid));
    }
    Ok(sr)
}

/// Why an SR may have held more than a generation has.
fn older(in_use: Option<&str>, damaged: &[String], generation: &Generation) -> Option<String> {
    let lost = in_use.map(|since| {
        format!(
            "the host stopped without saving it, while it had been in use since {since}: its disks are as \
             they were saved at {}",
            generation.saved()
        )
    });
    let damaged = (!damaged.is_empty()).then(|| {
        format!(
            "its newest save is damaged, and the one of {} was taken: {}",
            generation.saved(),
            damaged.join("; ")
        )
    });
    let words: Vec<String> = lost.into_iter().chain(damaged).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// Saves an SR, none of whose disks is active, and detaches it. Where that fails it stays attached.
pub(crate) fn detach(ctx: &Context<'_>, sr: &Sr) -> Result<()> {
    let lock = sr.lock()?;
    let (save_dir, mode) = sr.saving()?;
    let Some(saves) = saves(&save_dir, sr.uuid()).filter(|_| mode != AtDetach::Nothing) else {
        return lock.detach();
    };
    let written = save_idle(ctx, sr, &lock, &saves, mode);
    let written = written.map_err(|error| match error.kind() {
        ErrorKind::SrInUse => error,
        _ => not_saved(sr.uuid(), &error),
    })?;
    ctx.log.info(summary(sr.uuid(), &saves, &written));
    lock.detach_and(|| {
        if let Err(error) = saves.end_use() {
            // The next attach takes the save for older than it is, which loses nothing.
            ctx.log.warning(format_args!("the mark of an SR in use stays: {}", error.chain()));
        }
    })
}

fn save_idle(
    ctx: &Context<'_>,
    sr: &Sr,
    lock: &Exclusive<'_>,
    saves: &Saves,
    mode: AtDetach,
) -> Result<Written> {
    raise_descriptors(sr)?;
    let still = lock.still(mode == AtDetach::Incomplete)?;
    if let Some(directory) = saves.path().parent() {
        check_directory(directory)?;
    }
    for why in still.left_out() {
        ctx.log.warning(format_args!("SR {} is saved without a damaged volume: {why}", sr.uuid()));
    }
    let progress = progress::new(ctx, format!("saving SR {}", sr.uuid()));
    let written = saves.write(&still, env!("CARGO_PKG_VERSION"), &*progress)?;
    for why in &written.damaged {
        ctx.log.warning(format_args!("an earlier save of SR {} cannot be used: {why}", sr.uuid()));
    }
    Ok(written)
}

/// What a save has done, in words.
pub(crate) fn summary(sr: &Name, saves: &Saves, written: &Written) -> String {
    format!(
        "SR {sr} is saved in {}, generation {}: {} of data, {} written",
        saves.path().display(),
        written.number,
        human(written.data_bytes),
        human(written.written_bytes)
    )
}

/// The error of a detach that did not save: how to go on.
fn not_saved(sr: &Name, error: &Error) -> Error {
    let incomplete = match error.kind() {
        ErrorKind::Corrupt => format!(
            "; to save it without what is damaged, first run volume-plugin at-detach --sr {sr} --incomplete"
        ),
        _ => String::new(),
    };
    Error::new(
        error.kind(),
        format!(
            "SR {sr} cannot be saved, and stays attached with all that is in it: {}; mend that and detach it \
             again (xe pbd-unplug){incomplete}; to detach it without saving, which loses its contents when the \
             host restarts, first run volume-plugin at-detach --sr {sr} --without-save",
            error.chain()
        ),
    )
}

/// Removes the saves of an SR that is destroyed.
pub(crate) fn remove(ctx: &Context<'_>, save_dir: &str, sr: &Name) {
    let Some(saves) = saves(save_dir, sr) else { return };
    if let Err(error) = saves.remove() {
        ctx.log.warning(format_args!(
            "SR {sr} is destroyed, and its saves are left in {}: {}; remove that directory",
            saves.path().display(),
            error.chain()
        ));
    }
}

/// Where an SR of this host's memory is saved; empty where that is nowhere, or there is no such SR.
pub(crate) fn directory_of(host: &Host, sr: &str) -> String {
    let found = host.srs().unwrap_or_default();
    let found = found.into_iter().find(|it| it.stat.uuid.as_str() == sr);
    found.map(|it| it.attachment.save_dir).unwrap_or_default()
}
