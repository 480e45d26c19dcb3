//! Starting the tapdisk of a volume, and replacing one that is dead.

use std::{path::PathBuf, time::Duration};

use host::{
    Provider,
    cgroup::{self, Groups},
    variables::{STARTED_FOR, TAPDISK},
};
use smapiv3::{Error, Failure};
use tapctl::{
    Client, Minor, Spawn, minors,
    reply::{NAME, REVISION},
};

use crate::{
    errors,
    state::Tapdisk,
    tapdisk::{ANSWER_TIMEOUT, MINORS_TIMEOUT, Running},
    vdi::Vdi,
};

impl Vdi<'_> {
    /// Makes sure that a tapdisk lives and has its minor, and that the link leads to it. The
    /// process of another provider has ended before.
    pub(crate) fn start(&mut self, provider: Provider) -> Result<(), Error> {
        if let Some(running) = self.running() {
            match running.take_minor() {
                Ok(()) => return self.point(&running),
                // It has lost the minor: whatever it does, it does not serve this volume.
                Err(error) if matches!(error.kind(), tapctl::ErrorKind::Remote(_)) => {
                    self.ctx.log.warning(&error);
                    self.end(&running)?;
                }
                Err(error) if self.has_died(&running, &error)? => {}
                // Its control socket is lost, and no domain uses it.
                Err(error)
                    if error.kind() == tapctl::ErrorKind::Gone && self.state.mode().is_none() =>
                {
                    self.ctx.log.warning(&error);
                    self.end(&running)?;
                }
                Err(error) => return Err(errors::tapdisk(provider, error)),
            }
        }
        self.replace(provider)
    }

    /// Starts a tapdisk where none lives.
    fn replace(&mut self, provider: Provider) -> Result<(), Error> {
        let before = self.state.tapdisk.take();
        let dead = before.as_ref().and_then(|it| it.identity.as_ref());
        if let Some(dead) = dead {
            // Threads of it that end now still have its sockets and its minor.
            let _else_another_minor = dead.wait(ANSWER_TIMEOUT)?;
            self.remove_leftovers(dead);
        }
        self.state.starting = true;
        self.save()?;
        let minor = self.reserve(before.as_ref().map(|it| it.minor))?;
        let started = self.spawn(minor, provider);
        match started {
            Ok(running) => {
                let (pid, path) = (running.identity.pid, self.link.path());
                let to = path.display();
                match dead {
                    Some(dead) => self.ctx.log.warning(format_args!(
                        "tapdisk {} is dead; replaced by {pid}, minor {minor}, at {to}",
                        dead.pid
                    )),
                    None => self
                        .ctx
                        .log
                        .info(format_args!("started tapdisk {pid}, minor {minor}, at {to}")),
                }
                Ok(())
            }
            Err(error) => {
                self.free(minor);
                (self.state.tapdisk, self.state.starting) = (None, false);
                // The first error is the one to tell.
                let _kept = self.save();
                Err(error)
            }
        }
    }

    /// A minor for a new tapdisk: the one before, where it is still reserved and no process has it.
    fn reserve(&self, before: Option<Minor>) -> Result<Minor, Error> {
        if let Some(before) = before
            && minors::is_attached(&self.control, before).is_ok_and(|attached| !attached)
        {
            return Ok(before);
        }
        Ok(minors::allocate_for(&self.control, &self.mark(), MINORS_TIMEOUT)?)
    }

    /// Starts the process, remembers it, attaches the minor to it and points the link to it.
    fn spawn(&mut self, minor: Minor, provider: Provider) -> Result<Running, Error> {
        let refused = |error| errors::tapdisk(provider, error);
        let program = self.program(provider)?;
        if provider == Provider::Blktap {
            // It stays in the control groups that it is started in, and would be ended with them.
            cgroup::leave(Groups::Deadly, &|text| self.ctx.log.warning(text));
        }
        let spawn = Spawn::new(&self.control, program)
            .variables(self.ctx.config.for_tapdisk())
            .variables([(STARTED_FOR.name, self.mark())]);
        let spawned = spawn.start().map_err(refused)?;
        let identity = spawned.identity;
        self.state.tapdisk = Some(Tapdisk::new(minor, Some(identity.clone()), provider));
        self.state.starting = false;
        let client = Client::new(&self.control, spawned.pid).timeout(ANSWER_TIMEOUT);
        let running = Running { client, minor, identity };
        let ready = self
            .save()
            .and_then(|()| self.require_revision(&running, provider))
            .and_then(|()| running.client.attach(minor).map_err(refused))
            .and_then(|()| self.point(&running));
        if let Err(error) = ready {
            // It never had the minor, so nothing else would make it end.
            if let Err(error) = self.kill(&running, Duration::ZERO) {
                self.ctx.log.error(error.chain());
            }
            return Err(error);
        }
        Ok(running)
    }

    /// Checks that a process of ours understands our own messages: without them a volume could be
    /// served, and neither snapshotted nor resized meanwhile.
    fn require_revision(&self, running: &Running, provider: Provider) -> Result<(), Error> {
        if provider == Provider::Blktap {
            return Ok(());
        }
        let program = self.program(provider)?;
        let message = match running.client.identify()? {
            Some(it) if it.name == NAME && it.revision <= REVISION => return Ok(()),
            Some(it) if it.name == NAME => format!(
                "{} is version {} and uses revision {} of the control messages, of which this plugin \
                 knows {REVISION}: install both from one version",
                program.display(),
                it.version,
                it.revision
            ),
            _ => format!(
                "{} is a tapdisk, but not tapdisk-ram: {TAPDISK} names another program to start",
                program.display()
            ),
        };
        Err(Error::new(Failure::TapdiskFailed, message))
    }

    /// The program of a provider.
    pub(crate) fn program(&self, provider: Provider) -> Result<PathBuf, Error> {
        match provider {
            Provider::Ram => Ok(self.ctx.config.tapdisk()),
            Provider::Blktap => {
                let program = self.ctx.config.blktap();
                program.map_err(|message| Error::new(Failure::TapdiskFailed, message))
            }
        }
    }
}
