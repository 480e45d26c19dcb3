//! The host's own tapdisk as the one that serves: `device-config:tapdisk=blktap`.
//!
//! Its `ram:` driver loads an image into memory of its own and never writes it back
//! (`drivers/block-ram.c`). So a volume is written into an image, loaded by one process of its own, and
//! taken back at deactivate; then the process ends, as it holds one image in its life. There is none between
//! attach and activate. Operations that the driver cannot support are refused here, or by the
//! store as long as the volume has an external holder.
//!
//! Invariant, for a kill at any moment: the store knows the process as external holder before
//! it may write, and until all of the volume has come back; the process ends after that. So a call
//! that finds the holder alive takes the volume back, and may do so again; without a holder there is
//! nothing to take back.

use std::{ffi::OsString, time::Duration};

use host::Provider;
use smapiv3::{Error, Failure};
use store::{Disk, ErrorKind, ExternalHolder, Name, Serving, Sr, Volume};
use tapctl::{Flags, Open, Resume, reply::state};

use crate::{
    errors,
    image::Image,
    state::Mode,
    tapdisk::Running,
    vdi::Vdi,
    write_back::{Failed, write_back},
};

/// How long it may take to load an image, which it does 512 bytes at a time.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a resume may take: blktap's tapdisk tries ten times, a second apart.
const RESUME_TIMEOUT: Duration = Duration::from_secs(20);

/// The part of a volume that its external holder has.
enum Held {
    /// The volume's bytes.
    All,
    /// The volume's bytes, once it is resumed.
    Paused,
    /// Nothing that could be taken back, with the reason.
    Nothing(String),
}

impl Vdi<'_> {
    /// Checks, before there is anything to undo, that the host's tapdisk can serve the volume.
    pub(crate) fn require_fit(&self) -> Result<(), Error> {
        let volume = self.sr()?.volume(self.uri.key.as_str())?;
        require_size(&volume)?;
        self.program(Provider::Blktap).map(drop)
    }

    /// Whether the volume's process has all of it already, in that mode.
    pub(crate) fn holding(&self, volume: &Volume, mode: Mode) -> Result<Option<Running>, Error> {
        let read_only = mode == Mode::ReadOnly;
        let holder = self.sr()?.external_holder(volume.key.as_str())?;
        let Some(holder) = holder.filter(|it| it.serving.read_only == read_only) else {
            return Ok(None);
        };
        let Some(running) = self.holding_process(&holder) else { return Ok(None) };
        Ok(matches!(self.held(&running)?, Held::All).then_some(running))
    }

    /// Lends the volume to its process, which was just started.
    pub(crate) fn load(&mut self, volume: &Volume, mode: Mode) -> Result<(), Error> {
        let Some(running) = self.running() else { return Err(self.dies_at_once()) };
        let image = Image::new(&self.control, &volume.key);
        let handed = self.hand_over(&self.sr()?, volume, mode, &running, &image);
        let removed = image.remove();
        handed.and(removed)?;
        self.ctx.log.info(format_args!(
            "loaded volume {} into tapdisk {}, minor {}, which has the only copy of new writes until \
             the volume is deactivated",
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
        // Held until the store knows the holder, so that the volume cannot change after it was copied.
        let reading = Serving { pid: std::process::id(), read_only: true, ..serving.clone() };
        let path = self.layout.volume(&volume.key);
        let mut disk = Disk::open(&path, &store::Open { serving: reading })?;
        image.lay_out(&mut disk)?;
        let holder = ExternalHolder::new(serving, self.control.minor(minor));
        sr.lock()?.set_external_holder(key, &holder)?;
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
            Err(error) => errors::tapdisk(Provider::Blktap, error),
        };
        // The process has written nothing yet.
        sr.lock()?.clear_external_holder(key)?;
        Err(refusal)
    }

    /// Takes the volume back from its external holder, if it has one, before the process is ended.
    /// Where the process is dead, or has closed the image, the volume keeps the contents that it had
    /// at activate: that is logged.
    pub(crate) fn take_back(&mut self) -> Result<(), Error> {
        let Some(key) = self.served_key() else { return Ok(()) };
        Image::new(&self.control, &key).remove()?;
        let Some((sr, holder)) = self.holder_of(&key)? else { return Ok(()) };
        let end = |why: Option<String>| {
            if let Some(why) = why.filter(|_| !holder.serving.read_only) {
                // As it is by now: this very call may have taken back a part.
                let now = sr.external_holder(key.as_str()).ok().flatten();
                let left = if now.is_some_and(|holder| holder.partial) {
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
        let pid = holder.serving.pid;
        let died = || Some(format!("the host's tapdisk {pid} is dead"));
        let Some(running) = self.holding_process(&holder) else { return end(died()) };
        if holder.serving.read_only {
            return end(None);
        }
        if let Held::Nothing(why) = self.held_if_resumed(&running)? {
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

    /// The external holder of a volume, as the store knows it; none where the SR or the volume does not
    /// exist any more.
    fn holder_of(&self, key: &Name) -> Result<Option<(Sr, ExternalHolder)>, Error> {
        let is_gone = |kind| {
            matches!(
                kind,
                ErrorKind::SrNotAttached
                    | ErrorKind::SrMissing
                    | ErrorKind::VolumeMissing
                    | ErrorKind::VolumeLost
            )
        };
        let found = self.open_sr().and_then(|sr| Ok((sr.external_holder(key.as_str())?, sr)));
        match found {
            Ok((holder, sr)) => Ok(holder.map(|holder| (sr, holder))),
            Err(error) if is_gone(error.kind()) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The external holder, if it is the process of this volume and lives.
    fn holding_process(&self, holder: &ExternalHolder) -> Option<Running> {
        self.running().filter(|running| {
            running.identity.pid == holder.serving.pid
                && u32::from(running.minor) == holder.serving.minor
        })
    }

    /// The part of the volume that a process has, after one that another program has paused was resumed.
    ///
    /// blktap's driver keeps its buffer while it is paused. The first try of a resume fails, as the image is
    /// gone, and the second one finds the buffer (`tdram_open` of `drivers/block-ram.c`,
    /// `tapdisk_vbd_resume`). The caller has made sure that there is no image: that would be loaded.
    fn held_if_resumed(&self, running: &Running) -> Result<Held, Error> {
        let held = self.held(running)?;
        if !matches!(held, Held::Paused) {
            return Ok(held);
        }
        let (pid, minor) = (running.identity.pid, running.minor);
        self.ctx.log.warning(format_args!(
            "the host's tapdisk {pid}, minor {minor}, was paused by another program; it is resumed to \
             take volume {} back",
            self.uri.key
        ));
        let client = running.client.clone().timeout(RESUME_TIMEOUT);
        match client.resume(minor, Resume::default()) {
            Ok(()) => match self.held(running)? {
                Held::Paused => Ok(Held::Nothing(format!(
                    "the host's tapdisk {pid}, minor {minor}, is paused again and again by another \
                     program"
                ))),
                held => Ok(held),
            },
            Err(error) if self.has_died(running, &error)? => {
                Ok(Held::Nothing(format!("the host's tapdisk {pid} is dead")))
            }
            Err(error) if matches!(error.kind(), tapctl::ErrorKind::Remote(_)) => {
                Ok(Held::Nothing(format!("the paused tapdisk of the host is not resumed: {error}")))
            }
            Err(error) => Err(errors::tapdisk(Provider::Blktap, error)),
        }
    }

    /// The part of the volume that a process has, as it says itself.
    fn held(&self, running: &Running) -> Result<Held, Error> {
        let (pid, minor) = (running.identity.pid, running.minor);
        let entries = match running.client.list() {
            Ok(entries) => entries,
            Err(error) if self.has_died(running, &error)? => {
                return Ok(Held::Nothing(format!("the host's tapdisk {pid} is dead")));
            }
            Err(error) => return Err(errors::tapdisk(Provider::Blktap, error)),
        };
        let entry = entries.into_iter().find(|entry| entry.minor == i32::from(minor));
        let image = self.served_key().map(|key| params(&Image::new(&self.control, &key)));
        Ok(match entry {
            Some(it) if it.state == state::RUNNING && Some(&it.params) == image.as_ref() => {
                Held::All
            }
            Some(it)
                if [state::PAUSED, state::RESUME_FAILED].contains(&it.state)
                    && Some(&it.params) == image.as_ref() =>
            {
                Held::Paused
            }
            Some(it) => Held::Nothing(format!(
                "the host's tapdisk {pid}, minor {minor}, was closed or given another image by another \
                 program (state {:#x}, image {:?})",
                it.state, it.params
            )),
            None => Held::Nothing(format!("the host's tapdisk {pid} has lost minor {minor}")),
        })
    }

    /// The key that is served between open and close: that of the volume, or of the clone in its place.
    fn served_key(&self) -> Option<Name> {
        match &self.state.clone {
            Some(clone) if !self.state.persistent => Name::parse(clone).ok(),
            _ => Some(self.uri.key.clone()),
        }
    }
}

/// Checks that the host's tapdisk takes a volume of that size.
pub(crate) fn require_size(volume: &Volume) -> Result<(), Error> {
    Provider::Blktap.check_size(volume.size).map_err(|error| {
        let (key, size) = (&volume.key, volume.size);
        let message = format!("volume {key} of {size} bytes is too large: {error}");
        Error::new(Failure::VdiSize, message)
    })
}

fn params(image: &Image) -> OsString {
    let mut params = OsString::from("ram:");
    params.push(image.path());
    params
}

fn not_taken_back(key: &Name, running: &Running, failed: &Failed) -> Error {
    let (pid, minor) = (running.identity.pid, running.minor);
    let advice = match failed {
        Failed::Store(error) if error.kind() == ErrorKind::NoSpace => {
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
        Failed::Server(_) => ErrorKind::Unresponsive,
    };
    let message = format!(
        "what was written to volume {key} could not be taken back from the host's tapdisk {pid}, \
         minor {minor}, which still has it: {failed}; {advice}"
    );
    store::Error::new(kind, message).into()
}
