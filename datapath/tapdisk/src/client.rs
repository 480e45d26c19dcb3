//! One client of a disk, and what the loop waits for on its behalf.

use std::{io, time::Instant};

use nbd::{Connection, Interest, Progress};
use rustix::net::sockopt::set_socket_send_buffer_size;

use crate::{
    door::Door,
    poller::{Key, Poller},
};

/// What a client's socket holds of replies: fewer turns for a large one. The kernel's default limit
/// (`net.core.wmem_max`), which it doubles for its own needs.
const SEND_BUFFER_BYTES: usize = 212_992;

/// A client of a VBD.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) connection: Connection,
    /// The place of its VBD; of nobody's once it is leaving.
    pub(crate) vbd: usize,
    /// How it came.
    pub(crate) door: Door,
    /// Until when it may take what was answered: what it is a client of was closed.
    leaving: Option<Instant>,
    waits_for: Interest,
}

/// All clients, each in a place of its own.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    places: Vec<Option<Client>>,
}

impl Clients {
    /// Takes a connection; its place.
    pub(crate) fn add(
        &mut self,
        poller: &Poller,
        connection: Connection,
        vbd: usize,
        door: Door,
    ) -> io::Result<usize> {
        // Not taken, it is as it was.
        let _smaller = set_socket_send_buffer_size(&connection, SEND_BUFFER_BYTES);
        let waits_for = Interest { readable: true, writable: true };
        let place = match self.places.iter().position(Option::is_none) {
            Some(place) => place,
            None => {
                self.places.push(None);
                self.places.len() - 1
            }
        };
        poller.add(&connection, Key::Client(place), true, true)?;
        self.places[place] = Some(Client { connection, vbd, door, leaving: None, waits_for });
        Ok(place)
    }

    /// Closes the socket of a client that has not even finished the handshake; whether there was one.
    pub(crate) fn evict(&mut self) -> bool {
        let is_silent = |client: &Option<Client>| {
            client.as_ref().is_some_and(|it| it.connection.is_negotiating())
        };
        let silent = self.places.iter().position(is_silent);
        silent.inspect(|&place| self.places[place] = None).is_some()
    }

    pub(crate) fn get(&mut self, place: usize) -> Option<&mut Client> {
        self.places.get_mut(place)?.as_mut()
    }

    /// Closes a client's socket.
    pub(crate) fn remove(&mut self, place: usize) {
        self.places[place] = None;
    }

    /// The places of a VBD's clients, without those that are leaving.
    pub(crate) fn of(&self, vbd: usize) -> Vec<usize> {
        let is_its = |client: &Option<Client>| {
            client.as_ref().is_some_and(|it| it.vbd == vbd && it.leaving.is_none())
        };
        (0..self.places.len()).filter(|&place| is_its(&self.places[place])).collect()
    }

    /// How many requests of a VBD's clients were obeyed whose replies are not sent.
    pub(crate) fn outstanding(&self, vbd: usize) -> usize {
        let clients = self.places.iter().flatten();
        let its = clients.filter(|it| it.vbd == vbd && it.leaving.is_none());
        its.map(|client| client.connection.outstanding()).sum()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Whether some have still to take what was answered.
    pub(crate) fn some_are_leaving(&self) -> bool {
        self.places.iter().flatten().any(|client| client.leaving.is_some())
    }

    /// Closes the sockets of those who took too long to leave.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.places.iter_mut().for_each(|place| {
            place.take_if(|client| client.leaving.is_some_and(|until| until <= now));
        });
    }

    /// When somebody will have taken too long to leave.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.places.iter().flatten().filter_map(|client| client.leaving).min()
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.places.iter_mut().flatten()
    }
}

impl Client {
    /// From now on it may only take what was answered, until then.
    pub(crate) fn leave(&mut self, until: Instant) {
        self.leaving = Some(until);
    }

    /// Where it is leaving: sends what its socket takes, and says whether that was all.
    pub(crate) fn send_last(&mut self) -> Option<bool> {
        self.leaving?;
        let over = matches!(self.connection.drain(), Progress::Closed(_));
        Some(over || self.connection.unsent_bytes() == 0)
    }

    /// Lets the loop wait for what the connection needs next; nothing while its VBD is paused but
    /// room for replies.
    pub(crate) fn wait(&mut self, poller: &Poller, place: usize, paused: bool) -> io::Result<()> {
        let Interest { readable, writable } = self.connection.interest();
        let readable = readable && !paused && self.leaving.is_none();
        let wanted = Interest { readable, writable };
        let before = std::mem::replace(&mut self.waits_for, wanted);
        let nothing = Interest { readable: false, writable: false };
        let (socket, key) = (&self.connection, Key::Client(place));
        if before == wanted {
            Ok(())
        } else if wanted == nothing {
            // A client that goes away meanwhile would be told of again and again.
            poller.remove(socket)
        } else if before == nothing {
            poller.add(socket, key, wanted.readable, wanted.writable)
        } else {
            poller.change(socket, key, wanted.readable, wanted.writable)
        }
    }
}
