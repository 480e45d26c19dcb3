//! What a server keeps for its successor: descriptors, which its keeper holds in groups, and its state, in a
//! file that the keeper holds as well.

pub(crate) mod channel;
mod file;
mod state;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
};

use anyhow::{Context, Result, bail};
use rustix::stdio::stdin;

pub(crate) use file::{StateFile, create as create_state};
pub(crate) use state::{SavedImage, SavedPause, SavedRing, SavedVbd, State};

use self::channel::{Message, Received};

/// The way to the keeper. Copies are of the same.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` once the keeper is dead: then nothing is kept, and there is no successor.
    channel: RefCell<Option<UnixStream>>,
    next: Cell<u32>,
}

/// Descriptors that the keeper holds too. Dropping it lets the keeper close them.
#[derive(Debug)]
pub(crate) struct Group {
    number: u32,
    keeper: Keeper,
}

/// What a server gets from its keeper when it begins.
#[derive(Debug)]
pub(crate) struct Inheritance {
    pub(crate) keeper: Keeper,
    pub(crate) file: StateFile,
    /// The state of the server before; `None` for the first.
    pub(crate) state: Option<State>,
    pub(crate) groups: Groups,
}

/// Groups of a server that has died, until its successor has taken them. Those that it does not take are
/// closed.
#[derive(Debug)]
pub(crate) struct Groups(BTreeMap<u32, (Group, Vec<OwnedFd>)>);

impl Keeper {
    /// Has the keeper hold these as well.
    pub(crate) fn keep(&self, descriptors: &[BorrowedFd<'_>]) -> io::Result<Group> {
        let number = self.0.next.get();
        self.0.next.set(number + 1);
        self.send(Message::Keep { group: number }, descriptors)?;
        Ok(Group { number, keeper: self.clone() })
    }

    /// Tells the keeper that this process serves.
    pub(crate) fn tell_ready(&self) -> io::Result<()> {
        self.send(Message::Ready, &[])
    }

    /// Whether there is one: then a successor goes on if this process dies.
    pub(crate) fn is_there(&self) -> bool {
        self.0.channel.borrow().is_some()
    }

    /// The keeper is dead.
    pub(crate) fn is_lost(&self) {
        self.0.channel.replace(None);
    }

    /// A descriptor that is readable once the keeper is dead.
    pub(crate) fn end(&self) -> io::Result<UnixStream> {
        match &*self.0.channel.borrow() {
            Some(channel) => channel.try_clone(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn send(&self, message: Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let channel = self.0.channel.borrow();
        match channel.as_ref().map(|channel| channel::send(channel, message, descriptors)) {
            // The loop hears of that, and reports it.
            Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.unwrap_or(Ok(())),
        }
    }
}

impl Group {
    /// Its number, as the state names it.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A keeper that does not take it keeps what no process uses: locks are unlocked, names removed.
        let _kept = self.keeper.send(Message::Drop { group: self.number }, &[]);
    }
}

impl Groups {
    /// Takes a group, if that server had kept it.
    pub(crate) fn take(&mut self, number: u32) -> Option<(Group, Vec<OwnedFd>)> {
        self.0.remove(&number)
    }

    /// Takes a group of one descriptor.
    pub(crate) fn take_one(&mut self, number: u32) -> Option<(Group, OwnedFd)> {
        let (group, descriptors) = self.take(number)?;
        Some((group, descriptors.into_iter().next()?))
    }
}

impl Inheritance {
    /// Receives what the keeper has, from this process's standard input.
    pub(crate) fn receive() -> Result<Self> {
        let channel = stdin().try_clone_to_owned().context("standard input")?;
        let channel = UnixStream::from(channel);
        let (Message::Hello { groups: count }, state) = next(&channel)? else {
            bail!("the keeper does not begin with a greeting");
        };
        let file = state.into_iter().next().context("the keeper sends no file for the state")?;
        let (file, bytes) = StateFile::open(File::from(file)).context("reading the state")?;
        let state = bytes.map(|bytes| State::parse(&bytes)).transpose()?;
        let keeper = Keeper(Rc::new(Inner { channel: RefCell::new(None), next: Cell::new(1) }));
        let mut groups = BTreeMap::new();
        for _ in 0..count {
            let (Message::Keep { group: number }, descriptors) = next(&channel)? else {
                bail!("the keeper sends something else than what it keeps");
            };
            keeper.0.next.set(keeper.0.next.get().max(number + 1));
            groups.insert(number, (Group { number, keeper: keeper.clone() }, descriptors));
        }
        // Only now: a process that ends before has not taken over anything, and drops nothing.
        keeper.0.channel.replace(Some(channel));
        Ok(Self { keeper, file, state, groups: Groups(groups) })
    }
}

fn next(channel: &UnixStream) -> Result<(Message, Vec<OwnedFd>)> {
    match channel::receive(channel, true).context("receiving from the keeper")? {
        Received::Message(Some(message), descriptors) => Ok((message, descriptors)),
        Received::Message(None, _) => bail!("the keeper is of a later version"),
        Received::Nothing | Received::End => bail!("the keeper has died"),
    }
}
