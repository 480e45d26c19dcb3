//! Accepting clients at the sockets of VBDs.

use std::{
    io,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use block::{Frontend, Interest};
use nbd::Connection;
use rustix::{io::Errno, net::sockopt::set_socket_send_buffer_size};

use crate::{
    frontend::{Client, Origin, Passed},
    poll::{Endpoint, Source, VbdKey},
    tapdisk::{ACCEPTS_MAX, Tapdisk},
    volume::Volume,
};

/// How many clients one process serves at a time.
const CLIENTS_MAX: usize = 256;

/// How long no client is accepted after that has failed; they wait in the queues of the kernel.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The send buffer of a client's socket. A large reply needs fewer turns. The kernel's default limit
/// (`net.core.wmem_max`), which it doubles for its own needs.
const SEND_BUFFER_BYTES: usize = 212_992;

impl Tapdisk {
    /// Accepts the clients that wait at a socket.
    pub(crate) fn accept_clients(&mut self, vbd: VbdKey, endpoint: Endpoint) {
        for _ in 0..ACCEPTS_MAX {
            let image = self.vbds.get(vbd).and_then(|vbd| vbd.image());
            let Some(listeners) = image.and_then(|image| image.listeners.as_ref()) else { return };
            match listeners.get(endpoint).accept() {
                Ok(Some(socket)) if endpoint.receives() => {
                    match self.receivers.add(&self.sources, socket, vbd, endpoint) {
                        Ok(receiver) => self.receive_descriptor(receiver),
                        Err(error) => self.warn(format_args!("a connection was dropped: {error}")),
                    }
                }
                Ok(Some(socket)) => self.admit(vbd, endpoint, socket),
                Ok(None) => return,
                // Clients that have only connected must not keep out those that send requests.
                Err(error) if is_shortage(&error) && self.evict() => {}
                Err(error) => {
                    self.warn(format_args!("a client was not accepted: {error}"));
                    self.accept_resumes = Some(Instant::now() + ACCEPT_PAUSE);
                    return self.set_accepting(false);
                }
            }
        }
    }

    /// Accepts clients from now on, or leaves them in the queues of the kernel.
    pub(crate) fn set_accepting(&mut self, accepting: bool) {
        let images = self.vbds.iter_mut().filter_map(|(_, vbd)| vbd.image_mut());
        let mut listeners = images.filter_map(|image| image.listeners.as_mut());
        let set = listeners.try_for_each(|it| it.set_accepting(accepting));
        if let Err(error) = set {
            self.warn(format_args!("NBD sockets: {error}"));
        }
    }

    /// Takes a connection that a process passes on.
    pub(crate) fn receive_descriptor(&mut self, receiver: usize) {
        if let Passed::Over { vbd, endpoint, connection } = self.receivers.receive(receiver) {
            match connection {
                Some(connection) => self.admit(vbd, endpoint, connection.into()),
                None => self.warn(format_args!("a message came without the connection to pass on")),
            }
        }
    }

    /// Makes a connection a client of a VBD, or closes it.
    pub(crate) fn admit(&mut self, vbd: VbdKey, endpoint: Endpoint, socket: UnixStream) {
        let has_room = self.clients_count() < CLIENTS_MAX || self.evict();
        let Some(image) = self.vbds.get_mut(vbd).and_then(|vbd| vbd.image_mut()) else { return };
        let connection = if has_room {
            image.connect(socket, endpoint)
        } else {
            Err(io::Error::other(format!("{CLIENTS_MAX} clients are served already")))
        };
        match connection
            .and_then(|it| it.map(|it| self.add_connection(vbd, endpoint, it)).transpose())
        {
            Ok(_) => {}
            Err(error) => self.warn(format_args!("a client was not accepted: {error}")),
        }
    }

    fn add_connection(
        &mut self,
        vbd: VbdKey,
        endpoint: Endpoint,
        connection: Connection,
    ) -> io::Result<()> {
        // Where it cannot be set, it stays as it is.
        let _default = set_socket_send_buffer_size(&connection, SEND_BUFFER_BYTES);
        let both = Interest { readable: true, writable: true };
        self.add_client(vbd, Box::new(connection), both, Origin::Socket(endpoint))
    }

    /// Makes a frontend a client of the disk of a VBD.
    pub(crate) fn add_client(
        &mut self,
        vbd: VbdKey,
        frontend: Box<dyn Frontend<Volume>>,
        interest: Interest,
        origin: Origin,
    ) -> io::Result<()> {
        let is_polled = origin.ring().is_some_and(|ring| ring.is_polled);
        let Some(image) = self.vbds.get_mut(vbd).and_then(|vbd| vbd.image_mut()) else {
            return Ok(());
        };
        let slot = image.clients.vacant_entry();
        let key = slot.key();
        let frontend = self.sources.watch(frontend, Source::Client(vbd, key), interest)?;
        slot.insert(Client::new(frontend, origin));
        if is_polled {
            self.poll_client(vbd, key);
        }
        // At once: a descriptor that was passed on and is no connection may never become ready, and a
        // ring may have had requests before.
        self.serve_client(vbd, key);
        Ok(())
    }

    fn clients_count(&self) -> usize {
        let images = self.vbds.iter().filter_map(|(_, vbd)| vbd.image());
        images.map(|image| image.clients.len()).sum::<usize>() + self.draining.len()
    }

    /// Drops the client that has taken longest to get as far as sending requests; whether there was one.
    fn evict(&mut self) -> bool {
        let images = self.vbds.iter().filter_map(|(vbd, it)| Some((vbd, it.image()?)));
        let clients = images.flat_map(|(vbd, image)| image.clients.iter().map(move |it| (vbd, it)));
        let silent = clients.filter(|(_, (_, client))| !client.frontend.is_established());
        let oldest = silent.min_by_key(|(_, (_, client))| client.since);
        let Some((vbd, key)) = oldest.map(|(vbd, (key, _))| (vbd, key)) else { return false };
        self.remove_client(vbd, key);
        true
    }
}

/// Whether descriptors have run out, in the process or on the host.
fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
