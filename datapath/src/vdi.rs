//! One volume for the length of one call: its lock, its record, and the SR that it lies in.
//!
//! The operations on it lie in files of their own: [`crate::session`] (the clone of a
//! non-persistent disk), [`crate::tapdisk`] and its neighbours (the process that serves it),
//! [`crate::blktap`] (the host's own tapdisk in its place), [`crate::activation`] (which of the two).

use std::cell::{Cell, OnceCell};

use host::Config;
use smapiv3::{Error, Failure};
use store::{Host, Layout, Sr, VolumeUri};
use tapctl::ControlDir;

use crate::{
    Context,
    link::Link,
    state::{Record, State},
};

/// A volume, for the length of one call.
pub(crate) struct Vdi<'a> {
    pub(crate) ctx: &'a Context<'a>,
    pub(crate) uri: VolumeUri,
    pub(crate) control: ControlDir,
    pub(crate) link: Link,
    pub(crate) state: State,
    pub(crate) layout: Layout,
    host: Host,
    /// Whether a tapdisk that has lost its control socket was asked to make it again.
    pub(crate) has_asked_to_restore: Cell<bool>,
    /// Opened when it is needed first.
    sr: OnceCell<Sr>,
    record: Record,
}

impl<'a> Vdi<'a> {
    /// Takes the volume's lock and reads its record. The volume need not exist.
    pub(crate) fn lock(ctx: &'a Context<'a>, uri: &str) -> Result<Self, Error> {
        let uri: VolumeUri = uri.parse()?;
        let Config { sr_root, lock_dir, may_mount, control, .. } = ctx.config.clone();
        let host = Host::new(sr_root, lock_dir, may_mount);
        let layout = Layout::new(&host.sr_root, &uri.sr);
        let record = Record::lock(&host, &uri)?;
        let state = record.read()?;
        let link = Link::new(&control, &uri);
        let mut vdi = Self {
            ctx,
            uri,
            control,
            link,
            state,
            layout,
            host,
            has_asked_to_restore: Cell::new(false),
            sr: OnceCell::new(),
            record,
        };
        if vdi.state.starting {
            vdi.end_orphans()?;
        }
        vdi.recover();
        Ok(vdi)
    }

    /// The mark of the process that was started for this volume, and of the minor that was reserved
    /// for it: after a call was killed, both are found by it. Unique on a host, where several control directories may be.
    pub(crate) fn mark(&self) -> String {
        format!("{} {}", self.control.path().display(), self.uri)
    }

    /// Writes the state into the record.
    pub(crate) fn save(&self) -> Result<(), Error> {
        self.record.write(&self.state)
    }

    /// The SR, where it is attached.
    pub(crate) fn sr(&self) -> Result<Sr, Error> {
        let sr = self.open_sr()?;
        if !self.record.is_locked() {
            // There was no SR when this call began, so there is no record to write to.
            let message = format!("SR {} is just being attached: repeat the call", self.uri.sr);
            return Err(Error::new(Failure::Eagain, message));
        }
        Ok(sr)
    }

    /// The same, also where the record was not there to be locked.
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
}
