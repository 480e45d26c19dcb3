//! Serving the clients of disks: letting them in, giving them their turns, taking leave of them.
//!
//! A part of the loop in `server`. Invariant: a client that is not leaving is one of a VBD that
//! has something open, and no reply points into a disk that is closed or paused.

use std::{io, os::unix::net::UnixStream, time::Instant};

use nbd::{End, Progress};
use rustix::io::Errno;
use tapctl::Failure;

use crate::{
    door::Door,
    metrics::Files,
    poller::Key,
    receiver::Passed,
    server::{ACCEPTS_MAX, Farewell, LAST_WORDS, REST, Server},
    vbd::Image,
};

/// How many clients one process serves at a time.
const CLIENTS_MAX: usize = 256;

impl Server {
    /// Serves an image under a VBD from now on.
    pub(crate) fn start_serving(&mut self, place: usize, mut image: Image) -> Result<(), Failure> {
        let enter = self.doors_rest.is_none();
        for (door, listening) in image.doors.iter() {
            let added = self.poller.add(listening, Key::Door(place, door), enter, false);
            added.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        let vbd = self.vbds[place].as_ref().expect("the caller has found it");
        let minor = vbd.minor();
        match Files::create(self.dir.metrics(), minor) {
            Ok(files) => image.publish(files),
            Err(error) => self.warn(format_args!("minor {minor}: without statistics: {error}")),
        }
        self.info(format_args!(
            "minor {minor}: serving {}{}",
            image.params,
            if image.read_only { " read-only" } else { "" }
        ));
        self.vbds[place].as_mut().expect("found").image = Some(image);
        Ok(())
    }

    /// Closes what a VBD serves, if anything, and takes leave of its clients.
    pub(crate) fn stop_serving(&mut self, place: usize, farewell: Farewell) {
        let until = Instant::now() + LAST_WORDS;
        self.receivers.remove_of(place);
        let clients = self.clients.of(place);
        let Some(vbd) = self.vbds[place].as_mut() else { return };
        let minor = vbd.minor();
        let Some(image) = vbd.image.as_mut() else { return };
        let mut leaving = Vec::new();
        for place in clients {
            let Some(client) = self.clients.get(place) else { continue };
            let over = match farewell {
                Farewell::Polite => image.serve(&mut client.connection, client.door.side()),
                Farewell::Forced => client.connection.drain(),
            };
            let sent = client.connection.unsent_bytes() == 0;
            if matches!(over, Progress::Closed(_)) || sent || farewell == Farewell::Forced {
                self.clients.remove(place);
            } else {
                client.leave(until);
                leaving.push(place);
            }
        }
        image.loans.recall_all();
        let params = image.params.clone();
        vbd.close();
        leaving.into_iter().for_each(|client| self.rearm_client(client));
        self.info(format_args!("minor {minor}: closed {params}"));
    }

    /// Serves the clients of a VBD again that was paused.
    pub(crate) fn go_on(&mut self, place: usize) {
        let held = self.vbds[place].as_mut().and_then(|vbd| vbd.image.as_mut());
        let held = held.map(|image| std::mem::take(&mut image.held)).unwrap_or_default();
        for socket in held {
            self.admit(place, Door::Receiver, socket);
        }
        // What they have received meanwhile, no socket tells of again.
        self.unfinished.extend(self.clients.of(place));
    }

    pub(crate) fn accept_clients(&mut self, place: usize, door: Door) {
        for _ in 0..ACCEPTS_MAX {
            let image = self.vbds.get(place).and_then(|vbd| vbd.as_ref()?.image.as_ref());
            let Some(image) = image else { return };
            match image.doors.get(door).accept() {
                Ok(Some(socket)) if door.receives() => {
                    match self.receivers.add(&self.poller, socket, place, door) {
                        Ok(receiver) => self.receive(receiver),
                        Err(error) => self.warn(format_args!("not listened to: {error}")),
                    }
                }
                Ok(Some(socket)) => self.admit(place, door, socket),
                Ok(None) => return,
                Err(error) => {
                    self.warn(format_args!("a client was not accepted: {error}"));
                    self.doors_rest = Some(Instant::now() + REST);
                    return self.let_clients(false);
                }
            }
        }
    }

    /// Takes a connection that is passed on.
    pub(crate) fn receive(&mut self, place: usize) {
        if let Passed::Over { vbd, door, connection } = self.receivers.receive(place) {
            match connection {
                Some(connection) => self.admit(vbd, door, connection.into()),
                None => self.warn(format_args!("no connection came where one is passed on")),
            }
        }
    }

    /// Lets in a client of a VBD, or closes its socket.
    fn admit(&mut self, place: usize, door: Door, socket: UnixStream) {
        let Some(image) = self.vbds[place].as_mut().and_then(|vbd| vbd.image.as_mut()) else {
            return;
        };
        // Those that only connect must not keep out those that want something.
        let connection = if self.clients.count() < CLIENTS_MAX || self.clients.evict() {
            image.connection(socket, door)
        } else {
            Err(io::Error::other(format!("more than {CLIENTS_MAX} clients")))
        };
        let added = connection.and_then(|connection| {
            let add = |it| self.clients.add(&self.poller, it, place, door);
            connection.map(add).transpose()
        });
        match added {
            // At once: what cannot even be greeted is no connection, and may never be ready.
            Ok(Some(client)) => self.turn(client),
            Ok(None) => {}
            Err(error) => self.warn(format_args!("a client was not accepted: {error}")),
        }
    }

    /// Gives a client its turn.
    pub(crate) fn turn(&mut self, place: usize) {
        let Some(client) = self.clients.get(place) else { return };
        match client.send_last() {
            Some(true) => return self.clients.remove(place),
            Some(false) => return,
            None => {}
        }
        let Some(vbd) = self.vbds[client.vbd].as_mut() else { return };
        let Some(image) = vbd.image.as_mut() else { return };
        match image.serve(&mut client.connection, client.door.side()) {
            Progress::Closed(end) => {
                let minor = vbd.minor();
                self.clients.remove(place);
                if matches!(end, End::Violation(_) | End::Failed(_) | End::Truncated) {
                    self.warn(format_args!("minor {minor}: a client was dropped: {end}"));
                }
            }
            Progress::More => self.unfinished.push(place),
            Progress::Idle | Progress::Worked => self.rearm_client(place),
        }
    }

    /// Lets the loop wait for what a VBD's clients need now.
    pub(crate) fn rearm(&mut self, place: usize) {
        for client in self.clients.of(place) {
            self.rearm_client(client);
        }
    }

    fn rearm_client(&mut self, place: usize) {
        let Some(client) = self.clients.get(place) else { return };
        let image = self.vbds[client.vbd].as_ref().and_then(|vbd| vbd.image.as_ref());
        let paused = image.is_some_and(|image| image.paused);
        if let Err(error) = client.wait(&self.poller, place, paused) {
            self.clients.remove(place);
            self.warn(format_args!("a client was dropped: {error}"));
        }
    }
}
