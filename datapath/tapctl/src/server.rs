//! The server half: the listening socket of a tapdisk, and a bounded set of [`Conversation`]s.
//!
//! For a single-threaded epoll loop:
//!
//! * wait for [`Listener`] to be readable while [`Conversations::can_accept`]; else leave it out, and try
//!   again at [`Conversations::next_deadline`];
//! * [`Conversations::accept`] gives a key, and lets the loop register the conversation's descriptor;
//!   go on at once with [`Conversation::ready`], since the request is mostly there already;
//! * an event for a key: `get_mut(key)`, then [`Conversation::ready`];
//! * [`crate::Progress::Finished`]: [`Conversations::remove`] closes it.

use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{SocketFlags, accept_with, bind, listen},
};
use slab::Slab;

use crate::{
    connection,
    conversation::Conversation,
    dir::ControlDir,
    error::{Error, ErrorKind, Result},
};

/// Connections that the kernel keeps for us (`TD_CTL_SOCK_BACKLOG`).
const BACKLOG: i32 = 32;

/// The most conversations at the same time.
pub const CONVERSATIONS_MAX: usize = 64;

/// A conversation that has been waiting for its client for so long gives way to a new one when
/// there is no room left.
pub const STALLED: Duration = Duration::from_secs(1);

/// The control socket of a tapdisk. Dropping it removes its file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Binds `ctl<pid>`. A file of that name is removed first, where no process listens on it: then it is
    /// left over from a dead process, as the number is the caller's own.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where a process listens on it: one that goes on serving after the death of
    /// its keeper, which had that number. Those of bind(2); ENAMETOOLONG where clients could not name the socket.
    pub fn bind(dir: &ControlDir, pid: u32) -> Result<Self> {
        let path = dir.ctl(pid);
        if connection::probe(&path).is_ok() {
            return Err(Error::new(ErrorKind::Busy, "listen on", path.display()));
        }
        Ok(Self { socket: listening(&path)?, path })
    }

    /// Goes on with `ctl<pid>` as a process has left it that has died since: callers that have
    /// connected meanwhile are in its queue.
    #[must_use]
    pub fn inherited(dir: &ControlDir, pid: u32, socket: OwnedFd) -> Self {
        Self { socket, path: dir.ctl(pid) }
    }

    /// Whether clients find the socket by its name.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.path.symlink_metadata().is_ok()
    }

    /// Listens anew under its name, after something has removed that. Connections that were not accepted
    /// yet are lost.
    ///
    /// # Errors
    /// See [`Self::bind`].
    pub fn rebind(&mut self) -> Result<()> {
        self.socket = listening(&self.path)?;
        Ok(())
    }

    /// The path of the socket: what a tapdisk prints when it is ready.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection; `None` where there is none.
    ///
    /// # Errors
    /// Those of accept(2), EMFILE above all: a loop that is level-triggered has to leave the
    /// listener out until a descriptor was closed.
    pub fn accept(&self) -> io::Result<Option<Conversation>> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Ok(Some(Conversation::new(socket))),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A socket that listens under a name.
fn listening(path: &Path) -> Result<OwnedFd> {
    let failed = |cause: io::Error| Error::io("listen on", path.display(), cause);
    let address = connection::address(path).map_err(failed)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = connection::stream(flags).map_err(failed)?;
    bind(&socket, &address).map_err(|errno| failed(errno.into()))?;
    // No client can connect before listen: none got in with wider permissions.
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    listen(&socket, BACKLOG).map_err(|errno| failed(errno.into()))?;
    Ok(socket)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _gone_already = fs::remove_file(&self.path);
    }
}

/// Names a conversation. No two conversations of a process have the same key, so that an answer that
/// comes late cannot reach another caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: usize,
    serial: u64,
}

/// The conversations of a tapdisk, at most [`CONVERSATIONS_MAX`], each in whatever the loop wraps it in.
pub struct Conversations<C = Conversation> {
    slots: Slab<(u64, C)>,
    next_serial: u64,
}

impl<C> Default for Conversations<C> {
    fn default() -> Self {
        Self { slots: Slab::new(), next_serial: 0 }
    }
}

impl<C: AsRef<Conversation> + AsMut<Conversation>> Conversations<C> {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is room for one more, be it that of a client that has stalled.
    #[must_use]
    pub fn can_accept(&self, now: Instant) -> bool {
        self.has_room() || self.stalled(now).is_some()
    }

    /// Accepts a connection and gives its key; `None` where there is none, or no room. `wrap` is called
    /// with the conversation to register it with the loop.
    ///
    /// # Errors
    /// See [`Listener::accept`]; those of `wrap`.
    pub fn accept(
        &mut self,
        listener: &Listener,
        now: Instant,
        wrap: impl FnOnce(Conversation, Key) -> io::Result<C>,
    ) -> io::Result<Option<Key>> {
        if !self.can_accept(now) {
            return Ok(None);
        }
        let Some(conversation) = listener.accept()? else { return Ok(None) };
        if !self.has_room()
            && let Some(stalled) = self.stalled(now)
        {
            self.slots.remove(stalled);
        }
        let entry = self.slots.vacant_entry();
        let key = Key { slot: entry.key(), serial: self.next_serial };
        entry.insert((key.serial, wrap(conversation, key)?));
        self.next_serial += 1;
        Ok(Some(key))
    }

    /// The conversation of that key.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut C> {
        let (serial, conversation) = self.slots.get_mut(key.slot)?;
        (*serial == key.serial).then_some(conversation)
    }

    /// All of them, with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &C)> {
        let key = |slot, serial: &u64| Key { slot, serial: *serial };
        self.slots.iter().map(move |(slot, (serial, it))| (key(slot, serial), it))
    }

    /// Takes it out; dropping it closes it.
    pub fn remove(&mut self, key: Key) -> Option<C> {
        self.get_mut(key)?;
        Some(self.slots.remove(key.slot).1)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops those whose client let its deadline pass, and says how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        let before = self.len();
        let is_due = |it: &C| it.as_ref().deadline().is_some_and(|deadline| deadline <= now);
        self.slots.retain(|_, (_, it)| !is_due(it));
        before - self.len()
    }

    /// When to call [`Self::expire`], or to accept again; `None` while no client is waited for.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let all = self.iter().map(|(_, it)| it.as_ref());
        if self.has_room() {
            all.filter_map(Conversation::deadline).min()
        } else {
            all.filter_map(Conversation::waiting_since).min().map(|since| since + STALLED)
        }
    }

    fn has_room(&self) -> bool {
        self.len() < CONVERSATIONS_MAX
    }

    /// The slot of the client that has been waited for longest, if that is long.
    fn stalled(&self, now: Instant) -> Option<usize> {
        let waiting =
            self.iter().filter_map(|(key, it)| Some((it.as_ref().waiting_since()?, key.slot)));
        waiting.min().filter(|(since, _)| *since + STALLED <= now).map(|(_, slot)| slot)
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
