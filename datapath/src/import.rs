//! Incoming migrations of SMAPIv1: xapi passes the connection of the other host's tapdisk by SCM_RIGHTS,
//! and the tapdisk here becomes its NBD server.

use smapiv3::{Error, Failure};

use crate::{state::Mode, vdi::Vdi};

impl Vdi<'_> {
    /// The socket that takes connections, for as long as the volume is active. xapi has activated the volume
    /// for the migration's domain before; where nothing has, it is activated for `domain`.
    pub(crate) fn import_socket(&mut self, domain: String) -> Result<String, Error> {
        match self.state.mode() {
            Some(Mode::ReadWrite) => self.prepare()?,
            Some(Mode::ReadOnly) | None => self.activate(domain, Mode::ReadWrite)?,
        }
        let running = self.running().ok_or_else(|| self.dies_at_once())?;
        let (pid, minor) = (running.identity.pid, running.minor);
        // The first one greets in fixed newstyle, as the interface says; blktap's tapdisks have had it for
        // some years, and the clients of both understand both.
        let sockets = [self.control.nbdserver_new(pid, minor), self.control.nbdserver(pid, minor)];
        let socket = sockets.iter().find(|path| path.exists()).and_then(|path| path.to_str());
        socket.map(str::to_owned).ok_or_else(|| {
            let message = format!(
                "tapdisk {pid} of volume {} has no socket {} to pass a connection to: see its log",
                self.uri.key,
                sockets[0].display()
            );
            Error::new(Failure::TapdiskFailed, message)
        })
    }
}
