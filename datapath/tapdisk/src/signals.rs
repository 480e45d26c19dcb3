//! Signals, as a descriptor that the loop waits for.
//!
//! TERM and INT end the process. HUP has it look for its names in the control directory, as a plugin asks
//! that does not find its control socket. The others that programs send to a tapdisk, or to any process, do
//! nothing: blktap's tapdisks reopen their log on SIGHUP, dump their state on SIGUSR1, and poll on SIGUSR2.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
};

/// Signals whose default is to end a process.
const IGNORED: [i32; 6] = [SIGUSR1, SIGUSR2, SIGALRM, SIGIO, SIGPROF, SIGVTALRM];

/// The signals that have come, and a descriptor that is readable then.
#[derive(Debug)]
pub(crate) struct Signals {
    socket: UnixStream,
    theirs: UnixStream,
    ends: Arc<AtomicBool>,
    look: Arc<AtomicBool>,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// That the process ends.
    pub(crate) end: bool,
    /// That it looks for its names in the control directory.
    pub(crate) look: bool,
}

impl Signals {
    /// Handles signals from now on, and the end of a child: the descriptor is readable then, too.
    pub(crate) fn handle_of_keeper() -> io::Result<Self> {
        let signals = Self::handle()?;
        signal_hook::low_level::pipe::register(SIGCHLD, signals.theirs.try_clone()?)?;
        Ok(signals)
    }

    /// Handles signals from now on.
    pub(crate) fn handle() -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        for signal in IGNORED {
            signal_hook::flag::register(signal, Arc::default())?;
        }
        let signals = Self { socket, theirs, ends: Arc::default(), look: Arc::default() };
        for (signal, flag) in
            [(SIGTERM, &signals.ends), (SIGINT, &signals.ends), (SIGHUP, &signals.look)]
        {
            // In this order: the flag is set when the descriptor is readable.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, signals.theirs.try_clone()?)?;
        }
        Ok(signals)
    }

    /// What the signals that have come since the last time ask for.
    pub(crate) fn take(&self) -> Asked {
        let mut bytes = [0; 16];
        let _taken = (&self.socket).read(&mut bytes);
        let [end, look] = [&self.ends, &self.look].map(|flag| flag.swap(false, Ordering::Relaxed));
        Asked { end, look }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
