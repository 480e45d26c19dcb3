//! The host's own tapdisk as the one that serves: `device-config:tapdisk=blktap`.
//!
//! Its `ram:` driver loads an image into memory of its own and never writes it back
//! (`drivers/block-ram.c`). So a volume is laid out, lent to one process of its own, and taken back
//! at deactivate; then the process ends, as it holds one image in its life. There is none between
//! attach and activate. What the driver cannot do is refused here, or by the store as long as the
//! volume is lent.
//!
//! Invariant, for a kill at any moment: a volume is marked as lent before the process may write,
//! and until all of it has come back; the process ends after that. So whoever finds the mark and
//! the process takes back, and may do so again; who finds no mark has nothing to take back.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use host::{Provider, variables::BLKTAP};
use schemas::{Error, Failure};
use store::{Disk as StoreDisk, ExternalHolder, Name, Open as StoreOpen, Serving, Sr, Volume};
use tapctl::{ErrorKind, Flags, Open, reply::state};

use crate::{
    disk::Disk,
    image::Image,
    state::Mode,
    tapdisk::Running,
    write_back::{Failed, write_back},
};

/// How long it may take to load an image, which it does 512 bytes at a time.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What a process that a volume was lent to has of it by now.
enum Held {
    /// The volume's bytes.
    All,
    /// Nothing that could be had: why.
    Nothing(String),
}

impl Disk<'_> {
    /// Who serves the volume: once it is active that stays as it is, whatever the SR says.
    pub(crate) fn provider(&self) -> Result<Provider, Error> {
        match &self.state.tapdisk {
            Some(tapdisk) if self.state.mode().is_some() => Ok(tapdisk.provider),
            _ => Provider::of_sr(&self.sr()?.provider()?)
                .map_err(|error| Error::new(Failure::SrUnavailable, error.to_string())),
        }
    }

    /// Whether the volume's process is the host's tapdisk.
    pub(crate) fn is_blktap(&self) -> bool {
        self.state.tapdisk.as_ref().is_some_and(|it| it.provider == Provider::Blktap)
    }

    /// Checks, before there is anything to undo, that the host's tapdisk can serve the volume.
    pub(crate) fn require_fit(&self) -> Result<(), Error> {
        let volume = self.sr()?.volume(self.uri.key.as_str())?;
        require_size(&volume)?;
        self.blktap_program().map(drop)
    }

    /// Serves the volume through the host's tapdisk to one domain.
    pub(crate) fn activate_blktap(&mut self, domain: String, mode: Mode) -> Result<(), Error> {
        if let Some((other, held)) = self.state.active_beside(&domain) {
            let message = format!(
                "volume {} is active {held} for domain {other:?} in the host's own tapdisk \
                 (device-config:tapdisk=blktap), which serves a disk to one domain at a time: \
                 deactivate it there first",
                self.uri.key
            );
            return Err(Error::new(Failure::VdiInUse, message));
        }
        let volume = self.volume_to_serve(mode)?;
        require_size(&volume)?;
        let lent = self.lend(&volume, mode);
        if lent.is_err() && self.state.mode().is_none() {
            // Nobody would ever stop it. The first error is the one to tell.
            if let Err(error) = self.stop().and_then(|()| self.save()) {
                self.ctx.log.warning(error.chain());
            }
        }
        lent?;
        self.state.domains.insert(domain, mode.into());
        self.save()
    }

    /// The host's tapdisk.
    pub(crate) fn blktap_program(&self) -> Result<PathBuf, Error> {
        let program = self.ctx.config.blktap();
        program.map_err(|message| Error::new(Failure::TapdiskFailed, message))
    }

    /// Makes sure that the volume is lent in that mode.
    fn lend(&mut self, volume: &Volume, mode: Mode) -> Result<(), Error> {
        let sr = self.sr()?;
        let read_only = mode == Mode::ReadOnly;
        if let Some(loan) = sr.external_holder(volume.key.as_str())?
            && loan.serving.read_only == read_only
            && let Some(running) = self.borrower(&loan)
            && matches!(self.held(&running)?, Held::All)
        {
            return self.point(&running);
        }
        // One that was left by a call that was killed, that died, or that has it in another mode: a
        // process has one image in its life.
        self.stop()?;
        self.start(Provider::Blktap)?;
        let Some(running) = self.running() else { return Err(self.dies_at_once()) };
        let image = Image::new(&self.control, &volume.key);
        let handed = self.hand_over(&sr, volume, mode, &running, &image);
        let removed = image.remove();
        handed.and(removed)?;
        self.ctx.log.info(format_args!(
            "lent volume {} to tapdisk {}, minor {}, which has its only copy of what is written \
             until it is deactivated",
            volume.key, running.identity.pid, running.minor
        ));
        Ok(())
    }

    fn hand_over(
        &self,
        sr: &Sr,
        volume: &Volume,
        mode: Mode,
        running: &Running,
        image: &Image,
    ) -> Result<(), Error> {
        let (key, minor) = (volume.key.as_str(), running.minor);
        let read_only = mode == Mode::ReadOnly;
        let control_dir = self.control.path().to_string_lossy().into_owned();
        let pid = running.identity.pid;
        let serving = Serving { pid, control_dir, minor: minor.into(), read_only };
        // Held until the mark is there, so that what was laid out is what the volume reads.
        let reading = Serving { pid: std::process::id(), read_only: true, ..serving.clone() };
        let path = self.layout.volume(&volume.key);
        let mut disk = StoreDisk::open(&path, &StoreOpen { serving: reading })?;
        image.lay_out(&mut disk)?;
        let loan = ExternalHolder { serving, lock: self.control.minor(minor), partial: false };
        sr.lock()?.set_external_holder(key, &loan)?;
        drop(disk);
        let flags = if read_only { Flags::READ_ONLY } else { Flags::default() };
        let client = running.client.clone().timeout(LOAD_TIMEOUT);
        let opened = client.open(minor, Open::new(params(image)).flags(flags));
        let refusal = match opened {
            Ok(it) if it.sectors * u64::from(it.sector_size) == volume.size => return Ok(()),
            Ok(it) => Error::new(
                Failure::TapdiskFailed,
                format!(
                    "the host's tapdisk made {} sectors of {} bytes of volume {key}, which has {} \
                     bytes: it has not the ram: driver of blktap",
                    it.sectors, it.sector_size, volume.size
                ),
            ),
            Err(error) => refused(error),
        };
        // Nobody has written to it.
        sr.lock()?.clear_external_holder(key)?;
        Err(refusal)
    }

    /// Takes back what was lent, if anything was, before its process is ended. Where the process
    /// is dead, or has let go of it, the volume is what it was at activate: that is logged.
    pub(crate) fn take_back(&mut self) -> Result<(), Error> {
        let Some(key) = self.served_key() else { return Ok(()) };
        Image::new(&self.control, &key).remove()?;
        let Some((sr, loan)) = self.loan_of(&key)? else { return Ok(()) };
        let end = |why: Option<String>| {
            if let Some(why) = why.filter(|_| !loan.serving.read_only) {
                // As it is by now: this very call may have taken back a part.
                let now = sr.external_holder(key.as_str()).ok().flatten();
                let left = if now.is_some_and(|loan| loan.partial) {
                    "a part of it had come back, as the SR has no room for more at a time: the \
                     volume is a mixture of before and after, to be taken for corrupt"
                } else {
                    "it has the contents that it had then"
                };
                self.ctx.log.error(format_args!(
                    "{why}: what was written to volume {key} since it was activated is lost; {left}"
                ));
            }
            Ok(sr.lock()?.clear_external_holder(key.as_str())?)
        };
        let pid = loan.serving.pid;
        let died = || Some(format!("the host's tapdisk {pid} is dead"));
        let Some(running) = self.borrower(&loan) else { return end(died()) };
        if loan.serving.read_only {
            return end(None);
        }
        if let Held::Nothing(why) = self.held(&running)? {
            return end(Some(why));
        }
        let socket = self.control.nbd(pid, running.minor);
        match write_back(&sr, key.as_str(), &socket) {
            Ok(bytes) => {
                self.ctx.log.info(format_args!(
                    "took volume {key} back from tapdisk {pid}: {bytes} bytes had changed"
                ));
                Ok(())
            }
            Err(Failed::Server(_)) if self.is_dying(&running)? => end(died()),
            Err(failed) => Err(not_taken_back(&key, &running, &failed)),
        }
    }

    /// Who has a volume, by the store's word. Where there is no such SR or volume any more, there is
    /// nothing that was lent.
    fn loan_of(&self, key: &Name) -> Result<Option<(Sr, ExternalHolder)>, Error> {
        let is_gone = |kind| {
            matches!(
                kind,
                store::ErrorKind::SrNotAttached
                    | store::ErrorKind::SrMissing
                    | store::ErrorKind::VolumeMissing
                    | store::ErrorKind::VolumeLost
            )
        };
        let found = self.open_sr().and_then(|sr| Ok((sr.external_holder(key.as_str())?, sr)));
        match found {
            Ok((loan, sr)) => Ok(loan.map(|loan| (sr, loan))),
            Err(error) if is_gone(error.kind()) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The living process that has the volume.
    fn borrower(&self, loan: &ExternalHolder) -> Option<Running> {
        self.running().filter(|running| {
            running.identity.pid == loan.serving.pid
                && u32::from(running.minor) == loan.serving.minor
        })
    }

    /// What a process has of the volume, by its own word.
    fn held(&self, running: &Running) -> Result<Held, Error> {
        let (pid, minor) = (running.identity.pid, running.minor);
        let entries = match running.client.list() {
            Ok(entries) => entries,
            Err(error) if self.has_died(running, &error)? => {
                return Ok(Held::Nothing(format!("the host's tapdisk {pid} is dead")));
            }
            Err(error) => return Err(refused(error)),
        };
        let entry = entries.into_iter().find(|entry| entry.minor == i32::from(minor));
        let image = self.served_key().map(|key| params(&Image::new(&self.control, &key)));
        Ok(match entry {
            Some(it) if it.state == state::RUNNING && Some(&it.params) == image.as_ref() => {
                Held::All
            }
            Some(it) => Held::Nothing(format!(
                "the host's tapdisk {pid}, minor {minor}, was paused or closed by somebody else \
                 (state {:#x})",
                it.state
            )),
            None => Held::Nothing(format!("the host's tapdisk {pid} has lost minor {minor}")),
        })
    }

    /// The key of what is served between open and close: the volume, or the clone that takes its place.
    fn served_key(&self) -> Option<Name> {
        match &self.state.clone {
            Some(clone) if !self.state.persistent => Name::parse(clone).ok(),
            _ => Some(self.uri.key.clone()),
        }
    }
}

fn params(image: &Image) -> OsString {
    let mut params = OsString::from("ram:");
    params.push(image.path());
    params
}

/// Checks that the host's tapdisk takes a volume of that size.
fn require_size(volume: &Volume) -> Result<(), Error> {
    Provider::Blktap.check_size(volume.size).map_err(|error| {
        let (key, size) = (&volume.key, volume.size);
        let message = format!("volume {key} of {size} bytes is too large: {error}");
        Error::new(Failure::VdiSize, message)
    })
}

/// What the host's tapdisk, or the way to it, could not do. It is not killed for that: it may have
/// what nobody else has.
#[allow(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
pub(crate) fn refused(error: tapctl::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::Timeout => {
            "it hangs: look at that process and repeat; end it (kill -9) only if it does not \
             recover, which gives up what was written since the disk was activated"
                .to_owned()
        }
        _ => format!("the host's log says more; {BLKTAP} names another program to start"),
    };
    let message =
        format!("the host's own tapdisk (device-config:tapdisk=blktap): {error}; {advice}");
    let mapped = Error::new(Failure::TapdiskFailed, message);
    match std::error::Error::source(&error) {
        Some(source) => mapped.caused_by(source.to_string()),
        None => mapped,
    }
}

fn not_taken_back(key: &Name, running: &Running, failed: &Failed) -> Error {
    let (pid, minor) = (running.identity.pid, running.minor);
    let advice = match failed {
        Failed::Store(error) if error.kind() == store::ErrorKind::NoSpace => {
            "free memory in the SR (delete disks or snapshots) and repeat; until then that process must \
             live, or the disk is left a mixture of before and after"
        }
        Failed::Store(_) => "repeat when that is remedied",
        Failed::Server(_) => {
            "repeat; if it does not recover, end that process (kill -9), which gives up what was \
             written"
        }
    };
    let kind = match failed {
        Failed::Store(error) => error.kind(),
        Failed::Server(_) => store::ErrorKind::Unresponsive,
    };
    let message = format!(
        "what was written to volume {key} could not be taken back from the host's tapdisk {pid}, \
         minor {minor}, which still has it: {failed}; {advice}"
    );
    store::Error::new(kind, message).into()
}
