//! One volume for the length of one call: locked, with what is remembered of it, and what the
//! methods have in common. The process that serves it is handled in [`crate::tapdisk`].

use std::{cell::OnceCell, path::PathBuf};

use host::{Config, Provider};
use schemas::{Error, Failure};
use store::{ErrorKind, Host, Inactive, Layout, Name, Sr, Volume, VolumeUri};
use tapctl::ControlDir;

use crate::{
    Context,
    link::Link,
    state::{Mode, Record, State},
};

/// A volume, for the length of one call.
pub(crate) struct Disk<'a> {
    pub(crate) ctx: &'a Context<'a>,
    pub(crate) uri: VolumeUri,
    pub(crate) control: ControlDir,
    pub(crate) link: Link,
    pub(crate) state: State,
    pub(crate) layout: Layout,
    host: Host,
    /// Opened when it is needed first.
    sr: OnceCell<Sr>,
    record: Record,
}

impl<'a> Disk<'a> {
    /// Takes the volume's lock and reads what is remembered. The volume need not exist.
    pub(crate) fn lock(ctx: &'a Context<'a>, uri: &str) -> Result<Self, Error> {
        let uri: VolumeUri = uri.parse()?;
        let Config { sr_root, lock_dir, may_mount, control, .. } = ctx.config.clone();
        let host = Host::new(sr_root, lock_dir, may_mount);
        let layout = Layout::new(&host.sr_root, &uri.sr);
        let record = Record::lock(&host, &uri)?;
        let state = record.read()?;
        let link = Link::new(&control, &uri);
        let mut disk =
            Self { ctx, uri, control, link, state, layout, host, sr: OnceCell::new(), record };
        disk.recover();
        Ok(disk)
    }

    /// Remembers what is known by now.
    pub(crate) fn save(&self) -> Result<(), Error> {
        self.record.write(&self.state)
    }

    /// The SR, where it is attached.
    pub(crate) fn sr(&self) -> Result<Sr, Error> {
        let sr = self.open_sr()?;
        if !self.record.is_locked() {
            // There was no SR when this call began: nothing could be remembered of what it does.
            let message = format!("SR {} is just being attached: repeat the call", self.uri.sr);
            return Err(Error::new(Failure::Eagain, message));
        }
        Ok(sr)
    }

    /// The same, whether anything can be remembered or not.
    pub(crate) fn open_sr(&self) -> store::Result<Sr> {
        if let Some(sr) = self.sr.get() {
            return Ok(sr.clone());
        }
        let sr = Sr::open(&self.host, self.uri.sr.as_str())?;
        Ok(self.sr.get_or_init(|| sr).clone())
    }

    /// Checks that there is such a volume, in an SR that is attached.
    pub(crate) fn require_volume(&self) -> Result<(), Error> {
        self.sr()?.volume(self.uri.key.as_str())?;
        Ok(())
    }

    /// Lets a domain use the volume, which is served from then on.
    pub(crate) fn activate(&mut self, domain: String, mode: Mode) -> Result<(), Error> {
        self.link.uri()?;
        self.require_volume()?;
        if self.provider()? == Provider::Blktap {
            return self.activate_blktap(domain, mode);
        }
        if let Some((other, held)) = self.state.conflict(&domain, mode) {
            let message = format!(
                "volume {} cannot be activated {mode}: it is active {held} for domain {other:?}, \
                 and the two exclude each other; deactivate it there first",
                self.uri.key
            );
            return Err(Error::new(Failure::VdiInUse, message));
        }
        let path = self.path_to_serve(mode)?;
        self.start(Provider::Ram)?;
        let served = self.serve(&path, mode);
        if served.is_err() && self.state.domains.is_empty() {
            // Nobody would ever stop it. The first error is the one to tell.
            if let Err(error) = self.stop().and_then(|()| self.save()) {
                self.ctx.log.warning(error.chain());
            }
        }
        served?;
        self.state.domains.insert(domain, mode.into());
        self.save()
    }

    /// Makes ready for an activation: a tapdisk that lives, and that serves the volume again for
    /// the domains that have activated it, where there are any. The host's tapdisk is started only
    /// when there is something to load.
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        if self.provider()? == Provider::Blktap {
            return self.require_fit();
        }
        self.start(Provider::Ram)?;
        let Some(mode) = self.state.mode() else { return Ok(()) };
        let path = self.path_to_serve(mode)?;
        self.serve(&path, mode)
    }

    /// What a tapdisk has to open.
    fn path_to_serve(&mut self, mode: Mode) -> Result<PathBuf, Error> {
        let volume = self.volume_to_serve(mode)?;
        Ok(self.layout.volume(&volume.key))
    }

    /// What is to be served: the volume, or the clone that takes its place.
    pub(crate) fn volume_to_serve(&mut self, mode: Mode) -> Result<Volume, Error> {
        let sr = self.sr()?;
        if !self.state.persistent {
            // A call may have been killed before it had made one.
            self.make_clone()?;
        }
        let clone = self.state.clone.as_deref().filter(|_| !self.state.persistent);
        let key = clone.unwrap_or(self.uri.key.as_str());
        let volume = sr.volume(key)?;
        if !volume.has_data {
            return Err(Error::new(
                Failure::VdiType,
                format!(
                    "the data of volume {key} was destroyed, only its changed blocks can be listed: it \
                     cannot be activated"
                ),
            ));
        }
        if mode == Mode::ReadWrite && !volume.read_write {
            return Err(Error::new(
                Failure::VdiType,
                format!(
                    "volume {key} is a snapshot and cannot be written: clone it, or activate it \
                     read-only"
                ),
            ));
        }
        Ok(volume)
    }

    /// Makes sure of the anonymous clone that takes the writes of a non-persistent disk. Its key is
    /// written down first, or a call that is killed would leave a clone that no other call knows of.
    pub(crate) fn make_clone(&mut self) -> Result<(), Error> {
        let sr = self.sr()?;
        let clone = match &self.state.clone {
            Some(clone) => Name::parse(clone)?,
            None => {
                let clone = sr.new_key()?;
                self.state.clone = Some(clone.to_string());
                self.save()?;
                clone
            }
        };
        if sr.volume(clone.as_str()).is_ok() {
            return Ok(());
        }
        // Nobody serves the volume through this plugin now, so nobody is there to be told.
        Ok(sr.lock()?.clone_hidden(self.uri.key.as_str(), &clone, &mut Inactive)?)
    }

    /// Drops clones of sessions that no record names: one that was damaged and removed by hand has taken
    /// the clone's key with it. What cannot be dropped now is dropped next time, or with the volume.
    pub(crate) fn drop_unknown_clones(&self) {
        let dropped =
            self.open_sr().and_then(|sr| sr.lock()?.end_sessions(&self.uri.key, &mut Inactive));
        if let Err(error) = dropped {
            self.ctx.log.debug(error.chain());
        }
    }

    /// Throws the clone away, which nobody serves. Where the SR is not attached it is kept: it goes
    /// with the SR, or at the next chance.
    pub(crate) fn drop_clone(&mut self) -> Result<(), Error> {
        let Some(clone) = self.state.clone.clone() else { return Ok(()) };
        let destroyed =
            self.open_sr().and_then(|sr| sr.lock()?.destroy_volume(&clone, &mut Inactive));
        match destroyed {
            Ok(()) => self.state.clone = None,
            Err(error)
                if matches!(error.kind(), ErrorKind::SrNotAttached | ErrorKind::SrMissing) =>
            {
                self.ctx.log.warning(format_args!("the clone {clone} is kept: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        self.save()
    }
}
