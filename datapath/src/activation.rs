//! From attach to detach: the provider that serves the volume, and the steps of each of the two.

use host::Provider;
use smapiv3::{Error, Failure};

use crate::{blktap::require_size, state::Mode, unused::Claim, vdi::Vdi};

impl Vdi<'_> {
    /// The provider that serves the volume. While the volume is active, a change of the SR's provider
    /// has no effect on it.
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

    /// Lets a domain use the volume, which is served from then on.
    pub(crate) fn activate(&mut self, domain: String, mode: Mode) -> Result<(), Error> {
        self.link.uri()?;
        self.require_volume()?;
        if mode == Mode::ReadWrite {
            self.give_way_to_writers()?;
        }
        self.end_unused(Claim::Activation(&domain, mode))?;
        let provider = self.provider()?;
        self.require_no_conflict(&domain, mode, provider)?;
        let served = match provider {
            Provider::Ram => self.activate_ram(mode),
            Provider::Blktap => self.activate_blktap(mode),
        };
        if served.is_err() && self.is_unused(provider) {
            // No later call would stop it. The first error is the one to report.
            if let Err(error) = self.stop().and_then(|()| self.save()) {
                self.ctx.log.warning(error.chain());
            }
        }
        served?;
        if mode == Mode::ReadWrite && self.state.persistent && self.state.mode().is_none() {
            // From here on the volume's bytes may change.
            self.sr()?.lock()?.renew_content_id(&self.uri.key)?;
        }
        self.state.domains.insert(domain, mode.into());
        self.save()
    }

    /// Whether no domain needs the process: an idle one of the host's own is not kept for domains
    /// that have only attached the volume.
    fn is_unused(&self, provider: Provider) -> bool {
        match provider {
            Provider::Ram => self.state.domains.is_empty(),
            Provider::Blktap => self.state.mode().is_none(),
        }
    }

    fn require_no_conflict(
        &self,
        domain: &str,
        mode: Mode,
        provider: Provider,
    ) -> Result<(), Error> {
        let key = &self.uri.key;
        let message = match provider {
            Provider::Ram => self.state.conflict(domain, mode).map(|(other, held)| {
                format!(
                    "volume {key} cannot be activated {mode}: it is active {held} for domain \
                     {other:?}, and the two exclude each other; deactivate it there first (xe \
                     vbd-unplug; where xapi has no VBD to unplug: {})",
                    self.ending_command(other)
                )
            }),
            Provider::Blktap => self.state.active_beside(domain).map(|(other, held)| {
                format!(
                    "volume {key} is active {held} for domain {other:?} in the host's own tapdisk \
                     (device-config:tapdisk=blktap), which serves a disk to one domain at a time: \
                     deactivate it there first (xe vbd-unplug; where xapi has no VBD to unplug: {})",
                    self.ending_command(other)
                )
            }),
        };
        message.map_or(Ok(()), |message| Err(Error::new(Failure::VdiInUse, message)))
    }

    pub(crate) fn activate_ram(&mut self, mode: Mode) -> Result<(), Error> {
        let path = self.path_to_serve(mode)?;
        self.start_with(Provider::Ram)?;
        self.serve(&path, mode)
    }

    fn activate_blktap(&mut self, mode: Mode) -> Result<(), Error> {
        let volume = self.volume_to_serve(mode)?;
        require_size(&volume)?;
        if let Some(running) = self.holding(&volume, mode)? {
            return self.point(&running);
        }
        // A process that was left by a call that was killed, that died, or that has the volume in
        // another mode: each holds one image in its life.
        self.stop()?;
        self.start(Provider::Blktap)?;
        self.load(&volume, mode)
    }

    /// Makes ready for an activation: a tapdisk that lives, and that serves the volume again for
    /// the domains that have activated it, where there are any. The host's tapdisk is started only
    /// when there is something to load.
    pub(crate) fn prepare(&mut self) -> Result<(), Error> {
        if self.provider()? == Provider::Blktap {
            return self.require_fit();
        }
        self.start_with(Provider::Ram)?;
        let Some(mode) = self.state.mode() else { return Ok(()) };
        let path = self.path_to_serve(mode)?;
        self.serve(&path, mode)
    }

    /// Has the process that serves the volume close it. Afterwards no process serves the volume for
    /// this plugin. The host's tapdisk ends with that, as it holds one image in its life.
    pub(crate) fn close_image(&mut self) -> Result<(), Error> {
        if self.is_blktap() { self.stop() } else { self.close_in_tapdisk() }
    }

    /// Ends the process that serves the volume, after the volume was taken back from it.
    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        if self.is_blktap() {
            self.take_back()?;
        }
        self.stop_process()
    }

    /// Starts the process of a provider, unless it lives. No domain has the volume active in a
    /// process of the other provider.
    fn start_with(&mut self, provider: Provider) -> Result<(), Error> {
        if self.state.tapdisk.as_ref().is_some_and(|it| it.provider != provider) {
            self.stop()?;
        }
        self.start(provider)
    }
}
