//! One client of a disk, and what the loop waits for on its behalf.

use std::{io, os::unix::net::UnixStream, rc::Rc};

use nbd::{Connection, Identity, Interest, Loans};

use crate::poller::{Key, Poller};

/// A client of a VBD.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) connection: Connection,
    /// The place of its VBD.
    pub(crate) vbd: usize,
    waits_for: Interest,
}

/// All clients, each in a place of its own.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    places: Vec<Option<Client>>,
}

impl Clients {
    /// Takes a connection that was accepted for a VBD; its place.
    pub(crate) fn add(
        &mut self,
        poller: &Poller,
        socket: UnixStream,
        vbd: usize,
        identity: &Rc<Identity>,
        loans: &Rc<Loans>,
    ) -> io::Result<usize> {
        let connection = Connection::new(socket, Rc::clone(identity))?.lending(loans);
        let waits_for = Interest { readable: true, writable: true };
        let place = match self.places.iter().position(Option::is_none) {
            Some(place) => place,
            None => {
                self.places.push(None);
                self.places.len() - 1
            }
        };
        poller.add(&connection, Key::Client(place), true, true)?;
        self.places[place] = Some(Client { connection, vbd, waits_for });
        Ok(place)
    }

    pub(crate) fn get(&mut self, place: usize) -> Option<&mut Client> {
        self.places.get_mut(place)?.as_mut()
    }

    /// Closes a client's socket.
    pub(crate) fn remove(&mut self, place: usize) {
        self.places[place] = None;
    }

    /// The places of a VBD's clients.
    pub(crate) fn of(&self, vbd: usize) -> Vec<usize> {
        let is_its = |client: &Option<Client>| client.as_ref().is_some_and(|it| it.vbd == vbd);
        (0..self.places.len()).filter(|&place| is_its(&self.places[place])).collect()
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.places.iter_mut().flatten()
    }
}

impl Client {
    /// Lets the loop wait for what the connection needs next; nothing while its VBD is paused but
    /// room for replies.
    pub(crate) fn wait(&mut self, poller: &Poller, place: usize, paused: bool) -> io::Result<()> {
        let Interest { readable, writable } = self.connection.interest();
        let wanted = Interest { readable: readable && !paused, writable };
        if wanted != self.waits_for {
            self.waits_for = wanted;
            poller.change(
                &self.connection,
                Key::Client(place),
                wanted.readable,
                wanted.writable,
            )?;
        }
        Ok(())
    }
}
