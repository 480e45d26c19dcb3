//! The two processes of a tapdisk of ours: a keeper, whose number is that of the tapdisk to every other
//! program, and the server, which does all the work. When a server dies the keeper starts the next one.
//!
//! A server names its keeper in its arguments. So it is found also when the keeper was killed: it serves
//! on then, and the control socket with the keeper's number is still its own.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    error::{ErrorKind, Result},
    process::{Identity, processes_with_arguments},
};

/// The argument with which the program becomes the server of the keeper that the next argument names.
pub const SERVE_FOR: &str = "serve-for";

/// How long the kernel may take to end a server that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

impl Identity {
    /// The name of this process as the keeper of a server.
    #[must_use]
    pub fn keeper_name(&self) -> String {
        format!("{}:{}", self.pid, self.start_ticks)
    }

    /// The processes that serve with this process as their keeper, be it dead or alive: one, and for a
    /// moment two.
    ///
    /// # Errors
    /// Where /proc cannot be read.
    pub fn servers(&self) -> Result<Vec<Self>> {
        let name = self.keeper_name();
        processes_with_arguments(&[SERVE_FOR.as_bytes(), name.as_bytes()])
    }

    /// Whether the tapdisk of that number serves: its process lives, or a server whose keeper this was.
    /// Where /proc cannot be read it is taken to serve.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.is_same() || self.servers().map_or(true, |servers| !servers.is_empty())
    }

    /// SIGKILL to everything that makes up the tapdisk, if it still lives: the process, and then those that
    /// serve for it. Waits for the end of the latter; nothing if there is nothing.
    ///
    /// # Errors
    /// Those of kill(2).
    pub fn kill(&self) -> Result<()> {
        self.kill_alone()?;
        // A keeper that still runs would start the next server.
        self.wait(KILL_TIMEOUT)?;
        let deadline = Instant::now() + KILL_TIMEOUT;
        for server in self.servers()? {
            server.kill_alone()?;
            server.wait(deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// SIGKILL to this very process, if it still lives; nothing if it does not.
    ///
    /// # Errors
    /// Those of kill(2).
    pub fn kill_alone(&self) -> Result<()> {
        match self.signal(Signal::KILL) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A shell that waits, with the arguments of a server.
    fn server_of(keeper: &str) -> std::process::Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read _", "tapdisk", SERVE_FOR, keeper]);
        command.stdin(std::process::Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_server_is_found_by_the_name_of_its_keeper_and_killed_with_it() {
        let mut keeper = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(keeper.id()).unwrap().unwrap();
        let mut others = server_of(&format!("{}:1", keeper.id()));
        let mut server = server_of(&identity.keeper_name());
        let found: Vec<u32> = identity.servers().unwrap().iter().map(|it| it.pid).collect();
        assert_eq!(found, [server.id()]);
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        assert!(!identity.is_same() && identity.is_serving());
        identity.kill().unwrap();
        assert!(!server.wait().unwrap().success());
        assert!(!identity.is_serving());
        assert_eq!(others.try_wait().unwrap(), None, "it has another keeper");
        others.kill().unwrap();
        others.wait().unwrap();
    }
}
