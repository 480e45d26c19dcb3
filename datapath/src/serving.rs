//! Having tapdisk-ram open and close the volume.

use std::{ffi::OsStr, path::Path, time::Duration};

use host::Provider;
use smapiv3::{Error, Failure};
use store::Name;
use tapctl::process;

use crate::{
    ending::EXIT_TIMEOUT,
    mirroring::CUT_OVER_TIMEOUT,
    state::Mode,
    tapdisk::{ANSWER_TIMEOUT, Running, hangs},
    vdi::Vdi,
};

impl Vdi<'_> {
    /// Has the tapdisk open `path`, unless it serves that already; one that dies at that moment is
    /// replaced once.
    pub(crate) fn serve(&mut self, path: &Path, mode: Mode) -> Result<(), Error> {
        let mut is_new = false;
        loop {
            match self.running() {
                Some(running) => {
                    self.require_free(path, running.identity.pid)?;
                    match running.open(path, mode, self.state.mode().is_some()) {
                        Ok(()) => return Ok(()),
                        Err(error) if is_new || !self.has_died(&running, &error)? => {
                            return Err(error.into());
                        }
                        Err(error) => self.ctx.log.warning(error),
                    }
                }
                None if is_new => {
                    return Err(self.dies_at_once());
                }
                None => {}
            }
            self.start(Provider::Ram)?;
            is_new = true;
        }
    }

    /// Has the tapdisk, if it lives, close its image. Afterwards no process serves the volume for
    /// this plugin.
    pub(crate) fn close_in_tapdisk(&mut self) -> Result<(), Error> {
        let Some(running) = self.running() else { return Ok(()) };
        let Running { client, minor, .. } = &running;
        let patience = if self.is_mirrored() { CUT_OVER_TIMEOUT } else { ANSWER_TIMEOUT };
        let client = &client.clone().timeout(patience);
        let closed = client.close(*minor).or_else(|refused| match refused.kind() {
            tapctl::ErrorKind::Remote(_) => match client.serving(*minor) {
                Ok(serving) if serving.path.is_some() => Err(refused),
                // It has nothing open, or not even the minor.
                Ok(_) => Ok(()),
                Err(error) if matches!(error.kind(), tapctl::ErrorKind::Remote(_)) => Ok(()),
                Err(error) => Err(error),
            },
            _ => Err(refused),
        });
        match closed {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), tapctl::ErrorKind::Remote(_)) => Err(error.into()),
            Err(error) => {
                self.ctx.log.warning(&error);
                self.kill(&running, if hangs(&error) { Duration::ZERO } else { EXIT_TIMEOUT })
            }
        }
    }

    /// Checks that no process but this tapdisk serves the volume at `path`. A tapdisk that finds another
    /// holder by itself has waited some seconds for the lock by then.
    fn require_free(&self, path: &Path, pid: u32) -> Result<(), Error> {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let sr = self.sr()?;
        let holder = Name::parse(name).and_then(|key| sr.serving(&key))?;
        match holder {
            // A call that changes the volume holds it for a moment, and the lock file may still name
            // a dead process.
            Some(other) if other.pid != pid && other.pid != 0 && process::exists(other.pid) => {
                let message = format!(
                    "volume {name} is served by process {}, which is not its tapdisk (minor {}, \
                     control directory {}): detach it there (tap-ctl destroy -p {} -m {}) and \
                     repeat",
                    other.pid, other.minor, other.control_dir, other.pid, other.minor
                );
                Err(Error::new(Failure::VdiInUse, message))
            }
            _ => Ok(()),
        }
    }
}
