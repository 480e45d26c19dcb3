//! The volume that is served between open and close: the volume itself, or the anonymous clone that
//! takes the writes of a non-persistent disk.

use std::path::PathBuf;

use smapiv3::{Error, Failure};
use store::{ErrorKind, Inactive, Name, Volume};

use crate::{state::Mode, vdi::Vdi};

impl Vdi<'_> {
    /// The path that a tapdisk has to open.
    pub(crate) fn path_to_serve(&mut self, mode: Mode) -> Result<PathBuf, Error> {
        let volume = self.volume_to_serve(mode)?;
        Ok(self.layout.volume(&volume.key))
    }

    /// The volume to serve: the volume itself, or the clone that takes its place.
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
                    "the data of volume {key} was destroyed, only its changed blocks can be \
                     listed: it cannot be activated"
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
        // No process serves the volume through this plugin now, so none has to be told.
        Ok(sr.lock()?.clone_hidden(self.uri.key.as_str(), &clone, &mut Inactive)?)
    }

    /// Drops clones of sessions that no record names: a record that was damaged and removed by hand
    /// had the clone's key. A clone that cannot be dropped now is dropped next time, or with the volume.
    pub(crate) fn drop_unknown_clones(&self) {
        let dropped =
            self.open_sr().and_then(|sr| sr.lock()?.end_sessions(&self.uri.key, &mut Inactive));
        if let Err(error) = dropped {
            self.ctx.log.debug(error.chain());
        }
    }

    /// Destroys the clone, which no process serves. Where the SR is not attached it is kept: it goes
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
